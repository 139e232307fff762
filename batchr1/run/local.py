"""Replicas as processes of this machine: one for each group of GPUs, or one on the CPU."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait
from typing import BinaryIO

from batchr1.run.messages import Died, FromWorker, ToWorker, WorkerSetup

JOIN_S = 10.0


class LocalExecutor:
    """Starts workers, carries messages, notices deaths. `log` takes what workers print."""

    def __init__(self, device_groups: tuple[tuple[str, ...], ...], log: BinaryIO) -> None:
        self._groups = device_groups
        self._log = log
        self._lines: dict[int, Connection] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, setup: WorkerSetup) -> None:
        """Start a worker's process (again). Call from the main thread: the worker dies with the thread that made it."""
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self._groups[setup.worker]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._groups[setup.worker])
        command = [sys.executable, "-m", "batchr1.run.worker_main", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._processes[setup.worker] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                start_new_session=True, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        line = Connection(ours.detach())
        self._lines[setup.worker] = line
        with contextlib.suppress(OSError):  # it may be gone already: `poll` will say so
            line.send(setup)

    def send(self, worker: int, message: ToWorker) -> None:
        """Send to a worker; what is sent to a dead one is dropped, and `poll` reports the death."""
        if worker in self._lines:
            with contextlib.suppress(OSError):
                self._lines[worker].send(message)

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
                messages.append((worker, line.recv()))
            except (EOFError, OSError):
                messages.append((worker, Died(self._reap(worker))))
        return messages

    def kill(self, worker: int) -> None:
        """End a worker's process at once."""
        if worker in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[worker].pid, signal.SIGKILL)
            self._reap(worker)

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes.values()]

    def close(self) -> None:
        """End every worker at once."""
        for worker in list(self._processes):
            self.kill(worker)
        self._log.close()

    def _reap(self, worker: int) -> int | None:
        line = self._lines.pop(worker, None)
        if line is not None:
            line.close()
        process = self._processes.pop(worker)
        until = time.monotonic() + JOIN_S
        while _running(process.pid) and time.monotonic() < until:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session: the engine's own subprocesses go with it
        return process.wait()


def _running(pid: int) -> bool:
    """Whether a child still runs. One that has ended stays a zombie, so that its number cannot be given away."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
