"""Chat messages in the forms that people have, as {role, content}.

ShareGPT's {from, value}, keys that say nothing (null, or an empty list or object), and `weight`,
which is for training, are understood. What remains is for the renderer to take or to refuse.
"""

from __future__ import annotations

import json
from typing import Any

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
_CALLS = frozenset({"function_call", "tool_call"})
_FOR_TRAINING = frozenset({"weight"})


def as_messages(value: Any) -> Any:
    """Give messages `role` and `content`; return other values as they are."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list):
        return value
    return [_message(entry) if isinstance(entry, dict) else entry for entry in value]


def _message(entry: dict[str, Any]) -> dict[str, Any]:
    message = {
        key: inner
        for key, inner in entry.items()
        if key in ("role", "content")
        or not (key in _FOR_TRAINING or inner is None or inner in ([], {}))
    }
    if "from" in message and "value" in message and message.get("role") is None:
        speaker = message.pop("from")
        message.pop("role", None)
        message["content"] = message.pop("value")
        is_name = isinstance(speaker, str)
        if is_name and speaker in _CALLS:
            return {"role": "assistant", "content": None, "tool_calls": _calls(message["content"])}
        message = {"role": _SHAREGPT_ROLES.get(speaker, speaker) if is_name else speaker} | {
            key: inner for key, inner in message.items() if key != "role"
        }
    return message


def _calls(text: Any) -> list[Any]:
    """Parse the calls of a ShareGPT turn: one, or a list."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    calls = value if isinstance(value, list) else [value]
    return [{"type": "function", "function": call} for call in calls]
