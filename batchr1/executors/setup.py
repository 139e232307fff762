"""Setup of a worker, and sums that both sides share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from batchr1.engine.openai.server import NOTHING_SPENT, Spent
from batchr1.job.spec import JobSpec
from batchr1.models.resolve import ModelSource
from batchr1.reasoning.formats import Format
from batchr1.sizing.plan import Plan
from batchr1.sizing.timing.step_time import MIXED_STEP_COST
from batchr1.storage.base import Storage

# One waiting request for this many running: a slot that falls free is filled in the same step.
WAITING_SHARE = 8


def most_in_flight(max_num_seqs: int) -> int:
    """Count a full batch, and those that wait for a slot."""
    return max_num_seqs + max(4, max_num_seqs // WAITING_SHARE)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The place of one worker process in a run.

    `epoch` rises with each restart. `kind`: which of the plan's kinds of machine it is made for.
    `devices`: ids of its GPUs. `cpus`: the cores that it may use, where several replicas share a
    machine's; empty: all. `num_threads`: of OpenMP, on a CPU. `pause_s`: waited before the engine
    is made, because a GPU's memory is given back some time after its user's death. `grace_s`: in
    which a worker that is stopped has to leave.
    """

    run: str
    worker: int
    epoch: int = 0
    kind: int = 0
    devices: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    num_threads: int | None = None
    pause_s: float = 0.0
    grace_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Spending:
    """Cost of a server's work before a worker starts.

    `before_usd`: in earlier runs of the output. `spent`: by this run's workers before this one.
    """

    before_usd: float = 0.0
    spent: Spent = NOTHING_SPENT


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """A worker's assignment, the job, and the facts of this run.

    `plan` is that of its kind of machine; a step down after out-of-memory changes it. `kept_schema`
    is Arrow IPC. `job_digest` names the job in checkpoints: another job's are never gone on with.
    `format`: the think tags; None: whichever a server's text shows. `mixed_step_cost`: see
    `MIXED_STEP_COST`.
    """

    assignment: Assignment
    spec: JobSpec
    plan: Plan
    model: ModelSource
    model_label: str
    storage: Storage
    kept_schema: bytes
    job_digest: str
    format: Format | None = None
    spending: Spending = field(default_factory=Spending)
    mixed_step_cost: float = MIXED_STEP_COST

    @property
    def worker(self) -> int:
        return self.assignment.worker

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Device that the engine computes on."""
        return "cuda" if self.plan.device == "cuda" else "cpu"

    @property
    def has_cuda_graphs(self) -> bool:
        """Whether decode steps run inside CUDA graphs.

        A step with a prefill does not.
        """
        return self.device == "cuda" and not self.plan.engine_args.get("enforce_eager")

    def restarted(self, *, pause_s: float, spent: Spent | None) -> WorkerSetup:
        """Give the setup of the next process of this worker."""
        assignment = replace(self.assignment, epoch=self.assignment.epoch + 1, pause_s=pause_s)
        spending = self.spending
        if spent is not None:
            spending = replace(spending, spent=spent)
        return replace(self, assignment=assignment, spending=spending)
