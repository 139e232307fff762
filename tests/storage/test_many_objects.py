"""Inputs in buckets: few requests for many objects, and keys as tools leave them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_fakes import S3

from batchr1.dataset.pending import Pending
from batchr1.dataset.source import Source
from batchr1.errors import InputError
from batchr1.job.spec import InputSpec
from batchr1.storage.base import StorageOptions
from batchr1.storage.inputs import expand_inputs
from batchr1.storage.s3 import S3Storage, explain_refusal

OBJECTS = 60


def put(s3: S3, key: str, rows: dict[str, Any] | None, **options: Any) -> None:
    body = io.BytesIO()
    if rows is not None:
        pq.write_table(pa.table(rows), body)
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=body.getvalue(), **options)


def source_of(s3: S3, path: str, **spec: Any) -> Source:
    uri = f"s3://{s3.bucket}/{path}"
    inputs = InputSpec(path=uri, id="id", prompt="q", **spec)
    return Source(inputs, [], expand_inputs(uri, s3.options))


def ids(source: Source) -> list[str | None]:
    return [i for _, batch in source.batches(source.row_columns) for i in source.ids(batch)]


def test_an_object_is_asked_for_once_however_often_it_is_read(
    s3_moto: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(OBJECTS):
        put(s3_moto, f"p/{i:03d}.parquet", {"id": [f"r{i}"], "q": ["1"]})
    requests: list[str] = []
    call, get = S3Storage._call, S3Storage._get

    def counted_call(self: S3Storage, rel: str, method: str, **more: Any) -> Any:
        requests.append(method)
        return call(self, rel, method, **more)

    def counted_get(self: S3Storage, rel: str, **more: Any) -> Any:
        requests.append("get_object")
        return get(self, rel, **more)

    monkeypatch.setattr(S3Storage, "_call", counted_call)
    monkeypatch.setattr(S3Storage, "_get", counted_get)
    source = source_of(s3_moto, "p/")
    assert Pending(source, 1, ids_are_hashes=False).num_rows == OBJECTS
    assert ids(source) == [f"r{i}" for i in range(OBJECTS)]
    assert len(list(source.samples(2))) >= OBJECTS
    assert len(requests) <= 1.2 * OBJECTS, requests[:5]


@pytest.mark.parametrize("path", ["prompts/", "prompts"])
def test_markers_of_folders_and_empty_parts_of_keys_are_understood(s3_moto: S3, path: str) -> None:
    put(s3_moto, "prompts", None)
    put(s3_moto, "prompts/", None)
    put(s3_moto, "prompts//a.parquet", {"id": ["a"], "q": ["1"]})
    put(s3_moto, "prompts/b.parquet", {"id": ["b"], "q": ["2"]})
    assert sorted(str(i) for i in ids(source_of(s3_moto, path))) == ["a", "b"]


def test_an_archived_object_is_named(s3_moto: S3) -> None:
    put(s3_moto, "p/a.parquet", {"id": ["a"], "q": ["1"]}, StorageClass="GLACIER")
    with pytest.raises(InputError) as caught:
        source_of(s3_moto, "p/")
    assert str(caught.value) == (
        f"s3://{s3_moto.bucket}/p/a.parquet: the object is archived (got InvalidObjectState 403). "
        "Restore it first, or name a copy that is not."
    )


class Refusing(BaseHTTPRequestHandler):
    """Answers as Alibaba OSS does where the bucket stands in the path."""

    def do_GET(self) -> None:
        body = b"<Error><Code>SecondLevelDomainForbidden</Code><Message>No.</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def refusing(s3_moto: S3) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_store_that_wants_the_bucket_in_the_host_is_told_from_a_refusal(refusing: str) -> None:
    options = StorageOptions(endpoint=refusing)
    with pytest.raises(InputError) as caught:
        expand_inputs("s3://bucket/p/", options)
    assert str(explain_refusal(caught.value, ["s3://bucket/p/"], options)) == (
        "s3://bucket: the store wants the bucket in the host's name (got "
        "SecondLevelDomainForbidden 403). Set storage.addressing to virtual."
    )
