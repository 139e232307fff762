"""Prompts and work items from input rows.

A row that cannot be a prompt becomes a failure, as does one whose prompt leaves no token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from batchr1.dataset.prompts import PromptRow, Renderer, RowError
from batchr1.dataset.source import Source
from batchr1.driver.feed.schedule import Pick, RowSamples
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import (
    Failure,
    Prompt,
    ResumePoint,
    RowSampling,
    SampleKey,
    TruncatedBy,
    WorkItem,
)
from batchr1.seeds import derive_seed

RENDER_ROWS = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of a completion.

    `max_tokens` is the job's, None without one; `max_model_len` is the engine's context.
    """

    max_tokens: int | None
    max_model_len: int


@dataclass(frozen=True, slots=True)
class ItemMaker:
    """Makes work items.

    `saved`: checkpoints of samples, taken out as their rows come.
    """

    source: Source
    renderer: Renderer
    limits: Limits
    seed: int | None
    saved: dict[SampleKey, GenerationCheckpoint] = field(default_factory=dict)

    def render(self, batch: pa.RecordBatch) -> list[Prompt | RowError]:
        """Render the rows of a batch."""
        return render_batch(self.source, self.renderer, batch)

    def make(self, prompt: Prompt | RowError, sample: int, pick: Pick) -> WorkItem | Failure:
        """Make the work item of a sample, or its failure."""
        if isinstance(prompt, RowError):
            return Failure(prompt.id, sample, prompt.reason, str(prompt), 0)
        room = self.limits.max_model_len - len(prompt.token_ids)
        if room < 1:
            message = (
                f"the prompt is longer than the context (got {len(prompt.token_ids)} tokens, "
                f"need at most {self.limits.max_model_len - 1})"
            )
            return Failure(prompt.id, sample, "prompt_too_long", message, 0, prompt.digest)
        if prompt.max_tokens is not None and prompt.max_tokens < 1:
            message = (
                f"the row's own cap allows no token (got {prompt.max_tokens}, need at least 1)"
            )
            return Failure(prompt.id, sample, "bad_max_tokens", message, 0, prompt.digest)
        if (wrong := out_of_bounds(prompt.own)) is not None:
            return Failure(prompt.id, sample, "bad_sampling", wrong, 0, prompt.digest)
        asked = min(
            (m for m in (self.limits.max_tokens, prompt.max_tokens) if m is not None),
            default=room + 1,
        )
        limited_by: TruncatedBy = "max_tokens"
        if asked > room:
            limited_by = "context"
        expected = None
        if not math.isnan(pick.expected):
            expected = pick.expected
        partial, attempt = self._partial(prompt, sample)
        return WorkItem(
            prompt,
            sample,
            min(asked, room),
            limited_by,
            seed=derive_seed(prompt.own.seed_or(self.seed), prompt.id, sample, attempt),
            attempt=attempt,
            partial=partial,
            expected_tokens=expected,
            at_least_tokens=pick.at_least,
        )

    def _partial(self, prompt: Prompt, sample: int) -> tuple[ResumePoint | None, int]:
        """Take the checkpoint of a sample, with its attempt.

        One of another prompt is dropped.
        """
        saved = self.saved.pop(SampleKey(prompt.id, sample), None)
        if saved is None or saved.prompt_hash != prompt.digest:
            return None, 1
        return saved.partial(), saved.attempt

    def add_saved(self, id: str, group: RowSamples) -> None:
        """Note the tokens of a row's checkpoints.

        Finished ones give the expected length of the row's other samples.
        """
        ended = []
        for sample in group.samples:
            saved = self.saved.get(SampleKey(id, sample))
            if saved is not None:
                group.saved[sample] = saved.num_tokens
                ended += [saved.num_tokens] * (
                    saved.finish_reason is not None and saved.num_tokens > 0
                )
        if ended and math.isnan(group.expected):
            group.expected = sum(ended) / len(ended)


def out_of_bounds(own: RowSampling) -> str | None:
    """Say which of a row's own keys cannot be; None: none."""
    got: dict[str, tuple[float | None, bool, str]] = {
        "temperature": (own.temperature, 0 <= (own.temperature or 0) <= 2, "0 to 2"),
        "top_p": (own.top_p, own.top_p is None or 0 < own.top_p <= 1, "more than 0, at most 1"),
        "seed": (own.seed, 0 <= (own.seed or 0) < 2**63, "0 to 2^63 - 1"),
    }
    for name, (value, is_fine, need) in got.items():
        if not is_fine:
            return f"the row's own {name} is out of bounds (got {value}, need {need})"
    if own.stop is not None and not all(own.stop):
        return "the row's own stop has an empty text (got '', need text of one character or more)"
    return None


def prompts_in(
    source: Source, renderer: Renderer, batch: pa.RecordBatch
) -> Iterator[Prompt | RowError]:
    """Render the prompts of a batch, to measure or compare them.

    In order. Errors name no id.
    """
    for start in range(0, batch.num_rows, RENDER_ROWS):
        contents = source.contents(batch.slice(start, RENDER_ROWS))
        yield from renderer.render_many(PromptRow("", content) for content in contents)


def render_batch(
    source: Source, renderer: Renderer, batch: pa.RecordBatch
) -> list[Prompt | RowError]:
    """Render the rows of a batch as prompts, with their kept columns."""
    bad = source.bad_texts(batch)
    if bad:
        return _render_others(source, renderer, batch, bad)
    kept = source.kept(batch) if len(source.kept_schema) else None
    columns = zip(
        source.ids(batch),
        source.contents(batch),
        source.golds(batch),
        source.caps(batch),
        source.own_sampling(batch),
        strict=True,
    )
    rows = [
        PromptRow(
            str(id), content, gold, cap, kept.take(pa.array([i])) if kept is not None else None, own
        )
        for i, (id, content, gold, cap, own) in enumerate(columns)
    ]
    return renderer.render_many(rows)


def _render_others(
    source: Source, renderer: Renderer, batch: pa.RecordBatch, bad: dict[int, str]
) -> list[Prompt | RowError]:
    """Render the rows of a batch; bad ones fail in their place."""
    good = [row for row in range(batch.num_rows) if row not in bad]
    rendered = iter(render_batch(source, renderer, batch.take(pa.array(good, pa.int64()))))
    found: list[Prompt | RowError] = []
    for row, id in enumerate(source.ids(batch)):
        if row in bad:
            why = f"column {bad[row]!r} is not valid Unicode (a lone surrogate)"
            found.append(RowError(str(id), "not_text", why))
        else:
            found.append(next(rendered))
    return found
