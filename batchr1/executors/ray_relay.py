"""Relay: the parent of a worker on another node.

    driver ⇄ TCP ⇄ relay ⇄ socket pair ⇄ worker process

The relay does on its node what `local` does in the driver. It keeps the worker's last lines,
notices its death, and takes it along when it dies itself. It ends with its line to the driver, so
nothing outlives a driver that was killed. It knows nothing of Ray, which only starts it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from batchr1.executors.local import LocalExecutor
from batchr1.executors.messages import WorkerExited
from batchr1.executors.relay_listener import Hello, secured
from batchr1.executors.setup import WorkerSetup

CONNECT_S = 30.0
# What a worker reads from its environment, and finds in the driver's: keys to storage and hub, and
# settings.
FORWARDED = ("AWS_", "HF_", "VLLM_", "BATCHR1_")
NOT_FORWARDED = frozenset({"VLLM_HOST_IP", "BATCHR1_WORKER_PID"})  # a machine's own


@dataclass(frozen=True, slots=True)
class Printed:
    """Bytes that a worker printed, for the run's log."""

    data: bytes


def environment_to_forward() -> dict[str, str]:
    """The part of this process' environment that a worker elsewhere needs."""
    return {
        k: v for k, v in os.environ.items() if k.startswith(FORWARDED) and k not in NOT_FORWARDED
    }


def serve(address: tuple[str, int], key: bytes, worker: int, epoch: int, cluster: str) -> None:
    """Run one worker to its end.

    Call from the process' main thread: the worker dies with the thread that made it. `cluster`: the
    address of the cluster itself, for an engine that spreads over its nodes.
    """
    line = _Line(secured(socket.create_connection(address, CONNECT_S), key, is_driver=False))
    line.send(Hello(worker, epoch))
    setup, environment = line.connection.recv()
    os.environ.update(environment)
    _prepare(setup, cluster)
    executor = LocalExecutor(_Log(line))
    executor.start(setup)
    threading.Thread(
        target=_listen, args=(line.connection, executor, worker), name="driver", daemon=True
    ).start()
    while True:
        for _, message in executor.poll(1.0):
            line.send(message)
            if isinstance(message, WorkerExited):
                return


def _prepare(setup: WorkerSetup, cluster: str) -> None:
    """Undo what the cluster sets for processes that are not engines."""
    if setup.device == "cuda":
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray says 1 to an actor with one CPU
    if setup.plan.engine_args.get("distributed_executor_backend") == "ray":
        os.environ["RAY_ADDRESS"] = cluster  # vLLM asks it for its GPUs by itself
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)


class _Line:
    """The line to the driver; several threads send."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        try:
            with self._sending:
                self.connection.send(message)
        except OSError:  # nobody is there to work for
            os.kill(os.getpid(), signal.SIGKILL)


class _Log:
    """The worker's output, as a file that is far away."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def write(self, data: bytes) -> int:
        self._line.send(Printed(data))
        return len(data)

    def close(self) -> None:
        pass


def _listen(line: Connection, executor: LocalExecutor, worker: int) -> None:
    while True:
        try:
            message = line.recv()
        except (EOFError, OSError):  # the driver is gone
            for pid in executor.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        executor.send(worker, message)
