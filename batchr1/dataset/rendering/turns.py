r"""Turns of a row: roles checked, the instruction appended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchr1.dataset.bounds import MAX_PROMPT_CHARS
from batchr1.records import NOTHING_OWN, RowSampling

if TYPE_CHECKING:
    import pyarrow as pa

MATH_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

Content = str | Sequence[Mapping[str, Any]] | None  # None fails as a row
Turn = dict[str, Any]  # role, content; of tools also tool_calls, tool_call_id, name

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_KNOWN_KEYS = {"role", "content", "name", "reasoning", "reasoning_content"}
_TOOL_KEYS = {"assistant": {"tool_calls"}, "tool": {"tool_call_id"}}
NO_TOOLS = "its dialogue has tool turns, which the chat template does not render"
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
    own: RowSampling = NOTHING_OWN


def instruction_text(instruction: str) -> str:
    """Give the text of `prompting.instruction`: `math`, `none`, or one's own."""
    return {"math": MATH_INSTRUCTION, "none": ""}.get(instruction, instruction.strip())


def append_instruction(turns: list[Turn], instruction: str) -> None:
    """Append the instruction to the last turn, unless that holds it."""
    last = turns[-1]
    if instruction and instruction not in last["content"]:
        last["content"] = f"{last['content'].rstrip()}\n\n{instruction}"


def user_turn(turns: list[Turn]) -> str:
    """The column `prompt`: the user turn, or a dialogue with its roles."""
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {_said(turn)}" for turn in turns)


def dialogue(turns: list[Turn]) -> str | None:
    """The column `prompt_messages`: turns as JSON; None for one user turn."""
    if len(turns) == 1:
        return None
    return json.dumps(turns, ensure_ascii=False)


def flat_turns(text: str) -> list[dict[str, str]]:
    """Read `prompt_messages` as {role, content}.

    Tool calls stand as JSON in the assistant's content.
    """
    return [{"role": turn["role"], "content": _said(turn)} for turn in json.loads(text)]


def _said(turn: Turn) -> str:
    """The words of a turn, with its tool calls as JSON."""
    calls = [
        json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls", [])
    ]
    return "\n".join([text for text in [turn["content"], *calls] if text])


def has_tools(turns: Sequence[Turn]) -> bool:
    """Whether a tool was called, or answered, in a dialogue."""
    return any(turn["role"] == "tool" or "tool_calls" in turn for turn in turns)


def turns_of(row: PromptRow, *, keeps_system: bool = False) -> list[Turn]:
    """List the turns of a row.

    System messages are folded into the first user turn; with `keeps_system` they are a system turn
    of their own, the first. Raises RowError where the row has no user turn at its end.
    """
    if row.content is None:
        raise RowError(row.id, "empty_prompt", "the prompt is null")
    if isinstance(row.content, str):
        messages: list[Turn] = [{"role": "user", "content": _text(row, row.content)}]
    elif isinstance(row.content, Sequence) and not isinstance(row.content, bytes):
        messages = [_message(row, message) for message in row.content]
    else:
        kind = type(row.content).__name__
        raise RowError(row.id, "not_text", f"the prompt is neither text nor messages (got {kind})")
    if not messages:
        raise RowError(row.id, "bad_messages", "the list of messages is empty")
    last = messages[-1]
    if last["role"] != "user":
        raise RowError(
            row.id,
            "bad_messages",
            f"the last message must be the user's (got role {last['role']})",
        )
    if not last["content"].strip():
        raise RowError(row.id, "empty_prompt", "the prompt is empty")
    num_chars = sum(len(_said(message)) for message in messages)
    if num_chars > MAX_PROMPT_CHARS:
        raise RowError(
            row.id,
            "prompt_too_long",
            f"the prompt is longer than any context (got {num_chars:,} characters, need at most "
            f"{MAX_PROMPT_CHARS:,})",
        )
    _refuse_open_calls(row, messages)
    system = [m["content"].strip() for m in messages if m["role"] == "system"]
    system = [text for text in system if text]
    turns = [message for message in messages if message["role"] != "system"]
    if keeps_system and system:
        return [{"role": "system", "content": "\n\n".join(system)}, *turns]
    first = next(turn for turn in turns if turn["role"] == "user")
    first["content"] = "\n\n".join([*system, first["content"]])
    return turns


def _refuse_open_calls(row: PromptRow, messages: Sequence[Turn]) -> None:
    """Raise `RowError` where calls and answers do not pair."""
    waiting = 0
    for message in messages:
        if message["role"] == "tool":
            waiting -= 1
        elif waiting:
            break
        waiting += len(message.get("tool_calls", []))
        if waiting < 0:
            break
    if waiting:
        what = "a tool call has no answer" if waiting > 0 else "a tool's answer has no call"
        raise RowError(row.id, "bad_messages", f"{what} in the dialogue")


def _message(row: PromptRow, message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(
            row.id,
            "bad_messages",
            f"a message must have role and content (got {type(message).__name__})",
        )
    role = _ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    # A Parquet struct has every key in every message; those that are not set are null.
    known = _KNOWN_KEYS | _TOOL_KEYS.get(role or "", set())
    extra = sorted(str(k) for k, value in message.items() if k not in known and value is not None)
    if extra:
        raise RowError(
            row.id, "bad_messages", f"a message has unknown keys ({', '.join(extra)[:100]})"
        )
    if role is None:
        raise RowError(
            row.id,
            "bad_messages",
            "a message has an unknown role (need one of system, developer, user, assistant, tool)",
        )
    calls = [_call(row, call) for call in message.get("tool_calls") or []]
    turn: Turn = {"role": role, "content": _content(row, message, may_be_null=bool(calls))}
    if calls:
        turn["tool_calls"] = calls
    if role == "tool":
        names = ("tool_call_id", "name")
        turn |= {n: _text(row, message[n]) for n in names if isinstance(message.get(n), str)}
    return turn


def _content(row: PromptRow, message: Mapping[str, Any], *, may_be_null: bool) -> str:
    """The text of a message, or its parts joined."""
    content = message.get("content")
    if content is None and may_be_null:
        return ""
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        is_text = all(isinstance(part, Mapping) and part.get("type") == "text" for part in content)
        parts: list[Any] = [part.get("text") for part in content] if is_text else [None]
        content = "\n".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise RowError(row.id, "bad_messages", "the content of a message must be text")
    return _text(row, content)


def _call(row: PromptRow, call: Any) -> dict[str, Any]:
    """A tool call, its arguments as JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise RowError(row.id, "bad_messages", "a tool call must have a function with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = ""
    if not isinstance(arguments, Mapping | None):
        raise RowError(
            row.id, "bad_messages", "the arguments of a tool call must be an object in JSON"
        )
    text = json.dumps(arguments or {}, ensure_ascii=False)
    found: dict[str, Any] = {"type": "function"}
    if isinstance(call.get("id"), str):
        found["id"] = _text(row, call["id"])
    return found | {"function": {"name": _text(row, name), "arguments": _text(row, text)}}


def _text(row: PromptRow, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            row.id, "not_text", "the prompt is not valid Unicode (a lone surrogate)"
        ) from error
    return text
