"""A store on loopback that takes the bucket in the host's name only, before an S3 server.

Names below `store.test` mean this machine to processes that `resolve` was called in. A folder with
a `sitecustomize.py` that calls it makes child processes do so.
"""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "store.test"
_KEPT = {"etag", "last-modified", "content-range", "content-type", "x-amz-storage-class"}


class VirtualHostOnly(ThreadingHTTPServer):
    """Answers for `bucket.store.test`, and refuses a bucket in the path as Alibaba OSS does.

    `seen` and `refused` count requests.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.seen = self.refused = 0

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VirtualHostOnly

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        bucket, dot, rest = self.headers["Host"].partition(".")
        self.server.seen += 1
        if not dot or rest.partition(":")[0] != HOST:
            self.server.refused += 1
            said = b"<Error><Code>SecondLevelDomainForbidden</Code><Message>No.</Message></Error>"
            self._send(403, {}, said)
            return
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        upstream.request(self.command, f"/{bucket}{self.path}", body, headers)
        found = upstream.getresponse()
        said = found.read()
        kept = {name: value for name, value in found.getheaders() if name.lower() in _KEPT}
        length = found.getheader("Content-Length") if self.command == "HEAD" else None
        self._send(found.status, kept, said, length=length)
        upstream.close()

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, *, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def resolve() -> None:
    """Have this process find names below `store.test` on this machine."""
    really = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        is_ours = isinstance(name, str) and (name == HOST or name.endswith(f".{HOST}"))
        return really("127.0.0.1" if is_ours else host, *args, **more)

    socket.getaddrinfo = getaddrinfo


def write_sitecustomize(folder: Path) -> None:
    """Put `resolve` where each Python that has the folder in its path calls it at its start."""
    here = str(Path(__file__).parent)
    text = f"import sys\nsys.path.append({here!r})\nfrom virtual_host import resolve\nresolve()\n"
    (folder / "sitecustomize.py").write_text(text)
