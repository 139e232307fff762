"""Interface of storage.

    open_storage(uri, options) ─▶ Storage ─┬─ LocalStorage   local.py
                                           └─ S3Storage      s3.py
    open_inputs(uri, options) ─▶ ReadStorage ─┬─ either of these
                                              ├─ WebStorage, HubStorage   web.py
                                              └─ FsspecStorage            fsspec_files.py

A Storage is a folder; `rel` is always a path below it with forward slashes. Files appear whole or
not at all, and are durable when the call returns. Every method raises StorageError, or its caller's
class (see `storage_error`).
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from batchr1.errors import StorageError
from batchr1.storage.errors import Retry
from batchr1.storage.uri import Kind, StorageOptions, checked, split_uri

if TYPE_CHECKING:
    from batchr1.storage.fence import Fence

__all__ = [
    "CONTROL_DIR",
    "STAGING_DIR",
    "FileInfo",
    "Retry",
    "Storage",
    "StorageOptions",
    "open_storage",
]

log = logging.getLogger(__name__)


CONTROL_DIR = ".batchr1"
STAGING_DIR = f"{CONTROL_DIR}/staging"
INPUT_RETRY = Retry(for_s=10.0)
"""Shorter than Retry(): at this point an unreachable endpoint is likely a typing error."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """File below a storage's root.

    `size` is in bytes. `version` changes with the content: the ETag on S3, the modification time in
    ns on disk. `modified_s`: the last write, in seconds since the epoch by the storage's clock.
    """

    rel: str
    size: int
    version: str
    modified_s: float = field(
        default=0.0, compare=False
    )  # S3 rounds it, here and there differently
    changed: str = field(default="", compare=False)
    """On disk, inode and change time as `.inode.ns`: they differ where size and time were kept."""


class ReadStorage(ABC):
    """A place that files are read from.

    Safe to use from several threads; picklable.
    """

    kind: Kind
    pins_versions: bool = False
    """Whether each read says which version it wants, and no other comes."""

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        self.uri = uri
        """Absolute, without a slash at its end: /data/out or s3://bucket/out."""
        self.options = options
        self.retry = retry

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.options, self.retry)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def where(self, rel: str = "") -> str:
        """The full name of `rel`, for messages and for `open_storage`."""
        return f"{self.uri.rstrip('/')}/{self.checked(rel)}" if rel else self.uri

    def checked(self, rel: str) -> str:
        """`rel` itself; a ValueError where it leaves the folder."""
        return checked(rel)

    @abstractmethod
    def find_file(self, rel: str) -> FileInfo | None:
        """Find the file `rel`; None without it. Folders do not count."""

    @abstractmethod
    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        """The files of a folder that end in `suffix`, sorted by `rel`.

        A missing folder is empty.
        """

    @abstractmethod
    def list_folders(self, rel_dir: str = "") -> list[str]:
        """List the folders directly in a folder, sorted.

        A missing folder is empty.
        """

    @abstractmethod
    def open_known(self, info: FileInfo) -> BinaryIO:
        """A seekable binary file for pyarrow or polars.

        Its reads are retried and mapped like every other call. What the listing said of it is not
        asked for again.
        """


class Storage(ReadStorage):
    """A folder on disk or a prefix in a bucket.

    It is read and written. Made by `open_storage`.
    """

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        super().__init__(uri, options, retry)
        self.fence: Fence | None = None
        """Set while a run owns the output: every change then passes it (`fence`)."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.uri, self.options, self.retry, self.fence)

    @property
    def staging(self) -> str:
        """The folder where this process stages files."""
        return STAGING_DIR if self.fence is None else self.fence.folder

    def check_fence(self) -> None:
        """Raise `LockLostError` when another run took the output.

        Called right beside each change. A worker has only its folder.
        """
        if self.fence is not None and self.fence.check is not None:
            self.fence.check()

    @property
    @abstractmethod
    def fs(self) -> Any:
        """The fsspec file system, for readers that want one.

        Pair it with `path`. Its errors are not mapped.
        """

    @abstractmethod
    def path(self, rel: str = "") -> str:
        """`rel` as `fs` wants it: /data/out/x or bucket/out/x."""

    def exists(self, rel: str) -> bool:
        """Whether the file `rel` is there (folders do not count)."""
        return self.find_file(rel) is not None

    @abstractmethod
    def find_bytes(self, rel: str) -> bytes | None:
        """Read a file's content; None if there is no such file."""

    def read_bytes(self, rel: str) -> bytes:
        """The content of a file; a missing one is a StorageError."""
        data = self.find_bytes(rel)
        if data is None:
            raise StorageError(f"{self.where(rel)}: no such file (got ENOENT). Check the path.")
        return data

    @abstractmethod
    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write or replace a small file, durably.

        Readers see the old or the new content, whole.
        """

    @abstractmethod
    def stage_file(self, local_path: str | os.PathLike[str], rel: str) -> None:
        """Move a finished local file to `rel`, replacing what is there.

        `local_path` is gone afterwards.
        """

    @abstractmethod
    def commit(self, staged_rel: str, final_rel: str) -> None:
        """Publishes a staged file under its final name, in one step.

        May be repeated after a kill: a final that has the staged content, or whose staged file is
        gone, is done. Never replaces another content: that is a StorageError, as is a staged file
        that is gone without a final.
        """

    @abstractmethod
    def delete(self, rel: str, version: str | None = None) -> None:
        """Deletes a file; a missing one is fine.

        With `version` only that one goes, where the store can tell (on a disk the fence does).
        """

    @abstractmethod
    def delete_tree(self, rel_dir: str) -> None:
        """Delete a folder with all that is in it, if it exists.

        The root itself is refused (ValueError).
        """

    @abstractmethod
    def open_input(self, rel: str) -> BinaryIO:
        """A seekable binary file for pyarrow or polars.

        Its reads are retried and mapped like every other call.
        """

    def open_known(self, info: FileInfo) -> BinaryIO:
        """Open a listed file, without asking again for what the listing said."""
        return self.open_input(info.rel)

    @abstractmethod
    def scratch_dir(self) -> Path:
        """Give a local folder to build parts in before `stage_file`.

        It is on the output's own disk, or temporary for S3.
        """

    @abstractmethod
    def is_empty(self) -> bool:
        """Tell whether nothing at all, hidden or not, is below the root.

        The root need not exist.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Writes and deletes a probe under `.batchr1/`.

        Raises OutputError for what lasts (no such bucket, access denied, no credentials,
        read-only), StorageError for what may pass.
        """

    def check_takes_files(self) -> None:
        """Try whether files could be written; nothing stays behind.

        Raises as `check_writable` does.
        """
        self.check_writable()

    @abstractmethod
    def open_fence(self) -> None:
        """Make this owner's folder; call once, with the lock just taken."""

    @abstractmethod
    def close_fence(self) -> None:
        """Remove this owner's folder with all that is in it."""

    @abstractmethod
    def void_others(self) -> None:
        """Take away what other owners staged, and the means to stage more.

        Leftovers of killed writers go too. Call it before reading what is committed.
        """

    def abort_uploads(self) -> None:
        """Aborts unfinished multipart uploads below `.batchr1/`, which a killed run left.

        Call it under the lock.
        """
        return  # a disk has none


def open_storage(
    uri: str | os.PathLike[str], options: StorageOptions | None = None, retry: Retry | None = None
) -> Storage:
    """Open the storage rooted at a path, file://path or s3://bucket/prefix.

    Touches neither disk nor network. A relative path is taken from the working folder. Raises
    JobError for any other scheme.
    """
    options, retry = options or StorageOptions(), retry or Retry()
    kind, place = split_uri(uri)
    if kind == "s3":  # imported here: both modules need this one
        from batchr1.storage.s3 import S3Storage

        return S3Storage(f"s3://{place}", options, retry)
    from batchr1.storage.local import LocalStorage

    return LocalStorage(place, options, retry)


def _reopen(uri: str, options: StorageOptions, retry: Retry, fence: Fence | None) -> Storage:
    storage = open_storage(uri, options, retry)
    storage.fence = fence
    return storage
