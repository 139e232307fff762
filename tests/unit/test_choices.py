"""What misleads a buyer: choices, ways out and notes of a plan."""

from __future__ import annotations

from itertools import pairwise

import pytest
from planned import gpus, job, source_of

from batchr1.errors import JobError
from batchr1.job.fingerprint import same_lengths
from batchr1.records import PromptLengths
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import Machine
from batchr1.sizing.offers.alternatives import alternatives
from batchr1.sizing.offers.choices import choices, choices_table
from batchr1.sizing.planning.make import make_plan

PROMPTS = PromptLengths(500, 500, 512, 128.0)
LENGTHS = default_lengths("math", 32768)


def test_every_number_of_gpus_and_precision_has_a_row_and_the_cheapest_is_marked() -> None:
    spec = job("r1-distill-qwen-32b")
    device = gpus("H200", 1).devices[0]
    found = choices(spec, source_of(spec), device, PROMPTS, LENGTHS, price=3.0)
    assert {(c.gpus, c.quantization) for c in found} == {
        (count, name) for count in (1, 2, 4, 8) for name in (None, "fp8", "w4a16")
    }
    cheapest = [c for c in found if c.is_cheapest]
    assert len(cheapest) == 1
    assert cheapest[0].cost_usd == min(c.cost_usd or 0.0 for c in found)
    lines = choices_table(found)
    assert len(lines) == 13 and sum("cheapest" in line for line in lines) == 1


@pytest.mark.parametrize("rows", [1, 3, 20, 60, 400])
def test_few_samples_do_not_slow_down_with_more_gpus(rows: int) -> None:
    spec = job("r1-distill-qwen-7b", max_tokens=3072)
    prompts, lengths = PromptLengths(rows, rows, 68, 40.0), default_lengths("math", 3072)
    found = choices(spec, source_of(spec), gpus("H100", 1).devices[0], prompts, lengths)
    for quantization in (None, "fp8", "w4a16"):
        rates = [c.tokens_per_s for c in found if c.quantization == quantization]
        assert len(rates) == 4
        assert all(more >= 0.999 * fewer for fewer, more in pairwise(rates)), rates


def test_without_a_price_nothing_is_called_cheap() -> None:
    spec = job("r1-distill-qwen-7b")
    found = choices(spec, source_of(spec), gpus("H100", 1).devices[0], PROMPTS, LENGTHS)
    text = "\n".join(choices_table(found))
    assert "cheapest" not in text
    assert text.count("← fewest") == 1


def test_what_does_not_fit_has_no_row() -> None:
    spec = job("r1-distill-qwen-32b")
    found = choices(spec, source_of(spec), gpus("RTX 4090", 1).devices[0], PROMPTS, LENGTHS)
    assert (1, None) not in {(c.gpus, c.quantization) for c in found}
    assert (8, None) in {(c.gpus, c.quantization) for c in found}


@pytest.mark.parametrize(("gpu", "count"), [("RTX 4090", 2), ("L40S", 1)])
def test_ways_out_begin_with_the_cheapest(gpu: str, count: int) -> None:
    spec = job("r1-distill-qwen-32b")
    ways = alternatives(spec, source_of(spec), gpus(gpu, count), PROMPTS, LENGTHS)
    hours = [float(way.what.rsplit(", ", 1)[1].split()[0]) for way in ways]
    assert "w4a16" in ways[0].flags and hours == sorted(hours)


def test_hours_hold_loading_and_the_longest_sample() -> None:
    spec = job("r1-distill-qwen-7b")
    plan = make_plan(spec, source_of(spec), gpus("H100", 8), PROMPTS, LENGTHS)
    assert plan.estimate is not None
    e = plan.estimate
    assert e.hours * 3600 >= e.load_s + e.longest_s - 1e-6 and e.longest_s > 60


def test_fp8_weights_on_an_a100_are_noted() -> None:
    spec = job("r1-0528-671b")
    plan = make_plan(spec, source_of(spec), gpus("A100 80GB", 16), PROMPTS, LENGTHS)
    assert any("no FP8 arithmetic" in note for note in plan.notes)
    plan = make_plan(spec, source_of(spec), gpus("H200", 8), PROMPTS, LENGTHS)
    assert not any("FP8 arithmetic" in note for note in plan.notes)


def test_lengths_of_another_model_or_another_sampling_are_not_taken() -> None:
    now = {"model": "a", "sampling.temperature": 0.6, "sampling.max_tokens": 9, "input.id": "x"}
    assert same_lengths(now | {"sampling.max_tokens": 5, "sampling.seed": 1, "input.id": "y"}, now)
    for other in ({"model": "b"}, {"sampling.temperature": 1.0}, {"prompting.instruction": "math"}):
        assert not same_lengths(now | other, now)


def test_ngram_drafts_are_refused_on_a_cpu_where_tokens_are_drawn() -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 3}
    spec = job("r1-tiny", speculative_config=drafts)
    with pytest.raises(JobError, match="n-gram drafts change what is drawn"):
        make_plan(spec, source_of(spec), Machine(ram_gib=16.0), PROMPTS, LENGTHS)
    greedy = spec.sampling.model_copy(update={"temperature": 0.0})
    spec = spec.model_copy(update={"sampling": greedy})
    assert make_plan(spec, source_of(spec), Machine(ram_gib=16.0), PROMPTS, LENGTHS).max_num_seqs
