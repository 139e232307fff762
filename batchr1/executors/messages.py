"""Messages between driver and workers, in two groups by direction.

They are plain records, so that any channel can carry them.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchr1.engine.openai.server import Spent
from batchr1.engine.protocol import EngineInfo, EngineLoad
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.sizing.oom import MemoryProblem

# To workers


@dataclass(frozen=True, slots=True)
class Lease:
    """Work of this worker until it is staged or failed.

    It ends, too, when the driver gives the worker up.
    """

    items: tuple[WorkItem, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """End of the work: finish what is leased, stage it, and end."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave unfinished work, stage what is finished, and end."""


@dataclass(frozen=True, slots=True)
class SamplesCommitted:
    """Samples in a committed part: checkpoints may forget them."""

    keys: tuple[SampleKey, ...]


@dataclass(frozen=True, slots=True)
class CancelSamples:
    """Samples that are no longer wanted.

    Those that are not generated yet are given up.
    """

    keys: tuple[SampleKey, ...]


# From workers


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The engine is loaded.

    `slower`: what it warned of: slower ways than it could take. The worker's parent adds them.
    """

    info: EngineInfo
    load_s: float
    slower: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """A server's first answer: key, model name and parameters are right.

    A server's `WorkerReady` comes before anybody can know that.
    """


@dataclass(frozen=True, slots=True)
class RequestStop:
    """Request to stop the run, resumably.

    The worker can get nothing more, through no error of its own.
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
    """A sample's verdict; sent only where the job stops rows by it."""

    key: SampleKey
    right: bool


@dataclass(frozen=True, slots=True)
class SamplesCancelled:
    """Samples that were given up, and their generated tokens in all."""

    keys: tuple[SampleKey, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Contents of a staged part. Tokens are generated ones."""

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
    """A complete, durable part in staging that waits for the driver's commit."""

    name: str
    keys: tuple[SampleKey, ...]
    counts: PartCounts


@dataclass(frozen=True, slots=True)
class SamplesFailed:
    """Samples that the engine refused as often as the job allows."""

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
