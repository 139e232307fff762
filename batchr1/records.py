"""Records that flow through a run, from input row to output row.

    Prompt ─▶ WorkItem ─▶ (engine) ─▶ Completion ─▶ Result
                          (server) ─▶ ServerCompletion ─▶ Result

A row that cannot be done becomes a Failure. All records are frozen and hold plain values, so they
can cross a process boundary. `kept` is the one exception: an Arrow record batch of one row. Arrow
alone carries a column exactly whose type the user chooses.
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

FLAGS = (  # oddities of a row, always in this order
    "no_think",
    "empty_think",
    "extra_think_tag",
    "answer_without_box",
    "looping",
    "token_soup",
    "mixed_language",
    "json_leak",
    "long_paragraph",
    "code_in_reasoning",
    "refusal",
    "budget_forced",
    "verify_failed",
    "verify_unsure",
    "answer_invalid",
)
# Stages of verification that decide `correct`.
VERDICT_STAGES = ("text", "number", "choice", "set", "interval", "math", "function")
# Comparisons that decide `correct`; a function of the user's is none of them.
VERIFY_KINDS = (
    "auto",
    "math",
    "number",
    "aime",
    "choice",
    "yes_no",
    "short_text",
    "exact",
    "regex",
    "none",
)


@dataclass(frozen=True, slots=True)
class SampleKey:
    """One sample of one row: the unit of work and of durability."""

    id: str
    sample: int


@dataclass(frozen=True, slots=True)
class RowSampling:
    """A row's own keys of sampling; None: the job's."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    @property
    def drawing(self) -> dict[str, float]:
        """Keys that an engine draws by, those that are the row's own."""
        own = {"temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in own.items() if value is not None}

    def seed_or(self, seed: int | None) -> int | None:
        """Give the row's own seed, else the job's."""
        return seed if self.seed is None else self.seed


NOTHING_OWN = RowSampling()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Input row, rendered by the model's chat template.

    `text` is the user turn before the template, `token_ids` the prompt as the engine sees it.
    `opened`: the prompt ends inside a think block. `digest`: 128-bit hash of the rendered prompt.
    `max_tokens`: the row's own cap, `own` its own sampling. A server renders prompts itself: then
    `messages` are sent, as (role, content), and `token_ids` is empty. `dialogue`: the turns as
    JSON, None for one user turn.
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
    own: RowSampling = NOTHING_OWN
    dialogue: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of a server to one request.

    Counts are those of its `usage`, in tokens; None where it gave none. `reasoning` is None where
    the server did not split it off; `content` may then hold think tags.
    """

    content: str | None
    reasoning: str | None
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Saved tokens of a generation, and the offsets of its interruptions.

    With a `finish_reason` it had ended, and only its row was not committed. batchr1 put `injected`
    of the tokens in itself. A server's answer has no tokens: it is saved whole, as `reply`.
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

    `max_tokens` bounds the whole completion, saved tokens included. `limited_by` names the source
    of that bound. `expected_tokens` is the expected length of the whole completion, None where
    unknown. `at_least_tokens`: a sibling has reached so many.
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
    """Completion of a work item by an engine.

    `token_ids` are all of it, saved ones first, the end token included. batchr1 put `injected` of
    them in itself. `cut_by` names the limit where batchr1 cut it and not the engine.
    """

    item: WorkItem
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    injected: int = 0
    cut_by: Literal["budget", "loop"] | None = None
    closed_by: Literal["budget", "loop"] | None = None


@dataclass(frozen=True, slots=True)
class ServerCompletion:
    """Completion of a work item by a server."""

    item: WorkItem
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failure:
    """Sample that could not be generated: a row under `.batchr1/failed/`."""

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
    """Lengths of a dataset's rendered prompts, in tokens.

    `rows` of the input pass its filters; `measured` of them were tokenised. A row that cannot
    become a prompt counts as measured and has no length. `longest` and `mean` are 0 without any
    good row.
    """

    rows: int
    measured: int
    longest: int
    mean: float

    @property
    def sampled(self) -> bool:
        """Tell whether a longer prompt may be among unmeasured rows."""
        return self.measured < self.rows


@dataclass(frozen=True, slots=True)
class CompletionLengths:
    """Expected lengths of completions, capped at max_tokens.

    `mean` is in tokens, `mean_square` in tokens². Long sequences stay in the batch longer, so the
    time-weighted mean is mean_square / mean. `source` tells people the origin of the numbers.
    """

    mean: float
    mean_square: float
    source: str


def expected_tokens_left(done: int, under_way: int, generated: int, rows_left: int) -> float | None:
    """Estimate the tokens still to generate for `rows_left` rows.

    `generated`: tokens of rows done and under way. None before half as many are done as are under
    way: all began together, and the first say little about the others. Lengths are taken as
    exponential, and rows under way as censored observations of it. Then the mean is all tokens
    generated over rows done, and a row under way has as much before it as a new one. The mean of
    rows done alone would be too low for most of a run, because long generations finish last.
    """
    if not done or done < under_way / 2:
        return None
    return generated / done * rows_left


@dataclass(frozen=True, slots=True)
class Result:
    """Output row, column for column as in `schemas/output.schema.json`.

    A count is None where a server did not give it.
    """

    id: str
    sample: int
    kept: pa.RecordBatch | None
    prompt: str
    prompt_messages: str | None
    gold: str | None
    reasoning: str | None
    answer: str | None
    final_answer: str | None
    correct: bool | None
    verdict_by: str | None
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
