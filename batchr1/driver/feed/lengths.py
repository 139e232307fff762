"""Lengths of a job's prompts and completions, for `sizing`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.dataset.prompts import Renderer, RowError
from batchr1.dataset.source import Source
from batchr1.dataset.values import gathered
from batchr1.driver.feed.items import RENDER_ROWS, prompts_in
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource
from batchr1.output.folder import Output
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.lengths import assumed_lengths, default_lengths
from batchr1.storage.base import open_storage

MIN_EARLIER_ROWS = 30  # of fewer long-tailed lengths the mean says little
MIN_UNFINISHED_ROWS = 2048  # and of fewer rows of an unfinished output: the short ones finish first

Floats = np.ndarray[Any, Any]


def measure_prompts(
    source: Source, renderer: Renderer, *, limit_rows: int = 200_000, sample_rows: int = 20_000
) -> PromptLengths:
    """Render and tokenise the input's prompts as a run does.

    All up to `limit_rows` rows, else about `sample_rows`. A sample is spread evenly over the whole
    input and is the same each time; a plan made of one leaves room for longer prompts. Holds a few
    hundred prompts at a time. Raises what reading the input raises.
    """
    rows, batches = source.spread(
        source.prompt_columns, limit_rows, else_about=min(sample_rows, limit_rows)
    )
    measured = good = total = longest = 0
    for batch in gathered(batches, RENDER_ROWS):
        prompts = prompts_in(source, renderer, batch)
        lengths = [len(prompt.token_ids) for prompt in prompts if not isinstance(prompt, RowError)]
        measured += batch.num_rows
        good += len(lengths)
        total += sum(lengths)
        longest = max(longest, max(lengths, default=0))
    mean = total / max(1, good)
    return PromptLengths(rows, measured, longest, mean)


def expected_completions(
    spec: JobSpec, source: Source, outputs: Sequence[Output], model: ModelSource
) -> CompletionLengths:
    """Find the best known length of a sample's completion.

    By a column of the input, earlier rows, the variant, or the task. `outputs`: this job's own (of
    `output.path`) and those of `input.exclude`, which are taken together, after the own one. One
    that does not exist yet is passed over. Leave out one that another model made: it writes other
    lengths.
    """
    own_uri = open_storage(spec.output.path).uri
    cap = min(spec.sampling.max_tokens or model.context_len, model.context_len)
    return (
        _from_column(spec, source, cap)
        or _to_the_cap(spec, source, cap)
        or _from_outputs([output for output in outputs if output.uri == own_uri], cap)
        or _from_outputs([output for output in outputs if output.uri != own_uri], cap)
        or _from_catalogue(spec, cap)
        or default_lengths(spec.prompting.instruction, cap, factor=_length_factor(spec))
    )


class _Moments:
    """Sums over lengths that come in pieces."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = self._squares = 0.0

    def add(self, lengths: Floats) -> None:
        self.rows += len(lengths)
        self._sum += float(lengths.sum())
        self._squares += float(np.square(lengths).sum())

    def lengths(self, source: str) -> CompletionLengths:
        return CompletionLengths(self._sum / self.rows, self._squares / self.rows, source)


def _from_column(spec: JobSpec, source: Source, cap: int) -> CompletionLengths | None:
    """Read the rows' own expectations; None without any.

    Each is capped at the row's own max_tokens too.
    """
    name = spec.input.expected_tokens
    if name is None:
        return None
    known, rows = _Moments(), 0
    for _, batch in source.batches([name, *_cap_columns(spec, besides=name)]):
        expected = np.minimum(source.expected_tokens(batch), _row_caps(source, batch, cap))
        rows += len(expected)
        known.add(
            np.maximum(expected[~np.isnan(expected)], 1.0)
        )  # a completion has a token at least, its end
    if not known.rows:
        return None
    named = f"column {name}"
    if known.rows < rows:
        named += f" ({known.rows:,} of {rows:,} rows)"
    return known.lengths(named)


def _to_the_cap(spec: JobSpec, source: Source, cap: int) -> CompletionLengths | None:
    """With `ignore_eos` nothing ends before its cap, whatever was measured elsewhere."""
    if not spec.sampling.ignore_eos:
        return None
    caps = _Moments()
    if spec.input.cap is None:
        what = f"{cap:,} tokens"
        caps.add(np.array([float(cap)]))
    else:
        what = f"column {spec.input.cap}"
        for _, batch in source.batches([spec.input.cap]):
            lengths = _row_caps(source, batch, cap)
            caps.add(lengths[lengths >= 1])  # other rows fail
    if not caps.rows:
        return None
    return caps.lengths(f"{what}, since ignore_eos lets every sample run to its cap")


def _from_outputs(outputs: Iterable[Output], cap: int) -> CompletionLengths | None:
    """Measure done rows, truncated ones as they are; None if too few.

    An unfinished output counts only if it has many: what is done of a few batches is what was
    short.
    """
    lengths, uris = _Moments(), []
    for output in outputs:
        if not output.exists():
            continue
        tables = output.tables(["completion_tokens"])
        # A server may have counted no tokens.
        counted = [table.column("completion_tokens").drop_null() for table in tables]
        rows = sum(map(len, counted))
        if rows and (output.is_complete() or rows >= MIN_UNFINISHED_ROWS):
            uris.append(output.uri)
            for column in counted:
                lengths.add(np.minimum(column.to_numpy().astype(np.float64), cap))
    if lengths.rows < MIN_EARLIER_ROWS:
        return None
    runs = f"an earlier run at {uris[0]}"
    if len(uris) > 1:
        runs = f"earlier runs at {uris[0]} and {len(uris) - 1} more"
    return lengths.lengths(f"{lengths.rows:,} rows of {runs}")


def _length_factor(spec: JobSpec) -> float:
    entry = VARIANTS.get(spec.model.variant or "")
    return 1.0 if entry is None else entry.length_factor


def _from_catalogue(spec: JobSpec, cap: int) -> CompletionLengths | None:
    entry = VARIANTS.get(spec.model.variant) if spec.model.variant else None
    mean = getattr(entry, "mean_completion_tokens", None)
    return (
        None if mean is None else assumed_lengths(mean, cap, f"the average of {spec.model.variant}")
    )


def _cap_columns(spec: JobSpec, *, besides: str) -> list[str]:
    name = spec.input.cap
    if name is None or name == besides:
        return []
    return [name]


def _row_caps(source: Source, batch: pa.RecordBatch, cap: int) -> Floats:
    """Give each row's cap in tokens: its own where that is smaller."""
    own = np.array(source.caps(batch), dtype=np.float64)  # None becomes NaN, which fmin passes over
    caps: Floats = np.fmin(own, cap)
    return caps
