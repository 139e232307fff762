"""Interface of storage, and the files that `input.path` names.

    open_storage(uri, options) ─▶ Storage ─┬─ LocalStorage   local.py
                                           └─ S3Storage      s3.py
    expand_inputs(paths, options) ─▶ [InputFile, …]

A Storage is a folder; `rel` is always a path below it with forward slashes. Files appear whole or
not at all, and are durable when the call returns. Every method raises StorageError, or its caller's
class (see `storage_error`).
"""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from batchr1.errors import InputError, StorageError
from batchr1.storage.errors import Retry, is_fault, mapped
from batchr1.storage.names import (
    FileFormat,
    format_of,
    refuse_compressed,
    refuse_name,
    refuse_table,
)
from batchr1.storage.uri import Kind, StorageOptions, checked, split_uri

if TYPE_CHECKING:
    from batchr1.storage.fence import Fence

__all__ = [
    "CONTROL_DIR",
    "STAGING_DIR",
    "FileInfo",
    "InputFile",
    "Retry",
    "Storage",
    "StorageOptions",
    "expand_inputs",
    "open_storage",
]

log = logging.getLogger(__name__)


CONTROL_DIR = ".batchr1"
STAGING_DIR = f"{CONTROL_DIR}/staging"
INPUT_RETRY = Retry(
    for_s=10.0
)  # shorter than Retry(): at this point an unreachable endpoint is likely a typing error
_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = re.compile(r"(^|/)[._]")
PARENTS = 3
"""Folders above a named one that are looked at for a table's log: partitions nest so deep."""


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


class Storage(ABC):
    """A folder on disk or a prefix in a bucket.

    Made by `open_storage`; safe to use from several threads; picklable.
    """

    kind: Kind

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        self.uri = uri
        """Absolute, without a slash at its end: /data/out or s3://bucket/out."""
        self.options = options
        self.retry = retry
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def where(self, rel: str = "") -> str:
        """The full name of `rel`, for messages and for `open_storage`."""
        return f"{self.uri.rstrip('/')}/{self.checked(rel)}" if rel else self.uri

    def checked(self, rel: str) -> str:
        """`rel` itself; a ValueError where it leaves the folder."""
        return checked(rel)

    @property
    @abstractmethod
    def fs(self) -> Any:
        """The fsspec file system, for readers that want one.

        Pair it with `path`. Its errors are not mapped.
        """

    @abstractmethod
    def path(self, rel: str = "") -> str:
        """`rel` as `fs` wants it: /data/out/x or bucket/out/x."""

    @abstractmethod
    def find_file(self, rel: str) -> FileInfo | None:
        """Find the file `rel`; None without it. Folders do not count."""

    def exists(self, rel: str) -> bool:
        """Whether the file `rel` is there (folders do not count)."""
        return self.find_file(rel) is not None

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


@dataclass(frozen=True, slots=True)
class InputFile:
    """File of a dataset: absolute URI, size in bytes, version and format.

    For `version` see FileInfo.
    """

    uri: str
    size: int
    version: str
    format: FileFormat
    rel: str = field(repr=False)
    storage: Storage = field(repr=False, compare=False)
    changed: str = field(default="", repr=False, compare=False)

    def open(self) -> BinaryIO:
        """A seekable binary file, see `Storage.open_known`."""
        return self.storage.open_known(FileInfo(self.rel, self.size, self.version))


def expand_inputs(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    options: StorageOptions | None = None,
    retry: Retry = INPUT_RETRY,
) -> list[InputFile]:
    """List the data files of files, globs and folders, sorted by URI.

    Each comes once. Folders are searched to any depth, without names that begin with `.` or `_`;
    `**` in a glob spans folders. A path that exists is taken as it is, even if it holds a glob's
    characters. Raises InputError, whatever the reason, if one of `paths` gives no file or cannot be
    read (JobError for a scheme that is not supported).
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    roots: dict[str, Storage] = {}  # one client for each bucket
    found: dict[str, InputFile] = {}
    for path in listed:
        kind, place = split_uri(path)
        top, _, rel = place.partition("/")
        root_uri = f"s3://{top}" if kind == "s3" else "/"
        root = roots.setdefault(root_uri, open_storage(root_uri, options, retry))
        try:
            with mapped(root.where(rel), lasting=InputError, passing=InputError):
                files = _as_file(root, rel) or _as_folder(root, rel) or _as_glob(root, rel)
        except StorageError as error:
            if is_fault(error.__cause__):
                raise
            raise InputError(str(error)) from error.__cause__
        found.update((file.uri, file) for file in files)
    if not found:
        raise InputError(
            "input.path: an empty list (got no path, need at least one). Name a file, glob or "
            "folder."
        )
    return [found[uri] for uri in sorted(found)]


def _as_file(root: Storage, rel: str) -> list[InputFile]:
    info = root.find_file(rel) if rel else None
    if info is None:
        if root.kind == "local" and rel:
            _refuse_special(Path(root.path(rel)))
        return []
    if info.size == 0 and format_of(info.rel) is None and root.list_files(rel, recursive=True):
        return []  # an empty object that marks the folder of its name
    return _data_files(root, rel, [info])


def _refuse_special(path: Path) -> None:
    """Raise `InputError` for what is neither file nor folder.

    A FIFO would be waited for.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            f"{path}: not a regular file (got a FIFO, socket or device, need a file). Copy its "
            "content to a file."
        )


def _as_folder(root: Storage, rel: str) -> list[InputFile]:
    infos = root.list_files(rel, recursive=True)
    if not infos and not (root.kind == "local" and Path(root.path(rel)).is_dir()):
        return []
    refuse_table(root.where, [info.rel for info in infos])
    _refuse_inside_table(root, rel)
    return _data_files(
        root, rel, [info for info in infos if not _HIDDEN.search(info.rel.removeprefix(rel))]
    )


def _refuse_inside_table(root: Storage, rel: str) -> None:
    """Raise `InputError` for a folder within a table's."""
    folder = rel.rstrip("/")
    for _ in range(PARENTS):
        folder = folder.rpartition("/")[0]
        if not folder:
            return
        marks: list[str] = []
        try:
            names = root.list_folders(folder)
            marks += [f"{folder}/{name}/" for name in ("_delta_log", ".hoodie") if name in names]
            for name in ("metadata", "snapshot"):
                if name in names:
                    marks += [info.rel for info in root.list_files(f"{folder}/{name}")]
        except (StorageError, InputError):  # a folder that we may not look into
            return
        refuse_table(root.where, marks)


def _as_glob(root: Storage, rel: str) -> list[InputFile]:
    from fsspec.utils import glob_translate

    if not _MAGIC.search(rel):
        raise InputError(
            f"{root.where(rel)}: no such file or folder (need .parquet or .jsonl files). Check "
            f"the path."
        )
    folder = _MAGIC.split(rel, maxsplit=1)[0].rpartition("/")[0]
    matches = re.compile(glob_translate(rel)).match
    hidden_too = _HIDDEN.search(rel.removeprefix(folder))
    listed = root.list_files(folder, recursive=True)
    infos = [
        info
        for info in listed
        if matches(info.rel) and (hidden_too or not _HIDDEN.search(info.rel.removeprefix(folder)))
    ]
    if not infos:
        raise InputError(
            f"{root.where(rel)}: the glob matches no file (got none below "
            f"{root.where(folder)}). "
            f"Check the pattern."
        )
    refuse_table(root.where, [info.rel for info in listed])
    _refuse_inside_table(root, folder)
    return _data_files(root, rel, infos)


def _data_files(root: Storage, rel: str, infos: list[FileInfo]) -> list[InputFile]:
    """Choose the files of `infos` with a known ending.

    They were found for `rel`. Raises InputError if there is none.
    """
    found, others = [], []
    for info in infos:
        file_format = format_of(info.rel)
        if file_format is None:
            others.append(info)
            continue
        refuse_name(root.uri, info.rel, is_key=root.kind == "s3")
        found.append(
            InputFile(
                root.where(info.rel),
                info.size,
                info.version,
                file_format,
                info.rel,
                root,
                info.changed,
            )
        )
    if not found:
        endings = (
            ", ".join(sorted({Path(info.rel).suffix or "no ending" for info in infos})[:5])
            or "no file"
        )
        raise InputError(
            f"{root.where(rel)}: no data files (got {endings}, need .parquet or .jsonl). "
            f"Convert "
            f"the data first."
        )
    refuse_compressed(root.where, [info.rel for info in others])
    if others:
        endings = ", ".join(sorted({Path(info.rel).suffix or "no ending" for info in others})[:5])
        shown = root.where(rel) if rel else root.uri
        log.warning("%s: %d files of other kinds are left out (%s)", shown, len(others), endings)
    return found
