"""pass@k and cons@k are the published formulas, counted out one subset at a time; intervals hold
what they promise.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from batchr1.errors import UsageError
from batchr1.report.measures import COLUMNS, cons_at, default_ks, measure, measure_by, pass_at

TABLES = 1000


def table(prompts: list[list[str | None]], gold: str = "g", **more: list[Any]) -> pl.DataFrame:
    """Rows of an output: a final answer for each sample of each prompt; "?" is one that was not
    judged.
    """
    rows = [(f"p{i}", answer) for i, answers in enumerate(prompts) for answer in answers]
    columns: dict[str, list[Any]] = {
        "id": [id for id, _ in rows],
        "final_answer": [answer for _, answer in rows],
        "correct": [None if answer == "?" else answer == gold for _, answer in rows],
        "truncated": [answer is None for _, answer in rows],
        "reasoning_tokens": [10] * len(rows),
        "completion_tokens": list(range(len(rows))),
    }
    types = {
        "id": pl.String,
        "final_answer": pl.String,
        "correct": pl.Boolean,
        "truncated": pl.Boolean,
    }
    return pl.DataFrame(columns | more, schema_overrides=types)


def counted(answers: list[str | None], k: int) -> tuple[Fraction, Fraction]:
    """pass@k and cons@k of one prompt, by going through every subset of k samples."""
    passed, agreed, subsets = Fraction(0), Fraction(0), 0
    for drawn in itertools.combinations(answers, k):
        subsets += 1
        passed += "g" in drawn
        votes = Counter(answer for answer in drawn if answer is not None)
        most = [answer for answer, count in votes.items() if count == max(votes.values())]
        agreed += Fraction("g" in most, len(most) or 1)
    return passed / subsets, agreed / subsets


def chen(n: int, c: int, k: int) -> float:
    """pass@k as Chen et al. 2021 print it in figure 3."""
    return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_1000_random_tables_give_the_published_formulas() -> None:
    rng = random.Random(6)
    for _ in range(TABLES):
        prompts = []
        for _ in range(rng.randint(1, 4)):
            letters = ["g"] * rng.randint(0, 3) + [*"abcd"[: rng.randint(1, 4)], None]
            prompts.append([rng.choice(letters) for _ in range(rng.randint(1, 8))])
        most = max(map(len, prompts))
        measures = measure(table(prompts), ks=range(1, most + 1), resamples=2)
        for k in range(1, most + 1):
            enough = [answers for answers in prompts if len(answers) >= k]
            both = [counted(answers, k) for answers in enough]
            published = [chen(len(answers), answers.count("g"), k) for answers in enough]
            assert measures.pass_at[k].prompts == measures.cons_at[k].prompts == len(enough)
            assert measures.pass_at[k].value == pytest.approx(
                sum(published) / len(enough), abs=1e-12
            )
            assert measures.pass_at[k].value == pytest.approx(
                float(sum(p for p, _ in both) / len(enough)), abs=1e-12
            )
            assert measures.cons_at[k].value == pytest.approx(
                float(sum(c for _, c in both) / len(enough)), abs=1e-12
            )


def test_cons_at_k_agrees_with_drawing_where_subsets_are_too_many_to_count() -> None:
    right, wrong, silent, k, draws = 20, (15, 15, 5, 5, 1, 1), 2, 24, 20_000
    pool = np.array(
        [0] * right + [i + 1 for i, m in enumerate(wrong) for _ in range(m)] + [-1] * silent
    )
    rng = np.random.default_rng(1)
    won = 0.0
    for _ in range(draws):
        drawn = rng.permutation(pool)[:k]
        votes = np.bincount(drawn[drawn >= 0], minlength=len(wrong) + 1)
        won += (votes[0] == votes.max()) / (votes == votes.max()).sum()
    assert cons_at(right, wrong, silent, k) == pytest.approx(
        won / draws, abs=4 * math.sqrt(0.25 / draws)
    )


def test_large_counts_lose_nothing() -> None:
    assert pass_at(100_000, 1, 50_000) == 0.5
    assert pass_at(1024, 3, 512) == pytest.approx(chen(1024, 3, 512), abs=1e-12)
    assert cons_at(64, (64, 64, 64), 0, 128) == pytest.approx(0.25, abs=1e-12)
    assert cons_at(256, (), 0, 256) == 1.0


@pytest.mark.parametrize(
    ("answers", "k", "wanted"),
    [
        (["g", "a"], 2, 0.5),  # a tie: each wins as often
        (["g", "a", "b"], 3, 1 / 3),
        (["g", None, None], 3, 1.0),  # silence does not vote
        ([None, None], 2, 0.0),
        (["g", "a", "a"], 3, 0.0),
        (
            ["g", "7", "7.0"],
            3,
            0.0,
        ),  # one wrong number, written in two ways: together they outvote the right one
        (["g", "7", "8"], 3, 1 / 3),
        (["g", r"\dfrac{1}{2}", "0.5"], 3, 0.0),
    ],
)
def test_cons_counts_votes_by_what_an_answer_means(
    answers: list[str | None], k: int, wanted: float
) -> None:
    assert measure(table([answers]), ks=[k]).cons_at[k].value == pytest.approx(wanted)


def test_what_was_not_judged_is_no_sample() -> None:
    measures = measure(table([["g", "a", "?", "?"], ["g", "?", "?", "?"], ["?", "?", "?", "?"]]))
    assert (measures.rows, measures.prompts, measures.judged, measures.samples) == (12, 3, 3, 2)
    assert sorted(measures.pass_at) == [1, 2]
    assert measures.pass_at[1].value == pytest.approx((0.5 + 1.0) / 2)
    assert (measures.pass_at[1].prompts, measures.pass_at[2].prompts) == (2, 1)


def test_a_right_answer_needs_no_text() -> None:
    """A verifier of one's own may accept what has no final answer."""
    rows = table([["g", "a"]]).with_columns(final_answer=pl.lit(None, pl.String))
    assert measure(rows, ks=[2]).cons_at[2].value == 1.0


def test_without_judged_rows_there_are_tokens_and_truncation_only() -> None:
    measures = measure(
        table([["?", "?"], ["?", None]], truncated=[True, False, False, False]).with_columns(
            correct=None
        )
    )
    assert (measures.pass_at, measures.cons_at) == ({}, {})
    assert measures.truncated is not None
    assert measures.truncated.value == 0.25
    nothing = measure(table([["g"]]).clear())
    assert (nothing.rows, nothing.pass_at, nothing.truncated) == (0, {}, None)


def test_default_ks_are_powers_of_two_and_the_whole() -> None:
    assert [default_ks(n) for n in (0, 1, 4, 6, 16)] == [
        (),
        (1,),
        (1, 2, 4),
        (1, 2, 4, 6),
        (1, 2, 4, 8, 16),
    ]


def test_intervals_are_repeatable_and_cover_the_truth_as_often_as_they_say() -> None:
    """Of 300 samples of 60 prompts, about 95 % of the intervals hold the true mean (binomial: 91 %
    to 98 %).
    """
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        chances = rng.uniform(0, 1, 60)
        prompts: list[list[str | None]] = [
            ["g" if hit else "a" for hit in rng.random(4) < p] for p in chances
        ]
        measures = measure(table(prompts), ks=[1], resamples=300)
        covered += measures.pass_at[1].low <= 0.5 <= measures.pass_at[1].high
    assert 0.91 <= covered / 300 <= 0.98
    again = [measure(table(prompts), seed=seed).to_dict() for seed in (1, 1, 2)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_intervals_are_over_prompts_not_rows() -> None:
    """100 samples of each of 4 prompts know no more of other prompts than 1 sample of each."""
    few = measure(table([["g"] * 100, ["a"] * 100, ["g"] * 100, ["a"] * 100]), ks=[1])
    assert (few.pass_at[1].low, few.pass_at[1].high) == (0.0, 1.0)


def test_groups_come_in_order_and_are_measured_alone() -> None:
    rows = table([["g", "g"], ["a", "g"], ["a", "a"]], level=[2, 2, None, None, 1, 1])
    groups = measure_by(rows.lazy(), "level")
    assert [g.group for g in groups] == ["null", "1", "2"]
    assert [g.pass_at[1].value for g in groups] == [0.5, 0.0, 1.0]
    assert groups[2] == measure(rows.filter(pl.col("level") == 2), group="2")
    assert measure_by(rows.clear(), "level") == []
    with pytest.raises(UsageError) as caught:
        measure_by(rows, "color")
    assert (
        str(caught.value)
        == "measures by color: there is no such column. Name one that the output has."
    )


def test_only_the_columns_named_are_needed() -> None:
    assert measure(table([["g"]]).select(COLUMNS)).rows == 1
