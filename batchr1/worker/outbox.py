"""Hand finished samples to the collector and report them to the driver.

Where a job retries outcomes (`retry.on`), a sample is finished only when the collector has decided
that its row is kept. Not thread-safe: it belongs to the worker's loop.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection

from batchr1.engine.openai.server import Spent
from batchr1.engine.protocol import EngineLoad
from batchr1.executors.messages import FromWorker, Heartbeat, SamplesCancelled, SamplesFinished
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import Completion, SampleKey, ServerCompletion, WorkItem
from batchr1.worker.collector import Collector

PROGRESS_EVERY_S = 0.5


class Outbox:
    """Finished samples, undecided ones, and what the driver knows of both."""

    def __init__(
        self,
        collector: Collector,
        send: Callable[[FromWorker], None],
        clock: Callable[[], float],
        *,
        decides: bool,
    ) -> None:
        """Begin empty.

        `decides`: whether the collector says of each completion if its row is kept.
        """
        self._collector, self._send, self._clock, self._decides = collector, send, clock, decides
        # With their tokens: samples to report, and those that may be tried again.
        self._finished: list[tuple[SampleKey, int]] = []
        self._undecided: dict[SampleKey, int] = {}
        self._cancelled: set[SampleKey] = set()  # undecided, and not to be tried again
        self._reported_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether something may come back to be tried again."""
        return bool(self._undecided)

    def put(
        self,
        completion: Completion | ServerCompletion,
        saved: GenerationCheckpoint,
        length: int,
        carried: int,
    ) -> None:
        """Take a completion of `length` tokens; `carried` of them other workers generated."""
        self._collector.put(completion, saved, carried)
        if self._decides:
            self._undecided[saved.key] = length
        else:
            self._finished.append((saved.key, length))

    def to_try_again(self) -> list[WorkItem]:
        """Take the collector's decisions since the last call.

        Returns samples to be tried once more.
        """
        again: list[WorkItem] = []
        while self._undecided:
            try:
                decided = self._collector.decided.get_nowait()
            except queue.Empty:
                break
            key = decided.key if isinstance(decided, WorkItem) else decided
            length = self._undecided.pop(key)
            if not isinstance(decided, WorkItem):
                self._finished.append((key, length))
            elif key in self._cancelled:
                self.give_up([key])
            else:
                again.append(decided)
            self._cancelled.discard(key)
        return again

    def give_up(self, keys: Collection[SampleKey], tokens: int = 0) -> None:
        """Report that these will have no row.

        `tokens` were generated of them, beside those of earlier attempts.
        """
        self._send(SamplesCancelled(tuple(keys), tokens + self._collector.give_up(keys)))

    def drop(self, keys: set[SampleKey]) -> None:
        """Try none of these again."""
        self._cancelled |= keys & self._undecided.keys()

    @property
    def is_due(self) -> bool:
        """Whether the last report is long enough ago."""
        return self._clock() - self._reported_at >= PROGRESS_EVERY_S

    def report(
        self, *, generated_tokens: int, under_way: int, load: EngineLoad, spent: Spent | None = None
    ) -> None:
        """Report to the driver how far this worker is."""
        self._reported_at = self._clock()
        if self._finished:
            keys, lengths = zip(*self._finished, strict=True)
            self._send(SamplesFinished(keys, lengths))
            self._finished.clear()
        done = self._collector.totals
        self._send(
            Heartbeat(
                finished=done.rows,
                finished_tokens=done.tokens,
                generated_tokens=generated_tokens,
                truncated=done.truncated,
                under_way=under_way,
                load=load,
                spent=spent,
            )
        )
