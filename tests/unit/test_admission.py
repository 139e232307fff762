"""Admission: as many in flight as make the most tokens, by what preemptions cost."""

from __future__ import annotations

import dataclasses
import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from batchr1.engine.protocol import EngineLoad
from batchr1.records import CompletionLengths
from batchr1.sizing.timing.step_time import StepTime
from batchr1.worker.admission import Admission, Balance, refill_share
from batchr1.worker.length_model import LengthModel
from batchr1.worker.preemption_cost import WINDOW_STEPS, PreemptionCost

PROMPT = 20
QUIET = EngineLoad()
# A step of 12 ms; a token of prefill takes a thousandth of 10 ms, or a hundredth, and a step of
# more than a hundred sequences is then bound by arithmetic.
CHEAP = StepTime(10e9, 0.0, 1e12, 1e7, 1e12, efficiency=1.0, step_s=0.002, step_s_per_seq=0.0)
DEAR = dataclasses.replace(CHEAP, operations_per_token=1e8)


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
    step_time: StepTime | None = None,
) -> Admission:
    expected = CompletionLengths(mean, mean**2 * math.exp(sigma**2), "test")
    return Admission(
        kv_cache_tokens=kv_cache_tokens,
        max_num_seqs=max_num_seqs,
        max_model_len=4096,
        expected=expected,
        mixed_step_cost=mixed_step_cost,
        step_time=step_time,
    )


def fill(admission: Admission, generated: int = 0) -> int:
    """How many samples of unknown length go in, one after the other."""
    count = 0
    while count < 1000 and admission.admits(s := Sample(1, prompt_id=str(count))):
        admission.started(s)
        s.generated = generated
        count += 1
    return count


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


def test_where_prefill_is_cheap_the_cache_is_filled_and_where_it_is_dear_room_is_left() -> None:
    """15,000 tokens hold 50 samples at their mean length and 416 of them at their start."""
    assert fill(admission_of(15_000, 1000, step_time=CHEAP)) == 416
    assert 50 < fill(admission_of(15_000, 1000, step_time=DEAR)) < 200


def test_one_more_is_weighed_by_its_share_of_a_step_and_its_prefill() -> None:
    def weigh(kv_cache_tokens: int) -> Balance:
        admission = admission_of(kv_cache_tokens, 100, step_time=CHEAP)
        for number in range(10):
            admission.started(Sample(1, prompt_id=str(number), expected=900.0))
        admission.stepped(1, QUIET)
        assert admission.admits(Sample(1, prompt_id="other", expected=900.0))
        return admission.balance(Sample(1, prompt_id="new", expected=900.0))

    tight, roomy = weigh(5_000), weigh(100_000)
    # A tenth of 12 ms for each of its 900 tokens, where it can stay until its end.
    assert roomy.gain_s == pytest.approx(900 * 0.0012, rel=0.1)
    assert roomy.cost_s == 0.0
    assert tight.gain_s < 0.8 * roomy.gain_s
    # It is preempted once, with half of some 450 tokens to prefill at 10 µs.
    assert 0 < tight.cost_s < 450 * 1e-5


def test_what_does_not_fit_beside_what_is_in_flight_now_is_not_admitted() -> None:
    admission = admission_of(1000, 100, step_time=CHEAP)
    for number in range(3):
        admission.started(Sample(1, prompt_id=str(number), generated=290))
    assert not admission.admits(Sample(1, prompt_id="new", generated=290))


@pytest.mark.parametrize("pace", [0.5, 1.0, 3.0])
def test_what_preemptions_really_cost_is_learnt_beside_the_engines_pace(pace: float) -> None:
    cost, now, rng = PreemptionCost(), 0.0, random.Random(0)
    for window in range(60):
        preempted = rng.choice([0.0, 0.0, 0.02, 0.05]) if window else 0.0
        for _ in range(WINDOW_STEPS):
            now += pace * 0.01 + 4 * preempted
            cost.stepped(now, expected_s=0.01, preempted_s=preempted)
    assert cost.pace == pytest.approx(pace, rel=0.1)
    assert cost.factor == pytest.approx(4.0, rel=0.1)


def test_a_hiccup_of_the_machine_teaches_nothing() -> None:
    cost, now = PreemptionCost(), 0.0
    for window in range(20):
        for step in range(WINDOW_STEPS):
            now += 30.0 if (window, step) == (10, 5) else 0.01
            cost.stepped(now, expected_s=0.01, preempted_s=0.0)
    assert cost.pace == pytest.approx(1.0, rel=0.01)


def test_where_preemptions_are_seen_to_cost_more_fewer_are_admitted() -> None:
    found = []
    for factor in (0.1, 1.0, 8.0):
        admission = admission_of(15_000, 1000, step_time=CHEAP)
        admission.cost.factor = factor
        found.append(fill(admission))
    assert found[0] == found[1] > 2 * found[2] > 100


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
    assert not admission.admits(Sample(5000, max_tokens=5000, prompt_id="other", generated=60))


def careful(kv_cache_tokens: int) -> Admission:
    """Admission that has seen preemptions cost much."""
    admission = admission_of(kv_cache_tokens, 400, step_time=DEAR)
    admission.cost.factor = 8.0
    return admission


def test_beside_samples_whose_siblings_have_gone_far_there_is_room_for_fewer() -> None:
    def fits(at_least: int) -> int:
        admission, count = careful(8000), 0
        while admission.admits(sample := Sample(1, prompt_id=str(count), at_least=at_least)):
            admission.started(sample)
            count += 1
        return count

    assert fits(2000) < fits(0) / 2


def test_samples_of_one_prompt_are_long_together_so_fewer_of_them_are_admitted() -> None:
    def fits(siblings: int) -> int:
        admission, count = careful(20_000), 0
        while admission.admits(sample := Sample(1, prompt_id=str(count // siblings))):
            admission.started(sample)
            count += 1
        return count

    assert fits(8) < fits(1)


def test_the_length_model_learns_what_it_was_not_told_and_is_not_misled_by_early_ends() -> None:
    model = LengthModel(1000.0, 1.0)

    def mean() -> float:
        at = np.arange(0.0, 20_000.0)
        return float(np.exp(model.log_survival(at)).sum())

    assert mean() == pytest.approx(1000.0, rel=0.1)
    found = np.array(lengths(4000, mean=300.0), dtype=np.float64)
    done = found[found <= 300]  # a snapshot in which only the short ones have ended
    model.finished(done, np.zeros(len(done), dtype=bool), np.ones(len(done)))
    model.refresh(np.full(len(found) - len(done), 300.0), np.ones(len(found) - len(done)))
    assert mean() > 250.0
    late = found[found > 300]
    model.finished(late, np.zeros(len(late), dtype=bool), np.ones(len(late)))
    model.refresh(np.empty(0), np.empty(0))
    assert mean() == pytest.approx(float(found.mean()), rel=0.1)
