"""A server's key, and the sums of its answers' cost.

Loads nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchr1.errors import UsageError

if TYPE_CHECKING:
    from batchr1.job.spec import SamplingSpec


@dataclass(frozen=True, slots=True)
class Spent:
    """Sums over a server's answers: requests, and tokens by their `usage`.

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


def money(usd: float) -> str:
    """Write USD as 1,234.50 or 0.0123: small amounts with more digits."""
    return f"{usd:,.2f}" if usd >= 1 or usd == 0 else f"{usd:.4f}"


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


def access_problem(key_env: str, said: str, *, is_certificate: bool) -> str | None:
    """Explain why a server lets nothing through, and what helps.

    None: the reason is another.
    """
    if is_certificate:
        return (
            f"its certificate is not trusted here ({said}). Set SSL_CERT_FILE to the file of its "
            f"authority, or correct the address."
        )
    if not said.startswith(("HTTP 401", "HTTP 403")):
        return None
    if key_of(key_env) is None:
        return (
            f"it wants a key, and {key_env} is not set ({said}). Set that variable to the key, or "
            f"name another in engine.api_key_env."
        )
    return f"the key in {key_env} is not taken ({said}). Set that variable to a right one."


def drawing_of(sampling: SamplingSpec) -> dict[str, Any]:
    """Name what of a job's sampling is in every request."""
    drawing = {name: value for name, value in sampling.drawing.items() if name != "ignore_eos"}
    if sampling.stop is not None and sampling.stop_in == "anywhere":
        drawing["stop"] = sampling.stop  # in the answer alone it is looked for here
    if sampling.answer_schema is not None:
        form = {"name": "answer", "schema": sampling.answer_schema, "strict": True}
        drawing["response_format"] = {"type": "json_schema", "json_schema": form}
    return drawing
