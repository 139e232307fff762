"""A worker's process on this machine, which waits for its setup.

A worker imports its engine for many seconds. One may be started early, to do so while the driver
looks at the job and plans.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from batchr1.backends.base import backend_of
from batchr1.errors import BatchError
from batchr1.executors.log_tail import LogTail
from batchr1.sizing.devices import choose_devices
from batchr1.storage.names import SUCCESS

if TYPE_CHECKING:
    from batchr1.job.spec import JobSpec

# Engine arguments whose product is the number of an engine's GPUs.
_GPUS_OF_AN_ENGINE = ("tensor_parallel_size", "pipeline_parallel_size")


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A worker's process, the line to it, and what it prints.

    `devices`: the ids of the GPUs that it sees; empty: what its parent sees.
    """

    process: subprocess.Popen[bytes]
    line: Connection
    tail: LogTail
    devices: tuple[str, ...]

    def discard(self) -> None:
        """End a process that nothing was asked of."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.line.close()
        self.tail.discard()


def spawn(devices: tuple[str, ...], *, imports: str = "") -> WorkerProcess:
    """Start a worker's process.

    Call from the main thread: the worker dies with the thread that made it. `imports`: the engine
    kind that it imports before it has its setup.
    """
    ours, theirs = socket.socketpair()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # NVML counts so, CUDA by speed
    command = [sys.executable, "-m", "batchr1.worker.main", str(theirs.fileno()), str(os.getpid())]
    tail = LogTail()
    try:
        process = subprocess.Popen(
            [*command, imports] if imports else command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=tail.fd,
            stderr=tail.fd,
            start_new_session=True,
            pass_fds=[theirs.fileno()],
        )
    except OSError:
        ours.close()
        tail.discard()
        raise
    finally:
        theirs.close()
        tail.hand_over()
    return WorkerProcess(process, Connection(ours.detach()), tail, devices)


class EarlyWorker:
    """A worker's process that was started before the plan.

    It is taken once, or ended.
    """

    def __init__(self, waiting: WorkerProcess | None = None) -> None:
        self._waiting = waiting

    def take(self, devices: tuple[str, ...]) -> WorkerProcess | None:
        """Give the process, where a new one would see the same GPUs."""
        found = self._waiting
        if found is None or found.devices != devices:
            return None
        self._waiting = None
        return found

    def close(self) -> None:
        """End a process that was not taken."""
        if self._waiting is not None:
            self._waiting.discard()
            self._waiting = None


@contextlib.contextmanager
def early_worker(
    spec: JobSpec, gpus: str | None, devices: tuple[str, ...] | None
) -> Iterator[EarlyWorker]:
    """Start a worker that imports its engine while the run is planned.

    There is none on a CPU, where it would take memory that the plan counts on, nor where the plan
    may choose among GPUs. Nor, as far as a look at the disk can tell, where nothing is to do.
    """
    early = EarlyWorker()
    with contextlib.suppress(OSError, BatchError):  # the run itself says what is wrong
        if found := _sure_devices(spec, gpus, devices):
            early = EarlyWorker(spawn(found, imports=spec.engine.kind))
    try:
        yield early
    finally:
        early.close()


def _sure_devices(
    spec: JobSpec, gpus: str | None, devices: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Name the GPUs of the one engine that a job can have.

    Empty: there are none, or the plan may choose. Raises `BatchError` or `OSError`.
    """
    if spec.executor.kind != "local" or not backend_of(spec).starts_early(spec):
        return ()
    if (Path(spec.output.path) / SUCCESS).exists():
        return ()
    found = choose_devices(gpus, devices)
    sizes = [spec.model.engine_args.get(name, 1) for name in _GPUS_OF_AN_ENGINE]
    gpus_of_one = math.prod(size for size in sizes if isinstance(size, int))
    return found if gpus_of_one == len(found) else ()
