"""Rules for the keys of a server (`engine.kind: openai`).

Messages here never show a value that might be a key: a wrong job file ends up in logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(
    r"api[-_]?key|authorization|bearer|passw|secret|access[-_]?token|auth[-_]?token", re.IGNORECASE
)
_OWN_KEYS = {  # of the request's body: where the job says it
    "messages": "input",
    "model": "model.served",
    "n": "sampling.n",
    "seed": "sampling.seed",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_tokens",
    "stream": "engine.stream",
    "stream_options": "engine.stream",
}


def check_base_url(value: str) -> str:
    """The address without a slash at its end.

    Raises `ValueError` for what is none, or holds credentials.
    """
    try:
        url = urlsplit(value)
        has_host, _ = bool(url.hostname), url.port
    except ValueError:
        raise ValueError("this is no address (need http://HOST:PORT/v1 or the like)") from None
    if url.username is not None or url.password is not None:
        raise ValueError(
            "credentials in an address are refused (the job is copied into its output); put the "
            "key into "
            "the environment variable that engine.api_key_env names"
        )
    if url.scheme not in ("http", "https") or not has_host or url.query or url.fragment:
        raise ValueError(
            "this is no address (need http://HOST:PORT/v1 or the like, without ? and #)"
        )
    if url.path.rstrip("/").endswith("/completions"):
        raise ValueError(
            f"the end is one path too many (got …{url.path}, need what stands before "
            f"/chat/completions)"
        )
    return value.rstrip("/")


def check_api_key_env(value: str) -> str:
    """The name of a variable.

    Raises `ValueError`, without showing it, for what may be the key itself.
    """
    if not _ENV_NAME.fullmatch(value):
        raise ValueError(
            "this is the name of an environment variable, in capitals, and never the key itself"
        )
    return value


def check_extra_body(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse parameters that have a key of their own, and secrets.

    Raises `ValueError`.
    """
    for name, place in _OWN_KEYS.items():
        if name in value:
            raise ValueError(f"{name} has a place of its own ({place})")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"this cannot be said in JSON ({exc})") from exc
    for name in _names_in(value):
        if _SECRET.search(name):
            raise ValueError(
                f"{name} looks like a secret, and a job is copied into its output (the key comes "
                f"from the "
                "environment variable that engine.api_key_env names)"
            )
    return value


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names_in(inner)
