"""Counts and shares over an output, from its columns of numbers.

The texts stay on disk.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

from batchr1.columns import NAMES
from batchr1.dataset.pending import Counts
from batchr1.dataset.values import temporal_as_text
from batchr1.errors import UsageError
from batchr1.output.checkpoints import FoundCheckpoints, read_checkpoints
from batchr1.output.find import no_output
from batchr1.output.folder import DATA_DIR, Output
from batchr1.output.run_record import CountsRecord, LoadRecord, RunRecord
from batchr1.records import SampleKey, expected_tokens_left
from batchr1.report.labels import LabelCounts, count_labels
from batchr1.report.measures import Measures, measure, measure_by, name_of
from batchr1.report.scan import each_once
from batchr1.storage.lock import read_lock

COLUMNS = [
    "id",
    "sample",
    "final_answer",
    "correct",
    "reasoning_status",
    "truncated",
    "truncated_in",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "completion_tokens",
    "flags",
]


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Rows of an output that share a value of a column.

    Tokens are completion tokens.
    """

    value: str
    rows: int
    correct: int
    judged: int
    truncated: int
    mean_tokens: float | None  # None: of no row is it known
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Checkpoints of samples that are not committed.

    Generations under way, finished ones, and tokens of both.
    """

    under_way: int
    finished: int
    tokens: int
    unreadable: int

    @classmethod
    def of(cls, found: FoundCheckpoints) -> InFlight:
        """Count what was found."""
        under_way = len(found.saved) - found.finished
        return cls(under_way, found.finished, found.tokens, len(found.unreadable))


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of an output.

    `tokens_per_s`, `loads`: of the newest that had work.
    """

    run: str | None = None
    state: str | None = None
    exit_code: int | None = None
    started: str | None = None
    ended: str | None = None
    stopped: str | None = None
    tokens_per_s: float | None = None
    loads: dict[str, LoadRecord] | None = None

    @staticmethod
    def of(last: RunRecord | None, worked: RunRecord | None) -> LastRun:
        if last is None or worked is None:
            return LastRun()
        return LastRun(
            last.run,
            last.state,
            last.exit_code,
            last.started,
            last.ended,
            last.stopped,
            worked.tokens_per_s,
            worked.loads,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSummary:
    """The content of `batchr1 status`.

    Shares are over done rows; token figures are per row.
    """

    output: str
    complete: bool
    done: int
    failed: dict[str, int]
    pending: int | None
    statuses: dict[str, int]
    truncated_in: dict[str, int]
    judged: int = 0
    correct: int = 0
    tokens: int = 0
    token_stats: dict[str, dict[str, float]] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    runs: int
    last_run: LastRun
    holder: str | None
    in_flight: InFlight
    tokens_per_s: float | None
    eta_s: float | None = None
    measures: Measures | None = None  # None: no right answers are known, or one sample per prompt
    labels: LabelCounts | None = None  # None: one sample per prompt
    groups: list[GroupSummary] = field(default_factory=list)
    # by the input that was read, or the last run: left out by `stop_when`, done but not asked for
    spared: int = 0
    beside: int = 0
    repeated: int = 0  # rows that lie in data/ twice, and are counted once

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, as `status --json` prints them."""
        document = asdict(self)
        if self.last_run.loads is not None:
            loads = {
                worker: load.model_dump(exclude_unset=True)
                for worker, load in self.last_run.loads.items()
            }
            document["last_run"]["loads"] = loads
        return document


def summarise(
    output: Output, *, by: str | None = None, counts: Counts | None = None
) -> OutputSummary:
    """Read an output.

    `by` names a column to group by; `counts` are known only to who has read the input. Raises
    `UsageError` when nothing of ours is there, or it has no column `by`.
    """
    runs = _runs(output)
    frames = read_numbers(output, by)
    every = pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))
    if frames:
        every = pl.concat(frames.values())
    rows = each_once(every)
    last = next(reversed(runs), None)
    pending, spared, beside = None, 0, 0
    if counts is not None:
        pending, spared, beside = counts.pending, counts.spared, counts.beside
    elif last is not None:
        pending, spared, beside = _left(output, last, frames)
    found = _in_flight(output, rows)
    holder, in_flight = _holder(output), InFlight.of(found)
    worked = next((run for run in reversed(runs) if run.had_work), last)  # a night with a speed
    rate = _rate(worked, frames, in_flight, is_live=holder is not None)
    summary = OutputSummary(
        output=output.uri,
        complete=output.is_complete() and every.height == rows.height,
        done=rows.height,
        failed=_failed(output, rows),
        pending=pending,
        statuses=counts_of(rows, "reasoning_status"),
        truncated_in=counts_of(rows, "truncated_in"),
        runs=len(runs),
        last_run=LastRun.of(last, worked),
        holder=holder,
        in_flight=in_flight,
        tokens_per_s=rate,
        measures=_measures(rows),
        labels=count_labels(rows),
        spared=spared,
        beside=beside,
        repeated=every.height - rows.height,
    )
    if frames and holder is not None:
        for key in found.aside & found.saved.keys():
            del found.saved[key]
        summary = replace(summary, eta_s=_eta(rows, pending, InFlight.of(found), rate))
    return _with_figures(summary, rows, by) if frames else summary


def _with_figures(summary: OutputSummary, rows: pl.DataFrame, by: str | None) -> OutputSummary:
    """Add the figures that are computed from columns of parts."""
    if by is not None:
        summary = replace(summary, groups=groups_of(rows, by, summary.measures))
    return replace(
        summary,
        judged=rows.height - rows["correct"].null_count(),
        correct=int(rows["correct"].sum() or 0),
        tokens=int(rows["completion_tokens"].cast(pl.Int64).sum()),
        token_stats=_token_stats(rows),
        flags=counts_of(rows.explode("flags"), "flags"),
    )


def read_numbers(
    output: Output, by: str | None, more: Sequence[str] = ()
) -> dict[str, pl.DataFrame]:
    """Read the columns of numbers, `more` and `by`, part by part."""
    columns = [*COLUMNS, *more]
    own = set() if by is None else {by} - set(columns)
    columns += own
    frames: dict[str, pl.DataFrame] = {}
    for rel in output.parts():
        if by is not None and by not in (have := output.part_columns(rel)):
            kept = ", ".join(n for n in have if n not in NAMES) or "none"
            raise UsageError(
                f"{output.uri}: --by {by}: there is no such column (kept columns: {kept})."
            )
        table = output.read_part(rel, columns)
        frames[rel] = pl.DataFrame(temporal_as_text(table, own))
    return frames


def failed_rows(output: Output) -> list[dict[str, Any]]:
    """Read the rows that failed and were not done since.

    The newest failure of each. Raises `UsageError` when nothing of ours is there.
    """
    _runs(output)
    failed = [pl.DataFrame(table) for table in output.failed_tables()]
    if not failed:
        return []
    done = [pl.DataFrame(table) for table in output.tables(["id", "sample"])]
    rows = pl.concat(failed).unique(["id", "sample"], keep="last", maintain_order=True)
    if done:
        rows = rows.join(pl.concat(done), on=["id", "sample"], how="anti")
    return rows.to_dicts()


def _runs(output: Output) -> list[RunRecord]:
    if not output.was_tried():
        raise no_output(output.uri, otherwise="the job file")
    return output.runs()


def _left(output: Output, last: RunRecord, frames: dict[str, pl.DataFrame]) -> tuple[int, int, int]:
    """Count samples pending, spared and beside, by the last run.

    As it counted them at its end, or else by what it has committed.
    """
    if last.counts is not None:
        rows = each_once(pl.concat(frames.values())).height if frames else 0
        gone = max(0, last.counts.done - rows)  # somebody deleted a part since
        return last.counts.pending + gone, last.counts.spared, max(0, rows - last.counts.done)
    before = last.counts_before or CountsRecord()
    mine = [rel for rel in frames if rel.startswith(f"{DATA_DIR}/part-{last.run}-")]
    done = failed = pl.DataFrame()
    if mine:
        done = each_once(pl.concat(frames[rel] for rel in mine))
    tables = [pl.DataFrame(table) for table in output.failed_tables(["id", "sample", "run"])]
    if tables:
        failed = pl.concat(tables).filter(pl.col("run") == last.run)
    spared = 0
    if done.height:
        others = [frame for rel, frame in frames.items() if rel not in mine]
        spared = _spared(output.job() or {}, done, others, tables)
    pending = before.pending - done.height - failed.height - spared
    return max(0, pending), before.spared + spared, before.beside


def _spared(
    job: dict[str, Any],
    mine: pl.DataFrame,
    others: Sequence[pl.DataFrame],
    failed: Sequence[pl.DataFrame],
) -> int:
    """Count samples that `stop_when` left out because of the rows `mine`.

    Their prompts had not enough right ones before.
    """
    spec = job.get("spec") or {}
    if not spec.get("stop_when"):
        return 0
    enough, n, keys = (
        int(spec["stop_when"]["correct"]),
        int(spec["sampling"]["n"]),
        ["id", "sample"],
    )
    of_mine = mine.select("id").unique()
    earlier = [frame.join(of_mine, on="id", how="semi") for frame in others]
    rows = each_once(pl.concat([mine, *earlier]))
    right = rows.group_by("id").agg(pl.col("correct").sum().alias("now"))
    if earlier:
        then = pl.col("correct").sum().alias("then")
        before = pl.concat(earlier).group_by("id").agg(then)
        right = right.join(before, on="id", how="left").filter(pl.col("then").fill_null(0) < enough)
    solved = right.filter(pl.col("now") >= enough).select("id")
    settled = [rows.select(keys), *(table.select(keys) for table in failed)]
    gone = (
        pl.concat([frame.cast({"sample": pl.Int32}) for frame in settled])
        .unique()
        .join(solved, on="id", how="semi")
    )
    return solved.height * n - gone.height


def _failed(output: Output, done: pl.DataFrame) -> dict[str, int]:
    tables = [pl.DataFrame(table) for table in output.failed_tables(["id", "sample", "reason"])]
    if not tables:
        return {}
    rows = pl.concat(tables).unique(["id", "sample"], keep="last", maintain_order=True)
    if done.height:
        rows = rows.join(done.select("id", "sample"), on=["id", "sample"], how="anti")
    return counts_of(rows, "reason")


def counts_of(rows: pl.DataFrame, column: str) -> dict[str, int]:
    """Count the values of a column, the most frequent first."""
    counted = rows.drop_nulls(column).group_by(column).len().sort("len", descending=True)
    return {str(value): int(count) for value, count in counted.iter_rows()}


def _token_stats(rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    names = [name for name in COLUMNS if name.endswith("_tokens")]
    return {name: _stats(rows[name]) for name in names if rows[name].count()}


def _stats(values: pl.Series) -> dict[str, float]:
    def quantile(q: float) -> float:
        return float(values.quantile(q, "nearest") or 0)

    mean = 0.0
    if values.count():
        mean = round(float(values.mean()), 1)  # type: ignore[arg-type]
    return {
        "mean": mean,
        "p50": quantile(0.5),
        "p95": quantile(0.95),
        "max": quantile(1.0),
    }


def _measures(rows: pl.DataFrame) -> Measures | None:
    if rows["correct"].null_count() == rows.height or rows["sample"].max() == 0:
        return None
    return measure(rows)


def groups_of(rows: pl.DataFrame, by: str, of_all: Measures | None) -> list[GroupSummary]:
    measures: dict[str | None, Measures] = {}
    if of_all is not None:
        found = measure_by(rows, by, ks=sorted(of_all.pass_at))
        measures = {one.group: one for one in found}
    grouped = (
        rows.group_by(pl.col(by).alias("value"))
        .agg(
            pl.len(),
            pl.col("correct").sum().alias("right"),
            pl.col("correct").count().alias("judged"),
            pl.col("truncated_in").count().alias("cut"),
            pl.col("completion_tokens").mean().alias("tokens"),
        )
        .sort("value")
    )
    return [
        GroupSummary(name_of(v), n, right, judged, cut, tokens, measures.get(name_of(v)))
        for v, n, right, judged, cut, tokens in grouped.iter_rows()
    ]


def _in_flight(output: Output, done: pl.DataFrame) -> FoundCheckpoints:
    """Read the checkpoints of samples that are not done."""
    found = read_checkpoints(output.storage)
    if found.saved and done.height:
        keys = pl.DataFrame(
            {"id": [k.id for k in found.saved], "sample": [k.sample for k in found.saved]}
        )
        keys = keys.cast({"sample": done.schema["sample"]})
        for id, sample in keys.join(done, on=["id", "sample"], how="semi").iter_rows():
            del found.saved[SampleKey(id, sample)]
    return found


def _rate(
    last: RunRecord | None,
    frames: dict[str, pl.DataFrame],
    in_flight: InFlight,
    *,
    is_live: bool,
) -> float | None:
    """Give tokens per second of the last run.

    As it recorded it; of a live one, by what it committed and saved until now.
    """
    if last is None:
        return None
    if not is_live:
        if last.tokens_per_s is None:
            return None
        return float(last.tokens_per_s)
    mine = [
        frame for rel, frame in frames.items() if rel.startswith(f"{DATA_DIR}/part-{last.run}-")
    ]
    tokens = (
        sum(int(frame["completion_tokens"].cast(pl.Int64).sum()) for frame in mine)
        + in_flight.tokens
    )
    if last.taken_over is not None:
        tokens -= last.taken_over.tokens
    seconds = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(last.started)).total_seconds()
    if seconds <= 0:
        return None
    return round(max(0, tokens) / seconds, 1)


def _eta(
    rows: pl.DataFrame, pending: int | None, in_flight: InFlight, rate: float | None
) -> float | None:
    """Estimate the seconds until nothing is pending; None while unknown."""
    if not pending or not rate:
        return None
    generated = int(rows["completion_tokens"].sum() or 0) + in_flight.tokens
    done, left = rows.height + in_flight.finished, pending - in_flight.finished
    tokens = expected_tokens_left(done, in_flight.under_way, generated, left)
    return None if tokens is None else round(tokens / rate, 1)


def _holder(output: Output) -> str | None:
    info = read_lock(output.storage)
    if info is None or info.released or info.owner_is_dead():
        return None
    return str(info)
