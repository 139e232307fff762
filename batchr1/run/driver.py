"""The driver: leases work to workers, commits what they stage, and knows at any time what is whose.

It holds the output's lock, the work items that are leased and not committed yet, and counts; never results. The loop
waits for messages from workers; everything else (reading, rendering, generating, writing) happens elsewhere.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from batchr1 import errors
from batchr1.data.journal import read_worker
from batchr1.data.lock import Lock
from batchr1.data.output import Output
from batchr1.data.sink import failures_table
from batchr1.engine.protocol import EngineLoad
from batchr1.errors import BatchError, EngineError, InterruptedRun
from batchr1.faults import fault_point
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.run import step_down
from batchr1.run.feeder import Feeder
from batchr1.run.messages import (
    Committed,
    Died,
    Ended,
    Fatal,
    Finish,
    FromWorker,
    Generated,
    Lease,
    PartCounts,
    Progress,
    Ready,
    Refused,
    Staged,
    Stop,
    ToWorker,
    Want,
    WorkerSetup,
)
from batchr1.run.seeds import derive_seed
from batchr1.run.suspects import Suspects
from batchr1.sizing.stepdown import MemoryProblem, problem_in

log = logging.getLogger("batchr1.driver")

POLL_S = 0.2
LEASE_SIZE = 64
FAILED_PART_ROWS = 1000
MAX_DEATHS_IN_A_ROW = 3  # of a worker that had nothing in its engine: no row is to blame
MAX_DEATHS_AT_WORK = 30  # of one that had, and finished no part meanwhile: rows that kill it are sought so long
GRACE_S = 20.0
HANG_S = 600.0  # a worker that was ready and has said nothing for so long is taken for hung
LEAVE_S = 30.0  # and one that said that it cannot go on, for one that cannot leave either


class Executor(Protocol):
    """Where workers live. `poll` reports every death as `Died`."""

    def start(self, setup: WorkerSetup) -> None: ...

    def send(self, worker: int, message: ToWorker) -> None: ...

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]: ...

    def kill(self, worker: int) -> Died: ...

    def close(self) -> None: ...


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
    parts: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    first_submit: float | None = None
    last_commit: float | None = None
    restarts: int = 0

    def add(self, counts: PartCounts) -> None:
        self.done += counts.rows
        self.tokens += counts.tokens
        self.prompt_tokens += counts.prompt_tokens
        self.truncated += counts.truncated
        self.correct += counts.correct
        self.judged += counts.judged
        self.carried += counts.carried


@dataclass(slots=True)
class _Replica:
    """The driver's view of one worker."""

    setup: WorkerSetup
    leased: dict[SampleKey, WorkItem] = field(default_factory=dict)
    in_flight: set[SampleKey] = field(default_factory=set)  # leased, and not known to be generated
    apart: bool = False  # it runs suspects, and nothing else
    wanted: int = 0
    told_to_end: bool = False
    ended: bool = False
    deaths_in_a_row: int = 0
    ready: Ready | None = None
    fatal: Fatal | None = None
    heard_at: float = 0.0
    progress: Progress | None = None


class Driver:
    """One run, from the first lease to the last commit."""

    def __init__(
        self,
        *,
        output: Output,
        lock: Lock,
        executor: Executor,
        feeder: Feeder,
        setups: list[WorkerSetup],
        failed_every_s: float,
        should_stop: Callable[[], str | None],
        on_ready: Callable[[Ready], None],
        on_progress: Callable[[Tally, list[Progress]], None],
        grace_s: float | None = None,
    ) -> None:
        self._output = output
        self._lock = lock
        self._executor = executor
        self._feeder = feeder
        self._replicas = {setup.worker: _Replica(setup) for setup in setups}
        self._failed_every_s = failed_every_s
        self._should_stop = should_stop
        self._on_ready = on_ready
        self._on_progress = on_progress
        self._again: deque[WorkItem] = deque()  # taken back from dead workers
        self._suspects = Suspects()
        self._grace_s = grace_s
        self._failures: list[Failure] = []
        self._failed_at = time.monotonic()
        self._failed_parts = 0
        self._interrupted: str | None = None
        self._error: EngineError | None = None
        self._grace_ends = 0.0
        self.tally = Tally()
        self.ready: dict[int, Ready] = {}
        self.loads: dict[tuple[int, int], EngineLoad] = {}  # by worker and epoch: counts begin anew with each engine
        self.rungs: list[step_down.RungTaken] = []
        self._started = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether the output is another run's by now: nothing may be written any more."""
        return self._lock.lost

    def run(self) -> None:
        """Work until everything is committed; a `StoppedError` when it ends earlier. What was staged is committed."""
        for replica in self._replicas.values():
            self._executor.start(replica.setup)
        self._feeder.start()
        while not all(r.ended for r in self._replicas.values()):
            for worker, message in self._executor.poll(POLL_S):
                self._handle(self._replicas[worker], message)
            self._look_for_stop()
            self._look_for_hung()
            self._lease()
            self._write_failures()
            self._on_progress(self.tally, [r.progress for r in self._replicas.values() if r.progress])
        self._failures += self._suspects.verdicts()
        self._write_failures(now=True)
        if self._error is not None:
            raise self._error
        if self._interrupted:
            raise InterruptedRun(self._interrupted)

    def _handle(self, replica: _Replica, message: FromWorker) -> None:
        replica.heard_at = time.monotonic()
        match message:
            case Ready():
                replica.ready = self.ready[replica.setup.worker] = message
                self._on_ready(message)
            case Want(count):
                replica.wanted += count
            case Progress():
                replica.progress = message
                self.loads[replica.setup.worker, replica.setup.epoch] = message.load
            case Generated(keys, tokens):
                replica.in_flight.difference_update(keys)
                self._failures += self._suspects.generated(keys)
                self._feeder.finished(keys, tokens)
            case Staged():
                self._commit(replica, message)
            case Refused(failures):
                for failure in failures:
                    del replica.leased[failure.key]
                    replica.in_flight.discard(failure.key)
                    self._fail(failure)
            case Ended():
                replica.ended = True
            case Fatal():
                error = _error(message)
                if not isinstance(error, EngineError):
                    raise error
                replica.fatal = message  # its death follows; then all that it printed is there to say why
                log.error("worker %d: %s", replica.setup.worker, message.message)
            case Died():
                self._replace(replica, message)

    def _commit(self, replica: _Replica, part: Staged) -> None:
        self._lock.check()
        fault_point("commit.checked")
        self._output.commit_part(part.name)
        fault_point("commit.done")
        self._executor.send(replica.setup.worker, Committed(part.keys))
        for key in part.keys:
            del replica.leased[key]
        replica.deaths_in_a_row = 0
        self.tally.add(part.counts)
        self.tally.parts.append(part.name)
        self.tally.last_commit = time.monotonic()
        log.info("committed %s: %d rows, %d tokens", part.name, part.counts.rows, part.counts.tokens)

    def _fail(self, failure: Failure) -> None:
        """A failed row counts when it is written: where the run ends before, the next one tries it again."""
        self._failures.append(failure)

    def _replace(self, replica: _Replica, died: Died) -> None:
        """A worker's process is gone: take its work back and start another one, unless it keeps dying."""
        if replica.ended:
            return
        had_work = bool(replica.in_flight)
        back = self._with_saved(replica)
        problem = replica.fatal.problem if replica.fatal else None
        problem = problem or problem_in(died.last_lines, running=replica.ready is not None)
        suspects = [item for item in back if item.key in replica.in_flight and not _is_generated(item)]
        if problem:
            suspects = []  # memory ran out: that is the batch's doing
        apart = {item.key for item in suspects}
        again = [item for item in back if item.key not in apart]
        if not self._interrupted:
            again += self._suspects.died(suspects)
        self._again.extendleft(reversed(again))
        replica.leased, replica.in_flight, replica.apart = {}, set(), False
        replica.wanted = 0
        replica.progress = None
        if self._interrupted:
            replica.ended = True
            return
        try:
            if problem:
                self._step_down(replica, problem)
            elif replica.fatal and replica.ready is None:
                raise _error(replica.fatal)
            else:
                self._count_death(replica, died.exit_code, rows=len(suspects), had_work=had_work)
        except EngineError as exc:
            self._give_up(replica, exc)
            return
        self.tally.restarts += 1
        pause_s = step_down.RELEASE_S if replica.setup.engine.device == "cuda" else 0.0
        replica.setup = dataclasses.replace(replica.setup, epoch=replica.setup.epoch + 1, pause_s=pause_s)
        replica.told_to_end = False
        replica.ready = replica.fatal = None
        self._executor.start(replica.setup)

    def _give_up(self, replica: _Replica, error: EngineError) -> None:
        """This replica has no engine any more: the run ends with its error once the others have saved their work."""
        replica.ended = True
        self._error = error
        self._stop(str(error))

    def _step_down(self, replica: _Replica, problem: MemoryProblem) -> None:
        """Out of memory is no death like others: the next engine asks for less, and no row is to blame."""
        worker = replica.setup.worker
        taken = [rung.rung for rung in self.rungs if rung.worker == worker]
        replica.setup, rung = step_down.step_down(replica.setup, problem, taken=taken)
        at_s = round(time.monotonic() - self._started, 1)
        self.rungs.append(step_down.RungTaken(worker, rung.name, rung.changes, rung.reason, at_s))

    def _count_death(self, replica: _Replica, exit_code: int | None, *, rows: int, had_work: bool) -> None:
        replica.deaths_in_a_row += 1
        worker = replica.setup.worker
        log.warning("worker %d died (exit code %s) with %d rows in flight, %d times in a row",
                    worker, exit_code, rows, replica.deaths_in_a_row)  # fmt: skip
        limit = MAX_DEATHS_AT_WORK if had_work else MAX_DEATHS_IN_A_ROW
        if replica.deaths_in_a_row >= limit:
            raise EngineError(
                f"worker {worker}: died {replica.deaths_in_a_row} times without finishing a part "
                f"(exit code {exit_code}). "
                "The run's log says more; committed rows are safe, and the same command goes on."
            )

    def _with_saved(self, replica: _Replica) -> list[WorkItem]:
        """The work of a worker that is gone, with what it saved last."""
        setup, items = replica.setup, list(replica.leased.values())
        if setup.checkpoint is None or not items:
            return items
        saved = read_worker(setup.storage, setup.run, setup.worker, setup.epoch, job=setup.checkpoint.job)
        back = []
        for item in items:
            one = saved.get(item.key)
            if one is not None and one.prompt_hash == item.prompt.digest:
                seed = derive_seed(setup.seed, item.prompt.id, item.sample, one.attempt)
                item = dataclasses.replace(item, partial=one.partial(), attempt=one.attempt, seed=seed)
            back.append(item)
        return back

    def _lease(self) -> None:
        """Give to those who asked, a little to each in turn; tell them to end when there is nothing more to give."""
        if self._interrupted:
            return
        self._lease_suspects()
        hungry = [r for r in self._replicas.values() if r.wanted > 0 and not r.told_to_end and not r.apart]
        while hungry:
            given = False
            for replica in hungry:
                items = self._take(replica.setup.worker, min(replica.wanted, LEASE_SIZE))
                if items:
                    given = True
                    self._give(replica, items)
                    self.tally.first_submit = self.tally.first_submit or time.monotonic()
            hungry = [r for r in hungry if r.wanted > 0] if given else []
        if self._feeder.ended and not self._again and not self._suspects:
            for replica in self._replicas.values():
                if not replica.told_to_end and not replica.ended:
                    replica.told_to_end = True
                    self._executor.send(replica.setup.worker, Finish())

    def _give(self, replica: _Replica, items: list[WorkItem]) -> None:
        replica.wanted -= len(items)
        replica.leased |= {item.key: item for item in items}
        replica.in_flight |= {item.key for item in items}
        self._executor.send(replica.setup.worker, Lease(tuple(items)))

    def _lease_suspects(self) -> None:
        """Rows that may kill engines: a group at a time, to a worker that has nothing else in its engine."""
        for replica in self._replicas.values():
            if replica.ready and not replica.ended and not replica.told_to_end and not replica.in_flight:
                replica.apart = bool(self._suspects)
                if replica.apart and replica.wanted > 0:
                    self._give(replica, self._suspects.next_group())

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
                replica.ended = True
        if self._interrupted is None and (reason := self._should_stop()):
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Tell all replicas to save what they have and leave, within the time of grace."""
        self._interrupted = reason
        self._grace_ends = time.monotonic() + (GRACE_S if self._grace_s is None else self._grace_s)
        log.warning("stopping: %s", reason)
        self._feeder.close()
        for replica in self._replicas.values():
            if replica.ended:
                continue
            if replica.ready is None:  # still loading: there is nothing to wait for
                self._executor.kill(replica.setup.worker)
                replica.ended = True
            else:
                self._executor.send(replica.setup.worker, Stop())

    def _look_for_hung(self) -> None:
        """Replace a worker whose engine does not come back from a step: it reports twice a second while it lives."""
        for replica in self._replicas.values():
            limit_s = LEAVE_S if replica.fatal else HANG_S
            spoke = replica.ready or replica.fatal
            if spoke and not replica.ended and time.monotonic() - replica.heard_at > limit_s:
                log.error("worker %d said nothing for %.0f s: killed", replica.setup.worker, limit_s)
                self._replace(replica, self._executor.kill(replica.setup.worker))

    def _write_failures(self, *, now: bool = False) -> None:
        due = time.monotonic() - self._failed_at >= self._failed_every_s
        if self._failures and (now or due or len(self._failures) >= FAILED_PART_ROWS):
            run = next(iter(self._replicas.values())).setup.run
            self._failed_parts += 1
            self._lock.check()
            table = failures_table(self._failures, run=run, failed_at=dt.datetime.now(dt.UTC))
            self._output.commit_failed(table, f"part-{run}-failed-{self._failed_parts:05d}.parquet")
            for failure in self._failures:
                self.tally.failed += 1
                self.tally.reasons[failure.reason] = self.tally.reasons.get(failure.reason, 0) + 1
            self._failures = []
            self._failed_at = time.monotonic()


def _is_generated(item: WorkItem) -> bool:
    return item.partial is not None and item.partial.finish_reason is not None


def _error(fatal: Fatal) -> BatchError:
    """The exception that a worker's `Fatal` stands for."""
    found = getattr(errors, fatal.kind, EngineError)
    is_ours = isinstance(found, type) and issubclass(found, BatchError)
    return found(fatal.message) if is_ours else EngineError(fatal.message)
