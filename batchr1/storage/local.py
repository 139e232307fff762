"""Storage on a local or mounted file system.

Durable means: the file and the folder that names it are fsynced.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from batchr1.errors import OutputError
from batchr1.faults import fault_point
from batchr1.storage.base import (
    CONTROL_DIR,
    STAGING_DIR,
    FileInfo,
    Storage,
)
from batchr1.storage.errors import mapped
from batchr1.storage.fence import different_final, fence_lost, staged_gone
from batchr1.storage.files import (
    TEMPORARY,
    copy_across,
    fsync,
    fsync_folder,
    link_or_rename,
    make_folder,
    remove_folder,
    same_content,
    write_file,
)
from batchr1.storage.uri import Kind, checked

_LEFT_BEHIND = re.compile(r"\..+\.[0-9a-f]{12}\.tmp|probe-[0-9a-f]{8}")

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
        with self._changing(rel):
            if self.fence is None:
                write_file(self._path(rel), data)
            else:
                self._write_through(self._path(rel), data)

    def stage_file(self, local_path: str | os.PathLike[str], rel: str) -> None:
        source, target = Path(local_path), self._path(rel)
        with self._changing(rel):
            if self.fence is None or target.parent != self._path(self.staging):
                make_folder(target.parent)  # the fence's own folder is never made again
            fsync(source)
            try:
                source.replace(target)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                copy_across(source, target)
            fsync_folder(target.parent)

    def commit(self, staged_rel: str, final_rel: str) -> None:
        staged, final = self._path(staged_rel), self._path(final_rel)
        with self._changing(final_rel):
            make_folder(final.parent)
            self.check_fence()
            fault_point("commit.checked")
            try:
                link_or_rename(staged, final)
            except FileExistsError:
                if staged.exists() and not same_content(staged, final):
                    where = self.where(final_rel)
                    raise different_final(staged_rel, where) from None
            except FileNotFoundError:
                if not final.exists():
                    self._refuse_void(final_rel)
                    raise staged_gone(self.where(staged_rel), final_rel) from None
            fsync_folder(final.parent)
            fault_point("commit.published")
            staged.unlink(missing_ok=True)

    def delete(self, rel: str, version: str | None = None) -> None:
        path = self._path(rel)
        with self._changing(rel):
            try:
                if self.fence is None:
                    path.unlink()
                else:
                    self.check_fence()
                    self._take_away(path)
            except FileNotFoundError:
                self._refuse_void(rel)
                return
            fsync_folder(path.parent)

    def delete_tree(self, rel_dir: str) -> None:
        if not rel_dir:
            raise ValueError("the root of a storage is never deleted")
        path = self._path(rel_dir)
        with self._changing(rel_dir):
            if self.fence is None:
                remove_folder(path)
            elif path.exists():
                self.check_fence()
                try:
                    self._take_away(path)
                except FileNotFoundError:
                    self._refuse_void(rel_dir)
            if path.parent.exists():
                fsync_folder(path.parent)

    @contextmanager
    def _changing(self, rel: str) -> Iterator[None]:
        """Map faults of a change; tell a void fence from missing files."""
        with mapped(self.where(rel)):
            try:
                yield
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
                    self._refuse_void(rel)
                raise

    def _refuse_void(self, rel: str) -> None:
        """Raise `LockLostError` when a later owner took this one's folder."""
        if self.fence is not None and not self._path(self.fence.folder).is_dir():
            raise fence_lost(self.where(rel))

    def _write_through(self, path: Path, data: bytes) -> None:
        """Write a small file by a rename out of the fence's folder."""
        make_folder(path.parent)
        temporary = self._temporary_within(path)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.check_fence()
            try:
                temporary.replace(path)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
                self._refuse_void(path.name)
                write_file(path, data)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)

    def _take_away(self, path: Path) -> None:
        """Rename a file or folder into the fence's folder; remove it there.

        Where no name moves between folders it is removed in its place.
        """
        gone = self._temporary_within(path)
        try:
            path.rename(gone)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            self._refuse_void(path.name)
            gone = path
        if gone.is_dir() and not gone.is_symlink():
            remove_folder(gone)
        else:
            gone.unlink(missing_ok=True)

    def _temporary_within(self, path: Path) -> Path:
        return self._path(self.staging) / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}"

    def open_fence(self) -> None:
        with mapped(self.where(self.staging)):
            make_folder(self._path(self.staging))

    def close_fence(self) -> None:
        with mapped(self.where(self.staging)):
            remove_folder(self._path(self.staging))

    def void_others(self) -> None:
        with self._changing(STAGING_DIR):
            own = self._path(self.staging)
            found = [path for path in self._path(STAGING_DIR).iterdir() if path != own]
            found += self._left_behind()
            self.check_fence()  # whoever takes the lock now makes a folder that is not in the list
            for path in found:
                with suppress(FileNotFoundError):
                    self._take_away(path)
            self._refuse_void(STAGING_DIR)
            fsync_folder(self._path(STAGING_DIR))

    def _left_behind(self) -> list[Path]:
        """Find what killed writers left under temporary names."""
        root, control = Path(self.uri), self._path(CONTROL_DIR)
        below = [path for path in control.iterdir() if path.is_dir() and path.name != "staging"]
        folders = [root, root / "data", control, *below]
        names = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
        return [path for path in names if _LEFT_BEHIND.fullmatch(path.name)]

    def open_input(self, rel: str) -> BinaryIO:
        with mapped(self.where(rel)):
            return _open_regular(self._path(rel))

    def scratch_dir(self) -> Path:
        folder = self._path(self.staging)
        if self.fence is None:
            with mapped(self.where(STAGING_DIR)):
                make_folder(folder)
        return folder

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
            with self._makes_folders():
                make_folder(probe.parent)
            with probe.open("xb") as file:
                os.fsync(file.fileno())
            probe.unlink(missing_ok=True)  # an owner may have swept it

    def check_takes_files(self) -> None:
        if self._path(CONTROL_DIR).is_dir():
            self.check_writable()
            return
        root = self._path("")
        with mapped(self.uri, lasting=OutputError), self._makes_folders():
            there = next(path for path in (root, *root.parents) if path.exists())
            probe = there / f".batchr1-probe-{secrets.token_hex(4)}"
            probe.mkdir()
            with suppress(OSError):  # names that stay (chattr +a) do not keep files out
                probe.rmdir()

    @contextmanager
    def _makes_folders(self) -> Iterator[None]:
        """Name a file system that takes no folders, as /proc.

        Making one there says "no such file".
        """
        try:
            yield
        except FileNotFoundError as exc:
            raise OutputError(
                f"{self.uri}: no folder can be made here (got ENOENT). Choose another path."
            ) from exc


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


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)
