r"""Prompts: a row's text or messages, through the model's chat template, to token ids.

What DeepSeek advises for its R1 models is done here: no system message, the instruction to box the
final answer in the user turn, and a prompt that ends inside an open think block. The template is
always the model's own.

Text that comes from a row stays text: where it spells a special token (`<｜Assistant｜>`, `</think>`)
a mark is set behind the token's first character before the template is rendered, and the rendered
prompt is encoded in pieces, cut at the marks, so that no piece holds the whole token.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchr1.dataset.bounds import ENCODE_CHARS, MAX_PROMPT_CHARS, TooMuchError, bounded
from batchr1.dataset.tokenizer import (
    break_specials,
    load_tokenizer,
    mark_for,
    pattern_of,
    special_tokens,
)
from batchr1.errors import ModelError
from batchr1.reasoning.formats import R1, Format
from batchr1.records import Prompt

__all__ = [
    "FEW_SHOT",
    "MATH_INSTRUCTION",
    "PromptRenderer",
    "PromptRow",
    "Renderer",
    "RowError",
    "append_instruction",
    "digest",
    "instruction_text",
    "load_tokenizer",
    "turns_of",
    "user_turn",
]

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

MATH_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

Content = str | Sequence[Mapping[str, Any]] | None  # None fails as a row

_TAIL_CHARS = 200
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_IGNORED_KEYS = {"role", "content", "name", "reasoning", "reasoning_content"}
FEW_SHOT = (
    "prompts hold assistant turns: reasoning models do better without examples (a "
    "few-shot "
    "dialogue was seen)"
)


class RowError(Exception):
    """One row cannot become a prompt; it fails alone.

    `reason` is one of `bad_messages`, `empty_prompt`, `not_text`, `special_text`; the message holds
    no prompt text.
    """

    def __init__(self, id: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.id = id
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str, str]]:
        return RowError, (self.id, self.reason, self.message)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """What a prompt is made of: a text or chat messages, and what the row carries along."""

    id: str
    content: Content
    gold: str | None = None
    max_tokens: int | None = None
    kept: pa.RecordBatch | None = None


class Renderer(Protocol):
    """Turns rows into prompts. `instruction` is what is appended to the last user turn."""

    instruction: str
    warnings: list[str]

    def render_many(self, rows: Iterable[PromptRow]) -> list[Prompt | RowError]:
        """Render rows, in order. A row that cannot become a prompt gives its RowError instead."""
        ...

    def show(self, prompt: Prompt) -> str:
        """A prompt as the model is given it, as far as that is known here."""
        ...


class PromptRenderer:
    r"""Turns rows into prompts for one model.

    `instruction` is `math` (`MATH_INSTRUCTION`), `none`, or a text of one's own; it is appended to
    the last user turn after a blank line, unless the turn already holds it. With `think="force"` a
    prompt always ends inside one open think block; with `auto` it ends as the template leaves it.
    `warnings` collects what a user should know, each once. The attribute `instruction` is the text
    itself.

    Raises ModelError if the template cannot be rendered, or closes the block that `force` needs
    open.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        instruction: str = "math",
        think: Literal["force", "auto"] = "force",
        format: Format = R1,
    ) -> None:
        self.warnings: list[str] = []
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self.instruction = instruction_text(instruction)
        self._force = think == "force"
        self._format = format
        special = special_tokens(tokenizer)
        self._special_ids = frozenset(special.values()) - {tokenizer.unk_token_id}
        self._special = pattern_of(special)
        self._special_but_tags = pattern_of(
            text for text in special if text not in (format.open, format.close)
        )
        self._bos_id: int | None = tokenizer.bos_token_id
        encoded = tokenizer("a").input_ids
        self._adds_bos = self._bos_id is not None and list(encoded[:1]) == [self._bos_id]
        self._probe()

    def render(
        self,
        id: str,
        content: Content,
        *,
        gold: str | None = None,
        max_tokens: int | None = None,
        kept: pa.RecordBatch | None = None,
    ) -> Prompt:
        """Render one row. Raises RowError if it cannot become a prompt."""
        [prompt] = self.render_many([PromptRow(id, content, gold, max_tokens, kept)])
        if isinstance(prompt, RowError):
            raise prompt
        return prompt

    def render_many(self, rows: Iterable[PromptRow]) -> list[Prompt | RowError]:
        """Render rows, encoding them all in one call.

        A row that cannot become a prompt gives its RowError instead.
        """
        drafts = [self._draft(row) for row in rows]
        encoded = iter(
            self._encode(
                [piece for draft in drafts if isinstance(draft, _Draft) for piece in draft.pieces]
            )
        )
        return [
            draft if isinstance(draft, RowError) else self._finish(draft, encoded)
            for draft in drafts
        ]

    def show(self, prompt: Prompt) -> str:
        return self.as_text(prompt.token_ids)

    def as_text(self, token_ids: Sequence[int]) -> str:
        """A rendered prompt as the model sees it, special tokens included."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _probe(self) -> None:
        from jinja2 import TemplateError

        where = f"model {self._tokenizer.name_or_path or '(unnamed)'}"
        try:
            with bounded():
                rendered = self._template([{"role": "user", "content": "1 + 1"}])
        except TooMuchError as error:
            raise ModelError(
                f"{where}: its chat template does not end ({error}; need a short message rendered "
                "at once). Correct it."
            ) from error
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as error:
            raise ModelError(
                f"{where}: its chat template cannot be rendered ({error}). Correct it."
            ) from error
        if self._force and self._format.ends_empty(rendered):
            raise ModelError(
                f"{where}: its chat template closes the think block at once, so the model would "
                f"not reason (got an "
                "empty block, need an open one). Use a template for reasoning, or set "
                "prompting.think to auto."
            )

    def _draft(self, row: PromptRow) -> _Draft | RowError:
        from jinja2 import TemplateError

        try:
            turns = turns_of(row)
        except RowError as error:
            return error
        if any(turn["role"] == "assistant" for turn in turns):
            self._warn(FEW_SHOT)
        append_instruction(turns, self.instruction)
        text = user_turn(turns)
        mark = mark_for(text)
        for turn in turns:
            # Think tags of earlier assistant turns are for the template, which usually takes the
            # block out.
            special = self._special_but_tags if turn["role"] == "assistant" else self._special
            turn["content"] = break_specials(turn["content"], special, mark)
        try:
            rendered = self._template(turns)
        except TemplateError as error:
            return RowError(
                row.id,
                "bad_messages",
                f"the model's chat template refuses the messages: {error}"[:300],
            )
        tail = rendered[-_TAIL_CHARS:]
        opened = self._format.ends_open(tail)
        if self._force and not opened:
            if self._format.ends_empty(tail):
                return RowError(
                    row.id,
                    "bad_messages",
                    "the chat template closes the think block for these messages",
                )
            rendered += self._format.opening
            opened = True
        expected = len(self._special.findall(rendered)) if self._special else 0
        return _Draft(
            row, text, [piece for piece in rendered.split(mark) if piece], opened, expected
        )

    def _template(self, turns: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        )

    def _encode(self, pieces: list[str]) -> list[list[int]]:
        if not pieces:
            return []
        if self._backend is None:
            ids: list[list[int]] = self._tokenizer(pieces, add_special_tokens=False).input_ids
            return ids
        # A tokenizer file may ask for truncation or padding; a prompt must have neither.
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        return [
            encoding.ids
            for some in _portions(pieces)
            for encoding in self._backend.encode_batch_fast(some, add_special_tokens=False)
        ]

    def _finish(self, draft: _Draft, encoded: Iterator[list[int]]) -> Prompt | RowError:
        ids = [token for piece in islice(encoded, len(draft.pieces)) for token in piece]
        if sum(map(self._special_ids.__contains__, ids)) > draft.special_tokens:
            # Some tokenizers change text before they look for special tokens in it, so that it
            # cannot be cut there.
            return RowError(
                draft.row.id,
                "special_text",
                "the tokenizer reads a part of the row as a special token",
            )
        if self._bos_id is not None:
            start = 0
            while start < len(ids) and ids[start] == self._bos_id:
                start += 1
            ids = [self._bos_id] * (start > 0 or self._adds_bos) + ids[start:]
        return Prompt(
            id=draft.row.id,
            text=draft.text,
            token_ids=tuple(ids),
            opened=draft.opened,
            digest=digest(ids),
            gold=draft.row.gold,
            max_tokens=draft.row.max_tokens,
            kept=draft.row.kept,
        )

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning(message)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A rendered prompt before encoding; `special_tokens` is how many the template put into it."""

    row: PromptRow
    text: str
    pieces: list[str]
    opened: bool
    special_tokens: int


def instruction_text(instruction: str) -> str:
    """What `prompting.instruction` stands for: `math`, `none`, or a text of one's own."""
    return {"math": MATH_INSTRUCTION, "none": ""}.get(instruction, instruction.strip())


def append_instruction(turns: list[dict[str, str]], instruction: str) -> None:
    """Put it behind the last turn, after a blank line, unless that holds it already."""
    last = turns[-1]
    if instruction and instruction not in last["content"]:
        last["content"] = f"{last['content'].rstrip()}\n\n{instruction}"


def user_turn(turns: list[dict[str, str]]) -> str:
    """The column `prompt`: the user turn, or a dialogue with its roles."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def turns_of(row: PromptRow) -> list[dict[str, str]]:
    """The user and assistant turns of a row, system messages folded into the first user turn.

    Raises RowError where it has none.
    """
    if row.content is None:
        raise RowError(row.id, "empty_prompt", "the prompt is null")
    if isinstance(row.content, str):
        messages = [("user", _text(row, row.content))]
    elif isinstance(row.content, Sequence) and not isinstance(row.content, bytes):
        messages = [_message(row, message) for message in row.content]
    else:
        kind = type(row.content).__name__
        raise RowError(row.id, "not_text", f"the prompt is neither text nor messages (got {kind})")
    if not messages:
        raise RowError(row.id, "bad_messages", "the list of messages is empty")
    if messages[-1][0] != "user":
        raise RowError(
            row.id,
            "bad_messages",
            f"the last message must be the user's (got role {messages[-1][0]})",
        )
    if not messages[-1][1].strip():
        raise RowError(row.id, "empty_prompt", "the prompt is empty")
    num_chars = sum(len(text) for _, text in messages)
    if num_chars > MAX_PROMPT_CHARS:
        raise RowError(
            row.id,
            "prompt_too_long",
            f"the prompt is longer than any context (got {num_chars:,} characters, need at most "
            f"{MAX_PROMPT_CHARS:,})",
        )
    system = [text.strip() for role, text in messages if role == "system" and text.strip()]
    turns = [{"role": role, "content": text} for role, text in messages if role != "system"]
    first = next(turn for turn in turns if turn["role"] == "user")
    first["content"] = "\n\n".join([*system, first["content"]])
    return turns


def _message(row: PromptRow, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise RowError(
            row.id,
            "bad_messages",
            f"a message must have role and content (got {type(message).__name__})",
        )
    # A Parquet struct has every key in every message; those that are not set are null.
    extra = sorted(
        str(key) for key, value in message.items() if key not in _IGNORED_KEYS and value is not None
    )
    if extra:
        raise RowError(
            row.id, "bad_messages", f"a message has unknown keys ({', '.join(extra)[:100]})"
        )
    role = _ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        raise RowError(
            row.id,
            "bad_messages",
            f"a message has an unknown role (need one of {', '.join(_ROLES)})",
        )
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        is_text = all(isinstance(part, Mapping) and part.get("type") == "text" for part in content)
        parts: list[Any] = [part.get("text") for part in content] if is_text else [None]
        content = "\n".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise RowError(row.id, "bad_messages", "the content of a message must be text")
    return role, _text(row, content)


def _text(row: PromptRow, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            row.id, "not_text", "the prompt is not valid Unicode (a lone surrogate)"
        ) from error
    return text


def _portions(pieces: list[str]) -> Iterator[list[str]]:
    """Pieces of text, some at a time: signals are answered between two calls of a tokenizer."""
    some: list[str] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= ENCODE_CHARS:
            yield some
            some, size = [], 0
    if some:
        yield some


def digest(token_ids: Sequence[int]) -> bytes:
    """128-bit BLAKE2b of the ids as little-endian 32-bit integers: the same on every platform."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.blake2b(packed.tobytes(), digest_size=16).digest()
