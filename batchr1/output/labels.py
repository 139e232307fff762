"""Labels of prompts: what most samples say, and how many are right.

All samples of a prompt that the output holds count, before any filter.
"""

from __future__ import annotations

import polars as pl

LABELS = ("majority_answer", "majority_share", "pass_rate")


def labels_of(rows: pl.DataFrame, *, key: str) -> pl.DataFrame:
    """Label each prompt; `key` is the column that tells prompts apart.

    Columns: `key` and `LABELS`. The majority answer is the final answer that most samples
    have, as text; of several, the first in the order of their characters. Its share is of all
    samples. The pass rate is of those that were judged.
    """
    votes = (
        rows.drop_nulls("final_answer")
        .group_by(key, "final_answer")
        .len("votes")
        .sort("votes", "final_answer", descending=[True, False])
        .group_by(key)
        .first()
        .rename({"final_answer": "majority_answer"})
    )
    counted = rows.group_by(key).agg(
        pl.len().alias("samples"), pl.col("correct").cast(pl.Float64).mean().alias("pass_rate")
    )
    share = (pl.col("votes") / pl.col("samples")).alias("majority_share")
    return counted.join(votes, on=key, how="left").select(
        key, "majority_answer", share, "pass_rate"
    )
