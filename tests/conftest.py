"""Fixtures that more than one test file uses: an S3 server and an empty bucket in it."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from batchr1.data.storage import Storage, StorageOptions, open_storage
from batchr1.data.storage_errors import Retry

S3_VARIABLES = {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}


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


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class FaultyS3(ThreadingHTTPServer):
    """Answers requests one after the other as `script` says, then with 404; counts them in `seen`.

    An entry is "200 body", "STATUS CODE" (with a secret in the message), "reset" or "cut" (half of a body).
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
        body = rest if status == "200" else f"<Error><Code>{rest}</Code><Message>SECRET</Message></Error>"
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


@pytest.fixture
def faulty_s3(s3_moto: S3) -> Iterator[FaultyS3]:
    """An S3 server that fails as told."""
    server = FaultyS3()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3_moto(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket in a moto server of this process; any key opens it."""
    for name in S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return _bucket(moto_endpoint, real=False)


@pytest.fixture
def s3_real(monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty bucket in the server that BATCHR1_TEST_S3_ENDPOINT names; AWS_ACCESS_KEY_ID and its secret open it."""
    endpoint = os.environ.get("BATCHR1_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("BATCHR1_TEST_S3_ENDPOINT is not set: run tests/s3_server.py pytest -m s3")
    for name in S3_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return _bucket(endpoint, real=True)


@pytest.fixture(params=[pytest.param("s3_moto", id="moto"), pytest.param("s3_real", id="real", marks=pytest.mark.s3)])
def s3(request: pytest.FixtureRequest) -> S3:
    """An empty bucket: in moto by default, in a real server with `-m s3`."""
    bucket: S3 = request.getfixturevalue(request.param)
    return bucket


def _bucket(endpoint: str, *, real: bool) -> S3:
    s3 = S3(endpoint, f"test-{secrets.token_hex(6)}", real)
    s3.client().create_bucket(Bucket=s3.bucket)
    return s3
