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
}
_FOR_TRAINING = frozenset({"weight"})


def as_messages(value: Any) -> Any:
    """A row's messages with `role` and `content`, or the value itself where it holds none."""
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
        message = {"role": _SHAREGPT_ROLES.get(speaker, speaker) if is_name else speaker} | {
            key: inner for key, inner in message.items() if key != "role"
        }
    return message
