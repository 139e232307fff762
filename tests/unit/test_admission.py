"""Admission: hardly ever more in flight than the cache will hold, a full batch, and care after
preemptions.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from batchr1.engine.protocol import EngineLoad
from batchr1.records import CompletionLengths
from batchr1.worker.admission import RECOVER_ROWS, Admission, LengthModel, refill_share

PROMPT = 20
QUIET = EngineLoad()


@dataclass(eq=False)
class Sample:
    """A sample in flight that will have `length` tokens."""

    length: int
    max_tokens: int = 4000
    expected: float | None = None
    prompt_id: str = ""
    at_least: int = 0
    generated: int = 0
    prompt_len: int = PROMPT


def lengths(count: int, mean: float = 300.0, sigma: float = 0.8, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    mu = math.log(mean) - sigma**2 / 2
    return [min(4000, max(1, round(rng.lognormvariate(mu, sigma)))) for _ in range(count)]


def admission_of(
    kv_cache_tokens: int,
    max_num_seqs: int,
    *,
    mean: float = 300.0,
    sigma: float = 0.8,
    mixed_step_cost: float = 0.0,
) -> Admission:
    expected = CompletionLengths(mean, mean**2 * math.exp(sigma**2), "test")
    return Admission(
        kv_cache_tokens=kv_cache_tokens,
        max_num_seqs=max_num_seqs,
        max_model_len=4096,
        expected=expected,
        mixed_step_cost=mixed_step_cost,
    )


class Step(NamedTuple):
    """Whether some still waited after it, how many were in flight, started in it, and the tokens
    that they hold.
    """

    waits: bool
    flying: int
    started: int
    held: int


def run(admission: Admission, samples: list[Sample]) -> list[Step]:
    """Feed samples as the worker does, eight tokens a step."""
    waiting, flying, seen = samples[::-1], list[Sample](), list[Step]()
    while waiting or flying:
        started = 0
        while waiting and admission.admits(waiting[-1]):
            sample = waiting.pop()
            admission.started(sample)
            flying.append(sample)
            started += 1
        were_flying = len(flying)
        for sample in flying:
            sample.generated = min(sample.length, sample.generated + 8)
        for sample in [s for s in flying if s.generated == s.length]:
            admission.ended(sample)
            flying.remove(sample)
        admission.stepped(8 * len(flying), QUIET)
        seen.append(
            Step(bool(waiting), were_flying, started, sum(PROMPT + s.generated for s in flying))
        )
    return seen


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("known", [False, True])
def test_what_is_in_flight_hardly_ever_outgrows_the_cache_and_fills_most_of_it(
    seed: int, known: bool
) -> None:
    samples = [
        Sample(length, expected=float(length) if known else None, prompt_id=str(i))
        for i, length in enumerate(lengths(900, seed=seed))
    ]
    seen = run(admission_of(30_000, 256), samples)
    held = [step.held for step in seen]
    over = sum(tokens > 30_000 for tokens in held)
    assert over <= len(held) / 50 and max(held) < 31_500, (
        "2.5 deviations are left free, and drawn lengths have more"
    )
    loaded = [step.held for step in seen if step.waits][
        60:
    ]  # after the first have grown, before the last have begun
    assert np.mean(loaded) > 0.7 * 30_000


def test_with_room_for_all_the_batch_is_full_and_refilled_at_once() -> None:
    admission = admission_of(10_000_000, 64)
    samples = [Sample(100, prompt_id=str(i)) for i in range(200)]
    flying = []
    for sample in samples:
        if not admission.admits(sample):
            break
        admission.started(sample)
        flying.append(sample)
    assert len(flying) == admission.window == 64 + 8
    admission.ended(flying[0])
    assert admission.admits(samples[-1])


@pytest.mark.parametrize(("kv_cache_tokens", "of_before"), [(10_000_000, 0.5), (150_000, 0.85)])
def test_where_a_prefill_slows_the_whole_batch_slots_are_filled_several_at_a_time(
    kv_cache_tokens: int, of_before: float
) -> None:
    waits, mixed, fill = dict[float, int](), dict[float, float](), dict[float, float]()
    for cost in (0.0, 0.5):
        admission = admission_of(kv_cache_tokens, 128, mean=1500, mixed_step_cost=cost)
        seen = run(
            admission,
            [Sample(n, prompt_id=str(i)) for i, n in enumerate(lengths(1500, mean=1500.0))],
        )
        busy = [step for step in seen[200:] if step.waits]  # the first batch is over
        waits[cost] = admission.window - 128
        mixed[cost] = float(np.mean([step.started > 0 for step in busy]))
        fill[cost] = float(np.mean([min(128, step.flying) for step in busy]))
    assert waits == {0.0: 16, 0.5: 0}, (
        "what waits in the engine is prefilled as soon as a slot is free"
    )
    assert mixed[0.5] < of_before * mixed[0.0]
    assert fill[0.5] > 0.96 * fill[0.0]


def test_a_batch_of_few_is_filled_up_at_once_whatever_a_prefill_costs() -> None:
    assert round(16 * refill_share(6000, 0.5)) == 0
    assert refill_share(1, 0.5) == 1 / 16


def test_an_engine_that_does_not_say_what_it_holds_is_filled_up() -> None:
    admission = admission_of(0, 64)
    for i in range(72):
        sample = Sample(100, prompt_id=str(i))
        assert admission.admits(sample)
        admission.started(sample)


def test_a_sample_that_is_larger_than_the_cache_may_go_alone() -> None:
    admission = admission_of(100, 64)
    large = Sample(5000, max_tokens=5000)
    assert admission.admits(large)
    admission.started(large)
    assert not admission.admits(Sample(5000, max_tokens=5000, prompt_id="other"))


def test_what_is_expected_to_be_short_is_admitted_where_an_unknown_one_is_not() -> None:
    admission = admission_of(4000, 64)
    for i in range(100):
        sample = Sample(300, prompt_id=str(i))
        if not admission.admits(sample):
            break
        admission.started(sample)
    assert admission.admits(Sample(10, expected=10.0, prompt_id="short"))
    assert not admission.admits(Sample(3000, expected=3000.0, prompt_id="long"))


def test_a_sample_whose_sibling_has_gone_far_needs_more_than_one_of_which_nothing_is_known() -> (
    None
):
    def fits(at_least: int) -> int:
        admission, count = admission_of(20_000, 400), 0
        while admission.admits(sample := Sample(1, prompt_id=str(count), at_least=at_least)):
            admission.started(sample)
            count += 1
        return count

    assert fits(2000) < fits(0) / 2


def test_samples_of_one_prompt_are_long_together_so_fewer_of_them_are_admitted() -> None:
    def fits(siblings: int) -> int:
        admission, count = admission_of(20_000, 400), 0
        while admission.admits(sample := Sample(1, prompt_id=str(count // siblings))):
            admission.started(sample)
            count += 1
        return count

    assert fits(8) < fits(1)


def test_preemptions_make_it_careful_and_calm_lets_it_recover() -> None:
    admission = admission_of(30_000, 64)
    for preempted in (1, 2, 3):  # within one batch: the first cut has not worked yet
        admission.stepped(8, EngineLoad(preempted=preempted))
        sample = Sample(100, prompt_id="a")
        admission.started(sample)
    assert admission.share == pytest.approx(0.95)
    for i in range(5 * RECOVER_ROWS):
        sample = Sample(100, prompt_id=str(i), generated=100)
        admission.started(sample)
        admission.ended(sample)
    assert admission.share == pytest.approx(1.0)


def test_the_length_model_learns_what_it_was_not_told_and_is_not_misled_by_early_ends() -> None:
    model = LengthModel(1000.0, 1.0)

    def mean() -> float:
        at = np.arange(0.0, 20_000.0)
        return float(np.exp(model.log_survival(at)).sum())

    assert mean() > 1000.0, "on the safe side: 16 rows are not much to know"
    found = np.array(lengths(4000, mean=300.0), dtype=np.float64)
    done = found[found <= 300]  # a snapshot in which only the short ones have ended
    model.finished(done, np.zeros(len(done), dtype=bool), np.ones(len(done)))
    model.refresh(np.full(len(found) - len(done), 300.0), np.ones(len(found) - len(done)))
    assert mean() > 250.0
    late = found[found > 300]
    model.finished(late, np.zeros(len(late), dtype=bool), np.ones(len(late)))
    model.refresh(np.empty(0), np.empty(0))
    assert mean() == pytest.approx(float(found.mean()), rel=0.1)
