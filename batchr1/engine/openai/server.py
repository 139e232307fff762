"""A server that somebody else runs: what a client must know of it, and what its answers cost. Loads
nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from batchr1.errors import UsageError

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is served, and what is the same in every request to it.

    `body` holds sampling and the server's own parameters. The key is only named: `api_key_env` is
    an environment variable. `timeout_s` bounds a request from its sending to its last token.
    """

    base_url: str
    model: str
    api_key_env: str
    timeout_s: float
    concurrency: int
    stream: bool
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spent:
    """What was asked of a server: answered requests, and the tokens that its answers' `usage` names.

    `without_usage` of the answers had none.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0

    def plus(self, prompt_tokens: int | None, completion_tokens: int | None) -> Spent:
        """One more answer."""
        return Spent(
            self.requests + 1,
            self.prompt_tokens + (prompt_tokens or 0),
            self.completion_tokens + (completion_tokens or 0),
            self.without_usage + (prompt_tokens is None or completion_tokens is None),
        )


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / MILLION


def key_of(api_key_env: str) -> str | None:
    """The key, None where the variable is not set or empty.

    Raises `UsageError`, without showing it, for an odd one.
    """
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"engine.api_key_env: the environment variable {api_key_env} holds no key (it has "
            f"characters that a header "
            "cannot have). Set it to the key alone."
        )
    return key
