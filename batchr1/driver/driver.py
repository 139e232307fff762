"""The driver: leases work to workers, commits what they stage, and knows at any time what is whose.

It holds the output's lock, the work items that are leased and not committed yet, and counts; never
results. The loop waits for messages from workers; everything else (reading, rendering, generating,
writing) happens elsewhere.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from batchr1.driver.feeder import Feeder
from batchr1.driver.fleet import Executor, Fleet, Replica, error_of
from batchr1.driver.quarantine import Quarantine
from batchr1.engine.openai.server import Spent
from batchr1.engine.protocol import EngineLoad
from batchr1.errors import BatchError, EngineError, InterruptedRun, StorageError
from batchr1.events import event
from batchr1.executors.messages import (
    CancelSamples,
    Drain,
    FirstAnswer,
    FromWorker,
    Heartbeat,
    Lease,
    PartCounts,
    PartStaged,
    RequestStop,
    RequestWork,
    SamplesCancelled,
    SamplesCommitted,
    SamplesFailed,
    SamplesFinished,
    SampleVerified,
    Stop,
    WorkerEnded,
    WorkerExited,
    WorkerFailed,
    WorkerReady,
)
from batchr1.faults import fault_point
from batchr1.output.checkpoints import read_worker
from batchr1.output.folder import Output
from batchr1.output.parts import failures_table
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.seeds import derive_seed
from batchr1.storage.errors import set_leaving
from batchr1.storage.lock import Lock

log = logging.getLogger("batchr1.driver")

POLL_S = 0.2
LEASE_SIZE = 64
FAILED_PART_ROWS = 1000
GRACE_S = 20.0


@dataclass(slots=True)
class Tally:
    """What this run has committed, and what is under way. Tokens are generated ones."""

    done: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    truncated: int = 0
    correct: int = 0
    judged: int = 0
    carried: int = 0  # of tokens: saved by an earlier engine, not generated again
    discarded: int = 0  # tokens of attempts that were not kept, beside `tokens`
    spared: int = 0  # samples of rows of which enough are right
    dropped_tokens: int = 0  # generated of such samples before that was known
    parts: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    first_submit: float | None = None
    last_commit: float | None = None
    restarts: int = 0
    spent: Spent | None = None  # where a server does the work: all that it answered, kept or not

    def add(self, counts: PartCounts) -> None:
        self.done += counts.rows
        self.tokens += counts.tokens
        self.prompt_tokens += counts.prompt_tokens
        self.truncated += counts.truncated
        self.correct += counts.correct
        self.judged += counts.judged
        self.carried += counts.carried
        self.discarded += counts.discarded


class Driver:
    """One run, from the first lease to the last commit."""

    def __init__(
        self,
        *,
        output: Output,
        lock: Lock,
        executor: Executor,
        feeder: Feeder,
        replicas: Fleet,
        failed_every_s: float,
        should_stop: Callable[[], str | None],
        on_ready: Callable[[WorkerReady], None],
        on_progress: Callable[[Tally, list[Heartbeat]], None],
        grace_s: float | None = None,
        n: int = 1,
    ) -> None:
        self._n = n
        self._output = output
        self._lock = lock
        self._executor = executor
        self._feeder = feeder
        self._replicas = replicas
        self._failed_every_s = failed_every_s
        self._should_stop = should_stop
        self._on_ready = on_ready
        self._on_progress = on_progress
        self._again: deque[WorkItem] = deque()  # taken back from dead workers
        self._suspects = Quarantine()
        self._grace_s = grace_s
        self._failures: list[Failure] = []
        self._failed_at = time.monotonic()
        self._failed_parts = 0
        self._interrupted: str | None = None
        self._error: BatchError | None = None
        self._grace_ends = 0.0
        self.tally = Tally()
        self.loads: dict[
            tuple[int, int], EngineLoad
        ] = {}  # by worker and epoch: counts begin anew with each engine
        self.cpu_s = 0.0  # of this process, from the first lease to the end

    @property
    def lost(self) -> bool:
        """Whether the output is another run's by now: nothing may be written any more."""
        return self._lock.lost

    def run(self) -> None:
        """Work until everything is committed; a `StoppedError` when it ends earlier.

        What was staged is committed.
        """
        self._replicas.start()
        self._feeder.start()
        while self._replicas.live:
            for worker, message in self._executor.poll(POLL_S):
                self._handle(self._replicas[worker], message)
            self._look_for_stop()
            self._look_for_hung()
            self._lease()
            self._look_for_stall()
            self._look_for_orphans()
            self._look_for_room()
            self._write_failures()
            self.tally.spared = self._feeder.spared
            self._on_progress(
                self.tally, [r.progress for r in self._replicas.values() if r.progress]
            )
        if self.tally.first_submit is not None:
            self.cpu_s += time.process_time()
        self._failures += self._suspects.verdicts()
        self._write_failures(now=True)
        if self._error is not None:
            raise self._error
        if self._interrupted:
            raise InterruptedRun(self._interrupted)

    def _handle(self, replica: Replica, message: FromWorker) -> None:
        replica.heard_at = time.monotonic()
        match message:
            case WorkerReady():
                self._replicas.is_ready(replica, message)
                if replica.setup.remote is None:
                    self._on_ready(message)
            case FirstAnswer():
                if replica.ready is not None:
                    self._on_ready(replica.ready)
            case RequestStop(reason):
                if self._interrupted is None:
                    self._stop(reason)
            case RequestWork(count):
                replica.wanted += count
            case Heartbeat():
                replica.progress = message
                self.loads[replica.setup.worker, replica.setup.epoch] = message.load
                if message.spent is not None:
                    self.tally.spent = replica.spent = (
                        message.spent
                    )  # a server's work has one worker
            case SamplesFinished(keys, tokens):
                replica.in_flight.difference_update(keys)
                replica.deaths_for_nothing = 0
                for failure in self._suspects.generated(keys):
                    self._fail(failure)
                self._feeder.finished(keys, tokens)
            case SampleVerified(key, right):
                if self._feeder.judged(key, right=right):
                    self._call_back(key.id)
            case SamplesCancelled(keys, tokens):
                for key in keys:
                    del replica.leased[key]
                    replica.in_flight.discard(key)
                self._feeder.dropped(keys)
                self.tally.dropped_tokens += tokens
            case PartStaged():
                self._commit(replica, message)
            case SamplesFailed(failures):
                for failure in failures:
                    del replica.leased[failure.key]
                    replica.in_flight.discard(failure.key)
                    self._fail(failure)
            case WorkerEnded():
                self._replicas.end(replica)
            case WorkerFailed():
                error = error_of(message)
                if not isinstance(error, EngineError) and replica.ready:
                    raise error  # storage, most often: all are in the same trouble
                replica.fatal = (
                    message  # its death follows; then all that it printed is there to say why
                )
                log.error("worker %d: %s", replica.setup.worker, message.message)
            case WorkerExited():
                self._replace(replica, message)

    def _commit(self, replica: Replica, part: PartStaged) -> None:
        self._lock.check()
        fault_point("commit.checked")
        self._output.commit_part(part.name)
        fault_point("commit.done")
        self._executor.send(replica.setup.worker, SamplesCommitted(part.keys))
        for key in part.keys:
            del replica.leased[key]
        self._feeder.committed(part.keys)
        replica.deaths_in_a_row = 0
        self.tally.add(part.counts)
        self.tally.parts.append(part.name)
        self.tally.last_commit = time.monotonic()
        rows, tokens = part.counts.rows, part.counts.tokens
        said = event("part_committed", part=part.name, rows=rows, tokens=tokens)
        log.info("committed %s: %d rows, %d tokens", part.name, rows, tokens, extra=said)

    def _fail(self, failure: Failure) -> None:
        """A failed row counts when it is written: where the run ends before, the next one tries it
        again.
        """
        self._failures.append(failure)
        if self._feeder.judged(failure.key, right=False):
            self._call_back(failure.id)
        self._feeder.committed([failure.key])

    def _call_back(self, id: str) -> None:
        """Enough samples of a row are right: the others are not wanted, wherever they are."""
        for replica in self._replicas.live:
            keys = tuple(
                key
                for key in (SampleKey(id, s) for s in range(self._n))
                if key in replica.in_flight
            )
            if keys and replica.ready:
                self._executor.send(replica.setup.worker, CancelSamples(keys))
        self._again = self._wanted(self._again)

    def _wanted(self, items: Iterable[WorkItem]) -> deque[WorkItem]:
        """Those of rows that do not have enough right samples; the others are given up."""
        wanted, dropped = deque[WorkItem](), []
        for item in items:
            if self._n > 1 and self._feeder.has_enough(item.prompt.id):
                dropped.append(item.key)
            else:
                wanted.append(item)
        self._feeder.dropped(dropped)
        return wanted

    def _replace(self, replica: Replica, exited: WorkerExited) -> None:
        """A worker's process is gone: take its work back and start another one, unless it keeps
        dying.
        """
        if replica.ended:
            return
        had_work = bool(replica.in_flight)
        self._feeder.lost(replica.leased)
        back = self._with_saved(replica)
        problem = self._replicas.memory_problem(replica, exited)
        suspects = [
            item
            for item in back
            if item.key in replica.in_flight and not self._is_through(replica, item)
        ]
        if problem or exited.lost:
            suspects = []  # memory ran out, or a machine went: that is no row's doing
        quarantined = {item.key for item in suspects}
        again = [item for item in back if item.key not in quarantined]
        suspects = list(self._wanted(suspects))
        replica.release()
        try:
            if not self._interrupted:
                others = self._has_others(replica)
                again += self._suspects.exited(suspects, worker=replica.setup.worker, others=others)
        except EngineError as exc:  # whatever is run, wherever it is run
            replica.ended, self._error = True, exc
            self._stop(str(exc))
        self._again.extendleft(reversed(self._wanted(again)))
        if self._interrupted:
            replica.ended = True
            return
        try:
            self._replicas.replace(replica, exited, problem, had_work=had_work)
            self.tally.restarts += 1
        except BatchError as exc:
            self._give_up(replica, exc)

    @staticmethod
    def _is_through(replica: Replica, item: WorkItem) -> bool:
        """Whether it was generated; where it may have been tried again since, that is not known."""
        is_saved_whole = item.partial is not None and item.partial.finish_reason is not None
        return is_saved_whole and not replica.setup.retry_on

    def _give_up(self, replica: Replica, error: BatchError) -> None:
        """It gets no successor.

        Its work goes to the others; where there is none, the run ends with its error.
        """
        self._replicas.give_up(replica, error)
        is_done = self._replicas.ready and not self._is_pending()
        if not self._replicas.live and not is_done and not self._replicas.revive():
            self._error = error
            self._stop(str(error))

    def _is_pending(self) -> bool:
        """Whether there is work that nobody has."""
        return bool(self._again or self._suspects or not self._feeder.ended)

    def _look_for_orphans(self) -> None:
        """Work came back when all other replicas had ended: one of them starts again."""
        if self._is_pending() and not self._interrupted and not self._replicas.live:
            self._replicas.revive()

    def _look_for_stall(self) -> None:
        """Rows that were blamed wait for another to come through.

        Where all others wait for them, they are believed.
        """
        is_idle = not (
            self._again or self._suspects or any(replica.in_flight for replica in self._replicas)
        )
        if is_idle and self._feeder.stalls:
            for failure in self._suspects.verdicts():
                self._fail(failure)

    def _look_for_room(self) -> None:
        """More machines are of use as long as something is not leased; none at all, and the run
        cannot go on.
        """
        if self._interrupted:
            return
        if self._is_pending():
            self._replicas.join()
        self._replicas.check_placed()

    def _with_saved(self, replica: Replica) -> list[WorkItem]:
        """The work of a worker that is gone, with what it saved last."""
        setup, items = replica.setup, list(replica.leased.values())
        if setup.checkpoint is None or not items:
            return items
        saved = read_worker(
            setup.storage, setup.run, setup.worker, setup.epoch, job=setup.checkpoint.job
        )
        back = []
        for item in items:
            one = saved.get(item.key)
            if one is not None and one.prompt_hash == item.prompt.digest:
                seed = derive_seed(setup.seed, item.prompt.id, item.sample, one.attempt)
                item = dataclasses.replace(
                    item, partial=one.partial(), attempt=one.attempt, seed=seed
                )
            back.append(item)
        return back

    def _lease(self) -> None:
        """Give to those who asked, a little to each in turn; tell them to end when there is nothing
        more to give.
        """
        if self._interrupted:
            return
        self._lease_suspects()
        requesting = [
            r
            for r in self._replicas.values()
            if r.wanted > 0 and not r.told_to_end and not r.quarantined
        ]
        is_short = bool(requesting) and self._runs_short()
        while requesting:
            given = False
            for replica in requesting:
                # What one keeps in hand at the end, another may be idle for.
                room = (
                    replica.setup.max_num_seqs - len(replica.in_flight) if is_short else LEASE_SIZE
                )
                items = self._take(
                    replica.setup.worker, max(0, min(replica.wanted, LEASE_SIZE, room))
                )
                if items:
                    given = True
                    self._give(replica, items)
                    if self.tally.first_submit is None:
                        self.tally.first_submit = time.monotonic()
                        self.cpu_s = -time.process_time()
            requesting = [r for r in requesting if r.wanted > 0] if given else []
        if not self._is_pending():
            for replica in self._replicas.values():
                if replica.told_to_end or replica.ended:
                    continue
                if replica.ready is None and self._replicas.ready:  # it would load for nothing
                    self._replicas.dismiss(replica)
                    continue
                replica.told_to_end = True
                self._executor.send(replica.setup.worker, Drain())

    def _runs_short(self) -> bool:
        """Whether what is left is less than what the replicas would take into their own hands."""
        live = [replica for replica in self._replicas.live if replica.ready]
        few = sum(replica.setup.max_num_seqs for replica in live) // 2
        return len(live) > 1 and self._feeder.has_few_left(few - len(self._again))

    def _give(self, replica: Replica, items: list[WorkItem]) -> None:
        replica.wanted -= len(items)
        replica.leased |= {item.key: item for item in items}
        replica.in_flight |= {item.key for item in items}
        self._executor.send(replica.setup.worker, Lease(tuple(items)))

    def _lease_suspects(self) -> None:
        """Rows that may kill engines: a group at a time, to a worker that has nothing else in its
        engine.
        """
        if not self._suspects:
            for replica in self._replicas.values():
                replica.quarantined = replica.quarantined and bool(replica.in_flight)
            return
        for replica in self._replicas.live:
            if replica.ready and not replica.told_to_end and not replica.in_flight:
                group: list[WorkItem] = []
                if replica.wanted > 0:
                    group = self._suspects.next_group(
                        replica.setup.worker, others=self._has_others(replica)
                    )
                replica.quarantined = bool(group)
                if group:
                    self._give(replica, group)

    def _has_others(self, replica: Replica) -> bool:
        return any(other.ready and other is not replica for other in self._replicas.live)

    def _take(self, worker: int, count: int) -> list[WorkItem]:
        items: list[WorkItem] = []
        while self._again and len(items) < count:
            items.append(self._again.popleft())
        while len(items) < count and (fresh := self._feeder.take(worker, count - len(items))):
            for item in fresh:
                if isinstance(item, Failure):
                    self._fail(item)
                else:
                    items.append(item)
        return items

    def _look_for_stop(self) -> None:
        if self._interrupted and time.monotonic() > self._grace_ends:
            for replica in self._replicas.values():
                self._executor.kill(replica.setup.worker)
                self._feeder.lost(replica.leased)
                replica.ended = True
        if self._interrupted is None and (reason := self._should_stop()):
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Tell all replicas to save what they have and leave, within the time of grace."""
        self._interrupted = reason
        self._grace_ends = time.monotonic() + (GRACE_S if self._grace_s is None else self._grace_s)
        log.warning("stopping: %s", reason, extra=event("run_stopping", reason=reason))
        self._feeder.close()
        for replica in self._replicas.values():
            if replica.ended:
                continue
            if replica.ready is None:  # still loading: there is nothing to wait for
                self._executor.kill(replica.setup.worker)
                replica.ended = True
            else:
                self._executor.send(replica.setup.worker, Stop())

    def release(self) -> None:
        """After an error that ended `run`: workers save what they have, and what they stage is committed, if it can be.

        Nothing to do when they have ended, or when the output is another run's.
        """
        busy = [
            r
            for r in self._replicas.values()
            if r.ready is not None and r.fatal is None and not r.ended
        ]
        if self.lost or not busy:
            return
        set_leaving(True)
        if self._interrupted is None:
            self._stop("the run cannot go on")
        while not all(r.ended for r in busy) and time.monotonic() < self._grace_ends:
            for worker, message in self._executor.poll(POLL_S):
                replica = self._replicas[worker]
                replica.ended |= isinstance(message, WorkerEnded | WorkerFailed | WorkerExited)
                if isinstance(message, PartStaged):
                    try:
                        self._commit(replica, message)
                    except StorageError as exc:  # its rows are in the snapshot
                        log.warning("%s: not committed: %s", message.name, exc)

    def _look_for_hung(self) -> None:
        """Replace a worker that lives and says nothing."""
        for replica in self._replicas.hung():
            self._replace(replica, self._executor.kill(replica.setup.worker))

    def _write_failures(self, *, now: bool = False) -> None:
        due = time.monotonic() - self._failed_at >= self._failed_every_s
        if self._failures and (now or due or len(self._failures) >= FAILED_PART_ROWS):
            run = next(iter(self._replicas.values())).setup.run
            self._failed_parts += 1
            self._lock.check()
            table = failures_table(self._failures, run=run, failed_at=dt.datetime.now(dt.UTC))
            self._output.commit_failed(table, f"part-{run}-failed-{self._failed_parts:05d}.parquet")
            reasons = Counter(failure.reason for failure in self._failures)
            self.tally.failed += reasons.total()
            for reason, count in reasons.items():
                self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + count
            said = event("rows_failed", rows=reasons.total(), reasons=dict(reasons))
            log.info("%d rows failed: %s", reasons.total(), ", ".join(sorted(reasons)), extra=said)
            self._failures = []
            self._failed_at = time.monotonic()
