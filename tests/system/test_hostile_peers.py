"""Peers that mean harm: silent connections, bombs, streams without end, absurd counts."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import secrets
import socket
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from peak_rss import at_most_above
from prometheus_client import CollectorRegistry

from batchr1.driver.monitor.prometheus import serving
from batchr1.engine.openai.client import ChatClient
from batchr1.engine.openai.faults import RowFailed, ServerFault
from batchr1.executors import relay_listener
from batchr1.executors.relay_listener import Hello, RelayListener, secured
from batchr1.job.engine import EngineKind
from batchr1.job.spec import SamplingSpec
from batchr1.records import Reply

MIB = 2**20
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
ERROR = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
PACKED = b"Content-Encoding: gzip\r\n\r\n"
TWICE_PACKED = b"Content-Encoding: gzip, gzip\r\n\r\n"
DEFLATED = b"Content-Encoding: deflate\r\n\r\n"


def answer(content: str = "2", **usage: object) -> bytes:
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def bomb(mib: int) -> bytes:
    return gzip.compress(b"a" * MIB) * mib  # members one after the other


def one_piece(mib: int) -> bytes:
    return gzip.compress(b'{"choices": "' + b"a" * (mib * MIB))


def pieces(text: bytes, times: int) -> Iterator[bytes]:
    for _ in range(times):
        yield text


def event(text: str) -> bytes:
    delta = json.dumps({"choices": [{"delta": {"content": text}}]})
    return b"data: " + delta.encode() + b"\n\n"


@contextmanager
def says(parts: list[bytes | Iterator[bytes]]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each request with these bytes, and what it was asked."""
    asked: list[bytes] = []
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            with line:
                try:
                    asked.append(line.recv(65536))
                    for part in parts:
                        for piece in [part] if isinstance(part, bytes) else part:
                            line.sendall(piece)
                    # Closing with bytes of the request unread would reset what was sent.
                    line.shutdown(socket.SHUT_WR)
                    line.settimeout(5.0)
                    while line.recv(65536):
                        pass
                except OSError:
                    continue

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1", asked
    finally:
        door.close()


def ask(url: str, times: int = 1, timeout_s: float = 60.0) -> Reply:
    engine = EngineKind(kind="openai", timeout_s=timeout_s, concurrency=4)

    async def go() -> Reply:
        client = ChatClient(
            engine.model_copy(update={"base_url": url}), "model", SamplingSpec(temperature=0)
        )
        async with client:
            for _ in range(times):
                reply = await client.ask([("user", "1 + 1")])
        return reply

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


HOSTILE: dict[str, tuple[list[bytes | Iterator[bytes]], type[Exception]]] = {
    "a bomb of gzip": ([PLAIN, PACKED, one_piece(200)], RowFailed),
    "a bomb in members": ([PLAIN, PACKED, bomb(100)], Exception),
    "a document without end": ([PLAIN, b"\r\n", pieces(b" " * MIB, 10**6)], RowFailed),
    "an event without end": ([STREAM, b"data: ", pieces(b"a" * MIB, 10**6)], RowFailed),
    "a text without end": ([STREAM, pieces(event("a" * MIB), 10**6)], RowFailed),
    "an error without end": ([ERROR, b"\r\n", pieces(b"e" * MIB, 10**6)], RowFailed),
    "an error of 1.7 GB": (
        [ERROR, b"Content-Length: 1800000000\r\n\r\n", pieces(b"e" * MIB, 1717)],
        RowFailed,
    ),
    "an error that is a bomb": ([ERROR, PACKED, one_piece(200)], RowFailed),
    "a header without end": ([b"HTTP/1.1 200 OK\r\nX: ", pieces(b"a" * MIB, 100)], ServerFault),
    "no HTTP": ([b"SSH-2.0-OpenSSH\r\n" * 100], ServerFault),
    "nested without end": ([PLAIN, b"\r\n", b"[" * 10**6], ServerFault),
    "a list": ([PLAIN, b"\r\n", b"[]"], ServerFault),
    "choices that are text": ([PLAIN, b"\r\n", b'{"choices": "a"}'], ServerFault),
    "nothing": ([b""], ServerFault),
    "a wrong length of chunk": (
        [PLAIN, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
        ServerFault,
    ),
    "no gzip": ([PLAIN, PACKED, b"hello"], ServerFault),
    "a bomb of deflate": ([PLAIN, DEFLATED, zlib.compress(b"a" * (200 * MIB), 1)], RowFailed),
    "a bomb in a bomb": ([PLAIN, TWICE_PACKED, gzip.compress(one_piece(1000))], ServerFault),
    "an error that is a bomb in a bomb": (
        [ERROR, TWICE_PACKED, gzip.compress(one_piece(1000))],
        ServerFault,
    ),
    "a compression not asked for": ([PLAIN, b"Content-Encoding: br\r\n\r\n", b"a"], ServerFault),
    "chunks without end": (
        [
            PLAIN,
            b"Transfer-Encoding: chunked\r\n\r\n",
            pieces(b"100000\r\n" + b"a" * MIB + b"\r\n", 10**6),
        ],
        RowFailed,
    ),
    "wide text without end": ([STREAM, pieces(event("🙂" * (MIB // 4)), 10**6)], RowFailed),
    "tokens without end": ([STREAM, pieces(event("a" * 1000) * 100, 10**6)], RowFailed),
    "headers without end": (
        [b"HTTP/1.1 200 OK\r\n", pieces(b"X: a\r\n" * 1000, 10**6)],
        ServerFault,
    ),
    "a way in a circle": (
        [b"HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\n\r\n"],
        Exception,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_costs_a_row_and_no_memory(name: str) -> None:
    parts, error = HOSTILE[name]
    with says(parts) as (url, _), at_most_above(), pytest.raises(error):
        ask(url)


def test_a_peak_of_memory_is_seen_and_an_earlier_one_hides_none() -> None:
    taken = bytearray(300 * MIB)
    del taken
    with at_most_above(50):
        pass
    with pytest.raises(AssertionError, match="MiB more than before"), at_most_above(100):
        taken = bytearray(300 * MIB)
        del taken


ABSURD = [-1, 10**9, 2**63, 10**30, 1e300, True, "9", None, [1]]


@pytest.mark.parametrize("count", ABSURD, ids=repr)
def test_an_absurd_count_counts_as_none(count: object) -> None:
    with says([PLAIN, b"\r\n", answer(prompt_tokens=count, completion_tokens=count)]) as (url, _):
        reply = ask(url)
    assert (reply.content, reply.prompt_tokens, reply.completion_tokens) == ("2", None, None)


def test_a_number_of_ten_thousand_digits_is_none() -> None:
    body = answer(prompt_tokens=7).replace(b"7", b"7" * 10_000)
    with says([PLAIN, b"\r\n", body]) as (url, _):
        assert ask(url).prompt_tokens is None


def test_no_cookie_is_sent_back() -> None:
    cookies = b"Set-Cookie: session=1; Path=/\r\nSet-Cookie: other=2\r\n\r\n"
    with says([PLAIN, cookies, answer()]) as (url, asked):
        ask(url, times=3)
    assert len(asked) == 3
    assert not any(b"cookie" in request.lower() for request in asked)


@pytest.fixture
def files() -> Iterator[None]:
    """Few file descriptors, so that running out of them is quick."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def silent(address: tuple[str, int], count: int) -> list[socket.socket]:
    found = []
    for _ in range(count):
        line = socket.create_connection(address, timeout=30)
        found.append(line)
    return found


def comes_in(door: RelayListener, key: bytes, tries: int = 20) -> bool:
    """Whether a relay that knows the key is let in."""
    for number in range(tries):
        try:
            with socket.create_connection(door.address, timeout=10) as sock:
                line = secured(sock.dup(), key, is_driver=False)
                line.send(Hello(number, 0))
        except (OSError, EOFError):
            time.sleep(0.2)
            continue
        for _ in range(100):
            for hello, other in door.arrivals():
                other.close()
                if hello.worker == number:
                    line.close()
                    return True
            time.sleep(0.05)
        line.close()
    return False


@pytest.mark.usefixtures("files")
def test_a_thousand_silent_connections_leave_the_door_open_for_others() -> None:
    key = secrets.token_bytes(32)
    door = RelayListener("127.0.0.1", key)
    threads = threading.active_count()
    with at_most_above():
        lines = silent(door.address, 1000)
    try:
        with at_most_above():
            assert comes_in(door, key)
            assert threading.active_count() - threads <= relay_listener.MAX_UNPROVED + 8
            assert comes_in(door, key)
    finally:
        for line in lines:
            line.close()
        door.close()


def test_who_says_nothing_is_cut_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_listener, "PROVE_S", 0.1)
    door = RelayListener("127.0.0.1", secrets.token_bytes(32))
    [line] = silent(door.address, 1)
    with line:
        line.settimeout(30)
        while line.recv(4096):  # the challenge, and then the end
            pass
    door.close()


def test_the_door_survives_a_moment_without_file_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = secrets.token_bytes(32)
    monkeypatch.setattr(relay_listener, "MAX_UNPROVED", 10**6)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    door = RelayListener("127.0.0.1", key)
    with socket.socket() as probe:
        free = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 20, before[1]))
    lines: list[socket.socket] = []
    try:
        while len(lines) < 100:
            try:
                lines.append(socket.create_connection(door.address, timeout=2))
            except OSError:  # this process has none left, neither has the door
                break
        assert len(lines) < 100
        time.sleep(0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for line in lines:
            line.close()
    assert comes_in(door, key)
    door.close()


@pytest.mark.usefixtures("files")
def test_silent_readers_of_the_metrics_port_do_not_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from batchr1.driver.monitor import prometheus

    monkeypatch.setattr(prometheus, "READER_S", 0.5)
    with serving(CollectorRegistry(), ("127.0.0.1", 0)) as url:
        place = httpx.URL(url)
        lines = silent((place.host, place.port or 0), 300)
        end = time.monotonic() + 60
        status = None
        while status != 200 and time.monotonic() < end:
            try:
                status = urllib.request.urlopen(url, timeout=5).status
            except OSError:
                time.sleep(0.1)
        for line in lines:
            line.close()
    assert status == 200
