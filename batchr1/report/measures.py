"""Measures of a model, from an output's rows: pass@k, cons@k, tokens, truncation.

Every figure is a mean over prompts or rows. It has a bootstrap interval over *prompts*, because the
samples of one prompt are not independent. A sample counts as judged when `correct` is not null.

- pass@k is the chance that one of k samples is right, estimated without bias from n ≥ k of them. It
  is 1 − C(n−c, k) / C(n, k) for c right ones, averaged over prompts; pass@1 is the mean of c/n.
  Source: Chen et al. 2021, arXiv:2107.03374, equation 1.
- cons@k is the chance that the majority of k samples is right. For k < n it is the exact
  expectation over all C(n, k) subsets, not a resampling. Right answers are one class, as
  verification found them; wrong ones are classes by `answer_key`. A sample without an answer has no
  vote. Each of several tied classes wins with the same chance. Without any vote the majority is
  wrong. Source: Wang et al. 2023, arXiv:2203.11171; DeepSeek-R1, arXiv:2501.12948, writes cons@64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from batchr1.errors import UsageError
from batchr1.reasoning.answers import answer_key

# All columns that are read.
COLUMNS = (
    "id",
    "final_answer",
    "correct",
    "truncated",
    "reasoning_tokens",
    "completion_tokens",
)
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over `prompts`, with its bootstrap interval [low, high] at `LEVEL`."""

    value: float
    low: float
    high: float
    prompts: int


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of an output's rows, or of one group of them.

    `group` is the value of the column that makes the group. `samples` is the largest number of
    judged samples of a prompt. `pass_at` and `cons_at` are by k, over the prompts with at least k
    judged samples; empty when nothing is judged. Tokens are per row that has a count; `truncated`
    is a share of rows. Both are None without such rows.
    """

    group: str | None
    rows: int
    prompts: int
    judged: int
    samples: int
    pass_at: dict[int, Estimate]
    cons_at: dict[int, Estimate]
    completion_tokens: Estimate | None
    reasoning_tokens: Estimate | None
    truncated: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON's types: each k becomes text."""
        document = asdict(self)
        for name in ("pass_at", "cons_at"):
            document[name] = {str(k): estimate for k, estimate in document[name].items()}
        return document


def measure(
    rows: pl.DataFrame | pl.LazyFrame,
    *,
    ks: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    group: str | None = None,
) -> Measures:
    """Measure rows of an output, which need the columns `COLUMNS`.

    `ks` None: `default_ks` of the samples there are. The same rows and seed give the same
    intervals.
    """
    return _measure(_prompts(rows.lazy().select(COLUMNS).collect()), ks, resamples, seed, group)


def name_of(value: object) -> str:
    """Name a group by its value: null for none, as in JSON."""
    return "null" if value is None else str(value)


def measure_by(
    rows: pl.DataFrame | pl.LazyFrame,
    column: str,
    *,
    ks: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Measures]:
    """Measure the rows of each value of a column, at equal k.

    The result has the column's order. Raises `UsageError` when there is no such column.
    """
    lazy = rows.lazy()
    if column not in lazy.collect_schema():
        raise UsageError(
            f"measures by {column}: there is no such column. Name one that the output has."
        )
    table = lazy.select(
        *(c for c in COLUMNS if c != column), pl.col(column).alias("by"), pl.col(column)
    ).collect()
    if table.is_empty():
        return []
    parts = table.partition_by("by", maintain_order=True)
    order = pl.DataFrame(
        {"by": [part["by"][0] for part in parts]}, schema={"by": table.schema["by"]}
    )
    prompts = [_prompts(parts[i].select(COLUMNS)) for i in order["by"].arg_sort()]
    names = [name_of(parts[i]["by"][0]) for i in order["by"].arg_sort()]
    if ks is None:
        ks = default_ks(max(_most(p) for p in prompts))
    return [_measure(p, ks, resamples, seed, name) for p, name in zip(prompts, names, strict=True)]


def default_ks(samples: int) -> tuple[int, ...]:
    """List the powers of two below `samples`, and `samples`."""
    if not samples:
        return ()
    powers = [1 << i for i in range(samples.bit_length())]
    return tuple(dict.fromkeys([*powers, samples]))


def pass_at(n: int, c: int, k: int) -> float:
    """Estimate pass@k from n samples, c of them right.

    1 ≤ k ≤ n. The estimate is without bias (Chen et al. 2021, equation 1). All numbers are whole up
    to the one division, so large n lose nothing.
    """
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


@functools.lru_cache(maxsize=1 << 16)
def cons_at(right: int, wrong: tuple[int, ...], silent: int, k: int) -> float:
    """Compute the chance that the majority of k drawn samples is right.

    Samples are drawn without repetition. `right` of them gave the right answer, `wrong` lists the
    number for each wrong one, `silent` gave none; 1 ≤ k ≤ their sum. The result is exact. For t
    right votes, every wrong class may have up to t. Where j classes have t too, the right one wins
    one time in j + 1. The count is the coefficient of x^k in a product over classes. Classes of
    fewer than t samples and the silent ones cannot be limited by t: together they are
    (1 + x)^(their number). Numbers are whole throughout. 256 samples take a fraction of a second at
    worst, 512 a few seconds.
    """
    total = right + sum(wrong) + silent
    favourable = 0.0
    every = math.comb(total, k)
    for t in range(1, min(right, k) + 1):
        free = silent + sum(m for m in wrong if m < t)
        room = k - t
        ways = {(0, 0): 1}  # (samples drawn of limited classes, classes with t of them) → ways
        for m in (m for m in wrong if m >= t):
            now: dict[tuple[int, int], int] = {}
            for (drawn, tied), count in ways.items():
                for j in range(min(t, room - drawn) + 1):
                    key = (drawn + j, tied + (j == t))
                    now[key] = now.get(key, 0) + count * math.comb(m, j)
            ways = now
        by_ties: dict[int, int] = {}
        for (drawn, tied), count in ways.items():
            by_ties[tied] = by_ties.get(tied, 0) + count * math.comb(free, room - drawn)
        chosen = math.comb(right, t)
        favourable += sum(chosen * count / (every * (tied + 1)) for tied, count in by_ties.items())
    return favourable


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Compute the interval of a mean over prompts, as `measure` does."""
    (found,) = _estimates([(values, np.ones(values.size))], RESAMPLES, seed)
    assert found is not None
    return found.low, found.high


def _prompts(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum up each prompt as one row.

    Columns: judged samples (n), right ones (c), sizes of the classes of wrong answers, and sums.
    """
    # Columns without any value may be of no type.
    rows = rows.cast({"correct": pl.Boolean, "final_answer": pl.String})
    totals = rows.group_by("id", maintain_order=True).agg(
        pl.len().alias("rows"),
        pl.col("correct").count().alias("n"),
        pl.col("correct").sum().alias("c"),
        pl.col("truncated").sum(),
        pl.col("completion_tokens").cast(pl.Int64).sum(),
        pl.col("reasoning_tokens").cast(pl.Int64).sum(),
        # A server may leave out its counts.
        pl.col("completion_tokens").count().alias("rows with completion_tokens"),
        pl.col("reasoning_tokens").count().alias("rows with reasoning_tokens"),
    )
    wrong = rows.filter(~pl.col("correct") & pl.col("final_answer").is_not_null())
    texts = wrong["final_answer"].unique().to_list()
    keys = pl.DataFrame(
        {"final_answer": texts, "key": [answer_key(text) for text in texts]},
        schema={"final_answer": pl.String, "key": pl.String},
    )
    classes = (
        wrong.select("id", "final_answer")
        .join(keys, on="final_answer")
        .group_by("id", "key")
        .len()
        .group_by("id")
        .agg(pl.col("len").sort(descending=True).alias("wrong"))
    )
    return totals.join(classes, on="id", how="left", maintain_order="left")


def _most(prompts: pl.DataFrame) -> int:
    return int(prompts["n"].max() or 0)  # type: ignore[arg-type]


def _measure(
    prompts: pl.DataFrame, ks: Sequence[int] | None, resamples: int, seed: int, group: str | None
) -> Measures:
    rows, n = prompts["rows"].to_numpy(), prompts["n"].to_numpy()
    if ks is None:
        ks = default_ks(_most(prompts))
    ks = [k for k in ks if k <= _most(prompts)]
    # Prompts with the same counts have the same chances, and there are few different ones.
    counts = list(
        zip(
            prompts["n"],
            prompts["c"],
            (tuple(w or ()) for w in prompts["wrong"].to_list()),
            strict=True,
        )
    )
    number = {one: i for i, one in enumerate(dict.fromkeys(counts))}
    which = np.array([number[one] for one in counts], dtype=np.int64)
    ratios: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {
        (name, 0): (prompts[name].to_numpy(), prompts[f"rows with {name}"].to_numpy())
        for name in ("completion_tokens", "reasoning_tokens")
    }
    ratios["truncated", 0] = (prompts["truncated"].to_numpy(), rows)
    for k in ks:
        passed, agreed = np.zeros(len(number)), np.zeros(len(number))
        for i, (m, c, wrong) in enumerate(number):
            if m >= k:
                passed[i] = pass_at(m, c, k)
                agreed[i] = cons_at(c, wrong, m - c - sum(wrong), k)
        ratios["pass", k] = (passed[which], n >= k)
        ratios["cons", k] = (agreed[which], n >= k)
    found: list[Estimate | None] = [None] * len(ratios)
    if prompts.height:
        found = _estimates(list(ratios.values()), resamples, seed)
    estimates = dict(zip(ratios, found, strict=True))
    return Measures(
        group=group,
        rows=int(rows.sum()),
        prompts=prompts.height,
        judged=int(n.sum()),
        samples=_most(prompts),
        pass_at={k: e for k in ks if (e := estimates["pass", k])},
        cons_at={k: e for k in ks if (e := estimates["cons", k])},
        completion_tokens=estimates["completion_tokens", 0],
        reasoning_tokens=estimates["reasoning_tokens", 0],
        truncated=estimates["truncated", 0],
    )


def _estimates(
    ratios: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int, seed: int
) -> list[Estimate | None]:
    """Estimate Σ numerator / Σ denominator over prompts, with intervals.

    Intervals are percentiles (Efron & Tibshirani 1993, chapter 13). Each resample draws as many
    prompts as there are, with repetition, and gives every ratio: ratios of one resample belong
    together. A resample without a prompt of enough samples says nothing about that ratio.
    """
    above = np.array([a for a, _ in ratios], dtype=np.float64)
    below = np.array([b for _, b in ratios], dtype=np.float64)
    count = above.shape[1]
    rng = np.random.default_rng(seed)
    sums = np.empty((2, resamples, len(ratios)))
    for i in range(resamples):
        weights = np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)
        sums[0, i], sums[1, i] = above @ weights, below @ weights
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found: list[Estimate | None] = []
    for j, (a, b) in enumerate(ratios):
        drawn = sums[:, sums[1, :, j] > 0, j]
        if not b.any():
            found.append(None)
            continue
        low = high = value = float(a.sum() / b.sum())
        if drawn.size:
            low, high = (float(np.quantile(drawn[0] / drawn[1], q)) for q in tails)
        found.append(Estimate(value, low, high, int((b > 0).sum())))
    return found
