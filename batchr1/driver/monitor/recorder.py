"""The record of a run with work, from begin to end."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace

from batchr1.backends.base import backend_of
from batchr1.dataset.pending import Counts
from batchr1.driver.context import RunContext
from batchr1.driver.driver import Driver
from batchr1.driver.fleet import Fleet
from batchr1.driver.monitor.cost import spend_record, spent_before
from batchr1.driver.monitor.summary import exit_code_of, initial_record, now_text
from batchr1.driver.monitor.timeline import Timeline
from batchr1.driver.tally import Tally
from batchr1.engine.openai.server import Spent
from batchr1.engine.protocol import EngineLoad
from batchr1.errors import BatchError, StoppedError, StorageError
from batchr1.executors.messages import Heartbeat, WorkerReady
from batchr1.output.checkpoints import FoundCheckpoints
from batchr1.output.run_record import (
    CountsRecord,
    EngineRecord,
    FigureRecord,
    LoadRecord,
    PlanRecord,
    ReplicaEventRecord,
    ReplicasRecord,
    RungRecord,
    SpentRecord,
    TakenOverRecord,
    TallyRecord,
    TimelineRecord,
)
from batchr1.sizing.plan import Plan

log = logging.getLogger("batchr1.run")

RECORD_EVERY_S = 60.0  # for reports on a run under way, and on one that was killed
_NOT_TALLIED = {"first_submit", "last_commit", "spent"}  # clock readings; spending has its own key


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run, in figures.

    `counts` are of the whole input; `tokens_per_s` is while generating.
    """

    counts: Counts
    exit_code: int
    stopped: str | None
    wall_s: float
    generating_s: float
    tokens_per_s: float


class RunRecorder:
    """Keeps the record of a run, and writes it every RECORD_EVERY_S."""

    def __init__(
        self, run: RunContext, counts: Counts, plan: Plan, checkpoints: FoundCheckpoints
    ) -> None:
        self._run, self._counts, self._plan = run, counts, plan
        self._is_server = backend_of(run.job.spec).is_server
        self._price = run.job.spec.engine.price
        self._before: SpentRecord | None = None
        if self._price is not None:
            saved = checkpoints.saved.values()
            self._before = spent_before(run.job.output, saved, self._price)
        self._started = self._written_at = time.monotonic()
        self._reached = (0, 0, 0)  # tokens, samples done and samples failed at the last progress
        self.timeline = Timeline(self._started)
        self.record = initial_record(run.job, run.options, run.name)
        self.record.plan = PlanRecord.model_validate(plan.to_dict())
        self.record.counts_before = CountsRecord.model_validate(counts.to_dict())
        self.record.taken_over = TakenOverRecord(
            generations=len(checkpoints.saved) - checkpoints.finished,
            finished=checkpoints.finished,
            tokens=checkpoints.tokens,
            unreadable=list(checkpoints.unreadable),
        )

    @property
    def started(self) -> float:
        """The beginning of the run, on the monotonic clock."""
        return self._started

    @property
    def spent_usd(self) -> float:
        """The cost of earlier runs at a server."""
        return (self._before or SpentRecord()).usd

    def write(self) -> None:
        self._run.job.output.write_run(self.record)

    def update(self, tally: Tally, workers: list[Heartbeat]) -> None:
        """Note the progress of a run.

        Calls may come as often as the driver likes.
        """
        self.timeline.update(tally, workers)
        self._note_progress(tally)
        is_due = time.monotonic() - self._written_at >= RECORD_EVERY_S
        if workers and is_due and not self._run.lock.lost:
            self._written_at = time.monotonic()
            counts = self.counts_with(tally).to_dict()
            self.record.timeline = TimelineRecord.model_validate(self.timeline.to_dict())
            self.record.counts_so_far = CountsRecord.model_validate(counts)
            self._note_spending(tally)
            try:
                self.write()
            except StorageError as exc:  # the next record says the same and more
                log.warning("the run's record could not be written: %s", exc)

    def _note_progress(self, tally: Tally) -> None:
        """Note when something was last generated or written.

        A live run may stand still.
        """
        reached = (self.timeline.tokens, tally.done, tally.failed)
        if reached != self._reached:
            self._reached = reached
            self.record.progressed = now_text()

    def counts_with(self, tally: Tally) -> Counts:
        """Counts of the whole input, with the work of this run."""
        before = self._counts
        return replace(
            before,
            done=before.done + tally.done,
            failed=before.failed + tally.failed,
            spared=before.spared + tally.spared,
        )

    def _note_spending(self, tally: Tally) -> None:
        """Note the cost of a server's work."""
        if self._is_server:
            self.record.spend = spend_record(tally.spent or Spent(), self._price, self._before)

    def end(self, driver: Driver, fleet: Fleet, error: BatchError | None) -> RunResult:
        """Complete the record; the caller writes it."""
        tally = driver.tally
        result = self._result(tally, error)
        is_counted = tally.tokens > 0 or not self._is_server  # a server need not count tokens
        record = self.record
        record.state = "ended"
        if error:
            record.state = "stopped"
        record.ended, record.exit_code, record.stopped = (
            now_text(),
            result.exit_code,
            result.stopped,
        )
        record.wall_s = round(result.wall_s, 3)
        record.generating_s = round(result.generating_s, 3)
        record.tokens_per_s = None
        if is_counted:
            record.tokens_per_s = round(result.tokens_per_s, 1)
        record.counts = CountsRecord.model_validate(result.counts.to_dict())
        record.tally = TallyRecord.model_validate(
            {name: value for name, value in asdict(tally).items() if name not in _NOT_TALLIED}
        )
        record.engines = {
            str(worker): EngineRecord.model_validate(asdict(ready))
            for worker, ready in fleet.ready.items()
        }
        record.memory = self._memories(fleet)
        record.loads = {
            str(worker): LoadRecord.model_validate(load.counts())
            for worker, load in _by_worker(driver.loads).items()
        }
        record.rungs = [RungRecord.model_validate(asdict(rung)) for rung in fleet.rungs]
        record.replicas = self._replicas(driver, fleet)
        record.timeline = TimelineRecord.model_validate(self.timeline.to_dict())
        self._note_spending(tally)
        return result

    def _result(self, tally: Tally, error: BatchError | None) -> RunResult:
        counts, spec = self.counts_with(tally), self._run.job.spec
        stopped = None
        if isinstance(error, StoppedError):
            stopped = str(error)
        code = exit_code_of(counts, spec, stopped)
        if error:
            code = error.exit_code
        generating_s = rate = 0.0
        if tally.last_commit:
            generating_s = tally.last_commit - (tally.first_submit or 0.0)
        if generating_s > 0:
            rate = (tally.tokens - tally.carried) / generating_s
        wall_s = time.monotonic() - self._started
        return RunResult(counts, code, stopped, wall_s, generating_s, rate)

    def _replicas(self, driver: Driver, fleet: Fleet) -> ReplicasRecord:
        """Record the life of each replica, in seconds since the driver started."""

        def since_start(moment: float | None) -> float | None:
            if moment is None:
                return None
            return round(moment - fleet.started, 3)

        return ReplicasRecord(
            first_submit_s=since_start(driver.tally.first_submit),
            last_commit_s=since_start(driver.tally.last_commit),
            driver_cpu_s=round(driver.cpu_s, 3),
            events=[ReplicaEventRecord.model_validate(asdict(event)) for event in fleet.events],
            gpus={
                str(replica.worker): self._gpus_of(replica.setup.assignment.kind)
                for replica in fleet
            },
            given_up={str(worker): why for worker, why in fleet.given_up.items()},
        )

    def _gpus_of(self, kind: int) -> int:
        """Count the GPUs of an engine on a kind of machine."""
        plan = self._plan.of_kind(kind)
        if plan.device != "cuda":
            return 0
        return plan.tensor_parallel * plan.pipeline_parallel

    def _memories(self, fleet: Fleet) -> dict[str, dict[str, FigureRecord]]:
        """Record memory by worker; none where it is a server's."""
        if self._is_server:
            return {}
        return {
            str(worker): self._memory(ready, fleet[worker].setup.assignment.kind)
            for worker, ready in fleet.ready.items()
        }

    def _memory(self, ready: WorkerReady, kind: int) -> dict[str, FigureRecord]:
        """Pair planned and measured memory of an engine, in GiB and tokens."""
        plan = self._plan.of_kind(kind)
        planned = asdict(plan.memory) | {"kv_cache_tokens": plan.kv_cache_tokens}
        measured: dict[str, float | None] = {"kv_cache_tokens": ready.info.kv_cache_tokens}
        if ready.info.memory:
            measured |= asdict(ready.info.memory)
        return {
            name: FigureRecord(planned=value, measured=measured.get(name))
            for name, value in planned.items()
        }


def _by_worker(loads: dict[tuple[int, int], EngineLoad]) -> dict[int, EngineLoad]:
    """Add up the loads of all engines of each worker."""
    sums: dict[int, EngineLoad] = {}
    for (worker, _), load in loads.items():
        sums[worker] = sums.get(worker, EngineLoad()).plus(load)
    return sums
