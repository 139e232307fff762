"""Processes that kill themselves at their k-th change of a storage, by SIGKILL.

A kill between two changes leaves what a kill right before the later one leaves. So a kill at each
change stands for a kill at any moment, but for one in the middle of a write.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pauses import Pause, pause_requests
from warm_workers import Standing, WarmWorkers, import_all

import batchr1.executors.worker_process
from batchr1.errors import BatchError

WORKER_KILL = "KILLED_AT_CALL"  # in a worker's environment: where it kills itself
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of processes below this one whose own parent ends."""
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def forked(work: Callable[[], int]) -> int:
    """What `work` returns in a process of its own, or minus the signal that ended it.

    Whatever that process started has ended, too.
    """
    import_all()
    between = _fork()
    if between == 0:
        adopt_orphans()
        os._exit(_supervise(work))
    status = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
    return -signal.SIGKILL if status == 128 + signal.SIGKILL else status


def _supervise(work: Callable[[], int]) -> int:
    child = _fork()
    if child == 0:
        standing = Standing(WarmWorkers.of_this_process())
        batchr1.executors.worker_process.subprocess = standing  # type: ignore[attr-defined]
        os._exit(_code_of(work))
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code


def _code_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except BatchError as error:
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 99


def _fork() -> int:
    with warnings.catch_warnings():  # Python 3.12 warns of threads, which the child has none of
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def kill_driver(root: str, at: int, mark: Path, work: Callable[[], int]) -> int:
    """Do `work` in a fork that is killed at its change `at`; then `mark` says where."""
    return forked(lambda: _killed_at(root, at, mark, work))


def _killed_at(root: str, at: int, mark: Path, work: Callable[[], int]) -> int:
    def die() -> None:
        mark.write_text(pause.place)
        os.kill(os.getpid(), signal.SIGKILL)

    pause = Pause(root, at, die, changes_only=True, any_thread=True)
    with pause.armed():
        return work()


def kill_worker(
    root: str, at: int, mark: Path, work: Callable[[], int], *, whole_tree: bool
) -> int:
    """Do `work` in a fork whose first worker kills itself, and perhaps its driver, at a change."""
    where = {"root": root, "at": at, "mark": str(mark), "whole_tree": whole_tree}

    def go() -> int:
        os.environ[WORKER_KILL] = json.dumps(where)
        return work()

    return forked(go)


def arm_worker() -> None:
    """In a worker's process: kill it where its environment says, unless that has happened."""
    if WORKER_KILL not in os.environ:
        return
    where: dict[str, Any] = json.loads(os.environ[WORKER_KILL])
    mark = Path(where["mark"])
    if mark.exists():
        return

    def die() -> None:
        mark.write_text(pause.place)
        if where["whole_tree"]:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    if where["root"].startswith("s3://"):
        from batchr1.storage.s3 import S3Storage

        pause_requests(pytest.MonkeyPatch(), S3Storage)
    pause = Pause(where["root"], where["at"], die, changes_only=True, any_thread=True)
    pause.arm()
