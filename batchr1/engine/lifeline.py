"""Processes that end when the one that started them ends.

The kernel's parent-death signal does most of it. A process sets it for itself, and gets SIGKILL
when the *thread* that created it ends. Subprocesses do not inherit it, so those of vLLM watch the
worker (`follow_worker`). They are reached through vLLM's plugin hook, named in pyproject.toml. The
hook is not called when VLLM_PLUGINS is set or batchr1 is not installed: then `memory_probe` calls
`follow_worker` as it is loaded. In a forked process neither happens again: there a hook of `fork`
does it (`follow_when_forked`). A watching thread covers what the signal cannot: a parent that was
gone before it was set, and a creating thread that ends early.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import time

WORKER_PID = "BATCHR1_WORKER_PID"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5
_THREAD = "lifeline"


def die_with_parent(parent: int) -> None:
    """End this process, by SIGKILL, when its parent process `parent` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the signal was set
        os.kill(os.getpid(), signal.SIGKILL)
    _watch(parent, direct_child=True)


def follow_worker() -> None:
    """End this process, which a worker's engine started, when that worker ends.

    May be called again.
    """
    worker = int(os.environ.get(WORKER_PID, "0"))
    if worker and worker != os.getpid():
        _watch(worker, direct_child=False)


@functools.cache
def follow_when_forked() -> None:
    """Let every process that is forked from this one follow its worker.

    May be called again: such a hook cannot be taken back.
    """
    os.register_at_fork(after_in_child=follow_worker)


def _watch(pid: int, *, direct_child: bool) -> None:
    if all(thread.name != _THREAD for thread in threading.enumerate()):
        threading.Thread(
            target=_wait_and_die, args=(pid, direct_child), name=_THREAD, daemon=True
        ).start()


def _wait_and_die(pid: int, direct_child: bool) -> None:
    started = start_time(pid)
    while (
        started is not None
        and start_time(pid) == started
        and (not direct_child or os.getppid() == pid)
    ):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def start_time(pid: int) -> str | None:
    """Read the start of a process, in kernel ticks; None once ended.

    The time tells a process from the next owner of its pid.
    """
    if sys.platform != "linux":
        try:
            os.kill(pid, 0)
        except OSError:
            return None
        return "running"
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
