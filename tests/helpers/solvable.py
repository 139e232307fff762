"""Jobs whose rows may be solved before all their samples are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from replay_job import questions, write_job

ROWS, N = 30, 12


class Batch:
    """Stands for an Arrow batch."""

    def take(self, rows: list[int]) -> Batch:
        return self


def solvable_job(folder: Path, **sections: Any) -> Path:
    """Prompts whose answers are letters drawn by seed: `right` is a pattern that about a third of
    them match.
    """
    rows = questions(ROWS).with_columns(gold=pl.lit("^[a-i]"))
    rows.write_parquet(folder / "in.parquet")
    job = {
        "sampling": {"n": N, "max_tokens": 100, "seed": 3},
        "input": {"gold": "gold"},
        "verify": {"kind": "regex", "extract": "(.)"},
        "stop_when": {"correct": 2},
        "output": {"rows_per_part": 1000},
    }
    return write_job(folder, **(job | sections))


LENGTHS = [list(range(20, 44))]
