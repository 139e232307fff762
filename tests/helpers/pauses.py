"""A run that is paused at its k-th storage call, while something else happens to its output.

The pause is an audit hook: Python calls it right before the system call. So it may fall between
any two of them, also between a look at the lock and the rename that follows. What happens in it
runs in the same thread; the run that is paused has nothing else that beats.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from batchr1.storage.lock import Lock

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
READS = {"os.listdir", "os.scandir"}


class Pause:
    """Counts the storage calls of this thread below `root`; at number `at` it calls `meanwhile`.

    `at=0` counts only. `changes_only` leaves out calls that only read; `any_thread` counts those of
    all threads.
    """

    current: Pause | None = None
    _hooked = False

    def __init__(
        self,
        root: str,
        at: int,
        meanwhile: Callable[[], None],
        *,
        changes_only: bool = False,
        any_thread: bool = False,
    ) -> None:
        self._root, self._at, self._meanwhile = root, at, meanwhile
        self._changes_only = changes_only
        self._thread = None if any_thread else threading.get_ident()
        self.count = 0
        self.place = ""
        self.reached = False

    def arm(self) -> None:
        if not Pause._hooked:
            sys.addaudithook(_audit)
            Pause._hooked = True
        Pause.current = self

    @contextmanager
    def armed(self) -> Iterator[Pause]:
        self.arm()
        try:
            yield self
        finally:
            Pause.current = None

    def saw(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_ours(event, args):
            self.step(f"{event} {args[0]}")

    def saw_request(self, method: str, rel: str) -> None:
        if not (self._changes_only and method.startswith(("get_", "head_", "list_"))):
            self.step(f"{method} {rel}")

    def step(self, place: str) -> None:
        if self._thread not in (None, threading.get_ident()):
            return
        self.count += 1
        if self.count != self._at:
            return
        Pause.current, self.place, self.reached = None, place, True
        self._meanwhile()

    def _is_ours(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if self._changes_only and not writes:
                return False
        elif event not in CHANGES and (self._changes_only or event not in READS):
            return False
        paths = [str(arg) for arg in args[:2] if isinstance(arg, (str, os.PathLike))]
        return any(path.startswith(self._root) for path in paths)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    pause = Pause.current
    if pause is not None:
        pause.saw(event, args)


def pause_requests(monkeypatch: pytest.MonkeyPatch, storage_class: Any) -> None:
    """Count requests to an object store as the storage calls."""
    call = storage_class._call

    def counted(self: Any, rel: str, method: str, **arguments: Any) -> Any:
        pause = Pause.current
        if pause is not None:
            pause.saw_request(method, rel)
        return call(self, rel, method, **arguments)

    monkeypatch.setattr(storage_class, "_call", counted)


def without_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that are renewed by looks alone, and taken over at once by another run.

    An owner that sleeps beats no more; nobody waits here for the minute that shows it.
    """
    plain = Lock.acquire

    def acquire(*args: Any, **options: Any) -> Lock:
        lock = plain(*args, **{**options, "heartbeat_s": 3600.0, "stale_after_s": 0.02})
        lock._stale_after_s = 3600.0
        return lock

    monkeypatch.setattr(Lock, "acquire", acquire)


def chosen(count: int) -> list[int]:
    """Numbers of calls to pause at: all, or every n-th from the k-th on."""
    first, step = first_and_step()
    return list(range(first, count + 1, step))


def first_and_step() -> tuple[int, int]:
    """Which of a sweep's calls are wanted.

    BATCHR1_PAUSES=n,k means every n-th from the k-th on, where one machine has not the time for
    all.
    """
    step, _, first = os.environ.get("BATCHR1_PAUSES", "1,1").partition(",")
    return int(first or 1), int(step)
