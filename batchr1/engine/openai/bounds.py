"""Bounds of what a server may send: bytes, decompressed too, and numbers.

A server that means harm, or a proxy that is broken, costs a row and not the machine.
"""

from __future__ import annotations

import http.cookiejar
from collections.abc import AsyncIterator

import httpx

from batchr1.engine.openai.faults import RowFailed, ServerFault

MAX_ERROR_BYTES = 2**18
"""Of an error's body so much is read, and the rest left."""
MAX_MODELS_BYTES = 2**24
MAX_TEXT_BYTES = 2**24
"""Bytes of an answer's document, or of one event; characters of its texts."""
MAX_HELD_BYTES = 2**26
"""Bytes of all answers under way together; below its share of it, no answer is refused."""
LEAST_SHARE = 2**21
MAX_STREAM_BYTES = 2**30
"""Bytes of a stream, of which most are JSON around its tokens."""
MAX_COUNT = 2**24
"""Tokens of a prompt or an answer; what a server counts beyond was not counted."""
ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
"""Compressions that are asked for, one at a time: they make at most a thousandfold of a piece."""
_MOST_DIGITS = 18


def too_large(most: int) -> RowFailed:
    """Make the error of an answer without end."""
    return RowFailed(
        "engine_refused",
        f"its answer is too large (got more than {most:,} bytes, need less)",
        prompt_tokens=None,
        completion_tokens=None,
    )


class Held:
    """Memory of all answers under way, of so many requests at most."""

    def __init__(self, requests: int) -> None:
        self.share_bytes = max(MAX_HELD_BYTES // requests, LEAST_SHARE)
        self.bytes = 0

    def share(self) -> Share:
        return Share(self)


class Share:
    """Part that one request holds, until it is closed."""

    def __init__(self, held: Held) -> None:
        self._held, self._bytes = held, 0

    def take(self, count: int) -> None:
        """Count bytes that are kept.

        Raises `RowFailed` beyond this request's share once all hold too much.
        """
        self._bytes += count
        self._held.bytes += count
        if self._bytes > self._held.share_bytes and self._held.bytes > MAX_HELD_BYTES:
            raise RowFailed(
                "engine_refused",
                f"its answer is too large beside others (got {self._bytes:,} bytes, need at most "
                f"{self._held.share_bytes:,} while all hold {MAX_HELD_BYTES:,})",
            )

    def give_back(self, count: int) -> None:
        self._bytes -= count
        self._held.bytes -= count

    def close(self) -> None:
        """Give back all that is kept."""
        self.give_back(self._bytes)


def chunks_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Read a body in pieces, decompressed.

    Raises `ServerFault` for a compression that makes much of little: one inside another, or one
    that was not asked for.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise ServerFault(f"its answer is packed otherwise than asked for (got {encoding[:40]!r})")
    return response.aiter_bytes()


async def start_of(response: httpx.Response, most: int, share: Share | None = None) -> bytes:
    """Read a body's first bytes, decompressed, and no more."""
    found = bytearray()
    async for chunk in chunks_of(response):
        start = chunk[: most - len(found)]
        if share is not None:
            share.take(len(start))
        found += start
        if len(found) >= most:
            break
    return bytes(found)


async def whole(response: httpx.Response, most: int, share: Share) -> bytes:
    """Read a body. Raises `RowFailed` beyond so many bytes."""
    found = await start_of(response, most + 1, share)
    if len(found) > most:
        raise too_large(most)
    return found


async def lines(chunks: AsyncIterator[bytes], share: Share) -> AsyncIterator[bytes]:
    """Cut a stream at line feeds.

    Raises `RowFailed` for a line or a stream without end.
    """
    rest, total = bytearray(), 0
    async for chunk in chunks:
        total += len(chunk)
        *whole_lines, last = chunk.split(b"\n")
        for line in whole_lines:
            share.give_back(len(rest))
            rest += line
            yield bytes(rest)
            rest.clear()
        share.take(len(last))
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
