r"""Turns of a row: roles checked, the instruction appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchr1.dataset.bounds import MAX_PROMPT_CHARS

if TYPE_CHECKING:
    import pyarrow as pa

MATH_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

Content = str | Sequence[Mapping[str, Any]] | None  # None fails as a row

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_IGNORED_KEYS = {"role", "content", "name", "reasoning", "reasoning_content"}
FEW_SHOT = (
    "prompts hold assistant turns: reasoning models do better without examples (a few-shot "
    "dialogue was seen)"
)


class RowError(Exception):
    """One row cannot become a prompt; it fails alone.

    `reason` is one of `bad_messages`, `empty_prompt`, `not_text`, `prompt_too_long`,
    `special_text`; the message holds no prompt text.
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
    """Row of the input: a text or chat messages, and kept columns."""

    id: str
    content: Content
    gold: str | None = None
    max_tokens: int | None = None
    kept: pa.RecordBatch | None = None


def instruction_text(instruction: str) -> str:
    """Give the text of `prompting.instruction`: `math`, `none`, or one's own."""
    return {"math": MATH_INSTRUCTION, "none": ""}.get(instruction, instruction.strip())


def append_instruction(turns: list[dict[str, str]], instruction: str) -> None:
    """Append the instruction to the last turn, unless that holds it."""
    last = turns[-1]
    if instruction and instruction not in last["content"]:
        last["content"] = f"{last['content'].rstrip()}\n\n{instruction}"


def user_turn(turns: list[dict[str, str]]) -> str:
    """The column `prompt`: the user turn, or a dialogue with its roles."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def turns_of(row: PromptRow, *, keeps_system: bool = False) -> list[dict[str, str]]:
    """List the turns of a row.

    System messages are folded into the first user turn; with `keeps_system` they are a system turn
    of their own, the first. Raises RowError where the row has no user turn at its end.
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
    if keeps_system and system:
        return [{"role": "system", "content": "\n\n".join(system)}, *turns]
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
