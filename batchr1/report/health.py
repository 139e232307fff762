"""Health of a run: `batchr1 status --health`, for looks every minute.

A few small requests, however large the output is: the lock, the newest record, two listings. No row
is read.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from typing import Literal

from batchr1.output.folder import DATA_DIR, FAILED_DIR, Output
from batchr1.output.run_record import RunRecord
from batchr1.storage.lock import STALE_AFTER_S, read_lock, renewed_s

MAX_AGE_S = 1200.0  # above the 600 s after which a run itself replaces an engine that stands still

State = Literal[
    "running", "complete", "failed rows", "stopped", "stuck", "lost", "killed", "absent"
]
HEALTHY: frozenset[State] = frozenset({"running", "complete", "failed rows"})


@dataclass(frozen=True, slots=True)
class Health:
    """The state of an output, seen from outside.

    `state`: running; stuck (it lives, and for `max_age_s` has generated and written nothing) or
    lost (its heartbeat stopped); else what the last run left: complete, failed rows (complete, but
    for more of them than max_failed), stopped (with rows pending), killed; absent: nothing is
    there. `heartbeat_s`, `progress_s`: seconds since a run that holds the output last renewed its
    lock, and last generated or wrote something, known to the minute. Counts are of the last run's
    input, None before there was one.
    """

    output: str
    healthy: bool
    state: State
    run: str | None = None
    holder: str | None = None
    heartbeat_s: float | None = None
    progress_s: float | None = None
    max_age_s: float = MAX_AGE_S
    samples: int | None = None
    done: int | None = None
    failed: int | None = None
    spared: int | None = None
    pending: int | None = None
    exit_code: int | None = None
    stopped: str | None = None

    def __str__(self) -> str:
        """One line."""
        ages = [
            f"{what} {seconds:.0f} s ago"
            for what, seconds in (("heartbeat", self.heartbeat_s), ("progress", self.progress_s))
            if seconds is not None
        ]
        counts = ""
        if self.samples is not None:
            counts = f": {self.done:,} done, {self.failed:,} failed, {self.pending:,} pending"
        why = ""
        if self.stopped and self.state == "stopped":
            why = f" ({self.stopped})"
        return ", ".join([f"{self.output}: {self.state}{why}", *ages]) + counts


def look(output: Output, *, max_age_s: float = MAX_AGE_S) -> Health:
    """Look at an output.

    A run may be silent for `max_age_s`, which the loading of its model counts towards. Ages are
    differences of this machine's clock and that of the storage. Raises `StorageError` when it
    cannot be read.
    """
    info, last, now = read_lock(output.storage), output.last_run(), time.time()
    heartbeat_s = progress_s = None
    if info is not None and not info.released and not info.owner_is_dead():
        heartbeat_s = _age(now, renewed_s(output.storage))
        moments = [info.started]
        if last is not None and last.run == info.run and last.progressed is not None:
            moments.append(last.progressed)
        newest = max(
            *(dt.datetime.fromisoformat(text).timestamp() for text in moments),
            _last_written(output),
        )
        progress_s = _age(now, newest)
    else:
        info = None
    state = _state(output, last, heartbeat_s, progress_s, max_age_s)
    health = Health(
        output=output.uri,
        healthy=state in HEALTHY,
        state=state,
        heartbeat_s=heartbeat_s,
        progress_s=progress_s,
        max_age_s=max_age_s,
    )
    if last is not None:
        health = _with_record(health, last)
    if info is not None:
        health = replace(health, run=info.run, holder=str(info))
    return health


def _with_record(health: Health, last: RunRecord) -> Health:
    """Add the last run's newest counts and its end."""
    health = replace(health, run=last.run, exit_code=last.exit_code, stopped=last.stopped)
    counts = last.counts or last.counts_so_far or last.counts_before
    if counts is None:
        return health
    return replace(
        health,
        samples=counts.samples,
        done=counts.done,
        failed=counts.failed,
        spared=counts.spared,
        pending=counts.pending,
    )


def _state(
    output: Output,
    last: RunRecord | None,
    heartbeat_s: float | None,
    progress_s: float | None,
    max_age_s: float,
) -> State:
    if heartbeat_s is not None and progress_s is not None:
        if heartbeat_s > STALE_AFTER_S:
            return "lost"
        if progress_s > max_age_s:
            return "stuck"
        return "running"
    if last is None:
        return "absent"
    if last.state == "running":
        return "killed"
    if last.exit_code == 3:
        return "failed rows"
    if last.exit_code == 0 and output.is_complete():
        return "complete"
    return "stopped"


def _last_written(output: Output) -> float:
    """When the newest file of results or failed rows was written."""
    files = [
        file
        for folder in (DATA_DIR, FAILED_DIR)
        for file in output.storage.list_files(folder, ".parquet")
    ]
    return max((file.modified_s for file in files), default=0.0)


def _age(now: float, moment: float | None) -> float:
    return round(max(0.0, now - (moment or now)), 1)
