"""Several outputs together: a line each, and a total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from batchr1.columns import output_schema
from batchr1.output.across import KEY, last_of_each
from batchr1.output.folder import Output
from batchr1.report.compare import Comparison, compare_all
from batchr1.report.health import Health, look
from batchr1.report.scan import each_once
from batchr1.report.summary import (
    COLUMNS,
    GroupSummary,
    OutputSummary,
    failed_rows,
    groups_of,
    read_numbers,
    summarise,
)

_COLUMNS = ("model", "finished_at")
_FINISHED = {"complete", "failed rows"}


@dataclass(frozen=True, slots=True)
class Line:
    """Counts of an output, or of all.

    Of all, each (model, id, sample) counts once: the row that finished last. A row that failed in
    one output and is done in another is not failed. `pending` None: unknown. `state`: see `Health`,
    empty for all.
    """

    output: str
    state: str
    done: int
    failed: int
    pending: int | None
    judged: int
    correct: int
    truncated: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Totals:
    """The content of `batchr1 status` over several outputs.

    `repeated`: rows that the total leaves out, since another has their key. `comparisons`: each
    output but the first against the first.
    """

    outputs: list[Line]
    total: Line
    repeated: int
    groups: list[GroupSummary]
    summaries: list[OutputSummary] = field(repr=False)
    health: list[Health] = field(repr=False)
    comparisons: list[Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, as `status --json` prints them."""
        each = [
            summary.to_dict() | {"health": asdict(health)}
            for summary, health in zip(self.summaries, self.health, strict=True)
        ]
        total = {key: value for key, value in asdict(self.total).items() if value != ""}
        groups = [asdict(group) for group in self.groups]
        return {
            "outputs": each,
            "total": total | {"repeated": self.repeated, "groups": groups},
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }


def total_of(outputs: Sequence[Output], *, by: str | None = None) -> Totals:
    """Read outputs.

    `by` names a column to group all rows by. Raises `UsageError` as `summarise` does.
    """
    summaries = [summarise(output) for output in outputs]
    health = [look(output) for output in outputs]
    frames = []
    for output in outputs:
        parts = read_numbers(output, by, _COLUMNS)
        frames.append(each_once(pl.concat([_nothing(), *parts.values()], how="diagonal_relaxed")))
    every = pl.concat(frames, how="diagonal_relaxed")
    rows = last_of_each(every)
    lines = [
        Line(
            summary.output,
            state.state,
            summary.done,
            sum(summary.failed.values()),
            summary.pending,
            summary.judged,
            summary.correct,
            sum(summary.truncated_in.values()),
            summary.tokens,
        )
        for summary, state in zip(summaries, health, strict=True)
    ]
    pending = [line.pending for line in lines]
    total = Line(
        output="",
        state="",
        done=rows.height,
        failed=failed_of_all(outputs, frames).height,
        pending=None if None in pending else sum(pending),  # type: ignore[arg-type]
        judged=rows.height - rows["correct"].null_count(),
        correct=int(rows["correct"].sum() or 0),
        truncated=rows.height - rows["truncated_in"].null_count(),
        tokens=int(rows["completion_tokens"].cast(pl.Int64).sum() or 0),
    )
    groups = groups_of(rows, by, None) if by is not None and rows.height else []
    unfinished = [state.state not in _FINISHED for state in health]
    comparisons = compare_all(outputs, frames, unfinished) if len(outputs) > 1 else []
    repeated = every.height - rows.height
    return Totals(lines, total, repeated, groups, summaries, health, comparisons)


def _nothing() -> pl.DataFrame:
    """No rows, in the columns of an output."""
    return pl.DataFrame(output_schema(pa.schema([])).empty_table()).select(*COLUMNS, *_COLUMNS)


def failed_of_all(outputs: Sequence[Output], rows: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """List the keys that failed and are done in no output.

    `rows`: those of each output that are done, with their KEY. Columns: KEY, and reason: that of
    the last output where it failed.
    """
    pairs = list(zip(outputs, rows, strict=True))
    failed = pl.concat(_failures(output, done) for output, done in pairs)
    done = pl.concat(one.select(KEY) for one in rows).unique()
    left = failed.join(done, on=KEY, how="anti", nulls_equal=True)
    return left.unique(KEY, keep="last", maintain_order=True)


def _failures(output: Output, rows: pl.DataFrame) -> pl.DataFrame:
    """The keys of rows that failed, and why.

    The model is that of the rows that are done.
    """
    found = [(row["id"], row["sample"], row["reason"]) for row in failed_rows(output)]
    schema = {"id": pl.String, "sample": pl.Int32, "reason": pl.String}
    keys = pl.DataFrame(found, schema=schema, orient="row")
    model = rows["model"][0] if rows.height else None
    return keys.select(pl.lit(model, pl.String).alias("model"), *schema)
