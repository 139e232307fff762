"""Storage on a local or mounted file system.

Durable means: the file and the folder that names it are fsynced.
"""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO

from batchr1.errors import OutputError
from batchr1.faults import fault_point
from batchr1.storage.base import (
    CONTROL_DIR,
    STAGING_DIR,
    FileInfo,
    Storage,
    different_final,
    staged_gone,
)
from batchr1.storage.errors import mapped
from batchr1.storage.uri import Kind, checked

_TEMPORARY = ".tmp"  # with a dot in front: names that list_files leaves out and no reader takes
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_NO_FOLDER_SYNC = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EBADF,
    errno.EISDIR,
)
_noted: set[int | None] = set()

log = logging.getLogger(__name__)


class LocalStorage(Storage):
    """A folder on disk; its `uri` is the absolute path."""

    kind: Kind = "local"

    @property
    def fs(self) -> Any:
        import fsspec

        return fsspec.filesystem("file", skip_instance_cache=True, use_listings_cache=False)

    def path(self, rel: str = "") -> str:
        return str(self._path(rel))

    def _path(self, rel: str) -> Path:
        return Path(self.uri, checked(rel))

    def find_file(self, rel: str) -> FileInfo | None:
        with mapped(self.where(rel)):
            try:
                info = self._path(rel).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(info.st_mode):
                return None
            return _file_info(rel, info)

    def list_folders(self, rel_dir: str = "") -> list[str]:
        with mapped(self.where(rel_dir)):
            try:
                return sorted(
                    entry.name for entry in os.scandir(self._path(rel_dir)) if entry.is_dir()
                )
            except (FileNotFoundError, NotADirectoryError):
                return []

    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        found: list[FileInfo] = []
        folders, seen = [rel_dir], set[tuple[int, int]]()
        while folders:
            folder = folders.pop()
            with mapped(self.where(folder)):
                try:
                    top = self._path(folder).stat()
                    if (top.st_dev, top.st_ino) in seen:  # links may lead in a circle
                        continue
                    seen.add((top.st_dev, top.st_ino))
                    entries = list(os.scandir(self._path(folder)))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for entry in entries:
                    rel = f"{folder}/{entry.name}" if folder else entry.name
                    try:
                        info = entry.stat()
                    except FileNotFoundError:  # deleted meanwhile, or a dangling link
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        folders += [rel] if recursive else []
                    elif not stat.S_ISREG(info.st_mode):
                        continue  # a FIFO would be waited for
                    elif entry.name.endswith(suffix) and not _is_temporary(entry.name):
                        found.append(_file_info(rel, info))
        return sorted(found, key=lambda info: info.rel)

    def find_bytes(self, rel: str) -> bytes | None:
        with mapped(self.where(rel)):
            try:
                with _open_regular(self._path(rel)) as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def write_bytes(self, rel: str, data: bytes) -> None:
        with mapped(self.where(rel)):
            write_file(self._path(rel), data)

    def stage_file(self, local_path: str | os.PathLike[str], rel: str) -> None:
        source, target = Path(local_path), self._path(rel)
        with mapped(self.where(rel)):
            make_folder(target.parent)
            _fsync(source)
            try:
                source.replace(target)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                _copy_across(source, target)
            fsync_folder(target.parent)

    def commit(self, staged_rel: str, final_rel: str) -> None:
        staged, final = self._path(staged_rel), self._path(final_rel)
        with mapped(self.where(final_rel)):
            make_folder(final.parent)
            try:
                _link_or_rename(staged, final)
            except FileExistsError:
                if staged.exists() and not _same_content(staged, final):
                    raise different_final(self, staged_rel, final_rel) from None
            except FileNotFoundError:
                if not final.exists():
                    raise staged_gone(self, staged_rel, final_rel) from None
            fsync_folder(final.parent)
            fault_point("commit.published")
            staged.unlink(missing_ok=True)

    def delete(self, rel: str) -> None:
        with mapped(self.where(rel)):
            path = self._path(rel)
            try:
                path.unlink()
            except FileNotFoundError:
                return
            fsync_folder(path.parent)

    def delete_tree(self, rel_dir: str) -> None:
        if not rel_dir:
            raise ValueError("the root of a storage is never deleted")
        with mapped(self.where(rel_dir)):
            path = self._path(rel_dir)
            while path.exists():
                try:
                    shutil.rmtree(path)
                except (
                    OSError
                ) as exc:  # another process adds or removes files meanwhile: begin anew
                    if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                        raise
                else:
                    fsync_folder(path.parent)

    def open_input(self, rel: str) -> BinaryIO:
        with mapped(self.where(rel)):
            return _open_regular(self._path(rel))

    def scratch_dir(self) -> Path:
        with mapped(self.where(STAGING_DIR)):
            make_folder(self._path(STAGING_DIR))
        return self._path(STAGING_DIR)

    def is_empty(self) -> bool:
        with mapped(self.uri):
            try:
                with os.scandir(self.uri) as entries:
                    return next(entries, None) is None
            except FileNotFoundError:
                return True

    def check_writable(self) -> None:
        probe = self._path(f"{CONTROL_DIR}/probe-{secrets.token_hex(4)}")
        with mapped(self.uri, lasting=OutputError):
            write_file(probe, b"")
            probe.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Creates a folder and the missing ones above it, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)  # exist_ok: another process may do the same
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable.

    File systems that cannot sync folders (FUSE, SMB, DrvFs) are left as they are: their files are
    synced, and a power cut may cost names of the last seconds, which are then generated again.
    """
    try:
        _fsync(path)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
        if exc.errno not in _noted:
            _noted.add(exc.errno)
            got = errno.errorcode.get(exc.errno or 0, "?")
            log.info("%s: this file system cannot sync folders (got %s)", path, got)


def _file_info(rel: str, info: os.stat_result) -> FileInfo:
    changed = f".{info.st_ino}.{info.st_ctime_ns}"
    return FileInfo(rel, info.st_size, str(info.st_mtime_ns), info.st_mtime, changed)


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read.

    Raises `OSError` (ENOTSUP) for a FIFO, socket or device.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    try:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENOTSUP, "not a regular file", str(path))
    except BaseException:
        file.close()
        raise
    return file


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a small file whole and durably.

    The folders above it are made.
    """
    make_folder(path.parent)
    temporary = _temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def _copy_across(source: Path, target: Path) -> None:
    """Move a file from another file system.

    It is copied beside the target first, so that the target appears whole.
    """
    temporary = _temporary_beside(target)
    try:
        shutil.copyfile(source, temporary)
        _fsync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    source.unlink()


def _link_or_rename(staged: Path, final: Path) -> None:
    """Give `staged` its final name; FileExistsError if that is taken.

    A rename alone would replace the file there. Where names cannot be linked or moved from folder
    to folder (OpenAFS, GPFS filesets, XFS quotas), a copy beside the final name is linked.
    """
    try:
        final.hardlink_to(staged)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            _link_copy(staged, final)
            return
        if exc.errno not in _NO_LINKS:
            raise
        if final.exists():
            raise FileExistsError(final) from exc
        staged.rename(final)


def _link_copy(staged: Path, final: Path) -> None:
    """Copy `staged` beside `final` and give the copy that name.

    FileExistsError if it is taken.
    """
    if final.exists():
        raise FileExistsError(final)
    temporary = _temporary_beside(final)
    try:
        shutil.copyfile(staged, temporary)
        _fsync(temporary)
        try:
            final.hardlink_to(temporary)
        except OSError as exc:
            if exc.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            temporary.rename(final)
    finally:
        temporary.unlink(missing_ok=True)


def _same_content(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{_TEMPORARY}")


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_TEMPORARY)
