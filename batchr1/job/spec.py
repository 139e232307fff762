"""The job file as typed, frozen models: what was asked, nothing derived.

Each field's description is the documentation: `schemas/job.schema.json` is generated from here and
editors show it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import PositiveInt, Seconds, Section
from batchr1.job.engine import EngineKind
from batchr1.job.kinds import load_backend
from batchr1.job.prompting import PromptingSpec
from batchr1.records import VERIFY_KINDS
from batchr1.storage.uri import StorageOptions

_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_VERIFY_KIND = rf"^({'|'.join(VERIFY_KINDS)}|{_DOTTED}:{_DOTTED})$"
RetryReason = Literal["missing", "empty", "unclosed", "looping"]


class ModelSpec(Section):
    """Which model, and how vLLM loads it. Give one of `variant`, `path`, `repo` or `served`."""

    variant: str | None = None
    """A catalogued variant: r1-tiny, r1-distill-qwen-7b, … (a wrong name gets the list)."""
    path: str | None = None
    """A folder in Hugging Face layout, here or on S3 (s3://…); any model with think tags."""
    repo: str | None = None
    """A Hugging Face repository; any model with think tags."""
    served: Annotated[str, Field(min_length=1)] | None = None
    """The name under which a server serves it; only with engine.kind openai. A variant or repo is asked for by the
    repository's name, which is what vllm serve calls it."""
    revision: str | None = None
    """Branch, tag or commit of `repo` (or of the variant's repository). The commit it resolves to is recorded."""
    quantization: Literal["fp8", "awq", "gptq", "w4a16"] | None = None
    """null means as the weights are stored."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run on this machine."""
    engine_args: dict[str, Any] = {}
    """Passed to vLLM as they are; names are checked against the installed version before any weights load."""

    @field_validator("engine_args")
    @classmethod
    def _holds_no_credentials(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, one in value.items():
            if re.search(r"://[^/@\s]*@", str(one)):
                raise ValueError(
                    f"a job is copied into its output, and the URL in {name} holds credentials"
                )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [k for k in ("variant", "path", "repo", "served") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of variant, path, repo, served (got "
                f"{', '.join(given) or 'none'})"
            )
        if self.path and self.revision:
            raise ValueError("revision belongs to repo or variant; a path has none (got both)")
        return self


class InputSpec(Section):
    """Where the prompts are, and which columns mean what.

    Give one of `prompt`, `messages` or `template`.
    """

    path: str | list[str]
    """File, glob, folder, or a list of them; local or s3://. Parquet, or JSON lines (.jsonl)."""
    id: str | None = None
    """A column of unique ids. Without it the id is a hash of the prompt, and equal prompts are one row."""
    prompt: str | None = None
    """A column of text: the user turn."""
    messages: str | None = None
    """A column of chat messages: a list of {role, content}."""
    template: str | None = None
    """Text with {column} in it; {{ and }} stand for braces."""
    gold: str | None = None
    """A column with the right answer."""
    max_tokens: str | None = None
    """A column with a cap of new tokens per row, below sampling.max_tokens."""
    expected_tokens: str | None = None
    """A column with the expected new tokens per sample, for the plan and the order; null in a row: unknown."""
    where: str | None = None
    """A SQL predicate over the input's columns, such as "level >= 4"."""
    limit: Annotated[int, Field(ge=0)] | None = None
    """Only the first rows (after `where`)."""
    on_changed_prompt: Literal["refuse", "rerun", "keep"] = "refuse"
    """What happens when the input has another prompt for an id that is done: the run is refused, the row is generated
    anew, or it stays as it is. Looked at when an input file has changed since."""
    exclude: list[str] = []
    """Earlier outputs: rows that are done there are not wanted again. Folders, or globs of folders (* within a part of
    the path), local or s3://. The job's own output is left out, and a glob may match nothing."""
    exclude_by: Literal["id", "prompt"] = "id"
    """What makes a row the same as an earlier one: its id, or its prompt as the model is given it, whatever its id (a
    changed prompt is then a new row). By prompt, the whole input is rendered before the run."""
    allow_empty: bool = False
    """Whether an input without any row is an empty night (exit code 0) rather than a mistake."""

    @model_validator(mode="after")
    def _one_prompt(self) -> InputSpec:
        given = [k for k in ("prompt", "messages", "template") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of prompt, messages, template (got {', '.join(given) or 'none'})"
            )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)


class OutputSpec(Section):
    """Where results go and how they are cut into files."""

    path: str
    """A folder, local or s3://. One job owns it."""
    keep: list[str] | dict[str, str] | Literal["all"] = []
    """Input columns to carry over: a list, or {new_name: old_name}, or all."""
    rows_per_part: PositiveInt = 2000
    """Rows of a Parquet file, at most."""
    part_every_s: Seconds = 600
    """Finished rows wait at most this long for their file."""
    token_ids: Literal["truncated", "always"] = "truncated"
    """Whose exact token ids are kept: rows that were cut, or every row."""


# Keys of `sampling` that batchr1 itself acts on: no engine draws by them.
_NOT_DRAWING = {
    "n",
    "max_tokens",
    "seed",
    "preset",
    "thinking_budget",
    "answer_budget",
    "closing_sentence",
    "stop_loops",
}


class SamplingSpec(Section):
    """How tokens are drawn. The defaults are DeepSeek's recommendation for R1."""

    n: PositiveInt = 1
    """Samples per row."""
    preset: Literal["model"] | None = None
    """model: temperature, top_p, top_k and min_p that are not set here come from the model's generation_config.json;
    null: from the defaults below."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    """0 is greedy; R1 is meant to run at 0.5 to 0.7."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Only the most probable tokens that together reach this probability."""
    top_k: PositiveInt | None = None
    """Only this many of the most probable tokens; null: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this probable, relative to the most probable one; null: all."""
    max_tokens: PositiveInt | None = 32768
    """New tokens per sample, reasoning and answer together; null: as far as the context goes."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Each sample's own seed is derived from it; null sends none to the engine."""
    ignore_eos: bool = False
    """Generate up to max_tokens whatever the model says: for measuring speed."""
    thinking_budget: PositiveInt | None = None
    """Reasoning tokens per sample, at most: there the trace is closed and the answer begins; null: no bound."""
    answer_budget: PositiveInt | None = None
    """Tokens of the answer, at most; thinking is closed early enough to leave room for them. null: no bound."""
    closing_sentence: str | None = None
    """Said at the end of a trace that a budget closes, as a paragraph of its own; null: nothing is said."""
    stop_loops: bool | Literal["close"] = False
    """What becomes of a generation that has been repeating itself for long. true: it ends there, truncated by loop.
    close: a loop in its reasoning is closed, and the model answers; one in its answer ends it."""

    @property
    def drawing(self) -> dict[str, Any]:
        """How tokens are drawn, by the names that engines have for it; without what is null."""
        return self.model_dump(exclude=_NOT_DRAWING, exclude_none=True)

    @property
    def has_budget(self) -> bool:
        return self.thinking_budget is not None or self.answer_budget is not None

    @property
    def closes_traces(self) -> bool:
        """Whether batchr1 may put in the closing tag itself."""
        return self.has_budget or self.stop_loops == "close"

    @model_validator(mode="after")
    def _leaves_room_for_an_answer(self) -> SamplingSpec:
        for name in ("thinking_budget", "answer_budget"):
            budget = getattr(self, name)
            if budget is not None and self.max_tokens is not None and budget >= self.max_tokens:
                raise ValueError(
                    f"{name} leaves no room for the rest (got {budget}, need less than max_tokens, "
                    f"{self.max_tokens})"
                )
        if self.closing_sentence is not None and not self.closes_traces:
            raise ValueError(
                "closing_sentence is said where batchr1 closes a trace, and nothing does (set "
                "thinking_budget, answer_budget, or stop_loops: close)"
            )
        return self


class CheckpointSpec(Section):
    """How often what is not in a committed file yet is saved."""

    every_s: Seconds = 30
    """Seconds between two savings of generations that are under way: what a kill costs at most."""


class RetrySpec(Section):
    """What happens to a row that the engine refuses, or whose outcome is not wanted."""

    attempts: PositiveInt = 3
    """How often a row is tried: then one that the engine refused counts as failed, and any other is kept as it is."""
    on: list[RetryReason] = []
    """Outcomes that are tried again with a seed of their own: missing, empty, unclosed (as reasoning_status), looping.
    Tokens of earlier attempts are thrown away, and counted in the run's record."""


class StopWhenSpec(Section):
    """When the samples of a row that are left are not wanted any more.

    Needs input.gold, or a verifying function.
    """

    correct: PositiveInt
    """So many of its samples are right. They then go out in waves: so many at first, then as many as are still wanting,
    doubled each time; what is under way when the last comes is dropped."""


class VerifySpec(Section):
    """How `correct` is decided, and what a verifier that never comes back may cost.

    Needs input.gold.
    """

    kind: Annotated[str, Field(pattern=_VERIFY_KIND)] = "auto"
    """auto: by the column of right answers, else row by row: exact numbers, choices, sets, intervals, expressions.
    math: the same without choices. number, aime, choice, yes_no, short_text: nothing else counts. exact: the same
    text. regex: the right answer is a pattern. none. Or package.module:function of your own, called with (answer,
    gold, row), which gives True, False or None."""
    extract: str | None = None
    """A regular expression: the first group of its last match in the answer is the final answer; null: the last box."""
    path: str | None = None
    """The folder that the function's module is imported from; without it, the job file's folder."""
    timeout_s: Seconds = 10
    """Longest time for a row. One that takes longer gets no verdict, and the flag verify_failed."""
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2
    """Address space of a verifying process, its libraries included."""
    processes: PositiveInt = 2
    """Verifying processes beside each engine, started when a row needs one."""

    @field_validator("extract")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as exc:
            raise ValueError(f"this is no regular expression ({exc}; got {value!r})") from exc
        return value

    @model_validator(mode="after")
    def _fits_the_kind(self) -> VerifySpec:
        if self.extract is not None and self.kind == "none":
            raise ValueError("extract does nothing with kind none (got both)")
        if self.path is not None and ":" not in self.kind:
            raise ValueError(
                f"path belongs to a function as package.module:function (got kind {self.kind})"
            )
        return self


class StorageSpec(Section):
    """Object store settings. Keys and secrets come from the environment, never from here."""

    endpoint: str | None = None
    """URL of an S3 server, such as http://host:9000; without it AWS_ENDPOINT_URL, else Amazon's."""
    region: str | None = None
    """The bucket's region; without it AWS_REGION or AWS_DEFAULT_REGION."""
    profile: str | None = None
    """A profile of ~/.aws/credentials; without it AWS_PROFILE."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands: path (https://host/bucket), virtual (https://bucket.host, as Alibaba OSS and
    Tencent COS want it), or auto: path where an endpoint is given, else as Amazon wants it."""

    @property
    def options(self) -> StorageOptions:
        """The same, as storage takes it."""
        return StorageOptions(**self.model_dump())


class ExecutorSpec(Section):
    """Where the engines live. May change from run to run: it decides no answer."""

    kind: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster's nodes."""
    replicas: PositiveInt | None = None
    """At most so many engines. Without it, on GPUs as many as fit; on CPUs one, or with ray one a node."""
    address: str = "auto"
    """The Ray cluster: auto, the one that this machine is part of, or HOST:PORT of its head."""
    shared_storage: bool = False
    """Whether a local output.path is the same folder on every node (NFS, Lustre). S3 needs no such word."""


class OnFinishSpec(Section):
    """A command that is told how a run ended: an e-mail, a chat message, the next job."""

    command: Annotated[list[str], Field(min_length=1)]
    """Program and arguments; no shell. It gets the run's record as JSON on standard input, once the output is free
    again, whatever the exit code. Its failure is reported and changes none. No secrets here: a job is copied into its
    output."""
    timeout_s: Seconds = 60
    """After so long it is killed."""


class JobSpec(Section):
    """A batchr1 job: prompts in Parquet, a reasoning model, separated reasoning and answers out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Letters, digits, dot, dash, underscore."""
    model: ModelSpec
    engine: EngineKind = EngineKind()
    input: InputSpec
    output: OutputSpec
    prompting: PromptingSpec = PromptingSpec()
    sampling: SamplingSpec = SamplingSpec()
    schedule: Literal["auto", "longest_first", "fifo"] = "auto"
    """Which samples go first. longest_first: those expected to be longest, by input.expected_tokens or, with n > 1, by
    samples of the row that are done (one goes ahead); fifo: as in the input; auto: longest_first where either is."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    retry: RetrySpec = RetrySpec()
    verify: VerifySpec = VerifySpec()
    stop_when: StopWhenSpec | None = None
    """Rejection sampling: {correct: 2} stops a row's samples when two are right; null: all n are generated."""
    storage: StorageSpec = StorageSpec()
    executor: ExecutorSpec = ExecutorSpec()
    on_finish: OnFinishSpec | None = None
    """A command that is told how each run ended; null: none."""
    max_failed: Annotated[int, Field(ge=0)] = 0
    """More failed rows than this make the exit code 3."""

    @model_validator(mode="after")
    def _suits_its_engine(self) -> JobSpec:
        load_backend(self.engine.kind).suits(self)
        return self

    @model_validator(mode="after")
    def _tries_something_else(self) -> JobSpec:
        if self.retry.on and self.sampling.temperature == 0:
            raise ValueError(
                "retry.on draws again, and at sampling.temperature 0 nothing is drawn (got both)"
            )
        return self

    @model_validator(mode="after")
    def _verifies_something(self) -> JobSpec:
        if (
            self.input.gold is None
            and self.verify.kind not in ("auto", "none")
            and ":" not in self.verify.kind
        ):
            raise ValueError(
                f"verify.kind {self.verify.kind} compares with right answers, and input.gold "
                f"names none"
            )
        return self

    @model_validator(mode="after")
    def _stops_something(self) -> JobSpec:
        if self.stop_when is None:
            return self
        if self.verify.kind == "none" or (self.input.gold is None and ":" not in self.verify.kind):
            raise ValueError(
                "stop_when.correct needs verdicts (set input.gold, and a verify.kind but none)"
            )
        if self.stop_when.correct >= self.sampling.n:
            raise ValueError(
                f"stop_when.correct stops nothing with sampling.n {self.sampling.n} (got "
                f"{self.stop_when.correct}, need less)"
            )
        return self

    @property
    def longest_first(self) -> bool:
        """Whether the order goes by expected length; where nothing is known of any, that is the
        input's order.
        """
        known = self.input.expected_tokens is not None or self.sampling.n > 1
        return self.schedule == "longest_first" or (self.schedule == "auto" and known)

    @field_validator("name", mode="before")
    @classmethod
    def _name_is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value
