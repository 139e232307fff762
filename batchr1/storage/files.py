"""Files and folders of a disk: written, linked and removed durably."""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import secrets
import shutil
import stat
from pathlib import Path

TEMPORARY = ".tmp"  # with a dot in front: names that list_files leaves out and no reader takes
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


def make_folder(path: Path) -> None:
    """Creates a folder and the missing ones above it, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)  # exist_ok: another process may do the same
    fsync_folder(path.parent)


def remove_folder(path: Path) -> None:
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError as exc:  # another process adds or removes files meanwhile: begin anew
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable.

    File systems that cannot sync folders (FUSE, SMB, DrvFs) are left as they are: their files are
    synced, and a power cut may cost names of the last seconds, which are then generated again.
    """
    try:
        fsync(path)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
        if exc.errno not in _noted:
            _noted.add(exc.errno)
            got = errno.errorcode.get(exc.errno or 0, "?")
            log.info("%s: this file system cannot sync folders (got %s)", path, got)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a small file whole and durably.

    The folders above it are made. The file is written once more if an owner swept it half-way.
    """
    try:
        _write_file(path, data)
    except FileNotFoundError:
        _write_file(path, data)


def _write_file(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
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


def is_replaceable(path: Path) -> bool:
    """Tell whether a name is a regular file's, or nobody's.

    Devices, FIFOs and links are not: what is to be in them is written into them.
    """
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def write_into(path: Path, data: bytes, *, waits: bool = True) -> None:
    """Write into what has this name, and leave it there.

    `waits` False: raises `OSError` where a FIFO has no reader, or no room.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY
    descriptor = os.open(path, flags if waits else flags | os.O_NONBLOCK, 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            written = file.write(left)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
            left = left[written:]


def copy_across(source: Path, target: Path) -> None:
    """Move a file from another file system.

    It is copied beside the target first, so that the target appears whole.
    """
    temporary = temporary_beside(target)
    try:
        shutil.copyfile(source, temporary)
        fsync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    source.unlink()


def link_or_rename(staged: Path, final: Path) -> None:
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
    temporary = temporary_beside(final)
    try:
        shutil.copyfile(staged, temporary)
        fsync(temporary)
        try:
            final.hardlink_to(temporary)
        except OSError as exc:
            if exc.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            temporary.rename(final)
    finally:
        temporary.unlink(missing_ok=True)


def same_content(one: Path, other: Path) -> bool:
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}")
