"""Bounds of what a server may send: bytes, decompressed too, and numbers.

A server that means harm, or a proxy that is broken, costs a row and not the machine.
"""

from __future__ import annotations

import http.cookiejar
from collections.abc import AsyncIterator

import httpx

from batchr1.engine.openai.faults import RowFailed

MAX_ERROR_BYTES = 2**18
"""Of an error's body so much is read, and the rest left."""
MAX_MODELS_BYTES = 2**24
MAX_TEXT_BYTES = 2**26
"""Bytes of an answer's document, or of one event."""
MAX_STREAM_BYTES = 2**30
"""Bytes of a stream, of which most are JSON around its tokens."""
MAX_COUNT = 2**24
"""Tokens of a prompt or an answer; what a server counts beyond was not counted."""
_MOST_DIGITS = 18


def too_large(most: int) -> RowFailed:
    """Make the error of an answer without end."""
    return RowFailed(
        "engine_refused",
        f"its answer is too large (got more than {most:,} bytes, need less)",
        prompt_tokens=None,
        completion_tokens=None,
    )


async def start_of(response: httpx.Response, most: int) -> bytes:
    """Read a body's first bytes, decompressed, and no more."""
    found = bytearray()
    async for chunk in response.aiter_bytes():
        found += chunk[: most - len(found)]
        if len(found) >= most:
            break
    return bytes(found)


async def whole(response: httpx.Response, most: int) -> bytes:
    """Read a body. Raises `RowFailed` beyond so many bytes."""
    found = await start_of(response, most + 1)
    if len(found) > most:
        raise too_large(most)
    return found


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream at line feeds.

    Raises `RowFailed` for a line or a stream without end.
    """
    rest, total = bytearray(), 0
    async for chunk in chunks:
        total += len(chunk)
        *whole_lines, last = chunk.split(b"\n")
        for line in whole_lines:
            rest += line
            yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > MAX_TEXT_BYTES or total > MAX_STREAM_BYTES:
            raise too_large(MAX_TEXT_BYTES if len(rest) > MAX_TEXT_BYTES else MAX_STREAM_BYTES)
    yield bytes(rest)


def no_cookies() -> http.cookiejar.CookieJar:
    """Make a jar that takes nothing, so that nothing is sent back."""
    return http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


def small_int(digits: str) -> int:
    """Read a number of JSON; one of very many digits is none."""
    return int(digits) if len(digits) <= _MOST_DIGITS else -1
