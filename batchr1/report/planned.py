"""Planned beside measured figures of a run: memory, speed, length and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from batchr1.output.run_record import EstimateRecord, RunRecord

_MEMORY_NAMES = {
    "kv_gib": "KV cache",
    "kv_cache_tokens": "KV cache",
    "cuda_graph_gib": "CUDA graphs",
}


def beside_measured(records: Sequence[RunRecord], rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Pair planned and measured figures of the last run.

    As far as both are known.
    """
    record = next((r for r in reversed(records) if r.memory), None)
    if record is None:
        return []
    found: list[dict[str, Any]] = []
    for name, figure in record.memory[min(record.memory)].items():
        unit = "tokens"
        if name.endswith("_gib"):
            unit = "GiB"
        what = _MEMORY_NAMES.get(name, name.removesuffix("_gib").replace("_", " "))
        found.append(_compared(what, unit, figure.planned, figure.measured))
    if record.plan is not None and record.plan.estimate is not None:
        found += _estimated(record, record.plan.estimate, rows)
    return found


def _estimated(
    record: RunRecord, estimate: EstimateRecord, rows: pl.DataFrame
) -> list[dict[str, Any]]:
    """Estimated beside measured speed, length and time of a run."""
    planned_mean = measured_mean = hours = None
    if record.counts_before is not None and record.counts_before.pending:
        planned_mean = estimate.output_tokens / record.counts_before.pending
    if rows.height and rows["completion_tokens"].count():
        measured_mean = float(rows["completion_tokens"].mean())  # type: ignore[arg-type]
    if record.generating_s and record.counts is not None and not record.counts.pending:
        hours = record.generating_s / 3600
    return [
        _compared("output speed", "tokens/s", estimate.tokens_per_s, record.tokens_per_s),
        _compared("completion length", "tokens a row", planned_mean, measured_mean),
        _compared("generating", "hours", estimate.hours, hours),
    ]


def _compared(
    what: str, unit: str, planned: float | None, measured: float | None
) -> dict[str, Any]:
    return {"what": what, "unit": unit, "planned": planned, "measured": measured}
