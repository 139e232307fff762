"""The records that flow through a run, from an input row to an output row.

    Prompt ─▶ WorkItem ─▶ (engine) ─▶ Completion ─▶ Result        or, for a row that cannot be done, Failure
                          (server) ─▶ RemoteCompletion ─▶ Result

All of them are frozen and hold plain values, so that they can cross a process boundary. `kept` is
the one exception: an Arrow record batch of one row, because Arrow is the only exact carrier of a
column whose type we do not choose.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

ReasoningStatus = Literal["closed", "empty", "unclosed", "missing"]
TruncatedIn = Literal["reasoning", "answer"]
TruncatedBy = Literal["max_tokens", "context", "budget", "loop"]
FinishReason = Literal["stop", "length"]

FLAGS = (  # what is odd about a row, always in this order
    "no_think",
    "empty_think",
    "extra_think_tag",
    "answer_without_box",
    "looping",
    "mixed_language",
    "json_leak",
    "long_paragraph",
    "code_in_reasoning",
    "refusal",
    "budget_forced",
    "verify_failed",
)
VERIFY_KINDS = (
    "auto",
    "math",
    "number",
    "choice",
    "exact",
    "regex",
    "none",
)  # what decides `correct`, but functions


@dataclass(frozen=True, slots=True)
class SampleKey:
    """The unit of work and of durability: one sample of one row."""

    id: str
    sample: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One input row, rendered by the model's chat template.

    `text` is the user turn before the template; `token_ids` is what the engine sees; `opened` says
    whether the prompt ends inside a think block; `digest` is the 128-bit hash of the rendered
    prompt; `max_tokens` is the row's own cap. For a server, which renders it itself, `messages` are
    what is sent, as (role, content), and `token_ids` is empty.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    opened: bool
    digest: bytes
    gold: str | None = None
    max_tokens: int | None = None
    kept: pa.RecordBatch | None = None
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to one request. Counts are those of its `usage`, in tokens; None where it gave none.

    `reasoning` is what the server itself told apart; None where it did not, and `content` may then
    hold think tags.
    """

    content: str | None
    reasoning: str | None
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Tokens that were saved of a generation, and the offsets at which it was interrupted before.

    With a `finish_reason` it had ended, and only its row was not committed yet. `injected` of the
    tokens were put in by batchr1. Of a server's answer there are no tokens: it is saved whole, as
    `reply`.
    """

    token_ids: tuple[int, ...]
    resumed_at: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    finished_at: dt.datetime | None = None
    injected: int = 0
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One sample to generate.

    `max_tokens` bounds the whole completion, saved tokens included; `limited_by` names what that
    bound comes from. `expected_tokens`: how long the whole completion is expected to be; None where
    nothing is known of this sample but, perhaps, that a sibling has reached `at_least_tokens`.
    """

    prompt: Prompt
    sample: int
    max_tokens: int
    limited_by: TruncatedBy
    seed: int | None = None
    attempt: int = 1
    partial: ResumePoint | None = None
    expected_tokens: float | None = None
    at_least_tokens: int = 0

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.prompt.id, self.sample)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine generated for a work item: all token ids (saved ones first), the end token included.

    `cut_by`: what cut it where that was batchr1 and not the engine; `injected` of the tokens
    batchr1 put in.
    """

    item: WorkItem
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    injected: int = 0
    cut_by: Literal["budget", "loop"] | None = None


@dataclass(frozen=True, slots=True)
class ServerCompletion:
    """What a server answered for a work item."""

    item: WorkItem
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that could not be generated, and why. Becomes a row under `.batchr1/failed/`."""

    id: str
    sample: int
    reason: str
    message: str
    attempts: int
    digest: bytes | None = None

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.id, self.sample)


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """The prompts of a dataset as the model is fed them, in tokens; `longest` and `mean` are of the good rows measured.

    `rows` of the input pass its filters, `measured` of them were tokenised. A row that cannot
    become a prompt counts as measured and has no length; with no good row at all, both lengths are
    0.
    """

    rows: int
    measured: int
    longest: int
    mean: float

    @property
    def sampled(self) -> bool:
        """Whether a longer prompt may be among the rows that were not measured."""
        return self.measured < self.rows


@dataclass(frozen=True, slots=True)
class CompletionLengths:
    """New tokens expected per sample, the cap at max_tokens included: mean (tokens) and mean square (tokens²).

    The mean square says how long a sequence is while it occupies the batch: long ones are there
    longer, so that the time-weighted mean is mean_square / mean. `source` is a phrase for people
    that names where the numbers come from.
    """

    mean: float
    mean_square: float
    source: str


@dataclass(frozen=True, slots=True)
class Result:
    """One output row, column for column as `schemas/output.schema.json` describes it.

    Counts that are None are those that a server did not give.
    """

    id: str
    sample: int
    kept: pa.RecordBatch | None
    prompt: str
    gold: str | None
    reasoning: str | None
    answer: str | None
    final_answer: str | None
    correct: bool | None
    reasoning_status: ReasoningStatus
    truncated: bool
    truncated_in: TruncatedIn | None
    truncated_by: TruncatedBy | None
    finish_reason: FinishReason
    prompt_tokens: int | None
    reasoning_tokens: int | None
    answer_tokens: int | None
    control_tokens: int | None
    injected_tokens: int
    completion_tokens: int | None
    flags: tuple[str, ...]
    seed: int | None
    attempts: int
    resumed_at: tuple[int, ...]
    token_ids: tuple[int, ...] | None
    prompt_hash: str
    model: str
    run: str
    finished_at: dt.datetime

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.id, self.sample)
