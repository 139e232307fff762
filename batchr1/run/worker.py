"""The replica: one engine, fed continuously, in a process of its own.

    channel ─▶ backlog ─▶ engine.step() ─▶ Collector (a thread: split, detokenise, Parquet, staging) ─▶ channel

The loop below does nothing but receive, submit, step and hand over. It knows neither processes nor Ray: a `Channel`
brings leases and takes messages.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import Protocol

from batchr1.engine.protocol import Delta, Engine, Request
from batchr1.errors import RequestError
from batchr1.records import Completion, Failure, WorkItem
from batchr1.run.collector import Collector
from batchr1.run.messages import (
    Ended,
    Finish,
    FromWorker,
    Lease,
    Progress,
    Ready,
    Refused,
    Stop,
    ToWorker,
    Want,
    WorkerSetup,
)
from batchr1.run.seeds import derive_seed

PROGRESS_EVERY_S = 0.5
WAITING_SHARE = 8  # one waiting request for this many running: a slot that falls free is filled in the same step
BACKLOG_SHARE = 2  # and half a batch in the worker's own hand, so that a refill never waits for the driver


class Channel(Protocol):
    """The worker's end of the line to the driver."""

    def receive(self, timeout_s: float) -> ToWorker | None:
        """The next message, or None after the time-out (0: at once)."""
        ...

    def send(self, message: FromWorker) -> None:
        """Thread-safe."""
        ...


class Generation:
    """A sample under way: the tokens that came since it was submitted."""

    __slots__ = ("item", "tokens")

    def __init__(self, item: WorkItem) -> None:
        self.item = item
        self.tokens: list[int] = []

    @property
    def saved(self) -> tuple[int, ...]:
        return self.item.partial.token_ids if self.item.partial else ()

    def request(self, id: str) -> Request:
        item = self.item
        return Request(id, (*item.prompt.token_ids, *self.saved), item.max_tokens - len(self.saved), item.seed)


class Worker:
    """Runs leases through an engine until it is told to finish or to stop."""

    def __init__(self, setup: WorkerSetup, engine: Engine, collector: Collector, channel: Channel) -> None:
        self._setup = setup
        self._engine = engine
        self._collector = collector
        self._channel = channel
        self._window = setup.max_num_seqs + max(4, setup.max_num_seqs // WAITING_SHARE)
        self._backlog_target = max(8, setup.max_num_seqs // BACKLOG_SHARE)
        self._backlog: deque[WorkItem] = deque()
        self._under_way: dict[str, Generation] = {}
        self._wanted = 0  # asked for and not here yet
        self._generated = 0
        self._number = 0
        self._finishing = False
        self._stopping = False
        self._told_at = 0.0

    def run(self, load_s: float) -> None:
        """Serve until `Finish` and everything is staged, or `Stop`."""
        self._channel.send(Ready(self._engine.info, load_s))
        while not self._stopping and not (self._finishing and not self._backlog and not self._under_way):
            self._receive()
            self._submit()
            for delta in self._engine.step():
                self._take(delta)
            self._tell()
        if self._under_way:
            self._engine.abort(list(self._under_way))
        self._collector.finish()
        self._tell(now=True)
        self._channel.send(Ended())

    def _receive(self) -> None:
        idle = not self._backlog and not self._under_way
        message = self._channel.receive(0.05 if idle else 0)
        while message is not None:
            match message:
                case Lease(items):
                    self._wanted -= len(items)
                    self._backlog.extend(items)
                case Finish():
                    self._finishing = True
                case Stop():
                    self._stopping = True
            message = self._channel.receive(0)
        room = self._window + self._backlog_target - len(self._under_way) - len(self._backlog) - self._wanted
        if room > 0 and not self._finishing and (room * 4 >= self._backlog_target or idle):
            self._wanted += room
            self._channel.send(Want(room))

    def _submit(self) -> None:
        while self._backlog and len(self._under_way) < self._window:
            generation = Generation(self._backlog.popleft())
            self._number += 1
            request = generation.request(str(self._number))
            try:
                self._engine.submit(request)
            except RequestError as exc:
                self._retry_or_refuse(generation.item, exc)
                continue
            self._under_way[request.id] = generation

    def _retry_or_refuse(self, item: WorkItem, exc: RequestError) -> None:
        if item.attempt < self._setup.attempts:
            attempt = item.attempt + 1
            seed = derive_seed(self._setup.seed, item.prompt.id, item.sample, attempt)
            self._backlog.append(dataclasses.replace(item, attempt=attempt, seed=seed))
            return
        failure = Failure(item.prompt.id, item.sample, "engine_refused", str(exc), item.attempt, item.prompt.digest)
        self._channel.send(Refused((failure,)))

    def _take(self, delta: Delta) -> None:
        generation = self._under_way[delta.id]
        generation.tokens.extend(delta.token_ids)
        self._generated += len(delta.token_ids)
        if delta.finish_reason is not None:
            del self._under_way[delta.id]
            tokens = (*generation.saved, *generation.tokens)
            self._collector.put(Completion(generation.item, tokens, delta.finish_reason))

    def _tell(self, *, now: bool = False) -> None:
        at = time.monotonic()
        self._collector.raise_error()
        if now or at - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = at
            done = self._collector.totals
            self._channel.send(
                Progress(
                    finished=done.rows,
                    finished_tokens=done.tokens,
                    generated_tokens=self._generated,
                    truncated=done.truncated,
                    under_way=len(self._under_way),
                    load=self._engine.load(),
                )
            )
