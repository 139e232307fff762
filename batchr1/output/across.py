"""Rows of several outputs, each key once.

A key is (model, id, sample). Outputs of different models are never copies of each other.
"""

from __future__ import annotations

import polars as pl

KEY = ("model", "id", "sample")
RULE = "one of each model, id and sample: the row that finished last"


def last_of_each(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep of each key the row that finished last.

    They stay in the order of `rows`. Of those that finished at the same time the later one stays.
    Columns: KEY, `finished_at`.
    """
    if rows.select(pl.struct(KEY).is_unique().all()).item():
        return rows
    numbered = rows.with_row_index("_place")
    kept = numbered.sort("finished_at", "_place").unique(KEY, keep="last", maintain_order=True)
    return kept.sort("_place").drop("_place")
