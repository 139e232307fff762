"""How long a generation may think, and answer: counted on token ids, exactly, while it is under way.

    prompt … <think> │ at most `thinking` tokens │ sentence </think> │ at most `answer` tokens

Where thinking goes on beyond its budget it is cut there and closed with tokens of ours, and the
answer is generated from them on as from any prompt: the same on every engine. All is a function of
the token ids, so that an interrupted generation goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.reasoning.formats import ThinkTags

ANSWER_ROOM = 512  # tokens kept for an answer without a budget of its own

Act = Literal["close", "cut"]


def closing_ids(tokenizer: Any, tags: ThinkTags, sentence: str | None) -> tuple[int, ...]:
    """What closes a trace: the sentence as a paragraph of its own, the tag, a blank line.

    Raises ValueError where the tag is not one token.
    """
    if tags.close_id is None:
        raise ValueError("the closing tag is not a single token")
    said = (sentence or "").strip()

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    sentence_ids = encode(f"\n\n{said}\n") if said else []
    return (*sentence_ids, tags.close_id, *encode(tags.format.after_close))


@dataclass(frozen=True, slots=True)
class Budgets:
    """A job's budgets, in tokens; None: no bound. `max_tokens` is the job's bound of a whole completion.

    `closing`: as `closing_ids`.
    """

    thinking: int | None
    answer: int | None
    max_tokens: int | None
    closing: tuple[int, ...]
    tags: ThinkTags

    @property
    def most(self) -> int | None:
        """The longest completion that both budgets allow, but for stray control tokens; None with
        one of them alone.
        """
        if self.thinking is None or self.answer is None:
            return None
        return self.thinking + len(self.closing) + self.answer

    def meter(self, *, opened: bool, max_tokens: int, injected: int = 0) -> Meter:
        """For one generation of at most `max_tokens`; `injected`: how many of its tokens are a
        closing already.
        """
        has_bound = self.thinking is not None or self.answer is not None
        thinking = self._thinking(max_tokens) if has_bound and not injected else None
        return Meter(self.tags, thinking, self.answer, opened)

    def _thinking(self, max_tokens: int) -> int | None:
        """Thinking ends early enough to leave room for the closing and an answer.

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

    Reasoning is counted as `split` does it, but that white space between repeated opening tags
    counts here.
    """

    __slots__ = ("_answer", "_answered", "_phase", "_tags", "_thinking", "_thought")

    def __init__(
        self, tags: ThinkTags, thinking: int | None, answer: int | None, opened: bool
    ) -> None:
        self._tags = tags
        self._thinking, self._answer = thinking, answer
        self._thought = self._answered = 0
        self._phase: Literal["before", "thinking", "after"] = "thinking" if opened else "before"

    @property
    def is_thinking(self) -> bool:
        """Whether the last token stands inside the think block."""
        return self._phase == "thinking"

    @property
    def answer_is_spent(self) -> bool:
        return self._answer is not None and self._answered >= self._answer

    def take(self, new: Sequence[int]) -> tuple[int, Act | None]:
        """How many of the new tokens are within the budgets, and what to do where the next one is not.

        `close`: thinking is over, and the closing is to follow; `cut`: the answer is as long as it
        may be.
        """
        tags = self._tags
        for at, token in enumerate(new):
            if token in tags.end_ids:
                continue
            if self._phase == "thinking":
                if token == tags.close_id:
                    self._phase = "after"
                elif token != tags.open_id or self._thought:
                    if self._thought == self._thinking:
                        return at, "close"
                    self._thought += 1
            elif self._phase == "before" and token == tags.open_id:
                self._phase = "thinking"
            else:
                if self._answered == self._answer:
                    return at, "cut"
                self._answered += 1
        return len(new), None

    def close(self, closing: Sequence[int]) -> Sequence[int]:
        """End thinking here.

        Returns what of the closing is to be put in: past its tag it counts as answer.
        """
        end = closing.index(self._tags.close_id) + 1
        if self._answer is not None:
            closing = closing[: end + self._answer - self._answered]
        self._phase, self._answered = "after", self._answered + len(closing) - end
        return closing
