"""Lengths of completions that nobody has stated.

A stated mean by task, and the long tail around it.

Pure arithmetic. What a dataset or an earlier run says comes from `driver.feed.lengths`.
"""

from __future__ import annotations

import math

from batchr1.records import CompletionLengths

# DeepSeek-R1 (arXiv:2501.12948), data statistics of the 800k supervised traces: domain → (traces,
# mean tokens). R1 and its distills learnt to write like them. The paper counts whole traces, so a
# prompt may be in the figure.
TRACES_BY_DOMAIN: dict[str, tuple[int, int]] = {
    "math": (395_285, 6_094),
    "code": (211_129, 7_436),
    "STEM": (10_124, 4_929),
    "logic": (10_395, 2_739),
    "general": (177_812, 1_420),
}
TRACES = sum(traces for traces, _ in TRACES_BY_DOMAIN.values())
MEAN_TOKENS = sum(traces * tokens for traces, tokens in TRACES_BY_DOMAIN.values()) / TRACES

# An assumption, no figure of the paper: reasoning traces are long-tailed, since a hard problem
# takes many times the tokens of an easy one. With a standard deviation of 1 in ln(tokens), 5 % of
# the traces are longer than 3.1 times the mean and 1 % longer than 6.2 times. It only matters for
# the share that a cap cuts and for the mean square.
LOG_SIGMA = 1.0


def default_lengths(instruction: str, cap: int, *, factor: float = 1.0) -> CompletionLengths:
    """Give the lengths to expect of a task.

    DeepSeek's average for maths with the instruction `math`, else that of all its traces.

    `cap`: no completion is longer, in tokens. `factor`: how much longer a model writes than R1.
    """
    times = f", times {factor:.1f} by its card" if factor != 1.0 else ""
    if instruction == "math":
        _, tokens = TRACES_BY_DOMAIN["math"]
        return assumed_lengths(tokens * factor, cap, f"DeepSeek's average for maths{times}")
    return assumed_lengths(
        MEAN_TOKENS * factor, cap, f"DeepSeek's average over {TRACES:,} traces of all tasks{times}"
    )


def assumed_lengths(mean: float, cap: int, whose: str) -> CompletionLengths:
    """Assume log-normal lengths of a known mean.

    In tokens, uncapped; `whose` says in words what it is.
    """
    capped, mean_square = capped_moments(mean, cap)
    cut = f", capped at {cap:,}" if round(capped) < round(mean) else ""
    if cap < mean:
        cut += ": many will be cut"
    return CompletionLengths(capped, mean_square, f"{mean:,.0f} tokens, {whose}{cut}")


def capped_moments(mean: float, cap: float, sigma: float = LOG_SIGMA) -> tuple[float, float]:
    """Compute mean and mean square of min(L, cap).

    L is log-normal with this mean and this standard deviation of ln L.

    With μ = ln(mean) - σ²/2 and z = (ln(cap) - μ) / σ, the partial moments of a log-normal
    (Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions 1, ch. 14) give E[min(L,
    cap)^k] = exp(kμ + k²σ²/2) Φ(z - kσ) + cap^k (1 - Φ(z)).
    """
    mu = math.log(mean) - sigma**2 / 2
    z = (math.log(cap) - mu) / sigma
    first = mean * _normal_cdf(z - sigma) + cap * _normal_cdf(-z)
    second = mean**2 * math.exp(sigma**2) * _normal_cdf(z - 2 * sigma) + cap**2 * _normal_cdf(-z)
    return first, second


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
