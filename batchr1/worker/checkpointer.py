"""The worker's snapshots: every `every_s` seconds, on a thread beside the step loop.

The loop is not stopped for it: lists of generations are copied under the interpreter's own lock,
tokens as blocks of memory; compressing and writing need neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchr1.errors import StorageError
from batchr1.faults import fault_point
from batchr1.output.checkpoints import GenerationCheckpoint, checkpoint_name, write_checkpoint
from batchr1.storage.base import Storage

if TYPE_CHECKING:
    from batchr1.executors.messages import WorkerSetup

log = logging.getLogger("batchr1.checkpoint")


@dataclass(frozen=True, slots=True)
class CheckpointSetup:
    """How often a worker saves, in seconds, and the job whose answers they are."""

    every_s: float
    job: str


class Checkpointer:
    """Writes what `collect` gives, then removes the snapshot before.

    A failure is reported, and tried again later.
    """

    def __init__(
        self,
        storage: Storage,
        setup: CheckpointSetup,
        *,
        run: str,
        worker: int,
        epoch: int,
        collect: Callable[[], list[GenerationCheckpoint]],
    ) -> None:
        self._storage, self._setup, self._collect = storage, setup, collect
        self._run, self._worker, self._epoch = run, worker, epoch
        self._last: str | None = None
        self._number = 0
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """No more snapshots; one that is being written is finished."""
        self._stop.set()
        with self._busy:
            pass

    def save(self) -> None:
        """Save now. Raises nothing: what could not be saved is generated again."""
        with self._busy:
            started, saved = time.monotonic(), self._collect()
            try:
                size = self._rotate(saved)
            except StorageError as exc:
                log.warning("worker %d: no snapshot: %s", self._worker, exc)
                return
            log.debug(
                "worker %d: %d generations, %d bytes in %.3f s",
                self._worker,
                len(saved),
                size,
                time.monotonic() - started,
            )

    def _rotate(self, saved: list[GenerationCheckpoint]) -> int:
        before, self._last, size = self._last, None, 0
        try:
            if saved:
                fault_point("snapshot.begun")
                self._number += 1
                name = checkpoint_name(self._run, self._worker, self._epoch, self._number)
                size = write_checkpoint(self._storage, name, saved, job=self._setup.job)
                self._last = name
        except StorageError:
            self._last = before  # still the newest
            raise
        if before is not None:  # only now: the newer one is durable
            fault_point("snapshot.written")
            self._storage.delete(before)
            fault_point("snapshot.rotated")
        return size

    def _work(self) -> None:
        while not self._stop.wait(self._setup.every_s):
            self.save()


def checkpointer_of(
    setup: WorkerSetup, collect: Callable[[], list[GenerationCheckpoint]]
) -> Checkpointer | None:
    """A worker's own; None where nothing is to be saved."""
    if setup.checkpoint is None:
        return None
    return Checkpointer(
        setup.storage,
        setup.checkpoint,
        run=setup.run,
        worker=setup.worker,
        epoch=setup.epoch,
        collect=collect,
    )
