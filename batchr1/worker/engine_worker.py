"""The replica: one engine, fed continuously, in a process of its own.

    channel ─▶ backlog ─▶ engine.step() ─▶ Collector (a thread: split, detokenise, Parquet, staging) ─▶ channel

The loop below does nothing but receive, submit, step and hand over. It knows neither processes nor
Ray: a `Channel` brings leases and takes messages.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from batchr1.engine.protocol import Delta, Engine
from batchr1.errors import FailedError, RequestError, StorageError
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
    WorkerSetup,
)
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import Failure, FinishReason, SampleKey, WorkItem
from batchr1.seeds import next_attempt
from batchr1.storage.errors import set_leaving
from batchr1.worker.admission import Admission
from batchr1.worker.checkpointer import checkpointer_of
from batchr1.worker.collector import Collector
from batchr1.worker.generation import NO_RULES, Generation, Rules
from batchr1.worker.outbox import Outbox

BACKLOG_SHARE = (
    4  # of a batch in the worker's own hand, so that a refill never waits for the driver
)


class Channel(Protocol):
    """The worker's end of the line to the driver."""

    def receive(self, timeout_s: float) -> ToWorker | None:
        """The next message, or None after the time-out (0: at once)."""
        ...

    def send(self, message: FromWorker) -> None:
        """Thread-safe."""
        ...


class EngineWorker:
    """Runs leases through an engine until it is told to finish or to stop."""

    def __init__(
        self,
        setup: WorkerSetup,
        engine: Engine,
        collector: Collector,
        channel: Channel,
        clock: Callable[[], float] = time.monotonic,
        *,
        rules: Rules = NO_RULES,
    ) -> None:
        self._setup = setup
        self._engine = engine
        self._collector = collector
        self._channel = channel
        self._rules = rules
        self._clock = clock
        self._admission = Admission(
            kv_cache_tokens=engine.info.kv_cache_tokens,
            max_num_seqs=setup.max_num_seqs,
            max_model_len=engine.info.max_model_len,
            expected=setup.expected,
            mixed_step_cost=setup.mixed_step_cost if setup.engine.has_cuda_graphs else 0.0,
            step_time=setup.step_time,
        )
        self._backlog_target = max(8, setup.max_num_seqs // BACKLOG_SHARE)
        self._backlog: deque[WorkItem] = deque()
        self._next: Generation | None = (
            None  # the first of the backlog, refused by admission for now
        )
        self._under_way: dict[str, Generation] = {}
        self._handover = Outbox(collector, channel.send, clock, decides=bool(setup.retry_on))
        self._checkpointer = checkpointer_of(setup, self._collect)
        self._wanted = 0  # asked for and not here yet
        self._generated = 0
        self._number = 0
        self._finishing = False
        self._stopping = False

    def run(self, load_s: float) -> None:
        """Serve until `Drain` and everything is staged, or `Stop`.

        Where a part cannot be staged, save and raise.
        """
        try:
            self._serve(load_s)
        except (StorageError, FailedError):
            set_leaving(True)
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer.save()  # small, and it may still fit
            raise

    def _serve(self, load_s: float) -> None:
        self._channel.send(WorkerReady(self._engine.info, load_s))
        if self._checkpointer is not None:
            self._checkpointer.start()
        while not self._stopping and not (self._finishing and self._is_idle):
            self._receive()
            self._backlog.extendleft(self._handover.to_try_again())
            self._submit()
            before = self._generated
            for delta in self._engine.step():
                self._take(delta)
            self._admission.stepped(self._generated - before, self._engine.load(), self._clock())
            self._report()
        if self._checkpointer is not None and self._stopping:
            self._checkpointer.save()  # first what is quick, and worth the most
        if self._under_way:
            self._engine.abort(list(self._under_way))
        self._collector.finish(self._while_finishing)
        if (
            self._checkpointer is not None
        ):  # verification may have taken long: what waited for it was saved meanwhile
            self._checkpointer.close()
        self._report(now=True)
        self._channel.send(WorkerEnded())

    def _while_finishing(self) -> None:
        """Verification may outlast generation by long: a `Stop` that comes meanwhile saves what
        still waits for it.
        """
        was_stopping = self._stopping
        self._receive()
        if self._checkpointer is not None and self._stopping and not was_stopping:
            self._checkpointer.save()
        self._report()

    @property
    def _is_idle(self) -> bool:
        return (
            not self._backlog
            and self._next is None
            and not self._under_way
            and not self._handover.is_waiting
        )

    def _receive(self) -> None:
        idle = self._is_idle
        has_work = self._backlog or self._next is not None or self._under_way
        message = self._channel.receive(0 if has_work else 0.05)
        while message is not None:
            match message:
                case Lease(items):
                    self._wanted -= len(items)
                    self._backlog.extend(items)
                case SamplesCommitted(keys):
                    self._collector.committed(keys)
                case CancelSamples(keys):
                    self._drop(set(keys))
                case Drain():
                    self._finishing = True
                case Stop():
                    self._stopping = True
            message = self._channel.receive(0)
        # What lies in the backlog already waits for memory or a slot: then no more is wanted for
        # free slots.
        free = (
            0
            if self._next is not None or self._backlog
            else max(0, self._admission.window - len(self._under_way))
        )
        # And at first nothing is kept in hand: what is decided later is decided with more lengths
        # known.
        in_hand = self._backlog_target if self._under_way else 0
        room = free + in_hand - len(self._backlog) - self._wanted
        if (
            room > 0
            and not (self._finishing or self._stopping)
            and (room * 4 >= self._backlog_target or idle)
        ):
            self._wanted += room
            self._channel.send(RequestWork(room))

    def _drop(self, keys: set[SampleKey]) -> None:
        """Give up what is not generated yet."""
        under_way = {
            id: generation for id, generation in self._under_way.items() if generation.key in keys
        }
        if under_way:
            self._engine.abort(list(under_way))
        for id, generation in under_way.items():
            del self._under_way[id]
            self._admission.ended(generation, cut=True)
        dropped = [generation.key for generation in under_way.values()]
        dropped += [item.key for item in self._backlog if item.key in keys]
        self._backlog = deque(item for item in self._backlog if item.key not in keys)
        if self._next is not None and self._next.key in keys:
            dropped.append(self._next.key)
            self._next = None
        self._handover.drop(keys)
        self._handover.give_up(dropped, sum(g.generated - g.offset for g in under_way.values()))

    def _submit(self) -> None:
        while self._next is not None or self._backlog:
            generation = self._next or Generation(self._backlog.popleft(), self._rules)
            self._next = None
            if (reason := generation.ended()) is not None:
                self._hand_over(generation, reason)
                continue
            if not self._admission.admits(generation):
                self._next = generation
                break
            if self._start(generation):
                self._admission.started(generation)

    def _start(self, generation: Generation) -> bool:
        """Into the engine; False where that refuses it."""
        self._number += 1
        request = generation.request(str(self._number))
        try:
            self._engine.submit(request)
        except RequestError as exc:
            self._retry_or_refuse(generation.item, exc)
            return False
        self._under_way[request.id] = generation
        return True

    def _retry_or_refuse(self, item: WorkItem, exc: RequestError) -> None:
        if item.attempt < self._setup.attempts:
            self._backlog.append(next_attempt(item, self._setup.seed))
            return
        failure = Failure(
            item.prompt.id,
            item.sample,
            "engine_refused",
            str(exc),
            item.attempt,
            item.prompt.digest,
        )
        self._collector.give_up([item.key])
        self._channel.send(SamplesFailed((failure,)))

    def _take(self, delta: Delta) -> None:
        generation, reason = self._under_way[delta.id], delta.finish_reason
        before = generation.generated
        act = generation.take(delta.token_ids)
        self._generated += generation.generated - before
        if act is not None and reason is None:
            self._engine.abort([delta.id])
        if act == "close":
            generation.close()
            if generation.generated >= generation.item.max_tokens:
                self._end(generation, "length")
            elif not self._start(generation):
                self._admission.ended(generation)
        elif act == "cut" or reason is not None:
            self._end(generation, reason if act is None and reason is not None else "length")
        else:
            return
        del self._under_way[
            delta.id
        ]  # after: a snapshot sees it here, or there, or twice, but never nowhere

    def _end(self, generation: Generation, reason: FinishReason) -> None:
        self._hand_over(generation, reason)
        self._admission.ended(generation, cut=reason == "length")

    def _hand_over(self, generation: Generation, reason: FinishReason) -> None:
        """A generation is complete: to the collector."""
        item, completion = generation.item, generation.completion(reason)
        before = item.partial.finished_at if item.partial else None
        saved = generation.saved(reason, before or dt.datetime.now(dt.UTC))
        length = len(completion.token_ids)
        self._handover.put(completion, saved, length, carried=min(generation.offset, length))

    def _collect(self) -> list[GenerationCheckpoint]:
        """What is to be saved.

        Called on the checkpoint's thread: first what is under way, then what is through.
        """
        saved = {
            one.key: one
            for one in (g.saved() for g in list(self._under_way.values()))
            if one.tokens
        }
        for one in self._collector.uncommitted():
            again = saved.get(one.key)
            if again is None or again.attempt <= one.attempt:  # else this one is being tried again
                saved[one.key] = one
        return list(saved.values())

    def _report(self, *, now: bool = False) -> None:
        self._collector.raise_error()
        if now or self._handover.is_due:
            self._handover.tell(
                generated_tokens=self._generated,
                under_way=len(self._under_way),
                load=self._engine.load(),
            )
