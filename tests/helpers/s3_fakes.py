"""A bucket to test against, and an S3 server that fails as told."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from batchr1.storage.base import Storage, StorageOptions, open_storage
from batchr1.storage.errors import Retry


@dataclass(frozen=True)
class S3:
    """A bucket of an S3 server on this machine. The AWS_* environment holds the keys."""

    endpoint: str
    bucket: str
    real: bool

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(endpoint=self.endpoint)

    def storage(self, prefix: str = "out", retry: Retry | None = None) -> Storage:
        return open_storage(f"s3://{self.bucket}/{prefix}", self.options, retry)

    def client(self) -> Any:
        """boto3's client, to look at the bucket with other eyes than ours."""
        import boto3  # type: ignore[import-untyped]

        return boto3.client("s3", endpoint_url=self.endpoint)


class FaultyS3(ThreadingHTTPServer):
    """Answers requests one after the other as `script` says, then with 404; counts them in `seen`.

    An entry is "200 body", "STATUS CODE" (with a secret in the message), "reset" or "cut" (half of
    a body).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _FaultyHandler)
        self.script: list[str] = []
        self.seen = 0

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(endpoint=f"http://127.0.0.1:{self.server_address[1]}")


class _FaultyHandler(BaseHTTPRequestHandler):
    server: FaultyS3

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen += 1
        fault = self.server.script.pop(0) if self.server.script else "404 NoSuchKey"
        status, _, rest = fault.partition(" ")
        body = (
            rest
            if status == "200"
            else f"<Error><Code>{rest}</Code><Message>hunter2</Message></Error>"
        )
        self.close_connection = True
        if fault == "reset":
            linger = b"\x01\0\0\0\0\0\0\0"  # on, 0 s: closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        self.send_response(200 if fault == "cut" else int(status))
        self.send_header("Content-Length", "100" if fault == "cut" else str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test's output quiet."""
