"""Claims about storage, the same for a disk and for S3."""

from __future__ import annotations

import email.utils
import errno
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from s3_fakes import S3, FaultyS3

from batchr1.errors import BatchError, InputError, JobError, OutputError, StorageError
from batchr1.storage import errors as storage_errors
from batchr1.storage import s3 as storage_s3
from batchr1.storage.base import Storage, StorageOptions, open_storage
from batchr1.storage.errors import Retry, storage_error
from batchr1.storage.inputs import expand_inputs
from batchr1.storage.s3 import S3Storage

REAL = pytest.param("s3_real", id="real", marks=pytest.mark.s3)


@pytest.fixture(params=["local", pytest.param("s3_moto", id="moto"), REAL])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "out")
    s3: S3 = request.getfixturevalue(request.param)
    return s3.storage("some/out")


def stage(storage: Storage, content: bytes, rel: str = ".batchr1/staging/part") -> str:
    built = storage.scratch_dir() / "built"
    built.write_bytes(content)
    storage.stage_file(built, rel)
    assert not built.exists()
    return rel


def message(call: Callable[[], object], kind: type[BatchError]) -> str:
    with pytest.raises(BatchError) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ── one folder
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_bytes_are_read_back_and_replaced(storage: Storage) -> None:
    storage.write_bytes("a/b.json", b"one")
    storage.write_bytes("a/b.json", b"two")
    assert storage.read_bytes("a/b.json") == b"two"
    assert storage.find_bytes("a/b.json") == b"two"


def test_what_is_missing_is_not_there(storage: Storage) -> None:
    storage.write_bytes("a/b.json", b"")
    assert storage.exists("a/b.json")
    assert not storage.exists("a")
    assert not storage.exists("a/b.json/c")
    assert storage.find_bytes("a/c") is None
    assert storage.find_file("a/c") is None
    assert storage.list_files("none") == []
    storage.delete("a/c")
    storage.delete_tree("none")
    text = message(lambda: storage.read_bytes("a/c"), StorageError)
    assert text == f"{storage.uri}/a/c: no such file (got ENOENT). Check the path."


def test_files_are_listed_by_folder_and_ending(storage: Storage) -> None:
    for rel in (
        "data/b.parquet",
        "data/a.parquet",
        "data/c.json",
        "data/deep/d.parquet",
        "data2/e.parquet",
        "f",
    ):
        storage.write_bytes(rel, b"123")

    def names(*args: str, recursive: bool = False) -> list[str]:
        return [info.rel for info in storage.list_files(*args, recursive=recursive)]

    assert names("data", ".parquet") == ["data/a.parquet", "data/b.parquet"]
    assert names("data", ".parquet", recursive=True) == [
        "data/a.parquet",
        "data/b.parquet",
        "data/deep/d.parquet",
    ]
    assert names() == ["f"]
    assert len(names(recursive=True)) == 6
    assert {info.size for info in storage.list_files("data")} == {3}


def test_a_version_changes_with_the_content(storage: Storage) -> None:
    storage.write_bytes("a", b"1")
    first = storage.find_file("a")
    storage.write_bytes("a", b"2")
    second = storage.find_file("a")
    assert first is not None and second is not None
    assert first.version != second.version
    assert storage.list_files() == [second]


def test_what_another_process_wrote_or_deleted_is_seen_at_once(storage: Storage) -> None:
    other = open_storage(storage.uri, storage.options)
    assert storage.list_files("data") == []
    other.write_bytes("data/a", b"1")
    assert [info.rel for info in storage.list_files("data")] == ["data/a"]
    assert storage.read_bytes("data/a") == b"1"
    other.delete("data/a")
    assert storage.list_files("data") == []
    assert not storage.exists("data/a")


def test_a_folder_is_deleted_with_all_in_it_and_nothing_else(storage: Storage) -> None:
    for rel in ("a/1", "a/b/2", "ab", "c/a/3"):
        storage.write_bytes(rel, b"")
    storage.delete_tree("a")
    assert [info.rel for info in storage.list_files(recursive=True)] == ["ab", "c/a/3"]
    with pytest.raises(ValueError, match="never deleted"):
        storage.delete_tree("")


def test_empty_means_no_file_at_all(storage: Storage) -> None:
    assert storage.is_empty()
    storage.write_bytes(".hidden/x", b"")
    assert not storage.is_empty()


def test_the_write_probe_leaves_no_file(storage: Storage) -> None:
    storage.check_writable()
    assert storage.list_files(recursive=True) == []


@pytest.mark.parametrize("rel", ["/a", "../a", "a/../../b", "a//b", "./a", "a/"])
def test_paths_outside_are_refused(tmp_path: Path, rel: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        open_storage(tmp_path).read_bytes(rel)


def test_a_storage_crosses_a_process_boundary(storage: Storage) -> None:
    storage.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert (copy.uri, copy.kind, copy.read_bytes("a")) == (storage.uri, storage.kind, b"1")


# ── publishing
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_staged_file_is_published_once(storage: Storage) -> None:
    staged = stage(storage, b"rows")
    storage.commit(staged, "data/part-1")
    assert storage.read_bytes("data/part-1") == b"rows"
    assert not storage.exists(staged)
    storage.commit(staged, "data/part-1")  # after a kill that came late
    assert storage.read_bytes("data/part-1") == b"rows"


def test_a_commit_that_was_cut_between_its_two_steps_is_finished(storage: Storage) -> None:
    staged = stage(storage, b"rows")
    storage.commit(staged, "data/part-1")
    storage.commit(stage(storage, b"rows"), "data/part-1")
    assert storage.read_bytes("data/part-1") == b"rows"
    assert not storage.exists(staged)


def test_a_different_file_is_never_replaced(storage: Storage) -> None:
    storage.commit(stage(storage, b"rows"), "data/part-1")
    staged = stage(storage, b"rowz")
    text = message(lambda: storage.commit(staged, "data/part-1"), StorageError)
    assert text == (
        f"{storage.uri}/data/part-1: a different file has this name (got other bytes than "
        ".batchr1/staging/part, need the same or no file). Move it away, then run the same command "
        "again."
    )
    assert storage.read_bytes("data/part-1") == b"rows"
    assert storage.read_bytes(staged) == b"rowz"


def test_a_commit_after_another_run_emptied_staging_fails(storage: Storage) -> None:
    staged = stage(storage, b"rows")
    storage.delete_tree(".batchr1/staging")
    text = message(lambda: storage.commit(staged, "data/part-1"), StorageError)
    assert text == (
        f"{storage.uri}/.batchr1/staging/part: the staged file is gone (got neither it nor "
        "data/part-1, need one of them). Run the same command again."
    )
    assert not storage.exists("data/part-1")


def test_parquet_is_read_from_any_storage(storage: Storage) -> None:
    table = pa.table({"id": [str(i) for i in range(10_000)], "n": list(range(10_000))})
    pq.write_table(table, storage.scratch_dir() / "t.parquet", row_group_size=1000)
    storage.stage_file(storage.scratch_dir() / "t.parquet", "in/t.parquet")
    with storage.open_input("in/t.parquet") as file:
        assert pq.read_table(file, columns=["n"]).equals(table.select(["n"]))
    (found,) = expand_inputs(storage.where("in"), storage.options)
    with found.open() as file:
        assert pq.ParquetFile(file).read_row_group(3).equals(table.slice(3000, 1000))


def test_an_input_is_seekable_to_its_very_end(storage: Storage) -> None:
    storage.write_bytes("a", bytes(range(100)))
    with storage.open_input("a") as file:
        assert file.seek(-3, os.SEEK_END) == 97
        assert file.read() == bytes([97, 98, 99])
        assert file.read() == b""
        assert file.seek(10) == 10
        assert file.read(2) == bytes([10, 11])


# ── disk
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path / "out")
    storage.write_bytes("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = message(lambda: storage.write_bytes("a", b"new"), StorageError)
    assert text == (
        f"{tmp_path}/out/a: the disk is full (got ENOSPC). Free some space, then run the same "
        "command again."
    )
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "a"]
    assert storage.read_bytes("a") == b"old"


def test_a_file_from_another_disk_is_staged_whole(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    built = memory / f"batchr1-test-{os.getpid()}"
    built.write_bytes(b"rows")
    storage = open_storage(tmp_path)
    storage.stage_file(built, "staged")
    assert not built.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "staged"]
    assert storage.read_bytes("staged") == b"rows"


def test_a_path_through_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    text = message(open_storage(tmp_path / "file" / "out").check_writable, OutputError)
    assert text == (
        f"{tmp_path}/file/out: a part of the path is a file, not a folder (got EEXIST). Check the "
        "path."
    )


def test_scratch_space_is_on_the_outputs_own_disk(tmp_path: Path) -> None:
    assert open_storage(tmp_path).scratch_dir() == tmp_path / ".batchr1" / "staging"


def test_file_uris_and_relative_paths_name_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        open_storage(f"file://{tmp_path}/a%20b").uri
        == open_storage("x/../a b/").uri
        == f"{tmp_path}/a b"
    )


# ── S3
# ──────────────────────────────────────────────────────────────────────────────────────────


def uploads(s3: S3) -> list[str]:
    return [
        upload["Key"]
        for upload in s3.client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads", [])
    ]


def test_large_files_go_up_in_parts_and_are_recognised(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, content = s3.storage(), os.urandom(12 * 2**20)
    monkeypatch.setattr(storage_s3, "UPLOAD_PART_BYTES", 5 * 2**20)
    storage.commit(stage(storage, content), "data/part-1")
    assert storage.read_bytes("data/part-1") == content
    monkeypatch.setattr(
        storage_s3, "UPLOAD_PART_BYTES", 6 * 2**20
    )  # the same bytes in other parts: another ETag
    storage.commit(stage(storage, content), "data/part-1")
    assert uploads(s3) == []


def test_an_upload_that_fails_is_aborted_and_publishes_nothing(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = s3.storage()
    assert isinstance(storage, S3Storage)
    monkeypatch.setattr(storage_s3, "UPLOAD_PART_BYTES", 5 * 2**20)
    call = storage._api.call_s3

    def cut(method: str, **arguments: object) -> object:
        if arguments.get("PartNumber") == 2:
            raise KeyboardInterrupt
        return call(method, **arguments)

    monkeypatch.setattr(storage._api, "call_s3", cut)
    built = storage.scratch_dir() / "built"
    built.write_bytes(bytes(12 * 2**20))
    with pytest.raises(KeyboardInterrupt):
        storage.stage_file(built, "staged")
    assert uploads(s3) == []
    assert not storage.exists("staged")
    assert built.exists()


def test_an_upload_that_was_completed_into_a_lost_answer_is_done(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, content = s3.storage(retry=Retry(for_s=5, first_wait_s=0.01)), os.urandom(12 * 2**20)
    assert isinstance(storage, S3Storage)
    monkeypatch.setattr(storage_s3, "UPLOAD_PART_BYTES", 5 * 2**20)
    call, tries = storage._api.call_s3, list[str]()

    def lossy(method: str, **arguments: object) -> object:
        if method != "complete_multipart_upload":
            return call(method, **arguments)
        tries.append(method)
        if len(tries) > 1:  # as Ceph answers; moto and AWS say yes again
            answer = {
                "Error": {"Code": "NoSuchUpload"},
                "ResponseMetadata": {"HTTPStatusCode": 404},
            }
            raise ClientError(answer, "CompleteMultipartUpload")  # type: ignore[arg-type]
        call(method, **arguments)
        raise ConnectionResetError("the answer is lost")

    monkeypatch.setattr(storage._api, "call_s3", lossy)
    storage.commit(stage(storage, content), "data/part-1")
    assert len(tries) == 2
    assert storage.read_bytes("data/part-1") == content
    assert uploads(s3) == []


def test_uploads_of_a_killed_run_are_aborted_and_others_left(s3: S3) -> None:
    for key in ("out/.batchr1/staging/a", "other/.batchr1/staging/b"):
        s3.client().create_multipart_upload(Bucket=s3.bucket, Key=key)
    s3.storage("out").abort_uploads()
    assert uploads(s3) == ["other/.batchr1/staging/b"]


def test_long_listings_are_read_to_the_end(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "LIST_PAGE", 3)
    storage = s3.storage()
    for number in range(8):
        storage.write_bytes(f"data/{number}", b"")
    assert len(storage.list_files("data")) == 8


def test_a_put_on_condition_is_refused_when_it_does_not_hold(s3: S3) -> None:
    storage = s3.storage()
    assert isinstance(storage, S3Storage)
    first = storage.put_if("lock", b"1", None)
    assert first is not None
    assert storage.put_if("lock", b"2", None) is None
    second = storage.put_if("lock", b"2", first)
    assert second is not None
    assert storage.put_if("lock", b"3", first) is None
    assert storage.put_if("gone", b"3", first) is None
    assert storage.find_with_etag("lock") == (b"2", second)


def test_an_input_that_is_replaced_while_it_is_read_is_noticed(s3: S3) -> None:
    storage = s3.storage()
    storage.write_bytes("a", b"1" * 3 * 2**20)
    with storage.open_input("a") as file:
        file.read(1)
        storage.write_bytes("a", b"2" * 3 * 2**20)
        text = message(file.read, StorageError)
    assert text == (
        f"{storage.uri}/a: the file was replaced while it was read (got another ETag). Run the "
        "same command again."
    )


def test_a_bucket_itself_can_be_an_output(s3: S3) -> None:
    storage = open_storage(f"s3://{s3.bucket}/", s3.options)
    storage.write_bytes("a/b", b"1")
    assert storage.uri == f"s3://{s3.bucket}"
    assert [info.rel for info in storage.list_files(recursive=True)] == ["a/b"]
    assert [info.rel for info in storage.list_files("a")] == ["a/b"]


def test_scratch_space_for_s3_is_temporary(s3: S3) -> None:
    storage = s3.storage()
    folder = storage.scratch_dir()
    assert folder.is_dir() and folder == storage.scratch_dir()
    del storage
    assert not folder.exists()


def test_endpoint_and_region_come_from_the_environment(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    storage = open_storage(f"s3://{s3.bucket}/x")
    storage.write_bytes("a", b"1")
    assert s3.storage("x").read_bytes("a") == b"1"


def test_a_missing_bucket_is_named(s3: S3) -> None:
    uri = f"s3://{s3.bucket}-none/out"
    got = (
        f"{uri}: no such bucket (got NoSuchBucket 404). Check the bucket's name, storage.endpoint "
        "and storage.region."
    )
    assert message(open_storage(uri, s3.options).check_writable, OutputError) == got
    assert message(lambda: expand_inputs(uri, s3.options), InputError) == got


@pytest.mark.s3
def test_wrong_keys_are_refused_without_being_shown(
    s3_real: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x" + secret[1:])
    text = message(s3_real.storage().check_writable, OutputError)
    assert text == (
        f"s3://{s3_real.bucket}/out: the credentials are refused (got SignatureDoesNotMatch 403). "
        "Renew AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile."
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    assert "(got InvalidAccessKeyId 403)" in message(s3_real.storage().check_writable, OutputError)


# ── faults
# ──────────────────────────────────────────────────────────────────────────────────────────

QUICK = Retry(for_s=5, first_wait_s=0.01, max_wait_s=0.05)


@pytest.mark.parametrize(
    "fault", ["503 SlowDown", "500 InternalError", "429 TooManyRequests", "reset", "cut"]
)
def test_requests_that_fail_in_passing_are_tried_again(faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.script = [fault, fault, "200 the content"]
    storage = open_storage("s3://bucket/out", faulty_s3.options, QUICK)
    assert storage.read_bytes("a") == b"the content"
    assert faulty_s3.seen == 3


def test_trying_again_has_an_end(faulty_s3: FaultyS3) -> None:
    storage = open_storage(
        "s3://bucket/out", faulty_s3.options, Retry(for_s=3, first_wait_s=0.05, max_wait_s=0.1)
    )
    assert storage.find_bytes("x") is None  # the client is made
    faulty_s3.script = ["503 SlowDown"] * 1000
    text = message(lambda: storage.write_bytes("a", b""), StorageError)
    assert text == (
        "s3://bucket/out/a: the object store fails or asks to slow down (got SlowDown 503). Run "
        "the same command again: it goes on from here."
    )
    assert 2 < faulty_s3.seen <= 100


def test_a_process_that_leaves_does_not_try_for_long(
    faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_errors, "LEAVE_S", 2.0)
    storage = open_storage(
        "s3://bucket/out", faulty_s3.options, Retry(for_s=600, first_wait_s=0.01, max_wait_s=0.05)
    )
    assert storage.find_bytes("x") is None  # the client is made
    faulty_s3.script = ["503 SlowDown"] * 1000
    storage_errors.set_leaving(True)
    try:
        text = message(lambda: storage.read_bytes("x"), StorageError)
    finally:
        storage_errors.set_leaving(False)
    assert text.startswith(
        "s3://bucket/out/x: the object store fails or asks to slow down (got SlowDown 503)."
    )
    assert 2 < faulty_s3.seen < 200


def test_refusals_are_not_tried_again_and_hide_what_the_server_says(faulty_s3: FaultyS3) -> None:
    faulty_s3.script = ["403 AccessDenied"]
    text = message(lambda: expand_inputs("s3://bucket/in/a.parquet", faulty_s3.options), InputError)
    assert text == (
        "s3://bucket/in/a.parquet: access is denied (got HTTP 403). Give these credentials the "
        "permission, or use others."
    )
    assert faulty_s3.seen == 1
    faulty_s3.script = ["403 AccessDenied"]
    text = message(
        lambda: open_storage("s3://bucket/out", faulty_s3.options).read_bytes("a"), StorageError
    )
    assert "(got AccessDenied 403)" in text
    assert "hunter2" not in text


def test_an_endpoint_that_does_not_answer_is_named(s3_moto: S3) -> None:
    options = StorageOptions(endpoint="http://127.0.0.1:9")
    text = message(lambda: expand_inputs("s3://bucket/in", options, Retry(for_s=0)), InputError)
    assert text == (
        "s3://bucket/in: the object store does not answer (got EndpointConnectionError). Check "
        "storage.endpoint and the network, and run again."
    )


def test_missing_credentials_and_profiles_are_named(
    s3_moto: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = message(lambda: expand_inputs("s3://bucket/in", s3_moto.options), InputError)
    assert text == (
        "s3://bucket/in: no S3 credentials were found (got NoCredentialsError). Set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile."
    )
    options = StorageOptions(endpoint=s3_moto.endpoint, profile="nobody")
    text = message(lambda: expand_inputs("s3://bucket/in", options), InputError)
    assert text == (
        "s3://bucket/in: no such AWS profile (got ProfileNotFound). Check storage.profile and "
        "AWS_PROFILE."
    )


def answer(code: str, status: int, date: str = "") -> ClientError:
    detail = {
        "Error": {"Code": code, "Message": "hunter2"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"date": date}},
    }
    return ClientError(detail, "PutObject")


def http_date(off_s: float) -> str:
    return email.utils.formatdate(time.time() + off_s, usegmt=True)


@pytest.mark.parametrize(
    ("exc", "kind", "text"),
    [
        (OSError(errno.ENOSPC, "x"), StorageError, "the disk is full (got ENOSPC)"),
        (OSError(errno.EDQUOT, "x"), StorageError, "the disk quota is used up (got EDQUOT)"),
        (OSError(errno.EROFS, "x"), OutputError, "the file system is read-only (got EROFS)"),
        (OSError(errno.EIO, "x"), StorageError, "the disk reports an error (got EIO)"),
        (PermissionError(errno.EACCES, "x"), OutputError, "permission is denied (got EACCES)"),
        (PermissionError("hunter2"), OutputError, "access is denied (got PermissionError)"),
        (FileNotFoundError("hunter2"), OutputError, "no such file (got FileNotFoundError)"),
        (
            ConnectionResetError(errno.ECONNRESET, "x"),
            StorageError,
            "the object store does not answer (got ECONNRESET)",
        ),
        (TimeoutError(), StorageError, "the object store does not answer (got TimeoutError)"),
        (
            NoCredentialsError(),
            OutputError,
            "no S3 credentials were found (got NoCredentialsError)",
        ),
        (
            EndpointConnectionError(endpoint_url="http://hunter2@x"),
            StorageError,
            "got EndpointConnectionError",
        ),
        (ReadTimeoutError(endpoint_url="http://hunter2@x"), StorageError, "got ReadTimeoutError"),
        (
            answer("ExpiredToken", 400),
            OutputError,
            "the credentials are refused (got ExpiredToken 400)",
        ),
        (answer("RequestTimeTooSkewed", 403), StorageError, "the clock of this machine is wrong"),
        (answer("403", 403, "soon"), OutputError, "access is denied (got HTTP 403)"),
        (answer("QuotaExceeded", 403), OutputError, "the quota of the bucket or user is used up"),
        (
            answer("PermanentRedirect", 301),
            OutputError,
            "the bucket is in another region or at another endpoint",
        ),
        (
            answer("ServiceUnavailable", 503),
            StorageError,
            "the object store fails or asks to slow down",
        ),
        (
            answer("NotImplemented", 501),
            OutputError,
            "the object store refused the request (got NotImplemented 501)",
        ),
    ],
)
def test_third_party_exceptions_become_one_line_without_secrets(
    exc: Exception, kind: type[BatchError], text: str
) -> None:
    error = storage_error(exc, "s3://b/x", lasting=OutputError)
    assert type(error) is kind
    assert str(error).startswith("s3://b/x: ") and text in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("off_s", "kind", "text"),
    [
        (3600, StorageError, "the clock of this machine is wrong"),
        (-3600, StorageError, "the clock of this machine is wrong"),
        (60, OutputError, "access is denied (got HTTP 403)"),
    ],
)
def test_an_answer_without_a_code_tells_a_wrong_clock_by_its_date(
    off_s: float, kind: type[BatchError], text: str
) -> None:
    error = storage_error(answer("403", 403, http_date(off_s)), "s3://b/x", lasting=OutputError)
    assert type(error) is kind
    assert text in str(error)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (
            "http://me:hunter2@host",
            "the URL holds credentials. Set AWS_ACCESS_KEY_ID and its secret instead.",
        ),
        (
            "https://host/?X-Amz-S=hunter2",
            "the URL holds credentials. Set AWS_ACCESS_KEY_ID and its secret instead.",
        ),
        ("me:hunter2@host", "not a URL (need http://host:port or https://host). Correct it."),
    ],
)
def test_endpoints_hold_no_credentials(endpoint: str, text: str) -> None:
    assert (
        message(lambda: StorageOptions(endpoint=endpoint), JobError) == f"storage.endpoint: {text}"
    )


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (
            "gs://bucket/x?token=hunter2",
            "gs://…: storage of this kind is not supported (got 'gs', need a path, file:// or "
            "s3://). Copy the data, or use the store's S3 interface with storage.endpoint.",
        ),
        (
            "s3://key:hunter2@bucket/x",
            (
                "s3://…: the URI holds credentials. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY instead."
            ),
        ),
        (
            "s3:///x",
            "s3:///x: no bucket (got 's3:///x', need s3://bucket/prefix). Name the bucket.",
        ),
    ],
)
def test_other_uris_are_refused(uri: str, text: str) -> None:
    assert message(lambda: open_storage(uri), JobError) == text


# ── inputs
# ──────────────────────────────────────────────────────────────────────────────────────────

DATASET = (
    "a.parquet",
    "b.jsonl",
    "deep/c.parquet",
    "deep/_tmp/d.parquet",
    ".cache/e.parquet",
    "_SUCCESS",
    "notes.txt",
)


@pytest.fixture
def dataset(storage: Storage) -> Storage:
    for rel in DATASET:
        storage.write_bytes(rel, b"1234")
    return storage


def names(storage: Storage, *paths: str) -> list[str]:
    found = expand_inputs([f"{storage.uri}/{path}".rstrip("/") for path in paths], storage.options)
    assert all(file.size == 4 and file.version for file in found)
    return [file.uri.removeprefix(f"{storage.uri}/") for file in found]


def test_inputs_are_files_globs_and_folders(dataset: Storage) -> None:
    assert names(dataset, "a.parquet") == ["a.parquet"]
    assert names(dataset, "") == ["a.parquet", "b.jsonl", "deep/c.parquet"]
    assert names(dataset, "deep") == ["deep/c.parquet"]
    assert names(dataset, "*.parquet") == ["a.parquet"]
    assert names(dataset, "*") == ["a.parquet", "b.jsonl"]
    assert names(dataset, "**/*.parquet") == ["a.parquet", "deep/c.parquet"]
    assert names(dataset, "d*p/[abc].parquet") == ["deep/c.parquet"]
    assert names(dataset, "deep/_t*/?.parquet") == ["deep/_tmp/d.parquet"]


def test_a_list_of_inputs_is_sorted_and_each_file_is_read_once(dataset: Storage) -> None:
    assert names(dataset, "deep", "b.jsonl", "**/*.parquet", "b.jsonl") == [
        "a.parquet",
        "b.jsonl",
        "deep/c.parquet",
    ]


def test_a_name_with_a_globs_characters_is_taken_as_it_is(storage: Storage) -> None:
    storage.write_bytes("run[1].parquet", b"1234")
    storage.write_bytes("run1.parquet", b"1234")
    assert names(storage, "run[1].parquet") == ["run[1].parquet"]


def test_formats_go_by_the_ending(dataset: Storage) -> None:
    assert [file.format for file in expand_inputs(dataset.uri, dataset.options)] == [
        "parquet",
        "jsonl",
        "parquet",
    ]


def test_inputs_that_give_nothing_say_why(dataset: Storage) -> None:
    def text(path: str) -> str:
        return message(lambda: names(dataset, path), InputError).removeprefix(f"{dataset.uri}/")

    assert text("x.parquet") == (
        "x.parquet: no such file or folder (need .parquet, .jsonl, .csv or .tsv files). "
        "Check the path."
    )
    assert text("x*.parquet") == (
        f"x*.parquet: the glob matches no file (got none below {dataset.uri}). Check the pattern."
    )
    assert (
        text("notes.txt")
        == "notes.txt: no data files (got .txt, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first."
    )
    assert text("_SUCCESS") == (
        "_SUCCESS: no data files (got no ending, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first."
    )
    assert (
        text("n*") == "n*: no data files (got .txt, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first."
    )
    assert text(".cache/x").endswith("Check the path.")
    dataset.write_bytes("hidden/_x", b"")
    assert (
        text("hidden")
        == "hidden: no data files (got no file, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first."
    )
    assert message(lambda: expand_inputs([]), InputError) == (
        "input.path: an empty list (got no path, need at least one). Name a file, glob or folder."
    )


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.parquet").write_bytes(b"1234")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.parquet").symlink_to(tmp_path / "nowhere")
    shutil.copy(tmp_path / "real" / "a.parquet", tmp_path / "data")
    assert names(open_storage(tmp_path / "data"), "") == ["a.parquet", "linked/a.parquet"]
