"""Verdicts on every answer of MATH-500, rewritten and nearly missed."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest
from judge import boxed, verdict
from rewritten import equal_forms, near_miss

MATH_500 = Path(__file__).parents[3] / "shared/data/math500.parquet"


@pytest.mark.skipif(not MATH_500.exists(), reason=f"MATH-500 is not on this machine: {MATH_500}")
@pytest.mark.parametrize("kind", ["auto", pytest.param("math", marks=pytest.mark.slow)])
def test_math_500_golds_equal_themselves_and_five_rewritten_forms_and_no_near_miss(
    kind: str,
) -> None:
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    golds = pl.read_parquet(MATH_500)["answer"].to_list()
    assert len(golds) == 500
    pairs = [(form, gold) for gold in golds for form in [gold, *equal_forms(gold)]]
    assert all(len(equal_forms(gold)) == 5 for gold in golds)
    missed = [pair for pair in pairs if not verdict(kind, boxed(pair[0]), pair[1]).correct]
    assert len(missed) <= 0.01 * len(pairs), missed
    taken = [
        (near_miss(gold), gold)
        for gold in golds
        if verdict(kind, boxed(near_miss(gold)), gold).correct
    ]
    assert len(taken) <= 0.01 * len(golds), taken
