"""Record of a lock, replaced only if unchanged since it was read.

On disk the record is the highest numbered file of a folder, `.batchr1/lock/00000007.json`.
Replacing number n is creating number n + 1, which the file system grants to one process only. A
latecomer may still create n + 1 after that was used and removed. It sees a higher number then, and
gives up. The highest file is never removed.

On S3 it is one small object, `.batchr1/lock`, replaced with If-Match on its ETag.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from batchr1.errors import OutputError
from batchr1.storage.base import Storage
from batchr1.storage.errors import Retry, mapped
from batchr1.storage.files import make_folder
from batchr1.storage.local import LocalStorage
from batchr1.storage.s3 import S3Storage

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NUMBERED = re.compile(r"(\d{8,})\.json")
_WRONG_ETAG = '"' + "0" * 32 + '"'


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Owner of a lock.

    `started` is when it was taken (ISO 8601, UTC); `beat` counts the renewals since. `machine` is
    the kernel's boot id and the process namespace: only there does `pid` mean a process.
    `pid_started` (clock ticks after boot) tells that process from a later one with the same number.
    `intent` is what an owner began and whoever holds the lock must finish before anything else.
    """

    token: str
    epoch: int
    host: str
    machine: str
    pid: int
    pid_started: int
    run: str
    started: str
    beat: int = 0
    released: bool = False
    intent: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"run {self.run} on {self.host}, pid {self.pid}, since {self.started}"

    def owner_is_dead(self) -> bool:
        """Tell whether the owner ran on this machine and is gone.

        False where that cannot be known.
        """
        here = (os.uname().nodename, this_machine())
        return (
            here[1] != ""
            and here == (self.host, self.machine)
            and not _is_running(self.pid, self.pid_started)
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LockInfo | None:
        """Parse a lock's record; None for anything else.

        It may be torn, or written by another program.
        """
        try:
            values = json.loads(data)
            info = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {"str": str, "int": int, "bool": bool}
        for field in fields(cls):
            kind = kinds.get(str(field.type), (dict, type(None)))
            if not isinstance(getattr(info, field.name), kind):
                return None
        return info


class Found(NamedTuple):
    """Record as read: its bytes, and the version to replace."""

    data: bytes
    version: str


class LockRecord(ABC):
    """A few bytes that many processes see, with compare-and-swap."""

    where: str

    @abstractmethod
    def read(self) -> Found | None:
        """The record now, or None if there never was one."""

    @abstractmethod
    def replace(self, data: bytes, version: str | None, retry: Retry | None = None) -> str | None:
        """Write `data` if the record still has `version`; returns the new one.

        `version` None: if there is no record yet. None is returned where the condition did not
        hold. That may also be the echo of an own earlier write whose answer was lost: see
        `replace_as`.
        """

    def check_conditions(self, released: bytes) -> None:
        """Raise OutputError if the store grants what it must refuse.

        `released` is what it may keep then.
        """
        return


def replace_as(
    record: LockRecord, info: LockInfo, version: str | None, retry: Retry | None = None
) -> str | None:
    """Replace the record as the only process that writes `info.token`.

    Its own earlier writes are no refusals.
    """
    data = info.to_json()
    written = record.replace(data, version, retry)
    if written is not None:
        return written
    now = record.read()
    if (
        now is None
        or (holder := LockInfo.from_json(now.data)) is None
        or holder.token != info.token
    ):
        return None
    return now.version if now.data == data else record.replace(data, now.version, retry)


class FileRecord(LockRecord):
    """The record on disk."""

    def __init__(self, storage: LocalStorage, rel: str) -> None:
        self._folder = Path(storage.path(rel))
        self.where = storage.where(rel)

    def read(self) -> Found | None:
        with mapped(self.where):
            while (number := self._highest()) is not None:
                try:
                    return Found(self._file(number).read_bytes(), str(number))
                except FileNotFoundError:  # replaced meanwhile
                    continue
            return None

    def replace(self, data: bytes, version: str | None, retry: Retry | None = None) -> str | None:
        number = int(version or 0) + 1
        with mapped(self.where):
            make_folder(self._folder)
            if not self._create(self._file(number), data):
                return None
            if self._highest() != number:
                self._file(number).unlink(missing_ok=True)
                return None
            for older in self._numbers():
                if older < number:
                    self._file(older).unlink(missing_ok=True)
        return str(number)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - one system call, hence one moment
        except FileNotFoundError:
            return []
        return [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))]

    def _highest(self) -> int | None:
        return max(self._numbers(), default=None)

    @staticmethod
    def _create(path: Path, data: bytes) -> bool:
        """Create a file with content in one step; False if it exists."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        try:
            temporary.write_bytes(data)
            try:
                _link(temporary, path, data)
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
                with path.open(
                    "xb"
                ) as file:  # without links a reader may see it half written: an unknown owner
                    file.write(data)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True


def _link(temporary: Path, path: Path, data: bytes) -> None:
    """Give a temporary file its name.

    It is written anew if an owner swept it meanwhile.
    """
    try:
        path.hardlink_to(temporary)
    except FileNotFoundError:
        temporary.write_bytes(data)
        path.hardlink_to(temporary)


class ObjectRecord(LockRecord):
    """The record in an S3 bucket."""

    def __init__(self, storage: S3Storage, rel: str) -> None:
        self._storage, self._rel = storage, rel
        self.where = storage.where(rel)

    def read(self) -> Found | None:
        found = self._storage.find_with_etag(self._rel)
        return None if found is None else Found(*found)

    def replace(self, data: bytes, version: str | None, retry: Retry | None = None) -> str | None:
        return self._storage.put_if(self._rel, data, version, retry=retry)

    def check_conditions(self, released: bytes) -> None:
        for etag in (_WRONG_ETAG, None):
            if self._storage.put_if(self._rel, released, etag) is not None:
                raise OutputError(
                    f"{self.where}: the object store ignores conditional writes, so that two runs "
                    f"could write at once "
                    "(got a success for a wrong If-Match or If-None-Match, need 412). Write to a "
                    "disk or another store."
                )


def open_record(storage: Storage, rel: str) -> LockRecord:
    """The record `rel` of a storage."""
    if isinstance(storage, LocalStorage):
        return FileRecord(storage, rel)
    if isinstance(storage, S3Storage):
        return ObjectRecord(storage, rel)
    raise TypeError(f"no lock on {storage!r}")


def this_machine() -> str:
    """Name the kernel and process namespace of this process's pid.

    Empty where they cannot be known.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def pid_started(pid: int) -> int:
    """Read a process's start, in clock ticks after boot.

    0 if that cannot be known: not Linux, or ended.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    state, *rest = stat.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(rest[18])


def _is_running(pid: int, started: int) -> bool:
    if Path(f"/proc/{pid}").exists():
        return pid_started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, which /proc hides from us
        return True
    return True
