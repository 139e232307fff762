"""Part of a worker's loop that every kind of engine shares.

    channel ─▶ mailbox ─▶ backlog ─▶ (a body: an engine, a server) ─▶ Outbox ─▶ Collector ─▶ channel

`engine_worker` and `server_worker` are the two bodies. A body submits the backlog, hands over what
is complete, and says how much more it can take; the loop receives, requests, stops, saves and ends.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from batchr1.engine.openai.server import Spent
from batchr1.engine.protocol import EngineInfo, EngineLoad
from batchr1.executors.messages import (
    CancelSamples,
    Drain,
    FromWorker,
    Lease,
    RequestWork,
    SamplesCommitted,
    SamplesFailed,
    Stop,
    ToWorker,
    WorkerEnded,
    WorkerReady,
)
from batchr1.executors.setup import WorkerSetup
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.storage.errors import set_leaving
from batchr1.worker.checkpointer import Checkpointer
from batchr1.worker.collector import Collector
from batchr1.worker.outbox import Outbox


class Channel(Protocol):
    """The worker's end of the line to the driver."""

    def receive(self, timeout_s: float) -> ToWorker | None:
        """The next message, or None after the time-out (0: at once)."""
        ...

    def send(self, message: FromWorker) -> None:
        """Thread-safe."""
        ...


@dataclass(frozen=True, slots=True)
class Figures:
    """Progress of a body. Tokens with those of generations under way."""

    generated_tokens: int
    under_way: int
    load: EngineLoad
    spent: Spent | None = None


class WorkerLoop(ABC):
    """A worker's mailbox, backlog, outbox and checkpoints."""

    def __init__(
        self,
        setup: WorkerSetup,
        collector: Collector,
        channel: Channel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup, self._collector, self._channel = setup, collector, channel
        self._clock = clock
        self._backlog: deque[WorkItem] = deque()
        self._requested = 0  # samples that were asked for, and did not come yet
        self._draining = self._stopping = False
        decides = bool(setup.spec.retry.on)
        self._outbox = Outbox(collector, channel.send, clock, decides=decides)
        self._checkpointer = Checkpointer(
            setup.storage,
            every_s=setup.spec.checkpoint.every_s,
            job=setup.job_digest,
            assignment=setup.assignment,
            collect=self._to_save,
        )

    @property
    @abstractmethod
    def _is_idle(self) -> bool:
        """Whether nothing is left of what was leased."""

    @abstractmethod
    def _room(self) -> int:
        """Count the samples to request; 0 for none."""

    @abstractmethod
    def _cancel(self, keys: set[SampleKey]) -> None:
        """Give up those of these samples that are not generated yet."""

    @abstractmethod
    def _to_save(self) -> list[GenerationCheckpoint]:
        """List the entries of a checkpoint. Called on the checkpoint's thread."""

    @abstractmethod
    def _figures(self) -> Figures:
        """Give this body's progress."""

    @abstractmethod
    def _on_stop(self) -> None:
        """Act on the first `Stop`, beside noting it."""

    def _begin(self, info: EngineInfo, load_s: float) -> None:
        """Report that the engine is ready, and start to save."""
        self._channel.send(WorkerReady(info, load_s))
        self._checkpointer.start()

    def _receive(self, timeout_s: float = 0.0) -> None:
        """Take every message that came, then request more work.

        Waits for the first one.
        """
        was_idle = self._is_idle
        message = self._channel.receive(timeout_s)
        while message is not None:
            self._take_message(message)
            message = self._channel.receive(0)
        self._request(was_idle=was_idle)

    def _take_message(self, message: ToWorker) -> None:
        match message:
            case Lease(items):
                self._requested -= len(items)
                self._backlog.extend(items)
            case SamplesCommitted(keys):
                self._collector.committed(keys)
            case CancelSamples(keys):
                self._cancel(set(keys))
            case Drain():
                self._draining = True
            case Stop():
                is_first, self._stopping = not self._stopping, True
                if is_first:
                    self._on_stop()

    def _is_worth_asking(self, room: int, *, was_idle: bool) -> bool:
        """Whether so little room is requested at once, or waits for more."""
        return room > 0

    def _request(self, *, was_idle: bool) -> None:
        if self._draining or self._stopping:
            return
        room = self._room() - self._requested
        if room > 0 and self._is_worth_asking(room, was_idle=was_idle):
            self._requested += room
            self._channel.send(RequestWork(room))

    def _take_retries(self) -> None:
        """Put samples that are tried again at the front.

        They are late already.
        """
        self._backlog.extendleft(self._outbox.to_try_again())

    def _cancel_in_backlog(self, keys: Collection[SampleKey]) -> list[SampleKey]:
        """Take these samples out of the backlog; gives those that were there."""
        found = [item.key for item in self._backlog if item.key in keys]
        self._backlog = deque(item for item in self._backlog if item.key not in keys)
        return found

    def _fail(self, failure: Failure) -> None:
        """A sample has no row and will have none."""
        self._collector.give_up([SampleKey(failure.id, failure.sample)])
        self._channel.send(SamplesFailed((failure,)))

    def _report(self, *, now: bool = False) -> None:
        """Report finished samples and progress, when that is due."""
        self._collector.raise_error()
        if now or self._outbox.is_due:
            figures = self._figures()
            self._outbox.report(
                generated_tokens=figures.generated_tokens,
                under_way=figures.under_way,
                load=figures.load,
                spent=figures.spent,
            )

    def _while_finishing(self) -> None:
        """Stay in touch while the collector stages the rest.

        Verification may take long.
        """
        self._receive()
        self._report()

    def _finish(self) -> None:
        """Stage what is complete, and end."""
        self._collector.finish(self._while_finishing)
        # Verification may have taken long: what waited for it was saved meanwhile.
        self._checkpointer.close()
        self._report(now=True)
        self._channel.send(WorkerEnded())

    def _leave(self) -> None:
        """Save the rows of a part that cannot be staged.

        A checkpoint is small, and may fit.
        """
        set_leaving(True)
        self._checkpointer.close()
        self._checkpointer.save()
