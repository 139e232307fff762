"""Loop of a worker with an engine, which is fed continuously.

    backlog ─▶ engine.step() ─▶ Outbox

Beside what every `WorkerLoop` does it submits, steps and hands over. It knows neither processes nor
Ray: a `Channel` brings leases and takes messages.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from batchr1.engine.protocol import Delta, Engine
from batchr1.errors import FailedError, RequestError, StorageError
from batchr1.executors.setup import WorkerSetup
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import Failure, FinishReason, SampleKey, WorkItem
from batchr1.seeds import next_attempt
from batchr1.worker.admission import Admission
from batchr1.worker.collector import Collector
from batchr1.worker.generation import NO_RULES, Generation, Rules
from batchr1.worker.loop import Channel, Figures, WorkerLoop

# Of a batch in the worker's own hand, so that a refill never waits for the driver.
BACKLOG_SHARE = 4
IDLE_WAIT_S = 0.05


class EngineWorker(WorkerLoop):
    """Runs leases through an engine until `Drain` or `Stop`."""

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
        super().__init__(setup, collector, channel, clock)
        self._engine = engine
        self._rules = rules
        max_num_seqs = setup.plan.max_num_seqs
        self._admission = Admission(
            kv_cache_tokens=engine.info.kv_cache_tokens,
            max_num_seqs=max_num_seqs,
            max_model_len=engine.info.max_model_len,
            expected=setup.plan.completions,
            mixed_step_cost=setup.mixed_step_cost if setup.has_cuda_graphs else 0.0,
            step_time=setup.plan.step_time,
        )
        self._backlog_target = max(8, max_num_seqs // BACKLOG_SHARE)
        # The first of the backlog, refused by admission for now.
        self._next: Generation | None = None
        self._under_way: dict[str, Generation] = {}
        self._generated = 0
        self._number = 0
        self._is_finishing = False

    def run(self, load_s: float) -> None:
        """Serve until `Drain` and everything is staged, or `Stop`.

        Where a part cannot be staged, save and raise.
        """
        try:
            self._serve(load_s)
        except (StorageError, FailedError):
            self._leave()
            raise

    def _serve(self, load_s: float) -> None:
        self._begin(self._engine.info, load_s)
        while not self._stopping and not (self._draining and self._is_idle):
            has_work = self._backlog or self._next is not None or self._under_way
            self._receive(0 if has_work else IDLE_WAIT_S)
            self._take_retries()
            self._submit()
            before = self._generated
            for delta in self._engine.step():
                self._take(delta)
            self._admission.stepped(self._generated - before, self._engine.load(), self._clock())
            self._report()
        if self._stopping:
            self._checkpointer.save()  # first what is quick, and worth the most
        if self._under_way:
            self._engine.abort(list(self._under_way))
        self._is_finishing = True
        self._finish()

    def _on_stop(self) -> None:
        if self._is_finishing:  # what still waits for its verdict
            self._checkpointer.save()

    @property
    def _is_idle(self) -> bool:
        return (
            not self._backlog
            and self._next is None
            and not self._under_way
            and not self._outbox.is_waiting
        )

    def _room(self) -> int:
        # What lies in the backlog already waits for memory or a slot: then no more is requested
        # for free slots.
        free = 0
        if self._next is None and not self._backlog:
            free = max(0, self._admission.window - len(self._under_way))
        # And at first nothing is kept in hand: what is decided later is decided with more lengths
        # known.
        in_hand = self._backlog_target if self._under_way else 0
        return free + in_hand - len(self._backlog)

    def _is_worth_asking(self, room: int, *, was_idle: bool) -> bool:
        return was_idle or room * 4 >= self._backlog_target

    def _cancel(self, keys: set[SampleKey]) -> None:
        under_way = {
            id: generation for id, generation in self._under_way.items() if generation.key in keys
        }
        if under_way:
            self._engine.abort(list(under_way))
        for id, generation in under_way.items():
            del self._under_way[id]
            self._admission.ended(generation, cut=True)
        dropped = [generation.key for generation in under_way.values()]
        dropped += self._cancel_in_backlog(keys)
        if self._next is not None and self._next.key in keys:
            dropped.append(self._next.key)
            self._next = None
        self._outbox.drop(keys)
        self._outbox.give_up(dropped, sum(g.generated - g.offset for g in under_way.values()))

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
        if item.attempt < self._setup.spec.retry.attempts:
            self._backlog.append(next_attempt(item, self._setup.spec.sampling.seed))
            return
        failure = Failure(
            item.prompt.id,
            item.sample,
            "engine_refused",
            str(exc),
            item.attempt,
            item.prompt.digest,
        )
        self._fail(failure)

    def _take(self, delta: Delta) -> None:
        generation, reason = self._under_way[delta.id], delta.finish_reason
        before = generation.generated
        act = generation.take(delta.token_ids)
        self._generated += generation.generated - before
        if act is not None and reason is None:
            self._engine.abort([delta.id])
        if act in ("close", "bind"):
            if act == "close":
                generation.close()
            if generation.generated >= generation.item.max_tokens:
                self._end(generation, "length")
            elif not self._start(generation):
                self._admission.ended(generation)
        elif act == "stop":
            self._end(generation, "stop")
        elif act == "cut" or reason is not None:
            self._end(generation, reason if act is None and reason is not None else "length")
        else:
            return
        # Last: a checkpoint finds it here, or there, or twice, but never nowhere.
        del self._under_way[delta.id]

    def _end(self, generation: Generation, reason: FinishReason) -> None:
        self._hand_over(generation, reason)
        self._admission.ended(generation, cut=reason == "length")

    def _hand_over(self, generation: Generation, reason: FinishReason) -> None:
        """A generation is complete: to the collector."""
        item, completion = generation.item, generation.completion(reason)
        before = item.partial.finished_at if item.partial else None
        saved = generation.saved(reason, before or dt.datetime.now(dt.UTC))
        length = len(completion.token_ids)
        self._outbox.put(completion, saved, length, carried=min(generation.offset, length))

    def _to_save(self) -> list[GenerationCheckpoint]:
        """List generations under way, then those that are complete."""
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

    def _figures(self) -> Figures:
        return Figures(self._generated, len(self._under_way), self._engine.load())
