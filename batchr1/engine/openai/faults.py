"""Faults between a client and a server, by whose they are.

ServerFault      the server's, or its proxy's: it is asked again, later
SlowRequest      unknown: the time of a request was over
RowFailed        the row's: it fails, and the others go on
AccessError      the job's: a wrong key, certificate, name or address; nothing more is sent
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
from collections.abc import Callable, Mapping
from typing import Any

from batchr1.errors import RequestError

SHOWN_CHARS = 300
_PASSING = {408, 409, 425, 429}  # and 5xx
_ACCESS = {401, 402, 403}  # no key, or a wrong one; no money; not allowed


class ServerFault(Exception):
    """The server could not answer this time.

    `retry_after_s`: its wish, when to ask again. `is_busy`: it said 429.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, is_busy: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_busy = is_busy


class SlowRequest(Exception):
    """The time for one request was over before its answer was there."""


class ProxyFault(ServerFault):
    """Proxy that could not be reached; `variable` of the environment names it."""

    def __init__(self, message: str, *, variable: str) -> None:
        super().__init__(f"the proxy that {variable} names: {message}")
        self.variable = variable


class AccessError(Exception):
    """Refusal of this key, model name or address: no request can succeed."""


class CertificateError(AccessError):
    """Certificate that this machine does not trust."""


class RowFailed(RequestError):
    """Failure of one row for `reason`.

    Tokens are its cost all the same, if the server said so.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class NotFound(RowFailed):
    """404 that is not for the model's name.

    It is the row's fault only if others were answered.
    """


def fault_of(
    status: int,
    headers: Mapping[str, str],
    text: str,
    *,
    model: str,
    hide: Callable[[str], str] = str,
) -> Exception:
    """Classify an answer by its HTTP status.

    `text` is its body, `model` the model asked for; `hide` as in `words_of`.
    """
    document = _as_json(text)
    words = words_of(document, text, hide)
    said = f"HTTP {status}" + (f": {words}" if words else "")
    if status in _PASSING or status >= 500:
        return ServerFault(said, retry_after_s=retry_after_s(headers), is_busy=status == 429)
    if (
        status in _ACCESS or 300 <= status < 400
    ):  # a redirect is not followed: it would take the key along
        return AccessError(said)
    if status == 404:
        return (
            AccessError(said)
            if _names_model(document, words, model)
            else NotFound("engine_refused", said)
        )
    return RowFailed("engine_refused", said)


def retry_after_s(headers: Mapping[str, str], now: dt.datetime | None = None) -> float | None:
    """Read how long the server wishes to be left alone, in seconds.

    The header is a number or an HTTP date; None without one.
    """
    text = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=dt.UTC)
    return max(0.0, (then - (now or dt.datetime.now(dt.UTC))).total_seconds())


def words_of(document: Any, text: str = "", hide: Callable[[str], str] = str) -> str:
    """Extract the server's own words, on one line, cut short.

    Empty where it has none, or sent a page of HTML. `hide` takes out what must not be repeated,
    once JSON's own quoting is undone and before anything is cut.
    """
    if isinstance(document, dict):
        error = document.get("error", document)
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if isinstance(
            found, list
        ):  # FastAPI's; what it complains about (`input`) may be the prompt, and is left out
            found = "; ".join(str(one.get("msg")) for one in found if isinstance(one, dict))
    else:
        found = "" if text.lstrip().startswith("<") else text
    line = " ".join(hide(str(found or "")).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def without(words: str, secrets: list[str]) -> str:
    """Take key or prompt out of a server's words, even quoted."""
    for secret in secrets:
        for form in (
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
            secret.replace("/", "\\/"),  # as PHP quotes it
        ):
            if form:
                words = words.replace(form, "[…]")
    return words


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _names_model(document: Any, words: str, model: str) -> bool:
    error = document.get("error", document) if isinstance(document, dict) else None
    about = [error.get("param"), error.get("code")] if isinstance(error, dict) else []
    return "model" in about or "model_not_found" in about or model in words
