"""Comparison of outputs, over the prompts that they share.

Outputs of two models, or of two settings, are compared by pass@1. A prompt's pass@1 is the share of
its judged samples that are right. Its difference between two outputs is one figure for each prompt,
however many samples there are: samples of one prompt are not independent, prompts are taken to be.
The mean of these differences has Student's t interval.

A prompt is the same in both where its id is, and its text as it was asked, and its gold. The job's
instruction does not belong to that text, and a system message is the same in either place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

from batchr1.dataset.rendering.turns import instruction_text, user_turn
from batchr1.output.folder import Output
from batchr1.report.measures import LEVEL, bootstrap_interval

FEW_PROMPTS = 30
FEW_DIFFERING = 10
"""Fewer than these make an interval rough."""
_TEXTS = ["id", "prompt", "prompt_messages", "gold"]
_MANY_DEGREES = 10_000  # from here Student's t is the normal distribution to four digits
_HALVINGS = 60
_WHICH = ("first", "second")
_JUDGED = (pl.col("n") > 0) & (pl.col("n_second") > 0)


@dataclass(frozen=True, slots=True)
class Share:
    """pass@1 of an output over the prompts that are compared.

    `interval` says what [low, high] is: `exact` (Clopper-Pearson), where each prompt has one judged
    sample, else `bootstrap` over prompts.
    """

    output: str
    value: float
    low: float
    high: float
    interval: str
    samples: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of pass@1 over prompts, second less first.

    `low` and `high` are None with one prompt, or where all prompts differ by the same.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Prompts that are not compared.

    Of those in both: `not_judged` in one or the other, else `other_prompt`, else `other_gold`.
    """

    only_first: int
    only_second: int
    not_judged: int
    other_prompt: int
    other_gold: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two outputs, the second against the first, by prompt.

    `first`, `second` and `difference` are None where no prompt is compared; `reason` then says why.
    `notes` say what to mind about the figures.
    """

    outputs: tuple[str, str]
    prompts: int
    left_out: LeftOut
    first: Share | None = None
    second: Share | None = None
    difference: Difference | None = None
    better: int = 0
    worse: int = 0
    equal: int = 0
    reason: str | None = None
    notes: tuple[str, ...] = ()


def compare_all(
    outputs: Sequence[Output], rows: Sequence[pl.DataFrame], unfinished: Sequence[bool]
) -> list[Comparison]:
    """Compare each output with the first.

    `rows`: of each output each key once, with the columns of measures. Texts are read only of ids
    that are judged in both. `unfinished`: of each, whether rows may still come.
    """
    counted = [_by_prompt(frame) for frame in rows]
    shared = [_in_both(counted[0], other).filter(_JUDGED)["id"] for other in counted[1:]]
    jobs = [output.job() or {} for output in outputs]
    instructions = {_instruction(job) for job in jobs} - {""}
    first = _asked(outputs[0], pl.concat(shared).unique(), instructions)
    found = []
    for number, ids in enumerate(shared, start=1):
        pair = (outputs[0], outputs[number])
        texts = first.join(_asked(pair[1], ids, instructions), on="id", suffix="_second")
        prompts = _in_both(counted[0], counted[number]).join(texts, on="id", how="left")
        compared = _compared(pair, (counted[0], counted[number]), prompts)
        notes = _notes(compared, (jobs[0], jobs[number]), (unfinished[0], unfinished[number]))
        found.append(replace(compared, notes=notes))
    return found


def _by_prompt(rows: pl.DataFrame) -> pl.DataFrame:
    """Count judged samples (n) and right ones (c) by prompt."""
    correct = pl.col("correct").cast(pl.Boolean)
    return rows.group_by("id", maintain_order=True).agg(
        correct.count().cast(pl.Int64).alias("n"), correct.sum().cast(pl.Int64).alias("c")
    )


def _in_both(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    return first.join(second, on="id", suffix="_second", maintain_order="left")


def _instruction(job: dict[str, Any]) -> str:
    prompting = (job.get("spec") or {}).get("prompting") or {}
    return instruction_text(str(prompting.get("instruction") or "none"))


def _asked(output: Output, ids: pl.Series, instructions: Iterable[str]) -> pl.DataFrame:
    """Digest what was asked of each id, and its golds.

    Columns: id, asked, gold. An id with several prompts in one output has one digest of them all.
    """
    schema = {"id": pl.String, "asked": pl.String, "gold": pl.String}
    frames, wanted = [pl.DataFrame(schema=schema)], ids.alias("id").to_frame()
    for rel in output.parts() if ids.len() else []:
        texts = pl.DataFrame(output.read_part(rel, _TEXTS))
        texts = texts.join(wanted, on="id", how="semi").unique()
        asked = [
            (id, _digest(_as_asked(prompt, messages, instructions)), _digest(gold or ""))
            for id, prompt, messages, gold in texts.iter_rows()
        ]
        frames.append(pl.DataFrame(asked, schema=schema, orient="row"))
    return (
        pl.concat(frames)
        .group_by("id")
        .agg(pl.col(name).unique().sort().str.join(" ") for name in ("asked", "gold"))
    )


def _as_asked(prompt: str, messages: str | None, instructions: Iterable[str]) -> str:
    """Drop instructions from a prompt, and fold its system message.

    A job's instruction is not appended where the input holds it already. So that of either output
    is dropped from both.
    """
    if messages is not None:
        turns = json.loads(messages)
        if turns[0]["role"] == "system" and len(turns) > 1:
            system, *turns = turns
            first = next(turn for turn in turns if turn["role"] == "user")
            first["content"] = f"{system['content']}\n\n{first['content']}"
            prompt = user_turn(turns)
    prompt = prompt.strip()
    while found := [text for text in instructions if prompt.endswith(text)]:
        prompt = prompt.removesuffix(max(found, key=len)).rstrip()
    return prompt


def _digest(text: str) -> str:
    return hashlib.blake2b(text.strip().encode(), digest_size=16).hexdigest()


def _compared(
    outputs: tuple[Output, Output], counted: tuple[pl.DataFrame, pl.DataFrame], both: pl.DataFrame
) -> Comparison:
    """Compare two outputs by the prompts that are in both."""
    uris = (outputs[0].uri, outputs[1].uri)
    judged = both.filter(_JUDGED)
    is_asked = pl.col("asked") == pl.col("asked_second")
    same_prompt = judged.filter(is_asked)
    same = same_prompt.filter(pl.col("gold") == pl.col("gold_second"))
    left_out = LeftOut(
        only_first=counted[0].height - both.height,
        only_second=counted[1].height - both.height,
        not_judged=both.height - judged.height,
        other_prompt=judged.height - same_prompt.height,
        other_gold=same_prompt.height - same.height,
    )
    if not same.height:
        reason = _reason(counted, both)
        return Comparison(uris, 0, left_out, reason=reason)
    n, c = (same[name].to_numpy() for name in ("n", "c"))
    n2, c2 = (same[name].to_numpy() for name in ("n_second", "c_second"))
    gain = c2 * n - c * n2  # its sign is that of the difference, exactly
    return Comparison(
        uris,
        same.height,
        left_out,
        first=_share(uris[0], counted[0], same),
        second=_share(uris[1], counted[1], same),
        difference=mean_difference(c2 / n2 - c / n),
        better=int((gain > 0).sum()),
        worse=int((gain < 0).sum()),
        equal=int((gain == 0).sum()),
    )


def _reason(counted: tuple[pl.DataFrame, pl.DataFrame], both: pl.DataFrame) -> str:
    """Say why no prompt is compared."""
    for which, prompts in zip(_WHICH, counted, strict=True):
        if not prompts["n"].sum():
            return f"the {which} has no verdicts"
    if not both.height:
        return "they share no prompt"
    if not both.filter(_JUDGED).height:
        return "no prompt is judged in both"
    return "prompts of the same id have other texts or golds"


def _share(uri: str, prompts: pl.DataFrame, compared: pl.DataFrame) -> Share:
    """Estimate pass@1 over the prompts that are compared.

    They keep the output's own order, so that the bootstrap is that of the output alone.
    """
    kept = prompts.join(compared, on="id", how="semi", maintain_order="left")
    n, c = (kept[name].to_numpy() for name in ("n", "c"))
    samples, value = int(n.sum()), float((c / n).mean())
    if n.max() == 1:
        low, high = exact_interval(int(c.sum()), samples)
        return Share(uri, value, low, high, "exact", samples)
    low, high = bootstrap_interval(c / n)
    return Share(uri, value, low, high, "bootstrap", samples)


def mean_difference(differences: np.ndarray) -> Difference:
    """Estimate the mean of independent differences, by Student's t.

    The interval is mean ± t s / √m, for m differences of sample deviation s and t of m − 1 degrees
    of freedom, at `LEVEL`. Source: Student 1908, Biometrika 6(1); for benchmarks Miller 2024,
    arXiv:2411.00640, section 4.
    """
    count, mean = differences.size, float(differences.mean())
    if count < 2 or np.ptp(differences) < 1e-12:
        return Difference(mean, None, None)
    half = t_quantile(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half))


def t_quantile(degrees: int) -> float:
    """Compute the t that |T| stays below at `LEVEL`.

    `degrees` of freedom are whole. The chance is a finite series. Source: Abramowitz & Stegun 1964,
    26.7.3 and 26.7.4.
    """
    if degrees >= _MANY_DEGREES:
        return NormalDist().inv_cdf((1 + LEVEL) / 2)
    odd = degrees % 2
    steps = np.arange(1, degrees // 2)
    ratios = (2 * steps) / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)
    factors = np.concatenate([[1.0], np.cumprod(ratios)])[: (degrees - odd) // 2]

    def chance(angle: float) -> float:
        cos = math.cos(angle)
        series = float((factors * cos ** (2.0 * np.arange(factors.size))).sum())
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * cos * series)
        return math.sin(angle) * series

    angle = _solve(lambda a: chance(a) - LEVEL, 0.0, math.pi / 2)
    return math.sqrt(degrees) * math.tan(angle)


def exact_interval(right: int, count: int) -> tuple[float, float]:
    """Compute the interval of a share of independent rows at `LEVEL`.

    Source: Clopper & Pearson 1934, Biometrika 26(4).
    """
    tail = (1 - LEVEL) / 2
    low, high = 0.0, 1.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    if right > 0:
        low = _solve(lambda p: _at_least(right, logs, p) - tail, 0.0, 1.0)
    if right < count:
        high = _solve(lambda p: tail - (1 - _at_least(right + 1, logs, p)), 0.0, 1.0)
    return low, high


def _at_least(right: int, logs: np.ndarray, p: float) -> float:
    """Compute the chance of at least `right`, 0 < p < 1.

    Each is right with chance p. `logs`: log k! for k from 0 to the count. Of a chance that is far
    from the mean nothing is left in a float: only counts near it are summed.
    """
    count = logs.size - 1
    mean, reach = count * p, 40 * math.sqrt(count * p * (1 - p)) + 100
    if right < mean - reach:
        return 1.0
    k = np.arange(right, min(count, math.ceil(mean + reach)) + 1)
    ways = logs[count] - logs[k] - logs[count - k]
    return float(np.exp(ways + k * math.log(p) + (count - k) * math.log1p(-p)).sum())


def _solve(rising: Callable[[float], float], low: float, high: float) -> float:
    """Halve an interval until a function that rises is 0 there."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _notes(
    compared: Comparison, jobs: Sequence[dict[str, Any]], unfinished: Sequence[bool]
) -> tuple[str, ...]:
    """List what to mind about a comparison."""
    if not compared.prompts:
        return ()
    notes = []
    if compared.prompts < FEW_PROMPTS:
        notes.append(f"few prompts ({compared.prompts}): take the intervals as rough")
    elif compared.better + compared.worse < FEW_DIFFERING:
        notes.append(
            f"few prompts differ ({compared.better + compared.worse}): take the interval as rough"
        )
    for which, may_change in zip(_WHICH, unfinished, strict=True):
        if may_change:
            notes.append(f"the {which} is not complete: its figures may change")
    rules = [
        {k: v for k, v in (job.get("fingerprint") or {}).items() if k.startswith("verify.")}
        for job in jobs
    ]
    if rules[0] != rules[1]:
        notes.append("they were judged by other rules (verify)")
    if any((job.get("spec") or {}).get("stop_when") for job in jobs):
        notes.append("stop_when ends prompts by their right samples: pass@1 is not comparable")
    return tuple(notes)
