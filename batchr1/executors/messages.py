"""What driver and workers say to each other. Plain records, so that any channel can carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from batchr1.engine.openai.server import NOTHING_SPENT, Price, Server, Spent
from batchr1.engine.protocol import EngineInfo, EngineLoad, Sampling
from batchr1.reasoning.verify import AUTO, Verify
from batchr1.records import CompletionLengths, Failure, SampleKey, WorkItem
from batchr1.sizing.oom import MemoryProblem
from batchr1.sizing.timing.step_time import MIXED_STEP_COST, StepTime
from batchr1.storage.base import Storage
from batchr1.worker.checkpointer import CheckpointSetup


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine a worker makes, and how."""

    kind: Literal["vllm", "replay", "openai"]
    device: Literal["cpu", "cuda"]
    model: str
    revision: str | None
    trust_remote_code: bool
    args: dict[str, Any]
    sampling: Sampling

    @property
    def has_cuda_graphs(self) -> bool:
        """Whether decode steps run inside CUDA graphs, which a step with a prefill does not."""
        return self.device == "cuda" and not self.args.get("enforce_eager")


@dataclass(frozen=True, slots=True)
class BudgetSetup:
    """What a job says of budgets, in tokens; None: no bound. The worker makes ids of the sentence."""

    thinking: int | None
    answer: int | None
    max_tokens: int | None
    sentence: str | None


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What a worker needs to know of a server that does its work.

    `forced`: whether its chat template is taken to open the think block. `patience_s`: so long it
    may give nothing but errors. `grace_s`: in which a worker has to leave. USD: `max_cost` of the
    output, of which `before` was spent by earlier runs. `spent`: by this run's workers before this
    one.
    """

    server: Server
    forced: bool
    patience_s: float
    grace_s: float
    price: Price | None = None
    max_cost: float | None = None
    before: float = 0.0
    spent: Spent = NOTHING_SPENT


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """Everything a worker needs to know before its first lease.

    `devices`: ids of its GPUs. `fixed_args`: engine arguments that the user set, which no step-down
    may change. `cpus`: the cores that it may use, where several replicas share a machine's; empty:
    all. `num_threads`: of OpenMP, on a CPU. `pause_s`: waited before the engine is made, because a
    GPU's memory is given back some time after its user's death.
    """

    run: str
    worker: int
    epoch: int  # rises with each restart of this worker
    engine: EngineSpec
    max_num_seqs: int
    storage: Storage
    kept_schema: bytes  # Arrow IPC
    seed: int | None
    attempts: int
    rows_per_part: int
    part_every_s: float
    model_label: str
    expects_box: bool
    keep_token_ids: bool
    devices: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    num_threads: int | None = None
    kind: int = 0  # which of the plan's kinds of machine it is made for
    fixed_args: frozenset[str] = frozenset()
    pause_s: float = 0.0
    instruction: str = ""  # what was appended to each prompt
    verify: Verify = AUTO
    budgets: BudgetSetup | None = None
    stop_loops: bool | Literal["close"] = False
    judges: bool = False  # whether the driver waits for verdicts
    retry_on: frozenset[str] = (
        frozenset()
    )  # outcomes that are tried again: values of reasoning_status, or looping
    checkpoint: CheckpointSetup | None = None  # None: nothing is saved
    expected: CompletionLengths | None = None  # what the plan expects of a completion
    mixed_step_cost: float = MIXED_STEP_COST  # where the engine has CUDA graphs
    step_time: StepTime | None = None  # as the plan reckons it; None: not known
    remote: ServerSetup | None = None  # the work is a server's


# driver → worker


@dataclass(frozen=True, slots=True)
class Lease:
    """Work that is this worker's until it is staged, failed, or the worker is given up."""

    items: tuple[WorkItem, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """No more work will come: finish what is leased, stage it, and end."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave unfinished work, stage what is finished, and end."""


@dataclass(frozen=True, slots=True)
class SamplesCommitted:
    """These samples are in a committed part: they need not be saved any more."""

    keys: tuple[SampleKey, ...]


@dataclass(frozen=True, slots=True)
class CancelSamples:
    """These samples are not wanted any more: those that are not generated yet are given up."""

    keys: tuple[SampleKey, ...]


# worker → driver


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The engine is loaded."""

    info: EngineInfo
    load_s: float


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """A server has answered: key, model name and parameters are right. It is `WorkerReady` before
    anybody can know that.
    """


@dataclass(frozen=True, slots=True)
class RequestStop:
    """Nothing more is to be had here, for a reason that is no error of this worker's: the run is to
    stop, resumably.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RequestWork:
    """Room for this many more samples."""

    count: int


@dataclass(frozen=True, slots=True)
class SamplesFinished:
    """The engine is through with these samples; they are not staged yet.

    `tokens`: how long each became.
    """

    keys: tuple[SampleKey, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SampleVerified:
    """A sample has its verdict. Only where the job stops rows by it."""

    key: SampleKey
    right: bool


@dataclass(frozen=True, slots=True)
class SamplesCancelled:
    """These were given up, with so many tokens generated of them in all."""

    keys: tuple[SampleKey, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class PartCounts:
    """What a staged part holds. Tokens are generated ones."""

    rows: int
    tokens: int
    prompt_tokens: int
    truncated: int
    correct: int
    judged: int
    carried: int = 0  # of tokens: those that were generated before, and saved
    discarded: int = 0  # tokens of earlier attempts at these rows, beside `tokens`


@dataclass(frozen=True, slots=True)
class PartStaged:
    """A part is in staging, complete and durable, and waits for the driver's commit."""

    name: str
    keys: tuple[SampleKey, ...]
    counts: PartCounts


@dataclass(frozen=True, slots=True)
class SamplesFailed:
    """The engine refused these samples as often as the job lets them be tried."""

    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Totals of this worker since it started."""

    finished: int
    finished_tokens: int
    generated_tokens: int  # with those of generations under way
    truncated: int
    under_way: int
    load: EngineLoad
    spent: Spent | None = None  # of a server's work in this run, with the workers before this one


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """All that could be staged is staged; the worker leaves."""


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The worker cannot go on. `kind` names the exception's class in `batchr1.errors`.

    `problem`: what its exceptions say about memory. Where the engine is a process of its own, only
    the log knows.
    """

    kind: str
    message: str
    problem: MemoryProblem | None = None


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """Said by the executor, not by the worker: its process is gone.

    `last_lines`: the end of what it and its subprocesses printed; after `WorkerReady`, only what
    came since. `lost`: it went with its machine, or the connection to it did, and nobody knows
    more.
    """

    exit_code: int | None
    last_lines: tuple[str, ...] = ()
    lost: bool = False


ToWorker = Lease | Drain | Stop | SamplesCommitted | CancelSamples
FromWorker = (
    WorkerReady
    | FirstAnswer
    | RequestStop
    | RequestWork
    | SamplesFinished
    | SampleVerified
    | SamplesCancelled
    | PartStaged
    | SamplesFailed
    | Heartbeat
    | WorkerEnded
    | WorkerFailed
    | WorkerExited
)
