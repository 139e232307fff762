"""Proxy on loopback before an S3 server; it fails a share of all requests, as storage does.

refused    503 SlowDown, and the server never hears of it
error      500, and the server never hears of it
reset      the connection is reset before the server hears of it
lost       the server does what was asked, and the connection is reset instead of its answer
cut        half of the answer, then the end of the connection
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving import serving

FAULTS = ("refused", "error", "reset", "lost", "cut")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyProxy(ThreadingHTTPServer):
    """Proxy that counts requests in `seen` and faults in `faults`. To be changed at any time:

    `share` of the requests fails, and each answer comes `delay_s` later than it could.
    """

    daemon_threads = True

    def __init__(self, upstream: str, share: float, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.share = share
        self.delay_s = 0.0
        self.seen = 0
        self.faults: Counter[str] = Counter()
        self._rng, self._turn = random.Random(seed), threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str | None:
        """What happens to the next request; None: nothing."""
        with self._turn:
            self.seen += 1
            if self._rng.random() >= self.share:
                return None
            chosen = self._rng.choice(FAULTS)
            self.faults[chosen] += 1
            return chosen


@contextmanager
def faulty_proxy(upstream: str, share: float, seed: int = 0) -> Iterator[FaultyProxy]:
    with serving(FaultyProxy(upstream, share, seed)) as proxy:
        yield proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault()
        time.sleep(self.server.delay_s)
        if fault in ("refused", "error"):
            status, code = (503, "SlowDown") if fault == "refused" else (500, "InternalError")
            answer = (
                b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            )
            self._answer(status, [], answer, len(answer))
            return
        if fault == "reset":
            self._reset()
            return
        status, headers, answer = self._ask(body)
        if fault == "lost":
            self._reset()
            return
        length = int(dict(headers).get("content-length", len(answer)))
        headers = [(k, v) for k, v in headers if k not in _HOP_BY_HOP]
        if fault == "cut" and answer:
            self._answer(status, headers, answer[: len(answer) // 2], length)
            self.close_connection = True
            return
        self._answer(status, headers, answer, length)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for (
                name,
                value,
            ) in self.headers.items():  # the signature covers Host: it stays the proxy's
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            return (
                response.status,
                [(k.lower(), v) for k, v in response.getheaders()],
                response.read(),
            )
        except OSError:  # the server is away
            return 503, [], b""
        finally:
            upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, length: int
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
        )  # close resets
        self.connection.close()
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):  # the client hung up, or we did
            return

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output quiet."""
