"""Numbers of a report, as plain values.

`report --json` prints them, and the page is made from them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from batchr1.output.folder import Output
from batchr1.output.run_record import RunRecord, TimelineRecord
from batchr1.report import nights, planned
from batchr1.report.labels import count_labels
from batchr1.report.measures import Measures, measure, measure_by
from batchr1.report.scan import Scan, outcome, scan
from batchr1.report.summary import OutputSummary, counts_of, summarise
from batchr1.report.totals import failed_of_all
from batchr1.version import __version__

OUTCOMES = (
    "right",
    "not judged",
    "wrong",
    "ended without an answer",
    "cut in reasoning",
    "cut in answer",
)
BINS_PER_DECADE = 12
TAIL_SHARE = 0.5  # the tail begins when fewer than this share of the most sequences run, for good
_COUNTS = ("prompt_tokens", "reasoning_tokens", "answer_tokens", "completion_tokens")
_DRAWN = ("reasoning_tokens", "answer_tokens")


def read(
    output: Output, *, by: str | None = None, price: float | None = None
) -> tuple[dict[str, Any], Scan]:
    """`read_all` of one output."""
    return read_all([output], by=by, price=price)


def read_all(
    outputs: Sequence[Output], *, by: str | None = None, price: float | None = None
) -> tuple[dict[str, Any], Scan]:
    """The numbers of outputs, taken together, and the rows to quote.

    Each key counts once (see `across`), but nights count what they brought. `by` names a column to
    group by, as for `scan`; `price`: USD per GPU-hour. Settings are those of the output that ran
    last. Raises `UsageError` when nothing of ours is there, or one has no column `by`.
    """
    summaries = [summarise(output) for output in outputs]
    order = sorted(range(len(outputs)), key=lambda i: summaries[i].last_run.run or "")
    outputs, summaries = [outputs[i] for i in order], [summaries[i] for i in order]
    found = scan(outputs, by=by)
    return _numbers(outputs, summaries, found, price), found


def _numbers(
    outputs: Sequence[Output], summaries: Sequence[OutputSummary], found: Scan, price: float | None
) -> dict[str, Any]:
    jobs = [output.job() or {} for output in outputs]
    job = jobs[-1]
    records = sorted(
        (record for output in outputs for record in output.runs()), key=lambda record: record.run
    )
    rows = found.rows
    prompts = rows
    if len(outputs) > 1 and rows.height:  # models have the same ids, and prompts of their own
        prompts = rows.with_columns(id=pl.format("{} {}", pl.col("model").cast(pl.String), "id"))
    spec = job.get("spec") or {}
    limits = _limits(spec, records)
    by_night = nights.nights(outputs, found.of_each, price=price)
    return {
        "output": _named(outputs),
        "outputs": [_output(summary) for summary in summaries],
        "name": _names(jobs, records),
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "batchr1": __version__,
        "state": _state_of_all([_state(summary) for summary in summaries]),
        "rows": _rows(outputs, summaries, prompts, found),
        "outcomes": _outcomes(rows),
        "correct": _correct(rows),
        "truncated": _truncated(rows),
        "tokens": {name: _stats(rows[name]) for name in _COUNTS if rows.height},
        "limits": limits,
        "histograms": {name: _histogram(rows, name) for name in _DRAWN if rows.height},
        "longer_than": _longer_than(rows, limits),
        "by_prompt_length": _by_length(rows, "prompt_tokens"),
        "by_completion_length": _by_length(rows, "completion_tokens"),
        "measures": _measures(prompts, found.by),
        "labels": _labels(prompts),
        "flags": _flags(rows, found),
        "time": _time(records),
        "plan": planned.beside_measured(records, rows),
        "price_usd": price,
        "nights": nights.to_dict(by_night),
        "all_nights": nights.total(by_night),
        "model": {"name": None, "location": None, "revision": None, **(job.get("model") or {})},
        "settings": spec,
        "fingerprint": job.get("fingerprint") or {},
        "digest": job.get("digest"),
        "versions": _versions(records),
    }


def _output(s: OutputSummary) -> dict[str, Any]:
    return {
        "output": s.output,
        "state": _state(s),
        "done": s.done,
        "failed": sum(s.failed.values()),
        "pending": s.pending,
        "spared": s.spared,
    }


def _names(jobs: Sequence[dict[str, Any]], records: Sequence[RunRecord]) -> str | None:
    """Name the jobs, each once."""
    names = [(job.get("spec") or {}).get("name") for job in jobs]
    names += [record.job for record in records]
    return ", ".join(dict.fromkeys(str(name) for name in names if name)) or None


def _named(outputs: Sequence[Output]) -> str:
    if len(outputs) == 1:
        return outputs[0].uri
    return f"{len(outputs)} outputs, {outputs[0].uri} to {outputs[-1].uri}"


def _rows(
    outputs: Sequence[Output],
    summaries: Sequence[OutputSummary],
    prompts: pl.DataFrame,
    found: Scan,
) -> dict[str, Any]:
    """Count the rows of all outputs together.

    Pending rows are known where they are of each.
    """
    failed = summaries[0].failed
    if len(outputs) > 1:
        every = found.of_each.cast({"model": pl.String, "sample": pl.Int32})
        each = [every.filter(pl.col("output") == number) for number in range(len(outputs))]
        failed = counts_of(failed_of_all(outputs, each), "reason")
    known = [s.pending for s in summaries if s.pending is not None]
    pending = None
    if len(known) == len(summaries):
        pending = sum(known)
    return {
        "done": prompts.height,
        "prompts": prompts["id"].n_unique(),
        "repeated": found.repeated,
        "failed": failed,
        "pending": pending,
        "spared": sum(s.spared for s in summaries),
        "in_flight": {
            name: sum(getattr(s.in_flight, name) for s in summaries)
            for name in ("under_way", "finished", "tokens", "unreadable")
        },
    }


def _state(s: OutputSummary) -> str:
    if s.holder:
        return "running"
    if s.last_run.state == "running":
        return "interrupted"
    if s.complete and not s.pending:
        return "complete"
    return "not complete"


def _state_of_all(states: Sequence[str]) -> str:
    """Name the worst state of several outputs.

    One that is being written is no worse than one that is complete.
    """
    for state in ("interrupted", "not complete", "running"):
        if state in states:
            return state
    return "complete"


def _limits(spec: dict[str, Any], records: Sequence[RunRecord]) -> dict[str, int]:
    """Pick the token limits of a row.

    Engines with a context below `max_tokens` have that limit instead.
    """
    sampling = spec.get("sampling") or {}
    names = ("thinking_budget", "answer_budget", "max_tokens")
    limits = {name: int(sampling[name]) for name in names if sampling.get(name)}
    plans = [record.plan for record in records if record.plan is not None]
    contexts = [plan.max_model_len for plan in plans if plan.max_model_len]
    if contexts and contexts[-1] < limits.get("max_tokens", math.inf):
        limits.pop("max_tokens", None)
        limits["context"] = contexts[-1]
    return limits


def _outcomes(rows: pl.DataFrame) -> dict[str, int]:
    if not rows.height:
        return {}
    counts = dict(rows.select(outcome()).to_series().value_counts().iter_rows())
    return {name: int(counts[name]) for name in OUTCOMES if name in counts}


def _correct(rows: pl.DataFrame) -> dict[str, int]:
    if not rows.height:
        return {"judged": 0, "right": 0}
    return {"judged": int(rows["correct"].count()), "right": int(rows["correct"].sum() or 0)}


def _truncated(rows: pl.DataFrame) -> dict[str, Any]:
    if not rows.height:
        return {"rows": 0, "in": {}, "by": {}}

    def counts(name: str) -> dict[str, int]:
        return dict(rows[name].drop_nulls().value_counts(sort=True).iter_rows())

    return {
        "rows": int(rows["truncated"].sum()),
        "in": counts("truncated_in"),
        "by": counts("truncated_by"),
    }


def _stats(values: pl.Series) -> dict[str, float | None]:
    def quantile(q: float) -> float:
        return float(values.quantile(q, "nearest") or 0)

    whole = values.cast(pl.Int64)
    if not whole.count():  # of a server's answers: not known
        return dict.fromkeys(("total", "mean", "p5", "p50", "p95", "p99", "max"))
    return {
        "total": int(whole.sum()),
        "mean": round(float(whole.mean() or 0), 1),  # type: ignore[arg-type]
        **{f"p{round(q * 100)}": quantile(q) for q in (0.05, 0.5, 0.95, 0.99)},
        "max": quantile(1.0),
    }


def log_edges(low: int, high: int, per_decade: int = BINS_PER_DECADE) -> list[int]:
    """Space whole numbers about evenly on a logarithmic axis.

    From at most `low` (≥ 1) to more than `high`.
    """
    steps = range(10 * per_decade)
    edges = sorted({round(10 ** (step / per_decade)) for step in steps})
    first = max(i for i, edge in enumerate(edges) if edge <= max(1, low))
    last = min(i for i, edge in enumerate(edges) if edge > high)
    return edges[first : last + 1]


def _histogram(rows: pl.DataFrame, name: str) -> dict[str, Any]:
    """Count rows by tokens, complete and truncated ones separately.

    Rows with 0 are counted in `none`.
    """
    values = rows.filter(pl.col(name) > 0)
    none = rows[name].count() - values.height
    if not values.height:
        return {"none": none, "bins": []}
    edges = log_edges(int(values[name].min()), int(values[name].max()))  # type: ignore[arg-type]
    whole, cut = (
        np.histogram(values.filter(pl.col("truncated") == flag)[name].to_numpy(), edges)[0]
        for flag in (False, True)
    )
    bins = [
        {"from": low, "to": high, "whole": int(w), "truncated": int(c)}
        for (low, high), w, c in zip(itertools.pairwise(edges), whole, cut, strict=True)
    ]
    return {"none": none, "bins": bins}


def _longer_than(rows: pl.DataFrame, limits: dict[str, int]) -> list[dict[str, Any]]:
    """Count the rows longer than lengths on a logarithmic scale.

    So many a limit there would cut, or has cut.
    """
    if not rows.height or not rows["completion_tokens"].count():
        return []
    lengths = np.sort(rows["completion_tokens"].drop_nulls().to_numpy())
    edges = log_edges(max(1, int(lengths[0])), int(lengths[-1]), 24)
    marks = {2**e for e in range(8, 20) if lengths[0] <= 2**e <= lengths[-1]} | set(limits.values())
    found = []
    for tokens in sorted({*edges, *marks}):
        longer = int(lengths.size - np.searchsorted(lengths, tokens, side="right"))
        found.append(
            {
                "tokens": tokens,
                "rows": longer,
                "share": round(longer / lengths.size, 6),
                "mark": tokens in marks,
            }
        )
    return found


def _by_length(rows: pl.DataFrame, name: str) -> list[dict[str, Any]]:
    """Count rows by powers of two of a column of tokens.

    All, cut ones, judged and right ones.
    """
    if not rows.height:
        return []
    exponent = pl.col(name).clip(1).log(2).add(1e-9).floor().cast(pl.Int32).alias("exponent")
    grouped = (
        rows.drop_nulls(name)
        .group_by(exponent)
        .agg(
            pl.len().alias("rows"),
            pl.col("truncated").sum(),
            pl.col("correct").count().alias("judged"),
            pl.col("correct").sum().alias("right"),
        )
        .sort("exponent")
    )
    return [
        {
            "from": 2**e,
            "to": 2 ** (e + 1),
            "rows": n,
            "truncated": cut,
            "judged": judged,
            "right": right,
        }
        for e, n, cut, judged, right in grouped.iter_rows()
    ]


def _labels(prompts: pl.DataFrame) -> dict[str, Any] | None:
    counts = count_labels(prompts)
    return None if counts is None else asdict(counts)


def _measures(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    if not rows.height:
        return {"all": None, "by": {}}
    everything: Measures = measure(rows)
    ks = sorted(everything.pass_at) or None
    return {
        "all": everything.to_dict(),
        "by": {name: [one.to_dict() for one in measure_by(rows, name, ks=ks)] for name in columns},
    }


def _flags(rows: pl.DataFrame, found: Scan) -> dict[str, Any]:
    """Count the rows of each flag, most frequent first.

    Also names the rows that are quoted.
    """
    if not rows.height:
        return {}
    told = rows.select("flags").filter(pl.col("flags").list.len() > 0).explode("flags").to_series()
    counts = told.value_counts().sort(["count", "flags"], descending=[True, False])
    return {
        name: {
            "rows": count,
            "share": round(count / rows.height, 6),
            "quoted": [[row["id"], row["sample"]] for row in found.quoted.get(name, [])],
        }
        for name, count in counts.iter_rows()
    }


def _time(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Chain the load of all runs; the tail is the last one's."""
    points: list[dict[str, Any]] = []
    starts, offset = [], 0.0
    tail = None
    for record in records:
        series = record.timeline
        if series is None or len(series.seconds) < 2:
            continue
        starts.append(round(offset, 2))
        points += _points(series, offset)
        tail = _tail(series, offset)
        offset += series.seconds[-1]
    return {"starts": starts, "points": points, "tail": tail}


def _points(series: TimelineRecord, offset: float) -> list[dict[str, Any]]:
    """Give the points of a run that began at `offset` seconds."""
    at, tokens = series.seconds, series.tokens
    rates = [0.0] + [
        round((tokens[i] - tokens[i - 1]) / max(0.01, at[i] - at[i - 1]), 1)
        for i in range(1, len(at))
    ]
    return [
        {
            "seconds": round(offset + at[i], 2),
            "tokens_per_s": rates[i],
            "running": series.running[i],
            "waiting": series.waiting[i],
            "kv_cache_usage": series.kv_cache_usage[i],
            "finished": series.finished[i],
        }
        for i in range(len(at))
    ]


def _tail(series: TimelineRecord, offset: float) -> dict[str, Any] | None:
    """Measure the end of a run, in which its batch drains."""
    at, running, tokens, finished = series.seconds, series.running, series.tokens, series.finished
    most = max(running)
    if most <= 0:
        return None
    last_busy = max(i for i, count in enumerate(running) if count >= TAIL_SHARE * most)
    seconds, working = at[-1] - at[last_busy], at[-1] - at[0]
    share = 0.0
    if working:
        share = round(seconds / working, 4)
    return {
        "since": round(offset + at[last_busy], 2),
        "seconds": round(seconds, 2),
        "share": share,
        "most_running": most,
        "rows": finished[-1] - finished[last_busy],
        "tokens": tokens[-1] - tokens[last_busy],
        "tokens_share": round((tokens[-1] - tokens[last_busy]) / max(1, tokens[-1]), 4),
    }


def _versions(records: Sequence[RunRecord]) -> list[str]:
    """The engines that ran, and the batchr1 that ran them."""
    engines = [engine.info.engine for record in records for engine in record.engines.values()]
    own = [f"batchr1 {record.batchr1}" for record in records if record.batchr1]
    return list(dict.fromkeys([*engines, *own]))
