"""Budgets of thinking and answer, counted on token ids under way.

    prompt … <think> │ at most `thinking` tokens │ sentence </think> │ at most `answer` tokens

Where thinking goes on beyond its budget it is cut there and closed with tokens of ours, and the
answer is generated from them on as from any prompt: the same on every engine. All is a function of
the token ids, so that an interrupted generation goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.reasoning.formats import Kind
from batchr1.reasoning.tags import Decided, TagReader, ThinkTags

ANSWER_ROOM = 512  # tokens kept for an answer without a budget of its own

Act = Literal["close", "cut"]


def closing_ids(tokenizer: Any, tags: ThinkTags, sentence: str | None) -> tuple[int, ...]:
    """Encode what closes a trace: sentence, tag, blank line.

    The texts around the tag are those of its family.
    """
    said, format = (sentence or "").strip(), tags.format

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []

    sentence_ids = encode(f"\n\n{said}\n") if said else []
    before, after = encode(format.before_close), encode(format.after_close)
    return (*sentence_ids, *before, *tags.close_ids, *after)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Budgets of a job, in tokens; None: no bound.

    `max_tokens` is the job's bound of a whole completion. `closing`: as `closing_ids`.
    """

    thinking: int | None
    answer: int | None
    max_tokens: int | None
    closing: tuple[int, ...]
    tags: ThinkTags

    @property
    def most(self) -> int | None:
        """Longest completion that both budgets allow; None with one alone.

        Stray control tokens do not count.
        """
        if self.thinking is None or self.answer is None:
            return None
        return self.thinking + len(self.closing) + self.answer

    def meter(self, *, opened: bool, max_tokens: int, injected: int = 0) -> Meter:
        """Meter one generation of at most `max_tokens`.

        `injected`: tokens of it that are a closing already.
        """
        has_bound = self.thinking is not None or self.answer is not None
        thinking = self._thinking(max_tokens) if has_bound and not injected else None
        return Meter(self.tags, thinking, self.answer, opened)

    def _thinking(self, max_tokens: int) -> int | None:
        """Bound thinking so that closing and answer have room.

        None: there is none for either.
        """
        room = max_tokens - len(self.closing)
        if room < 2:  # a thought and an answer, of a token each
            return None
        answer = self.answer
        if answer is None:
            answer = ANSWER_ROOM
            if self.max_tokens is not None and self.thinking is not None:
                answer = max(1, min(answer, self.max_tokens - len(self.closing) - self.thinking))
        left = max(room - answer, room // 2)
        return left if self.thinking is None else min(left, self.thinking)


class Meter:
    """Counts the tokens of one generation as they come.

    Tokens are counted as `split` counts them, but that white space between repeated opening tags
    counts here. Tokens that may yet become a tag are held back until that is known.
    """

    __slots__ = (
        "_answer",
        "_answered",
        "_phase",
        "_reader",
        "_says_something",
        "_tags",
        "_thinking",
        "_thought",
        "_wrapped",
    )

    def __init__(
        self, tags: ThinkTags, thinking: int | None, answer: int | None, opened: bool
    ) -> None:
        self._tags, self._reader = tags, TagReader(tags)
        self._thinking, self._answer = thinking, answer
        self._thought = self._answered = 0
        self._wrapped = 0  # tokens of a wrapper that ends the answer, if nothing follows it
        self._says_something = False  # whether the answer has begun, white space apart
        self._phase: Literal["before", "thinking", "after"] = "thinking" if opened else "before"

    @property
    def is_thinking(self) -> bool:
        """Whether the last token stands inside the think block."""
        return self._phase == "thinking"

    @property
    def has_closed(self) -> bool:
        """Whether the think block is over."""
        return self._phase == "after"

    @property
    def answer_is_spent(self) -> bool:
        return self._answer is not None and self._answered >= self._answer

    def take(self, new: Sequence[int]) -> tuple[int, Act | None]:
        """Count new tokens; return how many fit, and what to do then.

        `close`: thinking is over, and the closing is to follow; `cut`: the answer is as long as it
        may be. A negative number: so many of the tokens before are beyond them too.
        """
        reader, end_ids = self._reader, self._tags.end_ids
        for at, token in enumerate(new):
            if token in end_ids:
                # Nothing follows, so that what was held back is no tag.
                decided, end = reader.flush(), at
            elif reader.is_plain(token):
                act = self._count(None, token)
                if act is not None:
                    return at, act
                continue
            else:
                decided, end = reader.push(token), at + 1 - len(reader.held)
            over = self._take_decided(decided, end)
            if over is not None:
                return over
        return len(new), None

    def _take_decided(self, decided: Decided, end: int) -> tuple[int, Act] | None:
        """Count what is decided; say where and how a budget ends.

        `end`: the position behind the last decided token.
        """
        start = end - sum(len(ids) for _, ids in decided)
        for kind, ids in decided:
            for offset, token in enumerate(ids):
                if self._is_control(kind, offset, len(ids)):
                    break
                act = self._count(kind, token)
                if act is not None:
                    self._reader.held.clear()
                    return start + offset, act
            start += len(ids)
        return None

    def _is_control(self, kind: Kind | None, offset: int, length: int) -> bool:
        """Tell whether a mark is none of the text, and follow it.

        Asked at its first token.
        """
        if kind is None or offset > 0:
            return False
        channels = self._tags.format.channels
        if self._phase == "thinking":
            if kind == "close":
                self._phase = "after"
                return True
            return channels or (kind == "open" and not self._thought)
        if self._phase == "before" and kind == "open":
            self._phase = "thinking"
            return True
        if channels:
            self._phase = "after" if kind == "close" else self._phase
            return True
        if kind == "answer_open" and not self._says_something:
            return True
        if kind == "answer_close":
            self._wrapped = length
            return True
        return False

    def _count(self, kind: Kind | None, token: int) -> Act | None:
        """Count a token of text, or say what to do instead."""
        if self._phase == "thinking":
            if self._thought == self._thinking:
                return "close"
            self._thought += 1
            return None
        if self._wrapped and self._is_said(token):
            self._answered, self._wrapped = self._answered + self._wrapped, 0
        if self._answer is not None and self._answered >= self._answer:
            return "cut"
        self._answered += 1
        self._says_something = self._says_something or kind is not None or self._is_said(token)
        return None

    def _is_said(self, token: int) -> bool:
        """Tell whether a token is more than white space."""
        if self._says_something and not self._wrapped:
            return True
        text = self._tags.text
        return text is None or bool(text([token]).strip())

    def closed(self) -> None:
        """Note that the think block was ended by somebody else."""
        self._reader.held.clear()
        self._phase = "after"

    def close(self, closing: Sequence[int]) -> Sequence[int]:
        """End thinking here.

        Returns what of the closing is to be put in: past its tag it counts as answer.
        """
        end = _end_of(closing, self._tags.close_ids)
        if self._answer is not None:
            closing = closing[: end + self._answer - self._answered]
        self._reader.held.clear()
        self._phase, self._answered = "after", self._answered + len(closing) - end
        return closing


def _end_of(closing: Sequence[int], tag: Sequence[int]) -> int:
    """Find where the tag in a closing ends.

    Its last occurrence counts, for a sentence may talk of it.
    """
    for start in range(len(closing) - len(tag), -1, -1):
        if tuple(closing[start : start + len(tag)]) == tuple(tag):
            return start + len(tag)
    raise ValueError("a closing without its tag closes nothing")
