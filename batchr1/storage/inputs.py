"""Files that `input.path` names.

expand_inputs(paths, options) ─▶ [InputFile, …]
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from batchr1.errors import InputError, StorageError
from batchr1.storage.base import (
    INPUT_RETRY,
    FileInfo,
    ReadStorage,
    StorageOptions,
    open_storage,
)
from batchr1.storage.errors import Retry, is_fault, mapped
from batchr1.storage.names import (
    ENDINGS,
    FileFormat,
    format_of,
    refuse_compressed,
    refuse_name,
    refuse_table,
)
from batchr1.storage.uri import is_remote, split_remote, split_uri

log = logging.getLogger(__name__)

_MAGIC = re.compile(r"[*?\[]")
_HIDDEN = re.compile(r"(^|/)[._]")
AT_A_TIME = 16
"""Places that are looked at together, where each request has to travel."""
PARENTS = 3
"""Folders above a named one that are looked at for a table's log: partitions nest so deep."""


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
    storage: ReadStorage = field(repr=False, compare=False)
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
    roots: dict[str, ReadStorage] = {}  # one client for each bucket
    places: list[tuple[ReadStorage, str]] = []
    for path in listed:
        root_uri, rel = _split(path)
        if root_uri not in roots:
            roots[root_uri] = open_inputs(root_uri, options, retry)
        places.append((roots[root_uri], rel))
    if len(places) > 1 and any(root.kind != "local" for root in roots.values()):
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            parts = list(pool.map(_files_at, places))
    else:
        parts = [_files_at(place) for place in places]
    found = {file.uri: file for files in parts for file in files}
    if not found:
        raise InputError(
            "input.path: an empty list (got no path, need at least one). Name a file, glob or "
            "folder."
        )
    return [found[uri] for uri in sorted(found)]


def _files_at(place: tuple[ReadStorage, str]) -> list[InputFile]:
    """List the data files of a file, folder or glob."""
    root, rel = place
    try:
        with mapped(root.where(rel), lasting=InputError, passing=InputError):
            return _as_file(root, rel) or _as_folder(root, rel) or _as_glob(root, rel)
    except StorageError as error:
        if is_fault(error.__cause__):
            raise
        raise InputError(str(error)) from error.__cause__


def _split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Split a path into a client's place and the path there."""
    if is_remote(path):
        return split_remote(os.fspath(path))
    kind, place = split_uri(path)
    top, _, rel = place.partition("/")
    return (f"s3://{top}" if kind == "s3" else "/"), rel


def open_inputs(
    uri: str, options: StorageOptions | None = None, retry: Retry = INPUT_RETRY
) -> ReadStorage:
    """Open a place to read from.

    A disk, a bucket, a server or a repository of the hub. Touches no network. Raises `JobError` for
    a scheme that nothing reads.
    """
    if not is_remote(uri):
        return open_storage(uri, options, retry)
    options = options or StorageOptions()
    scheme = uri.partition("://")[0]
    if scheme in ("hf", "http", "https"):
        from batchr1.storage.web import HubStorage, WebStorage

        return (HubStorage if scheme == "hf" else WebStorage)(uri, options, retry)
    from batchr1.storage.fsspec_files import FsspecStorage

    return FsspecStorage(uri, options, retry)


def _as_file(root: ReadStorage, rel: str) -> list[InputFile]:
    info = root.find_file(rel) if rel else None
    if info is None:
        if root.kind == "local" and rel:
            _refuse_special(Path(root.where(rel)))
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


def _as_folder(root: ReadStorage, rel: str) -> list[InputFile]:
    infos = root.list_files(rel, recursive=True)
    if not infos and not (root.kind == "local" and Path(root.where(rel)).is_dir()):
        return []
    refuse_table(root.where, [info.rel for info in infos])
    _refuse_inside_table(root, rel)
    return _data_files(
        root, rel, [info for info in infos if not _HIDDEN.search(info.rel.removeprefix(rel))]
    )


def _refuse_inside_table(root: ReadStorage, rel: str) -> None:
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


def _as_glob(root: ReadStorage, rel: str) -> list[InputFile]:
    from fsspec.utils import glob_translate

    if root.kind == "web" and (_MAGIC.search(rel) or not rel):
        raise InputError(
            f"{root.where(rel)}: a web server has no list of its files (got a glob or a folder). "
            "Name each file."
        )
    if not _MAGIC.search(rel):
        raise InputError(
            f"{root.where(rel)}: no such file or folder (need {ENDINGS} files). Check the path."
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


def _data_files(root: ReadStorage, rel: str, infos: list[FileInfo]) -> list[InputFile]:
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
            f"{root.where(rel)}: no data files (got {endings}, need {ENDINGS}). Convert the data "
            "first."
        )
    refuse_compressed(root.where, [info.rel for info in others])
    if others:
        endings = ", ".join(sorted({Path(info.rel).suffix or "no ending" for info in others})[:5])
        shown = root.where(rel) if rel else root.uri
        log.warning("%s: %d files of other kinds are left out (%s)", shown, len(others), endings)
    return found
