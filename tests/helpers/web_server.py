"""Web server on loopback whose files come in parts, whole or not at all.

with serving() as web:
    web.files["in.parquet"] = data
    web.url  # http://127.0.0.1:PORT
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Web:
    """The files, how they are served, and the requests that were seen.

    `statuses`: answers that come first, in turn; 0 cuts the connection in the body.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    has_ranges: bool = True
    has_length: bool = True
    has_etag: bool = True
    redirect: str | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """A web server for the time of the block."""
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        web, wanted = self.web, self.headers.get("Range", "")
        web.seen.append((self.path, wanted))
        status = web.statuses.pop(0) if web.statuses else 200
        data = web.files.get(self.path.lstrip("/"))
        if web.redirect is not None:
            self._send(302, b"", {"Location": web.redirect})
        elif status >= 400:
            self._send(status, b"", {})
        elif data is None:
            self._send(404, b"", {})
        else:
            etag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'} if web.has_etag else {}
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            if match and web.has_ranges and data:
                start, stop = int(match[1]), min(int(match[2]) + 1, len(data))
                found = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
                self._send(206, data[start:stop], {**etag, **found}, cut=status == 0)
            else:
                self._send(200, data, etag, cut=status == 0)

    def _send(
        self, status: int, body: bytes, headers: dict[str, Any], *, cut: bool = False
    ) -> None:
        self.send_response(status)
        if self.web.has_length:
            headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that has seen enough
            self.wfile.write(body[: len(body) // 2] if cut else body)
