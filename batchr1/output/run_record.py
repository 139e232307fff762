"""The record of a run, `.batchr1/runs/<run>.json`, as typed values.

A record belongs to one run and later runs leave it alone: all of an output together are its
history. What a run has not come to yet is not set, and is not written.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT = 2  # of records written now; older ones have no `format`
Number = int | float


class _Record(BaseModel):
    """Values of a record. Keys that a newer batchr1 added are kept."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class WindowRecord(_Record):
    """The time window of a run, as its options gave it."""

    stop_after_s: Number | None = None
    """Seconds after which the run was to stop."""
    stop_at: str | None = None
    """The moment at which the run was to stop, in ISO 8601 with its time zone."""


class CountsRecord(_Record):
    """Samples of the whole input, by state. rows × n = samples."""

    rows: int = 0
    """Input rows, within `where` and `limit`, without `duplicates`."""
    n: int = 1
    """Samples of a row."""
    done: int = 0
    """Samples whose result is committed."""
    failed: int = 0
    """Samples that failed, and were not done since."""
    duplicates: int = 0
    """Rows left out: equal prompts, or done in an output that input.exclude names."""
    spared: int = 0
    """Samples of rows with enough right ones, by stop_when."""
    beside: int = 0
    """Samples in the output that the input does not ask for: other rows, above `n`, or excluded."""
    samples: int = 0
    """All of them."""
    pending: int = 0
    """Samples still to do."""


class EstimateRecord(_Record):
    """The expected time of a job, all replicas together."""

    tokens_per_s: Number
    """Output tokens per second."""
    output_tokens: Number
    """Output tokens of all pending samples."""
    hours: Number
    """Hours of generating, without loading."""
    gpu_hours: Number | None = None
    """The same times the GPUs."""
    cost_usd: Number | None = None
    """Cost of the GPU-hours; null without a price."""
    lengths: str | None = None
    """The source of the expected lengths."""
    efficiency: Number | None = None
    """Share of the decode roofline that was assumed."""


class PlanRecord(_Record):
    """The plan of the engines, as `batchr1 plan --json` prints it."""

    fits: bool = True
    """Whether the job fits; a run has a plan that does."""
    replicas: int | None = None
    """Engines at the beginning of the run."""
    tensor_parallel: int | None = None
    """GPUs across which each layer of an engine is split."""
    pipeline_parallel: int | None = None
    """Groups of layers of an engine, on GPUs of their own."""
    max_model_len: int | None = None
    """Context of the engines, in tokens."""
    max_num_seqs: int | None = None
    """Sequences of an engine at a time; of a server, requests."""
    max_num_batched_tokens: int | None = None
    """Tokens of an engine's step."""
    kv_cache_tokens: int | None = None
    """Tokens that the KV cache of an engine holds."""
    gpu_memory_utilization: Number | None = None
    """Share of a GPU's memory for the engine; null elsewhere."""
    memory: dict[str, Number] | None = None
    """Memory of an engine by use, in GiB of each GPU."""
    estimate: EstimateRecord | None = None
    """The expected time; null where the memory bandwidth is not known."""
    device: str | None = None
    """cuda, cpu or server."""
    device_groups: list[list[str]] | None = None
    """GPUs of each engine on this machine."""
    engine_args: dict[str, Any] | None = None
    """Arguments of vLLM."""
    notes: list[str] | None = None
    """Remarks of the plan."""
    kinds: list[dict[str, Any]] | None = None
    """Plans of other kinds of machine in a cluster."""


class TakenOverRecord(_Record):
    """The checkpoints of earlier runs that this run goes on from."""

    generations: int = 0
    """Generations under way."""
    finished: int = 0
    """Generations that were finished and not committed."""
    tokens: int = 0
    """Tokens of both."""
    unreadable: list[str] = []
    """Files that could not be used."""


class TallyRecord(_Record):
    """The work of this run alone. Tokens are generated ones."""

    done: int = 0
    """Samples committed."""
    failed: int = 0
    """Samples that failed."""
    tokens: int = 0
    """Tokens of committed samples."""
    prompt_tokens: int = 0
    """Prompt tokens of the same samples."""
    truncated: int | None = None
    """Committed samples that a limit cut; not known of very old records."""
    correct: int | None = None
    """Committed samples whose answer is right."""
    judged: int | None = None
    """Committed samples whose answer was verified."""
    carried: int = 0
    """Of `tokens`: saved by an earlier engine, not generated again."""
    discarded: int = 0
    """Tokens of attempts that were not kept, beside `tokens`."""
    spared: int = 0
    """Samples of rows that came to have enough right ones."""
    dropped_tokens: int = 0
    """Tokens generated of such samples before that was known."""
    parts: list[str] = []
    """Names of the committed parts."""
    reasons: dict[str, int] = {}
    """Failed samples by reason."""
    restarts: int = 0
    """Workers started again."""


class EngineInfoRecord(_Record):
    """An engine that has loaded; lengths and capacities in tokens."""

    engine: str
    """Name and version."""
    max_model_len: int | None = None
    """Context."""
    max_num_seqs: int | None = None
    """Sequences at a time."""
    kv_cache_tokens: int | None = None
    """Tokens that the KV cache holds."""
    memory: dict[str, Number | None] | None = None
    """Measured memory by use, in GiB."""


class EngineRecord(_Record):
    """The last engine of a worker."""

    info: EngineInfoRecord
    """What it was."""
    load_s: Number | None = None
    """Seconds until it was ready."""
    slower: list[str] = []
    """Slower ways than it could take, as it warned of them."""


class FigureRecord(_Record):
    """A planned figure and the measured one, where they are known."""

    planned: Number | None = None
    """As planned."""
    measured: Number | None = None
    """As measured."""


class LoadRecord(_Record):
    """Counts of all engines that a worker had."""

    preempted: int = 0
    """Sequences put off for want of memory."""
    prefix_queries: int = 0
    """Prompt tokens looked for in the prefix cache."""
    prefix_hits: int = 0
    """Prompt tokens found there."""
    prefix_hit_rate: Number | None = None
    """Their share; null without a query."""


class RungRecord(_Record):
    """A step down after a worker ran out of memory."""

    worker: int
    """The worker."""
    rung: str
    """The name of the step."""
    changes: dict[str, Any] = {}
    """Engine arguments that were changed; none: the same once more."""
    reason: str = ""
    """Why."""
    at_s: Number = 0.0
    """Seconds since the driver started."""


class ReplicaEventRecord(_Record):
    """An event in the life of a worker."""

    at_s: Number
    """Seconds since the driver started."""
    worker: int
    """The worker."""
    event: str
    """started, ready, died, lost, ended or given up."""


class ReplicasRecord(_Record):
    """The lives of the workers, in seconds since the driver started."""

    first_submit_s: Number | None = None
    """The first lease."""
    last_commit_s: Number | None = None
    """The last commit of a part."""
    driver_cpu_s: Number | None = None
    """CPU time of the driver from the first lease on."""
    events: list[ReplicaEventRecord] = []
    """What became of the workers, in order."""
    gpus: dict[str, int] = {}
    """GPUs by worker."""
    given_up: dict[str, str] = {}
    """Workers without a successor, and why."""


class TimelineRecord(_Record):
    """The load over time by column, a point an interval."""

    seconds: list[Number] = []
    """Seconds since the run began."""
    tokens: list[int] = []
    """Tokens generated until then."""
    finished: list[int] = []
    """Samples finished until then."""
    preempted: list[int] = []
    """Preemptions until then."""
    running: list[Number] = []
    """Mean of the sequences running meanwhile."""
    waiting: list[Number] = []
    """Mean of the sequences waiting meanwhile."""
    kv_cache_usage: list[Number] = []
    """Mean share of the KV cache in use meanwhile."""


class SpentRecord(_Record):
    """Tokens and cost of the runs before this one."""

    prompt_tokens: int = 0
    """Prompt tokens."""
    completion_tokens: int = 0
    """Completion tokens."""
    usd: Number = 0.0
    """Their cost."""


class SpendRecord(_Record):
    """The cost of a server's answers in this run."""

    requests: int = 0
    """Answers."""
    prompt_tokens: int = 0
    """Prompt tokens by their usage."""
    completion_tokens: int = 0
    """Completion tokens by their usage."""
    without_usage: int = 0
    """Answers that did not say their usage."""
    usd: Number | None = None
    """Their cost; null without engine.price."""
    before: SpentRecord | None = None
    """What earlier runs spent; null without engine.price."""


class RunRecord(_Record):
    """The record of a run of `batchr1 run` on an output, `.batchr1/runs/<run>.json`."""

    format: int = 1
    """Version of this format. Records without it are of version 1, which had the same keys."""
    run: str
    """Name of the run; names sort by time."""
    state: str
    """running (or killed since), ended, or stopped: by a signal, a time window or an error."""
    started: str
    """Beginning of the run, in ISO 8601."""
    date: str | None = None
    """The date that {{ ds }} stood for."""
    window: WindowRecord | None = None
    """The time window."""
    batchr1: str | None = None
    """Version of batchr1."""
    job: str | None = None
    """Name of the job."""
    model: str | None = None
    """Identity of the model."""
    plan: PlanRecord | None = None
    """The plan; absent where nothing was to do."""
    counts_before: CountsRecord | None = None
    """Counts before the run did anything."""
    taken_over: TakenOverRecord | None = None
    """Checkpoints that the run goes on from."""
    progressed: str | None = None
    """When something was last generated or written, in ISO 8601; known to the minute."""
    ended: str | None = None
    """End of the run, in ISO 8601."""
    exit_code: int | None = None
    """Exit code of the run."""
    stopped: str | None = None
    """Why the run stopped before its end; null where nothing stopped it."""
    wall_s: Number | None = None
    """Seconds of the run."""
    generating_s: Number | None = None
    """Seconds from the first lease to the last commit."""
    tokens_per_s: Number | None = None
    """Output tokens per second of `generating_s`; null where a server counts none."""
    counts: CountsRecord | None = None
    """Counts at the end."""
    counts_so_far: CountsRecord | None = None
    """Counts a minute ago at most, of a run under way or killed."""
    tally: TallyRecord | None = None
    """The work of this run; absent of a run under way or killed."""
    engines: dict[str, EngineRecord] = {}
    """Engines by worker."""
    memory: dict[str, dict[str, FigureRecord]] = {}
    """Planned and measured memory by worker and use, in GiB and tokens."""
    loads: dict[str, LoadRecord] | None = None
    """Preemptions and prefix cache by worker."""
    rungs: list[RungRecord] = []
    """Steps down after running out of memory."""
    replicas: ReplicasRecord | None = None
    """Lives of the workers."""
    timeline: TimelineRecord | None = None
    """The load over time."""
    spend: SpendRecord | None = None
    """Cost of a server's answers; absent without a server."""

    def to_dict(self) -> dict[str, Any]:
        """Give what is set as plain values; `counts` replaces `counts_so_far`."""
        gone = {"counts_so_far"} if self.counts is not None else None
        return self.model_dump(exclude_unset=True, exclude=gone)

    @property
    def had_work(self) -> bool:
        """Whether something was pending, so that engines were planned."""
        return self.plan is not None


def parse_record(data: bytes) -> RunRecord:
    """Read a record of this or an older format.

    Raises `ValueError` in one line.
    """
    try:
        return RunRecord.model_validate(json.loads(data))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{place}: {first['msg'].lower()}") from exc


def schema_document() -> dict[str, Any]:
    """Give the JSON schema of records: `schemas/run.schema.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunRecord.model_json_schema(),
    }
