"""Replicas as processes of this machine.

There is one for each group of GPUs, or one on the CPU.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from batchr1.executors.log_tail import Log, LogTail, slower_ways
from batchr1.executors.messages import FromWorker, ToWorker, WorkerExited, WorkerReady
from batchr1.executors.setup import WorkerSetup
from batchr1.executors.worker_process import EarlyWorker, spawn

JOIN_S = 10.0
TAIL_S = 2.0  # for the last lines of a worker whose processes are gone


class LocalExecutor:
    """Starts workers, carries messages, notices deaths.

    `log` takes what workers print. `early`: a process that waits for the first of them.
    """

    def __init__(self, log: Log, early: EarlyWorker | None = None) -> None:
        self._log = log
        self._early = early or EarlyWorker()
        self._lines: dict[int, Connection] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._tails: dict[int, LogTail] = {}

    def start(self, setup: WorkerSetup) -> None:
        """Start a worker's process (again).

        Call from the main thread: the worker dies with the thread that made it.
        """
        if setup.worker in self._processes:  # one that said it ended, and is on its way out
            self._reap(setup.worker)
        devices = setup.assignment.devices
        made = self._early.take(devices) or spawn(devices)
        self._processes[setup.worker], self._tails[setup.worker] = made.process, made.tail
        made.tail.start(self._log, name=f"log of worker {setup.worker}")
        self._lines[setup.worker] = made.line
        with contextlib.suppress(OSError):  # it may be gone already: `poll` will say so
            made.line.send(setup)

    def send(self, worker: int, message: ToWorker) -> None:
        """Send to a worker.

        A message to a dead one is dropped, and `poll` reports the death.
        """
        line = self._lines.get(worker)
        if line is not None:
            with contextlib.suppress(OSError):
                line.send(message)

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]:
        """Messages that came, in order per worker; waits for the first one."""
        by_line = {line: worker for worker, line in self._lines.items()}
        if not by_line:
            time.sleep(timeout_s)
            return []
        messages: list[tuple[int, FromWorker]] = []
        for line in wait(list(by_line), timeout_s):
            assert isinstance(line, Connection)
            worker = by_line[line]
            try:
                message = line.recv()
            except (EOFError, OSError):
                message = self._reap(worker)
            if isinstance(message, WorkerReady):
                message = replace(message, slower=slower_ways(self._tails[worker].last_lines()))
                self._tails[worker].forget()  # what went wrong up to here did no harm
            messages.append((worker, message))
        return messages

    def kill(self, worker: int) -> WorkerExited:
        """End a worker's process at once.

        A worker that is gone already has nothing to say.
        """
        if worker not in self._processes:
            return WorkerExited(None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._processes[worker].pid, signal.SIGKILL)
        return self._reap(worker)

    def room(self, taken: list[int]) -> list[int]:
        """No GPU is plugged in while a run goes on."""
        return []

    def waiting(self) -> set[int]:
        return set()

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def close(self) -> None:
        """End every worker at once."""
        for worker in list(self._processes):
            self.kill(worker)
        self._log.close()

    def _reap(self, worker: int) -> WorkerExited:
        line = self._lines.pop(worker, None)
        if line is not None:
            line.close()
        process = self._processes.pop(worker)
        until = time.monotonic() + JOIN_S
        while _running(process.pid) and time.monotonic() < until:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(
                process.pid, signal.SIGKILL
            )  # its session: the engine's own subprocesses go with it
        return WorkerExited(process.wait(), self._tails.pop(worker).last_lines(TAIL_S))


def share_cores(replicas: int) -> list[tuple[int, ...]]:
    """Divide the cores that this process may use among replicas.

    Each gets a block of its own. Where cores are fewer than replicas, several share one.
    """
    cores = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    if replicas >= len(cores):
        return [(cores[i % len(cores)],) for i in range(replicas)]
    bounds = [len(cores) * i // replicas for i in range(replicas + 1)]
    return [tuple(cores[start:end]) for start, end in itertools.pairwise(bounds)]


def _running(pid: int) -> bool:
    """Whether a child still runs.

    One that has ended stays a zombie, so that its number cannot be given away.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
