"""Storage in an S3 bucket, through s3fs's plain S3 calls.

One request is one step, and no listing is cached. An object is published by one PUT, one
CompleteMultipartUpload or one CopyObject, so that it appears whole. Staged files carry their
SHA-256 as metadata, which a copy keeps. By it `commit` tells a repeated copy from another file. An
ETag cannot: it depends on how a file was cut into upload parts.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from batchr1.errors import FailedError, InputError, OutputError, StorageError
from batchr1.faults import fault_point
from batchr1.storage.base import CONTROL_DIR, STAGING_DIR, FileInfo, Storage
from batchr1.storage.errors import (
    Retry,
    is_missing,
    is_missing_upload,
    is_refused_access,
    is_refused_condition,
    mapped,
    wants_other_addressing,
)
from batchr1.storage.fence import different_final, staged_gone
from batchr1.storage.s3_client import SHA256, RangeReader, ReadCache, open_s3fs, same_content
from batchr1.storage.uri import Kind, StorageOptions

UPLOAD_PART_BYTES = 8 * 2**20  # files up to twice this go up in one request
MAX_UPLOAD_PARTS = 10_000
LIST_PAGE = 1000
COPY_LIMIT_BYTES = 5 * 2**30  # of CopyObject
READ_BUFFER_BYTES = 2**20
_PROBE_PREFIX = f"{CONTROL_DIR}/probe-"


class S3Storage(Storage):
    """A prefix in a bucket; its `uri` is s3://bucket/prefix."""

    kind: Kind = "s3"
    pins_versions = True

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        super().__init__(uri, options, retry)
        self.bucket, _, self._prefix = uri.removeprefix("s3://").partition("/")
        self._cache = ReadCache()

    @cached_property
    def fs(self) -> Any:
        """The s3fs file system, which retries by itself (five tries).

        For readers that call it without us.
        """
        return open_s3fs(self.uri, self.options, retries=5)

    @cached_property
    def _api(self) -> Any:
        """Tries once: here `self.retry` decides."""
        return open_s3fs(self.uri, self.options, retries=1)

    @cached_property
    def _scratch(self) -> Path:
        folder = tempfile.mkdtemp(prefix="batchr1-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def path(self, rel: str = "") -> str:
        return f"{self.bucket}/{self.key(rel)}".rstrip("/")

    def key(self, rel: str) -> str:
        """The object's key in the bucket."""
        return "/".join(part for part in (self._prefix, self.checked(rel)) if part)

    def checked(self, rel: str) -> str:
        """Refuse keys with empty parts, which ours never have.

        A part `.` would be dropped on its way.
        """
        if any(part in (".", "..") for part in rel.split("/")):
            raise ValueError(f"not a path below the storage: {rel!r}")
        return rel

    def _call(self, rel: str, method: str, *, retry: Retry | None = None, **arguments: Any) -> Any:
        """Make one S3 request about `rel`, again while it fails in passing.

        Exceptions are not mapped.
        """
        where = self.where(rel)
        return (retry or self.retry).call(
            lambda: self._api.call_s3(method, Bucket=self.bucket, **arguments), where
        )

    def _get(self, rel: str, **arguments: Any) -> tuple[bytes, str]:
        """Read an object's content and ETag; a cut body is fetched again."""
        from fsspec.asyn import sync

        def request() -> tuple[bytes, str]:
            answer = self._api.call_s3(
                "get_object", Bucket=self.bucket, Key=self.key(rel), **arguments
            )
            try:
                return sync(self._api.loop, answer["Body"].read), answer["ETag"]
            finally:
                answer["Body"].close()

        return self.retry.call(request, self.where(rel))

    def _head(self, rel: str) -> dict[str, Any] | None:
        try:
            return cast("dict[str, Any]", self._call(rel, "head_object", Key=self.key(rel)))
        except Exception as exc:
            if is_missing(exc):
                return None
            raise

    def find_file(self, rel: str) -> FileInfo | None:
        with mapped(self.where(rel)):
            head = self._head(rel)
        if head is None:
            return None
        return FileInfo(
            rel, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].timestamp()
        )

    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        with mapped(self.where(rel_dir)):
            found = (info for page in self._pages(rel_dir, recursive=recursive) for info in page)
            return sorted(
                (info for info in found if info.rel.endswith(suffix)), key=lambda info: info.rel
            )

    def list_folders(self, rel_dir: str = "") -> list[str]:
        with mapped(self.where(rel_dir)):
            answers = self._answers(rel_dir, recursive=False)
            prefixes = [
                entry["Prefix"] for answer in answers for entry in answer.get("CommonPrefixes", [])
            ]
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)

    def _pages(self, rel_dir: str, *, recursive: bool) -> Iterator[list[FileInfo]]:
        root = len(self._prefix) + 1 if self._prefix else 0
        for answer in self._answers(rel_dir, recursive=recursive):
            yield [
                FileInfo(
                    entry["Key"][root:],
                    entry["Size"],
                    entry["ETag"].strip('"'),
                    entry["LastModified"].timestamp(),
                )
                for entry in answer.get("Contents", [])
                if not entry["Key"].endswith("/")  # what consoles create to show an empty folder
            ]

    def _answers(self, rel_dir: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
        folder = self.key(rel_dir)
        arguments: dict[str, Any] = {"Prefix": folder and f"{folder}/", "MaxKeys": LIST_PAGE}
        if not recursive:
            arguments["Delimiter"] = "/"
        while True:
            answer = self._call(rel_dir, "list_objects_v2", **arguments)
            yield answer
            if not answer.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    def find_bytes(self, rel: str) -> bytes | None:
        found = self.find_with_etag(rel)
        return None if found is None else found[0]

    def find_with_etag(self, rel: str) -> tuple[bytes, str] | None:
        """Read an object's content and its ETag, with its quotes.

        None if there is no such object.
        """
        with mapped(self.where(rel)):
            try:
                return self._get(rel)
            except Exception as exc:
                if is_missing(exc):
                    return None
                raise

    def write_bytes(self, rel: str, data: bytes) -> None:
        with mapped(self.where(rel)):
            if self.fence is None or self.fence.check is None:
                self._call(rel, "put_object", Key=self.key(rel), Body=data)
                return
            # A copy fails once the next owner has deleted what it is made from.
            staged = f"{self.staging}/{secrets.token_hex(8)}"
            self._call(rel, "put_object", Key=self.key(staged), Body=data)
            self.check_fence()
            self._copy(staged, rel)
            self._call(rel, "delete_object", Key=self.key(staged))

    def _copy(self, source: str, target: str) -> None:
        from_key = {"Bucket": self.bucket, "Key": self.key(source)}
        try:
            self._call(target, "copy_object", Key=self.key(target), CopySource=from_key)
        except Exception as exc:
            if is_missing(exc):
                raise staged_gone(self.where(source), target) from exc
            raise

    def put_if(
        self, rel: str, data: bytes, etag: str | None, *, retry: Retry | None = None
    ) -> str | None:
        """Write a small object only if it still has `etag`.

        `etag=None`: only if there is none. Returns the new ETag, or None if the condition did not
        hold. Only single puts: some servers ignore conditions on multipart uploads. A refusal may
        be the echo of our own write, whose answer was lost: read the object back.
        """
        if etag is None:
            return self._put_if(rel, data, retry, IfNoneMatch="*")
        # AWS takes an ETag in its quotes; Ceph 16 matches only the bare one.
        return self._put_if(rel, data, retry, IfMatch=etag) or self._put_if(
            rel, data, retry, IfMatch=etag.strip('"')
        )

    def _put_if(self, rel: str, data: bytes, retry: Retry | None, **condition: str) -> str | None:
        with mapped(self.where(rel)):
            try:
                answer = self._call(
                    rel, "put_object", retry=retry, Key=self.key(rel), Body=data, **condition
                )
            except Exception as exc:
                if is_refused_condition(exc) or ("IfMatch" in condition and is_missing(exc)):
                    return None
                raise
            return str(answer["ETag"])

    def stage_file(self, local_path: str | os.PathLike[str], rel: str) -> None:
        source = Path(local_path)
        with mapped(self.where(rel)):
            size = source.stat().st_size
            if size >= COPY_LIMIT_BYTES:
                raise FailedError(
                    f"{self.where(rel)}: too large for one part (got {size} bytes, need less than "
                    f"{COPY_LIMIT_BYTES}). "
                    "Lower output.rows_per_part."
                )
            self._put(source, size, rel)
            source.unlink()

    def upload_file(self, local_path: Path, rel: str) -> None:
        """Copy a local file of any size to `rel`, replacing it.

        It is never copied on the server.
        """
        with mapped(self.where(rel)):
            self._put(local_path, local_path.stat().st_size, rel)

    def _put(self, source: Path, size: int, rel: str) -> None:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if size <= 2 * UPLOAD_PART_BYTES:
                self._call(
                    rel,
                    "put_object",
                    Key=self.key(rel),
                    Body=file.read(),
                    Metadata={SHA256: digest},
                )
            else:
                self._upload(file, size, rel, {SHA256: digest})

    def _upload(self, file: BinaryIO, size: int, rel: str, metadata: dict[str, str]) -> None:
        part_bytes = max(UPLOAD_PART_BYTES, -(-size // MAX_UPLOAD_PARTS))
        key = self.key(rel)
        upload = self._call(rel, "create_multipart_upload", Key=key, Metadata=metadata)["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            while data := file.read(part_bytes):
                number = len(parts) + 1
                answer = self._call(
                    rel, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=data
                )
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            complete = {"Key": key, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._complete(rel, complete, metadata[SHA256])
        except BaseException:
            self._abort(key, upload)
            raise

    def _complete(self, rel: str, complete: dict[str, Any], digest: str) -> None:
        """Completes an upload.

        A second try finds none where the first one's answer was lost: then look.
        """

        def request() -> None:
            try:
                self._api.call_s3("complete_multipart_upload", Bucket=self.bucket, **complete)
            except Exception as exc:
                head = self._head(rel) if is_missing_upload(exc) else None
                if head is None or head.get("Metadata", {}).get(SHA256) != digest:
                    raise

        self.retry.call(request, self.where(rel))

    def _abort(self, key: str, upload: str) -> None:
        """Abort an unfinished upload, to free its space.

        `abort_uploads` finds later what cannot be reached now.
        """
        try:
            self._api.call_s3(
                "abort_multipart_upload", Bucket=self.bucket, Key=key, UploadId=upload
            )
        except Exception:  # on the way out with the first error, which is the one to report
            return

    def abort_uploads(self) -> None:
        with mapped(self.where(CONTROL_DIR)):
            answer = self._call(
                CONTROL_DIR, "list_multipart_uploads", Prefix=self.key(CONTROL_DIR) + "/"
            )
            self.check_fence()
            for upload in answer.get("Uploads", []):
                self._abort(upload["Key"], upload["UploadId"])

    def commit(self, staged_rel: str, final_rel: str) -> None:
        with mapped(self.where(final_rel)):
            staged, final = self._head(staged_rel), self._head(final_rel)
            self.check_fence()
            fault_point("commit.checked")
            if final is None:
                if staged is None:
                    raise staged_gone(self.where(staged_rel), final_rel)
                self._copy(staged_rel, final_rel)
            elif staged is not None and not same_content(staged, final):
                raise different_final(staged_rel, self.where(final_rel))
            fault_point("commit.published")
            self._call(staged_rel, "delete_object", Key=self.key(staged_rel))

    def delete(self, rel: str, version: str | None = None) -> None:
        self.check_fence()
        self._delete(rel, version)

    def _delete(self, rel: str, version: str | None = None) -> None:
        condition = {} if version is None else {"IfMatch": f'"{version}"'}
        with mapped(self.where(rel)):
            try:
                arguments: dict[str, Any] = {"Key": self.key(rel), **condition}
                self._call(rel, "delete_object", **arguments)
            except Exception as exc:
                if not (condition and (is_refused_condition(exc) or is_missing(exc))):
                    raise

    def delete_tree(self, rel_dir: str) -> None:
        if not rel_dir:
            raise ValueError("the root of a storage is never deleted")
        self._delete_listed(self.list_files(rel_dir, recursive=True))

    def _delete_listed(self, files: list[FileInfo]) -> None:
        """Delete files that were listed before.

        The lock is looked at between, so none is a later owner's. One by one: DeleteObjects wants
        checksums that servers do not agree on.
        """
        self.check_fence()
        self._delete_all(files)

    def _delete_all(self, files: list[FileInfo]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda info: self._delete(info.rel), files))

    def open_fence(self) -> None:
        return  # a prefix needs not be made

    def close_fence(self) -> None:
        self._delete_all(self.list_files(self.staging, recursive=True))

    def void_others(self) -> None:
        found = self.list_files(STAGING_DIR, recursive=True)
        found += [f for f in self.list_files(CONTROL_DIR) if f.rel.startswith(_PROBE_PREFIX)]
        self._delete_listed([f for f in found if not f.rel.startswith(f"{self.staging}/")])

    def open_input(self, rel: str) -> BinaryIO:
        with mapped(self.where(rel)):
            head = self._call(rel, "head_object", Key=self.key(rel))
        return self.open_known(FileInfo(rel, head["ContentLength"], head["ETag"].strip('"')))

    def open_known(self, info: FileInfo) -> BinaryIO:
        rel = info.rel
        size, etag = info.size, info.version

        def fetch(start: int, stop: int) -> bytes:
            with mapped(self.where(rel)):
                try:
                    return self._get(rel, Range=f"bytes={start}-{stop - 1}", IfMatch=f'"{etag}"')[0]
                except Exception as exc:
                    if is_refused_condition(exc):
                        raise StorageError(
                            f"{self.where(rel)}: the file was replaced while it was read (got "
                            f"another ETag). "
                            "Run the same command again."
                        ) from exc
                    raise

        def read(start: int, stop: int) -> bytes:
            return self._cache.read((rel, etag), size, start, stop, fetch)

        return io.BufferedReader(RangeReader(size, read), READ_BUFFER_BYTES)

    def scratch_dir(self) -> Path:
        return self._scratch

    def is_empty(self) -> bool:
        with mapped(self.uri):
            return not any(self._pages("", recursive=True))

    def check_writable(self) -> None:
        key = self.key(f"{_PROBE_PREFIX}{secrets.token_hex(4)}")
        with mapped(self.uri, lasting=OutputError):
            self._call("", "put_object", Key=key, Body=b"")
            self._call("", "delete_object", Key=key)


def explain_refusal(error: InputError, paths: Sequence[str], options: StorageOptions) -> InputError:
    """Explain a 403 without a body: the bucket may belong elsewhere.

    The answer to a HEAD has no body, that to a listing has.
    """
    remote = [path for path in paths if path.startswith(("s3://", "s3a://"))]
    if error.__cause__ is None or not is_refused_access(error.__cause__) or not remote:
        return error
    bucket = remote[0].partition("://")[2].partition("/")[0]
    storage = S3Storage(f"s3://{bucket}", options, Retry(for_s=0))
    try:
        storage.list_folders()
    except StorageError as exc:
        if exc.__cause__ is not None and wants_other_addressing(exc.__cause__):
            return InputError(str(exc))
    return error
