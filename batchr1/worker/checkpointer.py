"""The worker's checkpoints: every `every_s` seconds, on a thread beside the loop.

The loop is not stopped for it: lists of generations are copied under the interpreter's own lock,
tokens as blocks of memory; compressing and writing need neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from batchr1.errors import StorageError
from batchr1.executors.setup import Assignment
from batchr1.faults import fault_point
from batchr1.output.checkpoints import GenerationCheckpoint, checkpoint_name, write_checkpoint
from batchr1.storage.base import Storage

log = logging.getLogger("batchr1.checkpoint")


class Checkpointer:
    """Writes what `collect` gives, then removes the checkpoint before.

    `job` names the job whose answers they are. A failure is reported, and tried again later.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        every_s: float,
        job: str,
        assignment: Assignment,
        collect: Callable[[], list[GenerationCheckpoint]],
    ) -> None:
        self._storage, self._every_s, self._job = storage, every_s, job
        self._assignment, self._collect = assignment, collect
        self._last: str | None = None
        self._number = 0
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write no more; a checkpoint that is being written is finished."""
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
                log.warning("worker %d: no snapshot: %s", self._assignment.worker, exc)
                return
            log.debug(
                "worker %d: %d generations, %d bytes in %.3f s",
                self._assignment.worker,
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
                place = self._assignment
                name = checkpoint_name(place.run, place.worker, place.epoch, self._number)
                size = write_checkpoint(self._storage, name, saved, job=self._job)
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
        while not self._stop.wait(self._every_s):
            self.save()
