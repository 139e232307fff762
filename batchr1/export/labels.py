"""Labels of prompts: what most samples say, and how many are right.

All samples of a prompt that the output holds count, before any filter.
"""

from __future__ import annotations

import polars as pl

from batchr1.errors import UsageError

LABELS = ("majority_answer", "majority_share", "pass_rate")


def labels_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Label each prompt.

    Columns: prompt_key and `LABELS`. The majority answer is the final answer that most samples
    have, as text; of several, the first in the order of their characters. Its share is of all
    samples. The pass rate is of those that were judged.
    """
    votes = (
        rows.drop_nulls("final_answer")
        .group_by("prompt_key", "final_answer")
        .len("votes")
        .sort("votes", "final_answer", descending=[True, False])
        .group_by("prompt_key")
        .first()
        .rename({"final_answer": "majority_answer"})
    )
    counted = rows.group_by("prompt_key").agg(
        pl.len().alias("samples"), pl.col("correct").cast(pl.Float64).mean().alias("pass_rate")
    )
    share = (pl.col("votes") / pl.col("samples")).alias("majority_share")
    return counted.join(votes, on="prompt_key", how="left").select(
        "prompt_key", "majority_answer", share, "pass_rate"
    )


def rate_range(text: str | None) -> tuple[float, float] | None:
    """Read a range of rates, such as 0.1..0.9.

    Raises `UsageError` for what is none.
    """
    if text is None:
        return None
    first, dots, last = text.partition("..")
    try:
        low, high = float(first), float(last)
    except ValueError:
        low, high = 1.0, 0.0
    if not dots or not 0 <= low <= high <= 1:
        raise UsageError(
            f"--pass-rate: not a range of rates (got {text!r}, need LOW..HIGH from 0 to 1, such as "
            "0.1..0.9). Correct it."
        )
    return low, high
