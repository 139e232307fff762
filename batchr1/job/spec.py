"""The job file as typed, frozen models: what was asked, nothing derived.

Each field's description is the documentation: `schemas/job.schema.json` is generated from here and
editors show it. Larger sections have modules of their own beside this one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import PositiveInt, Seconds, Section
from batchr1.job.data import InputSpec, OutputSpec
from batchr1.job.engine import EngineKind
from batchr1.job.kinds import load_backend
from batchr1.job.model import ModelSpec
from batchr1.job.prompting import PromptingSpec
from batchr1.job.sampling import SamplingSpec
from batchr1.job.verify import StopWhenSpec, VerifySpec
from batchr1.storage.uri import StorageOptions

__all__ = [
    "CheckpointSpec",
    "ExecutorSpec",
    "InputSpec",
    "JobSpec",
    "ModelSpec",
    "OnFinishSpec",
    "OutputSpec",
    "PromptingSpec",
    "RetrySpec",
    "SamplingSpec",
    "StopWhenSpec",
    "StorageSpec",
    "VerifySpec",
]

RetryReason = Literal["missing", "empty", "unclosed", "looping"]


class CheckpointSpec(Section):
    """Interval at which uncommitted work is saved."""

    every_s: Seconds = 30
    """Seconds between two savings of generations that are under way: what a kill costs at most."""


class RetrySpec(Section):
    """Attempts of a row that is refused, or whose outcome is unwanted."""

    attempts: PositiveInt = 3
    """How often a row is tried: then one that the engine refused counts as failed, and any other is
    kept as it is."""
    on: list[RetryReason] = []
    """Outcomes that are tried again with a seed of their own: missing, empty, unclosed (as
    reasoning_status), looping. Tokens of earlier attempts are thrown away, and counted in the run's
    record."""


class StorageSpec(Section):
    """Object store settings.

    Keys and secrets come from the environment, never from here.
    """

    endpoint: str | None = None
    """URL of an S3 server, such as http://host:9000; without it AWS_ENDPOINT_URL, else Amazon's."""
    region: str | None = None
    """The bucket's region; without it AWS_REGION or AWS_DEFAULT_REGION."""
    profile: str | None = None
    """A profile of ~/.aws/credentials; without it AWS_PROFILE."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands: path (https://host/bucket), virtual (https://bucket.host, as
    Alibaba OSS and Tencent COS want it), or auto: path where an endpoint is given, else as Amazon
    wants it."""

    @property
    def options(self) -> StorageOptions:
        """The same, as storage takes it."""
        return StorageOptions(**self.model_dump())


class ExecutorSpec(Section):
    """Machines of the engines.

    They decide no answer, and may change from run to run.
    """

    kind: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: a Ray cluster's nodes."""
    replicas: PositiveInt | None = None
    """At most so many engines. Without it, on GPUs as many as fit; on CPUs one, or with ray one a
    node."""
    address: str = "auto"
    """The Ray cluster: auto, the one that this machine is part of, or HOST:PORT of its head."""
    shared_storage: bool = False
    """Whether a local output.path is the same folder on every node (NFS, Lustre). S3 needs no such
    word."""


class OnFinishSpec(Section):
    """A command that learns how a run ended.

    It may send an e-mail or a chat message, or start the next job.
    """

    command: Annotated[list[str], Field(min_length=1)]
    """Program and arguments; no shell. It gets the run's record as JSON on standard input, once the
    output is free again, whatever the exit code. Its failure is reported and changes none. No
    secrets here: a job is copied into its output."""
    timeout_s: Seconds = 60
    """After so long it is killed."""


class JobSpec(Section):
    """A batchr1 job: prompts in Parquet, a reasoning model, separated answers out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Letters, digits, dot, dash, underscore."""
    model: ModelSpec
    engine: EngineKind = EngineKind()
    input: InputSpec
    output: OutputSpec
    prompting: PromptingSpec = PromptingSpec()
    sampling: SamplingSpec = SamplingSpec()
    schedule: Literal["auto", "longest_first", "fifo"] = "auto"
    """Which samples go first. longest_first: those expected to be longest, by input.expected_tokens
    or, with n > 1, by samples of the row that are done (one goes ahead); fifo: as in the input;
    auto: longest_first where either is."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    retry: RetrySpec = RetrySpec()
    verify: VerifySpec = VerifySpec()
    stop_when: StopWhenSpec | None = None
    """Rejection sampling: {correct: 2} stops a row's samples when two are right; null: all n are
    generated."""
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

    @model_validator(mode="after")
    def _has_stops_where_it_looks(self) -> JobSpec:
        has_stops = self.sampling.stop is not None or self.input.sampling.stop is not None
        if self.sampling.stop_in != "answer" and not has_stops:
            raise ValueError(
                f"sampling.stop_in {self.sampling.stop_in} says where stop strings are looked for, "
                "and there are none (set sampling.stop)"
            )
        return self

    @property
    def has_seeds(self) -> bool:
        """Whether requests carry seeds of their own."""
        return self.sampling.seed is not None or self.input.sampling.seed is not None

    @property
    def longest_first(self) -> bool:
        """Whether the order goes by expected length.

        Where nothing is known of any, that is the input's order.
        """
        known = self.input.expected_tokens is not None or self.sampling.n > 1
        return self.schedule == "longest_first" or (self.schedule == "auto" and known)

    @field_validator("name", mode="before")
    @classmethod
    def _name_is_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value
