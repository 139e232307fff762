"""Fault points: named places where crash tests kill the process.

`BATCHR1_FAULT=commit.published:2` sends SIGKILL when a process comes to that place a second time.
`BATCHR1_FAULT_ONCE=PATH` lets this happen once over all processes, and leaves the file PATH as its
sign. Without BATCHR1_FAULT the places do nothing.
"""

from __future__ import annotations

import os
import signal

POINTS = {
    "stage.written": "a part is whole on the worker's disk, not in staging",
    "stage.staged": "a part is in staging, the driver does not know",
    "commit.checked": "the lock was checked, the part is not published",
    "commit.published": "the part is in data/ and still in staging",
    "commit.done": "the part is in data/, the worker does not know",
    "snapshot.begun": "a checkpoint was collected, nothing written",
    "snapshot.written": "the newer checkpoint is there beside the older one",
    "snapshot.rotated": "the older one is gone",
    "carry.written": "what earlier runs saved is in one file, and in theirs",
    "carry.removing": "and one of theirs is gone",
    "intent.written": "parts are to be replaced: the intent is there, nothing is published",
    "intent.published": "the new part is published beside the old ones",
    "intent.removing": "and an old one is gone",
    "intent.done": "the old ones are gone, the intent is still there",
    "lock.watched": "a lock was found free or stale, and not taken",
    "lock.taken": "the lock was taken, nothing was done with it",
    "finish.recorded": "the run's record says that it ended; checkpoints are still there",
    "finish.cleared": "checkpoints are gone, _SUCCESS is not there",
    "finish.succeeded": "_SUCCESS is there, the lock is held",
    "export.staged": "an export is whole, beside the place that it is to have",
    "export.moved": "an earlier export was moved aside, the new one is not in its place yet",
}

_NAME, _, _NTH = os.environ.get("BATCHR1_FAULT", "").partition(":")

if not _NAME:

    def fault_point(name: str) -> None:
        """Do nothing: no fault was asked for."""

else:
    _left = int(_NTH or 1)

    def fault_point(name: str) -> None:
        """Kill this process if `name` is the place that was asked for."""
        global _left
        if name != _NAME:
            return
        _left -= 1
        if _left == 0 and _is_first(os.environ.get("BATCHR1_FAULT_ONCE")):
            os.kill(os.getpid(), signal.SIGKILL)


def _is_first(marker: str | None) -> bool:
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
