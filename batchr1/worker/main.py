"""Worker process: `python -m batchr1.worker.main FD DRIVER [KIND]`.

FD is its end of the line to the driver. The process is a session of its own, so that Ctrl-C reaches
the driver alone, and cannot outlive the driver. KIND names the engine that is imported before the
setup has come.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from batchr1.backends.base import backend_of
from batchr1.engine.lifeline import die_with_parent
from batchr1.errors import BatchError, EngineError
from batchr1.events import TextLines
from batchr1.executors.messages import FromWorker, ToWorker, WorkerFailed, WorkerReady
from batchr1.executors.setup import Assignment, WorkerSetup
from batchr1.job.kinds import load_backend
from batchr1.sizing.oom import MemoryProblem, problem_in

log = logging.getLogger("batchr1.worker")


class PipeChannel:
    """A `Channel` over a connection.

    A thread receives, so that the engine's loop never waits for a large lease.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.said_ready = False

    def start(self) -> None:
        # An engine's process may be forked. It must not hold this end, or the driver would
        # not see that the worker ended.
        os.register_at_fork(after_in_child=self._connection.close)
        threading.Thread(target=self._listen, name="channel", daemon=True).start()

    def first(self) -> Any:
        """The setup, before the listening begins."""
        return self._connection.recv()

    def receive(self, timeout_s: float) -> ToWorker | None:
        try:
            return self._inbox.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def send(self, message: FromWorker) -> None:
        with self._sending:
            self._connection.send(message)
            self.said_ready = self.said_ready or isinstance(message, WorkerReady)

    def _listen(self) -> None:
        while True:
            try:
                self._inbox.put(self._connection.recv())
            except (EOFError, OSError):  # the driver is gone
                os.kill(os.getpid(), signal.SIGKILL)


def main(fd: int, driver: int, imports: str | None = None) -> int:
    die_with_parent(driver)
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if imports is not None:
        load_backend(imports).import_early()
    channel = PipeChannel(Connection(fd))
    setup: WorkerSetup = channel.first()
    share_cores(setup.assignment)
    channel.start()
    try:
        backend_of(setup.spec).worker(setup, channel)
    except BatchError as exc:
        log.error("%s", exc)
        channel.send(WorkerFailed(type(exc).__name__, str(exc), _memory_problem(exc, channel)))
        return 1
    except Exception as exc:
        log.exception("worker %d failed", setup.worker)
        message = f"worker {setup.worker}: {type(exc).__name__}: {exc}"
        channel.send(WorkerFailed("EngineError", message, _memory_problem(exc, channel)))
        return 1
    return 0


def share_cores(place: Assignment) -> None:
    """Keep to this replica's cores.

    Call before other threads are started: they inherit it, and OpenMP counts it.
    """
    if place.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, place.cpus)
    if place.num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(place.num_threads)


def _memory_problem(exc: Exception, channel: PipeChannel) -> MemoryProblem | None:
    """Read what an exception and its causes say about memory.

    That is all there is to know where the engine is in this process.
    """
    if isinstance(exc, BatchError) and not isinstance(exc, EngineError):
        return None
    return problem_in(traceback.format_exception(exc), running=channel.said_ready)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
