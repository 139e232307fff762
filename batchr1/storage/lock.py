"""Lock of an output, kept alive by its owner.

A dead owner loses it.

free ──acquire──▶ held (epoch n) ──renew, check──▶ held ──release──▶ free
                        └──owner dead, or unchanged for stale_after_s──▶
                           held by another (epoch n + 1)

The record is replaced only if nobody replaced it since it was read (`lock_record`). So one of many
takers wins, and a paused owner learns at its next `check` that it lost. A check cannot see a pause
between itself and the write that follows. Therefore all writes pass a fence (`fence`), which the
next owner voids before it reads what is committed.

The record also holds the owner's intent: what it began, and what must be finished whole. Recording
it is a renewal. So it succeeds only for the owner, and the next owner takes it over with the lock.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from batchr1.errors import LockHeldError, LockLostError, StorageError
from batchr1.faults import fault_point
from batchr1.storage.base import CONTROL_DIR, Retry, Storage
from batchr1.storage.lock_record import (
    Found,
    LockInfo,
    LockRecord,
    open_record,
    pid_started,
    replace_as,
    this_machine,
)

__all__ = ["STALE_AFTER_S", "Lock", "LockInfo", "read_lock", "renewed_s"]

LOCK = f"{CONTROL_DIR}/lock"
HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0

log = logging.getLogger(__name__)


def awake_and_asleep() -> float:
    """Give the seconds since the machine started, sleep included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lock:
    """Held lock of an output, renewed by a thread of its own.

    `acquire` makes it; it is a context manager.
    """

    def __init__(
        self,
        record: LockRecord,
        info: LockInfo,
        version: str,
        *,
        heartbeat_s: float,
        stale_after_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._record, self._info, self._version = record, info, version
        self._heartbeat_s, self._stale_after_s, self._clock = heartbeat_s, stale_after_s, clock
        self._renewed_at = clock()
        self._gone = False  # taken by another, or released
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="batchr1-lock", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        storage: Storage,
        rel: str = LOCK,
        *,
        run: str,
        heartbeat_s: float = HEARTBEAT_S,
        stale_after_s: float = STALE_AFTER_S,
        on_wait: Callable[[str], None] = log.warning,
        clock: Callable[[], float] = awake_and_asleep,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Lock:
        """Takes the lock `rel` of an output for the run named `run`.

        A lock whose owner is known to be dead is taken at once. Any other is watched, on this
        process's own clock, and taken if it does not change for `stale_after_s`; `on_wait` gets a
        line that says so. All runs of an output must use the same `stale_after_s`, several times
        `heartbeat_s`.

        Raises LockHeldError as soon as the lock is seen to be alive, or if another run takes it
        first; OutputError if the object store ignores conditional writes.
        """
        record = open_record(storage, rel)
        while True:
            found = record.read()
            if found is not None and not _is_free(found):
                found = _watch(record, found, storage.uri, stale_after_s, on_wait, clock, sleep)
            fault_point("lock.watched")
            info = _owner(run, None if found is None else LockInfo.from_json(found.data))
            version = replace_as(record, info, None if found is None else found.version)
            if version is not None:
                fault_point("lock.taken")
                record.check_conditions(replace(info, released=True).to_json())
                return cls(
                    record,
                    info,
                    version,
                    heartbeat_s=heartbeat_s,
                    stale_after_s=stale_after_s,
                    clock=clock,
                )
            winner = record.read()
            if winner is not None and not _is_free(winner):
                raise _held(storage.uri, winner)

    @property
    def info(self) -> LockInfo:
        """This owner as the record names it."""
        return self._info

    @property
    def lost(self) -> bool:
        """Whether another run has the lock, or may have it by now.

        It may once the lock was not renewed for `stale_after_s`.
        """
        return self._gone or self._clock() - self._renewed_at > self._stale_after_s

    def renew(self, retry: Retry | None = None) -> None:
        """Writes the record anew.

        Raises LockLostError if it is another's, StorageError if it cannot be reached.
        """
        self._renew({}, retry)

    def _renew(self, changes: dict[str, Any], retry: Retry | None = None) -> None:
        with self._turn:
            if self._gone:
                raise self._lost_error()
            asked_at = (
                self._clock()
            )  # before the request: an observer's waiting begins when the record changes
            info = replace(self._info, beat=self._info.beat + 1, **changes)
            version = replace_as(self._record, info, self._version, retry)
            if version is None:
                self._gone = True
                raise self._lost_error()
            self._info, self._version, self._renewed_at = info, version, asked_at

    def check(self) -> None:
        """Return only if the lock is ours now; call before each commit.

        It renews the lock, which succeeds only if the record is the one that we wrote last. Raises
        StorageError when the store cannot be reached, and LockLostError when the lock was not
        renewed for `stale_after_s`.
        """
        self._check({})

    def intend(self, intent: dict[str, Any] | None) -> None:
        """Record what this owner or the next must finish.

        None: it is done. Raises what `check` raises, and then nothing was begun.
        """
        self._check({"intent": intent})

    def _check(self, changes: dict[str, Any]) -> None:
        try:
            self._renew(changes)
        except LockLostError:
            raise
        except StorageError as error:
            if self.lost:
                raise self._lost_error() from error
            raise

    def release(self) -> None:
        """Free the lock for the next run, if it is still ours."""
        self._stop.set()
        self._thread.join()
        with self._turn:
            if not self._gone:
                replace_as(self._record, replace(self._info, released=True), self._version)
                self._gone = True

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except StorageError as failure:
            # What the run came to matters more, and a lock whose owner is gone falls free by
            # itself.
            log.warning("the lock was not released: %s", failure)

    def _beat(self) -> None:
        retry = Retry(for_s=self._heartbeat_s)
        while not self._stop.wait(self._heartbeat_s):
            try:
                self.renew(retry)
            except LockLostError as error:
                log.error("%s", error)
                return
            except StorageError as error:
                since = self._clock() - self._renewed_at
                log.warning(
                    "the lock was last renewed %.0f s ago (%.0f are too long): %s",
                    since,
                    self._stale_after_s,
                    error,
                )

    def _lost_error(self) -> LockLostError:
        return LockLostError(
            f"{self._record.where}: run {self._info.run} no longer holds the output (got another "
            f"lock, need its own, "
            f"epoch {self._info.epoch}). Run the same command again when no other run writes there."
        )


def read_lock(storage: Storage, rel: str = LOCK) -> LockInfo | None:
    """Read who holds an output's lock, or held it last (`released`).

    None if nobody did. For `batchr1 status`.
    """
    found = open_record(storage, rel).read()
    return None if found is None else LockInfo.from_json(found.data)


def renewed_s(storage: Storage, rel: str = LOCK) -> float | None:
    """Read when the lock was last renewed; None if there is none.

    In seconds since the epoch, by the storage's clock.
    """
    found = storage.find_file(rel)  # one object on S3, the files of a folder on disk
    files = [found] if found is not None else storage.list_files(rel, ".json")
    return max((file.modified_s for file in files), default=None)


def _owner(run: str, before: LockInfo | None) -> LockInfo:
    return LockInfo(
        token=secrets.token_hex(16),
        epoch=1 if before is None else before.epoch + 1,
        intent=None if before is None else before.intent,
        host=os.uname().nodename,
        machine=this_machine(),
        pid=os.getpid(),
        pid_started=pid_started(os.getpid()),
        run=run,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _is_free(found: Found) -> bool:
    info = LockInfo.from_json(found.data)
    return info is not None and (info.released or info.owner_is_dead())


def _watch(
    record: LockRecord,
    found: Found,
    where: str,
    stale_after_s: float,
    on_wait: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Found:
    """Wait for a record that may be replaced.

    That is `found` if it does not change for `stale_after_s`, or one that became free.
    """
    holder = LockInfo.from_json(found.data) or "an unknown run"
    on_wait(
        f"{where}: the lock is held by {holder}; waiting up to {stale_after_s:.0f} s for a "
        f"sign "
        f"of life"
    )
    end = clock() + stale_after_s
    while (left := end - clock()) > 0:
        sleep(min(left, max(0.05, stale_after_s / 60)))
        now = record.read()
        if now is None:
            break
        if _is_free(now):
            return now
        if now.version != found.version:
            raise _held(where, now)
    return found


def _held(where: str, found: Found) -> LockHeldError:
    return LockHeldError(
        f"{where}: another run holds the output (got "
        f"{LockInfo.from_json(found.data) or 'an unknown run'}, "
        f"need it "
        "free). Wait for that run, stop it, or choose another output."
    )
