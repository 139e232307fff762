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
from batchr1.data.lock import Lock
from batchr1.data.output import Output
from batchr1.data.sink import failures_table
from batchr1.errors import BatchError, EngineError, InterruptedRun
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.run import step_down
from batchr1.run.feeder import Feeder
from batchr1.run.messages import (
    Died,
    Ended,
    Fatal,
    Finish,
    FromWorker,
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
from batchr1.sizing.stepdown import MemoryProblem, problem_in

log = logging.getLogger("batchr1.driver")

POLL_S = 0.2
LEASE_SIZE = 64
FAILED_PART_ROWS = 1000
MAX_DEATHS_IN_A_ROW = 3
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


@dataclass(slots=True)
class _Replica:
    """The driver's view of one worker."""

    setup: WorkerSetup
    leased: dict[SampleKey, WorkItem] = field(default_factory=dict)
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
        self._failures: list[Failure] = []
        self._failed_at = time.monotonic()
        self._failed_parts = 0
        self._interrupted: str | None = None
        self._grace_ends = 0.0
        self.tally = Tally()
        self.ready: dict[int, Ready] = {}
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
        self._write_failures(now=True)
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
            case Staged():
                self._commit(replica, message)
            case Refused(failures):
                for failure in failures:
                    del replica.leased[failure.key]
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
        self._output.commit_part(part.name)
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
        self._again.extendleft(reversed(replica.leased.values()))
        replica.leased = {}
        replica.wanted = 0
        replica.progress = None
        if self._interrupted:
            replica.ended = True
            return
        problem = replica.fatal.problem if replica.fatal else None
        if problem := problem or problem_in(died.last_lines, running=replica.ready is not None):
            self._step_down(replica, problem)
        elif replica.fatal and replica.ready is None:
            raise _error(replica.fatal)
        else:
            self._count_death(replica, died.exit_code)
        self.tally.restarts += 1
        pause_s = step_down.RELEASE_S if replica.setup.engine.device == "cuda" else 0.0
        replica.setup = dataclasses.replace(replica.setup, epoch=replica.setup.epoch + 1, pause_s=pause_s)
        replica.told_to_end = False
        replica.ready = replica.fatal = None
        self._executor.start(replica.setup)

    def _step_down(self, replica: _Replica, problem: MemoryProblem) -> None:
        """Out of memory is no death like others: the next engine asks for less."""
        worker = replica.setup.worker
        taken = [rung.rung for rung in self.rungs if rung.worker == worker]
        replica.setup, rung = step_down.step_down(replica.setup, problem, taken=taken)
        at_s = round(time.monotonic() - self._started, 1)
        self.rungs.append(step_down.RungTaken(worker, rung.name, rung.changes, rung.reason, at_s))

    def _count_death(self, replica: _Replica, exit_code: int | None) -> None:
        replica.deaths_in_a_row += 1
        worker = replica.setup.worker
        log.warning("worker %d died (exit code %s), %d times in a row", worker, exit_code, replica.deaths_in_a_row)
        if replica.deaths_in_a_row >= MAX_DEATHS_IN_A_ROW:
            raise EngineError(
                f"worker {worker}: died {replica.deaths_in_a_row} times without finishing a part "
                f"(exit code {exit_code}). "
                "The run's log says more; committed rows are safe, and the same command goes on."
            )

    def _lease(self) -> None:
        """Give to those who asked, a little to each in turn; tell them to end when there is nothing more to give."""
        if self._interrupted:
            return
        hungry = [r for r in self._replicas.values() if r.wanted > 0 and not r.told_to_end]
        while hungry:
            given = False
            for replica in hungry:
                items = self._take(min(replica.wanted, LEASE_SIZE))
                if items:
                    given = True
                    replica.wanted -= len(items)
                    replica.leased |= {item.key: item for item in items}
                    self._executor.send(replica.setup.worker, Lease(tuple(items)))
                    self.tally.first_submit = self.tally.first_submit or time.monotonic()
            hungry = [r for r in hungry if r.wanted > 0] if given else []
        if self._feeder.ended and not self._again:
            for replica in self._replicas.values():
                if not replica.told_to_end and not replica.ended:
                    replica.told_to_end = True
                    self._executor.send(replica.setup.worker, Finish())

    def _take(self, count: int) -> list[WorkItem]:
        items: list[WorkItem] = []
        while self._again and len(items) < count:
            items.append(self._again.popleft())
        while len(items) < count and (fresh := self._feeder.take(count - len(items))):
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
            self._interrupted = reason
            self._grace_ends = time.monotonic() + GRACE_S
            log.warning("stopping: %s", reason)
            self._feeder.close()
            for replica in self._replicas.values():
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


def _error(fatal: Fatal) -> BatchError:
    """The exception that a worker's `Fatal` stands for."""
    found = getattr(errors, fatal.kind, EngineError)
    is_ours = isinstance(found, type) and issubclass(found, BatchError)
    return found(fatal.message) if is_ours else EngineError(fatal.message)
