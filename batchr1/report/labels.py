"""Prompts by their labels: pass rates and majority shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from batchr1.output.labels import labels_of

EDGES = (0.25, 0.5, 0.75)
INTERVALS = ("0", "0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1", "1")
"""Names of intervals: the lower end belongs to each, but 0 and 1 stand alone."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Prompts of an output by pass rate and by majority share.

    Both count the prompts in each of `INTERVALS`. Prompts of which nothing was judged, or that have
    no answer, are in none. `mean_majority_share` is over prompts with an answer.
    """

    prompts: int
    pass_rate: dict[str, int]
    majority_share: dict[str, int]
    mean_majority_share: float | None


def count_labels(rows: pl.DataFrame) -> LabelCounts | None:
    """Count prompts, which are ids here; None where none has several samples."""
    if not rows.height or not rows["sample"].max():
        return None
    # Columns without any value may be of no type.
    typed = rows.select("id", "final_answer", "correct").cast(
        {"final_answer": pl.String, "correct": pl.Boolean}
    )
    labels = labels_of(typed, key="id")
    mean = labels["majority_share"].mean()
    return LabelCounts(
        labels.height,
        _by_interval(labels["pass_rate"]),
        _by_interval(labels["majority_share"]),
        None if mean is None else float(mean),  # type: ignore[arg-type]
    )


def _by_interval(values: pl.Series) -> dict[str, int]:
    value = pl.col("value")
    name: Any = pl.when(value == 0).then(pl.lit(INTERVALS[0]))
    for end, interval in zip((*EDGES, 1.0), INTERVALS[1:], strict=False):
        name = name.when(value < end).then(pl.lit(interval))
    named = name.otherwise(pl.lit(INTERVALS[-1])).alias("name")
    counted = values.drop_nulls().alias("value").to_frame().select(named)
    counts = dict(counted.group_by("name").len().rows())
    return {interval: counts[interval] for interval in INTERVALS if interval in counts}
