"""The driver: leases work to workers and commits what they stage.

It knows which worker has what. It holds the output's lock, the leased work items that are not
committed yet, and counts; never results. The loop waits for messages from workers. Everything else
(reading, rendering, generating, writing) happens elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from batchr1.backends.base import backend_of
from batchr1.driver.commits import Commits
from batchr1.driver.feed.feeder import Feeder
from batchr1.driver.fleet import Fleet, Replica, error_of
from batchr1.driver.leases import Leases, with_checkpoints
from batchr1.driver.signals import GRACE_S
from batchr1.driver.tally import Tally
from batchr1.engine.protocol import EngineLoad
from batchr1.errors import BatchError, EngineError, InterruptedRun, StorageError
from batchr1.events import event
from batchr1.executors.base import Executor
from batchr1.executors.messages import (
    FirstAnswer,
    FromWorker,
    Heartbeat,
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
from batchr1.records import Failure, WorkItem
from batchr1.storage.errors import set_leaving

log = logging.getLogger("batchr1.driver")

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Calls of the driver to its run.

    `should_stop` gives what interrupts the run, or None.
    """

    should_stop: Callable[[], InterruptedRun | None]
    on_ready: Callable[[WorkerReady], None]
    on_progress: Callable[[Tally, list[Heartbeat]], None]


class Driver:
    """One run, from the first lease to the last commit.

    `grace_s`: seconds for saving and committing after a stop; None: GRACE_S. `n`: samples of a row.
    """

    def __init__(
        self,
        *,
        commits: Commits,
        executor: Executor,
        feeder: Feeder,
        replicas: Fleet,
        hooks: RunHooks,
        grace_s: float | None = None,
        n: int = 1,
    ) -> None:
        self._commits, self._executor, self._feeder = commits, executor, feeder
        self._replicas, self._hooks, self._grace_s = replicas, hooks, grace_s
        self.tally = commits.tally
        self._leases = Leases(executor, feeder, replicas, self.tally, fail=self._fail, n=n)
        self._quarantine = self._leases.quarantine
        self._interrupted: str | None = None
        self._error: BatchError | None = None
        self._grace_ends = 0.0
        # By worker and epoch: counts begin anew with each engine.
        self.loads: dict[tuple[int, int], EngineLoad] = {}
        self.cpu_s = 0.0  # of this process, from the first lease to the end

    @property
    def lost(self) -> bool:
        """Whether another run has the output: nothing may be written then."""
        return self._commits.lost

    def run(self) -> None:
        """Work until everything is committed; raises `StoppedError` when it ends earlier.

        What was staged is committed.
        """
        self._replicas.start()
        self._feeder.start()
        while self._replicas.live:
            for worker, message in self._executor.poll(POLL_S):
                self._handle(self._replicas[worker], message)
            self._look_for_stop()
            self._look_for_hung()
            if not self._interrupted:
                self._leases.lease()
            self._look_for_stall()
            self._look_for_orphans()
            self._look_for_room()
            self._commits.write_failures()
            self.tally.spared = self._feeder.spared
            heartbeats = [r.progress for r in self._replicas.values() if r.progress]
            self._hooks.on_progress(self.tally, heartbeats)
        if self.tally.first_submit is not None:
            self.cpu_s = time.process_time() - self._leases.cpu_began
        self._commits.add_failures(self._quarantine.verdicts())
        self._commits.write_failures(now=True)
        if self._error is not None:
            raise self._error

    def _handle(self, replica: Replica, message: FromWorker) -> None:
        """Follow a message of a worker."""
        replica.heard_at = time.monotonic()
        match message:
            case WorkerReady():
                self._replicas.is_ready(replica, message)
                if not backend_of(replica.setup.spec).is_server:
                    self._hooks.on_ready(message)
            case FirstAnswer():
                if replica.ready is not None:
                    self._hooks.on_ready(replica.ready)
            case RequestStop(reason):
                if self._interrupted is None:
                    self._interrupt(InterruptedRun(reason, cause="server"))
            case RequestWork(count):
                replica.wanted += count
            case Heartbeat():
                replica.progress = message
                self.loads[replica.worker, replica.setup.assignment.epoch] = message.load
                if message.spent is not None:
                    # The work of a server has one worker.
                    self.tally.spent = replica.spent = message.spent
            case SamplesFinished(keys, tokens):
                replica.in_flight.difference_update(keys)
                replica.deaths_for_nothing = 0
                for failure in self._quarantine.generated(keys):
                    self._fail(failure)
                self._feeder.finished(keys, tokens)
            case SampleVerified(key, right):
                if self._feeder.judged(key, right=right):
                    self._leases.cancel_others(key.id)
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
                # Its death follows; then all that it printed is there to say why.
                replica.fatal = message
                log.error("worker %d: %s", replica.setup.worker, message.message)
            case WorkerExited():
                self._replace(replica, message)

    def _commit(self, replica: Replica, part: PartStaged) -> None:
        self._commits.commit(part)
        self._executor.send(replica.setup.worker, SamplesCommitted(part.keys))
        for key in part.keys:
            del replica.leased[key]
        self._feeder.committed(part.keys)
        replica.deaths_in_a_row = 0

    def _fail(self, failure: Failure) -> None:
        """Take a row as failed, and so as settled."""
        self._commits.add_failures([failure])
        if self._feeder.judged(failure.key, right=False):
            self._leases.cancel_others(failure.id)
        self._feeder.committed([failure.key])

    def _replace(self, replica: Replica, exited: WorkerExited) -> None:
        """Take back a dead worker's work, and start its successor.

        A worker that keeps dying gets none.
        """
        if replica.ended:
            return
        had_work = bool(replica.in_flight)
        self._feeder.lost(replica.leased)
        back = with_checkpoints(replica)
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
        suspects = list(self._leases.wanted(suspects))
        replica.release()
        try:
            if not self._interrupted:
                others = self._leases.has_others(replica)
                again += self._quarantine.exited(
                    suspects, worker=replica.setup.worker, others=others
                )
        except EngineError as exc:  # whatever is run, wherever it is run
            replica.ended = True
            self._interrupt(exc)
        self._leases.take_back(again)
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
        """Whether a sample was generated.

        Not known where it may have been tried again since.
        """
        is_saved_whole = item.partial is not None and item.partial.finish_reason is not None
        return is_saved_whole and not replica.setup.spec.retry.on

    def _give_up(self, replica: Replica, error: BatchError) -> None:
        """Leave a replica without successor, and its work to the others.

        Where there is no other, the run ends with its error.
        """
        self._replicas.give_up(replica, error)
        is_done = self._replicas.ready and not self._leases.is_pending()
        if not self._replicas.live and not is_done and not self._replicas.revive():
            self._interrupt(error)

    def _look_for_orphans(self) -> None:
        """Start a replica again when work came back after all had ended."""
        if self._leases.is_pending() and not self._interrupted and not self._replicas.live:
            self._replicas.revive()

    def _look_for_stall(self) -> None:
        """Fail rows in quarantine where nothing else is left to clear them.

        A blamed row waits for another to come through; here all others wait for it.
        """
        if self._leases.is_idle() and self._feeder.stalls:
            for failure in self._quarantine.verdicts():
                self._fail(failure)

    def _look_for_room(self) -> None:
        """Let replicas join on new machines.

        Raises `EngineError` when for long no replica has a machine.
        """
        if self._interrupted:
            return
        if self._leases.is_pending():
            self._replicas.join()
        self._replicas.check_placed()

    def _look_for_stop(self) -> None:
        if self._interrupted and time.monotonic() > self._grace_ends:
            for replica in self._replicas.values():
                self._executor.kill(replica.setup.worker)
                self._feeder.lost(replica.leased)
                replica.ended = True
        if self._interrupted is None and (interruption := self._hooks.should_stop()):
            self._interrupt(interruption)

    def _interrupt(self, error: BatchError) -> None:
        """End the run with an error, once all replicas have saved."""
        self._error = error
        self._stop(str(error))

    def _stop(self, reason: str) -> None:
        """Let all replicas save and leave, within the time of grace."""
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
        """Let workers save and stage, after an error that ended `run`.

        What they stage is committed, if it can be. Nothing to do when they have ended, or when the
        output is another run's.
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
                    except StorageError as exc:  # its rows are in a checkpoint
                        log.warning("%s: not committed: %s", message.name, exc)

    def _look_for_hung(self) -> None:
        """Replace a worker that lives and says nothing."""
        for replica in self._replicas.hung():
            self._replace(replica, self._executor.kill(replica.setup.worker))
