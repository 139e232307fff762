"""Prompt lengths are what a run would feed; expected completion lengths come from the best source
there is, named.
"""

from __future__ import annotations

import math
import types
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from length_jobs import QUESTIONS, approx, expect, job_spec, moments, source_of, write
from replay_job import MODEL, write_job

from batchr1.dataset.sampling import MIN_GROUPS, READ_FACTOR, quotas
from batchr1.driver.feed.lengths import (
    expected_completions,
)
from batchr1.errors import InputError, StorageError
from batchr1.job import load_job
from batchr1.job.fingerprint import fingerprint
from batchr1.job.spec import ModelSpec, PromptingSpec, SamplingSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource
from batchr1.sizing.lengths import (
    LOG_SIGMA,
    MEAN_TOKENS,
    TRACES,
    assumed_lengths,
    capped_moments,
    default_lengths,
)

CONTEXT = 4096


def test_of_a_very_large_input_only_some_row_groups_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"q": [f"{i:06d}" for i in range(10_000)]}, 10)
    rows, batches = source_of(path).spread(["q"], 20)
    numbers = [int(q) for batch in batches for q in batch.column("q").to_pylist()]
    assert (rows, len(numbers)) == (10_000, 20)
    assert len({number // 10 for number in numbers}) == MIN_GROUPS
    for stretch in range(MIN_GROUPS):
        assert any(stretch * 625 - 10 <= number < (stretch + 1) * 625 + 10 for number in numbers), (
            stretch
        )


def test_a_file_that_changes_between_counting_and_reading_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"q": QUESTIONS}, 64)
    _, batches = source_of(path).spread(["q"], 20)
    write(path, {"q": QUESTIONS[:30]})
    with pytest.raises(StorageError, match="changed since this command began"):
        next(batches)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200), st.integers(1, 300))
@example([0, 0], 5)
def test_a_spread_takes_no_more_than_there_is_or_is_wanted(counts: list[int], at_most: int) -> None:
    taken = quotas(counts, at_most)
    assert len(taken) == len(counts)
    assert all(0 <= took <= rows for took, rows in zip(taken, counts, strict=True))
    total = sum(counts)
    if total <= READ_FACTOR * at_most:
        assert sum(taken) == min(total, at_most)
        before = np.cumsum([0, *counts])
        even = np.diff(before) * min(1.0, at_most / max(total, 1))
        assert np.abs(np.array(taken) - even).max() <= 2
    else:
        assert 0 < sum(taken) <= at_most


@given(st.integers(400, 800), st.integers(0, 2**32 - 1))
def test_a_spread_over_many_groups_reads_few_of_them_from_all_parts(groups: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(90, 111, groups).tolist()
    at_most = 100
    taken = quotas(counts, at_most)
    read = [i for i, took in enumerate(taken) if took]
    assert MIN_GROUPS - 2 <= len(read) <= MIN_GROUPS, "two places seldom fall into one group"
    assert max(np.diff([-1, *read, len(counts)])) <= 2 + 2 * 1.25 * len(counts) / MIN_GROUPS
    assert sum(taken) == at_most


# How long completions will be


@pytest.mark.parametrize(
    "values",
    [
        pa.array([10, 500, None, 5000]),
        pa.array([10, 500, None, 5000], pa.uint16()),
        pa.array([10.0, 500.0, float("nan"), 5000.0]),
        pa.array([10.0, 500.0, float("inf"), 5000.0], pa.float32()),
        pa.array(np.array([10, 500, -1, 5000], np.float16)),
        pa.array([Decimal(10), Decimal(500), None, Decimal(5000)]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_column_of_expected_tokens_comes_first_capped_and_without_unknown_rows(
    tmp_path: Path, values: pa.Array
) -> None:
    write(tmp_path / "in.parquet", {"q": ["a", "b", "c", "d"], "hint": values})
    spec = job_spec(tmp_path, input={"expected_tokens": "hint"})
    assert expect(spec) == approx(moments([10, 500, 1000], "column hint (3 of 4 rows)"))


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl"])
def test_expected_tokens_are_those_of_the_rows_wanted_below_their_own_caps(
    tmp_path: Path, name: str
) -> None:
    columns = {
        "q": list("abcd"),
        "level": [1, 2, 2, 2],
        "hint": [1, 80, 90, 0],
        "own": [50, 50, None, 50],
    }
    write(tmp_path / name, columns)
    keys = {"path": str(tmp_path / name), "expected_tokens": "hint", "where": "level = 2"}
    assert expect(job_spec(tmp_path, input=keys)) == approx(moments([80, 90, 1], "column hint"))
    own = expect(job_spec(tmp_path, input={**keys, "max_tokens": "own"}))
    assert own == approx(moments([50, 90, 1], "column hint")), "a completion has a token at least"
    both = expect(job_spec(tmp_path, input={**keys, "expected_tokens": "own", "max_tokens": "own"}))
    assert both == approx(moments([50, 50], "column own (2 of 3 rows)"))


def test_a_column_that_knows_no_row_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"q": ["a"], "hint": pa.array([None], pa.int64())})
    found = expect(job_spec(tmp_path, input={"expected_tokens": "hint"}))
    assert (
        found.source
        == "6,094 tokens, DeepSeek's average for maths, capped at 1,000: many will be cut"
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "q",
            "input.expected_tokens: column 'q' has the wrong type (got string, need numbers). Name "
            "another column, or convert it.",
        ),
        (
            "hints",
            (
                "input.expected_tokens: there is no column 'hints' (the file has: q, hint). Did "
                "you mean hint?"
            ),
        ),
    ],
)
def test_a_column_of_expected_tokens_must_be_there_and_hold_numbers(
    tmp_path: Path, column: str, message: str
) -> None:
    path = write(tmp_path / "in.parquet", {"q": ["a"], "hint": [1]})
    with pytest.raises(InputError) as caught:
        source_of(path, expected_tokens=column)
    assert str(caught.value) == f"{path}: {message}"


def test_expected_tokens_are_read_by_a_run_and_leave_the_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"q": ["a"], "hint": [1]})
    plain, hinted = job_spec(tmp_path), job_spec(tmp_path, input={"expected_tokens": "hint"})
    semantic = [fingerprint(spec, model_identity="sha256:1", kept={}) for spec in (plain, hinted)]
    assert semantic[0] == semantic[1]
    assert source_of(path, expected_tokens="hint").row_columns == ("q", "hint")


@pytest.mark.parametrize(
    ("own_caps", "lengths", "source"),
    [
        (None, [1000], "1,000 tokens, since ignore_eos lets every sample run to its cap"),
        ("own", [50, 1000, 1000], "column own, since ignore_eos lets every sample run to its cap"),
    ],
)
def test_with_ignore_eos_every_sample_runs_to_its_cap(
    tmp_path: Path, own_caps: str | None, lengths: list[int], source: str
) -> None:
    write(tmp_path / "in.parquet", {"q": list("abcd"), "own": [50, None, 2000, 0]})
    sampling = SamplingSpec(max_tokens=1000, ignore_eos=True)
    spec = job_spec(tmp_path, input={"max_tokens": own_caps}, sampling=sampling)
    assert expect(spec) == approx(moments(lengths, source))


def test_a_variant_whose_average_is_known_comes_before_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = types.SimpleNamespace(path=Path(MODEL), name="r1-tiny", mean_completion_tokens=120.0)
    monkeypatch.setitem(VARIANTS, "r1-tiny", known)  # type: ignore[arg-type]
    write(tmp_path / "in.parquet", {"q": ["a"]})
    found = expect(
        job_spec(
            tmp_path, model=ModelSpec(variant="r1-tiny"), sampling=SamplingSpec(max_tokens=None)
        )
    )
    assert found == assumed_lengths(120.0, CONTEXT, "the average of r1-tiny")
    assert found.source == "120 tokens, the average of r1-tiny"


@pytest.mark.parametrize(
    ("instruction", "max_tokens", "context_len", "cap", "source"),
    [
        (
            "math",
            131_072,
            131_072,
            131_072,
            "6,094 tokens, DeepSeek's average for maths, capped at 131,072",
        ),
        (
            "math",
            32_768,
            131_072,
            32_768,
            "6,094 tokens, DeepSeek's average for maths, capped at 32,768",
        ),
        (
            "none",
            8192,
            131_072,
            8192,
            "5,355 tokens, DeepSeek's average over 804,745 traces of all tasks, capped at 8,192",
        ),
        (
            "Say why.",
            None,
            131_072,
            131_072,
            "5,355 tokens, DeepSeek's average over 804,745 traces of all tasks, capped at 131,072",
        ),
        (
            "math",
            None,
            2048,
            2048,
            "6,094 tokens, DeepSeek's average for maths, capped at 2,048: many will be cut",
        ),
        (
            "math",
            32_768,
            2048,
            2048,
            "6,094 tokens, DeepSeek's average for maths, capped at 2,048: many will be cut",
        ),
    ],
)
def test_the_last_resort_is_a_stated_average_of_the_task(
    tmp_path: Path,
    instruction: str,
    max_tokens: int | None,
    context_len: int,
    cap: int,
    source: str,
) -> None:
    path = write(tmp_path / "in.parquet", {"q": ["a"]})
    spec = job_spec(
        tmp_path,
        prompting=PromptingSpec(instruction=instruction),
        sampling=SamplingSpec(max_tokens=max_tokens),
    )
    model = ModelSource("m", MODEL, None, "sha256:1", context_len, {})
    found = expected_completions(spec, source_of(path), [], model)
    mean = 6094 if instruction == "math" else MEAN_TOKENS
    assert (found.mean, found.mean_square) == capped_moments(mean, cap)
    assert found == default_lengths(instruction, cap)
    assert found.source == source


def test_a_cap_far_beyond_the_average_goes_without_saying() -> None:
    assert assumed_lengths(100, 131_072, "a guess").source == "100 tokens, a guess"


def test_the_average_over_all_tasks_is_the_papers_own_total() -> None:
    assert TRACES == 804_745
    assert abs(MEAN_TOKENS - 5355.3) < 0.3


@pytest.mark.parametrize("cap", [1, 100, 6094, 32_768, 131_072, 10**7])
@pytest.mark.parametrize("mean", [120, 6094])
@pytest.mark.parametrize("sigma", [0.5, LOG_SIGMA])
def test_capped_moments_agree_with_a_numeric_integral(
    mean: float, cap: float, sigma: float
) -> None:
    mu = math.log(mean) - sigma**2 / 2
    z = np.linspace(-12, 12, 400_001)
    weights = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    lengths = np.minimum(np.exp(mu + sigma * z), cap)
    numeric = (float((lengths * weights).sum()), float((lengths**2 * weights).sum()))
    assert capped_moments(mean, cap, sigma) == pytest.approx(numeric, rel=1e-6)


@given(st.floats(1, 1e6), st.floats(1, 1e7), st.floats(1, 2))
def test_capped_moments_keep_within_what_any_capped_length_can_have(
    mean: float, cap: float, more: float
) -> None:
    first, second = capped_moments(mean, cap)
    slack = 1 + 1e-9
    assert 0 < first <= min(mean, cap) * slack
    assert first**2 <= second * slack
    assert second <= cap * first * slack
    higher = capped_moments(mean, cap * more)
    assert higher[0] * slack >= first
    assert higher[1] * slack >= second


def test_a_job_file_may_name_the_column(tmp_path: Path) -> None:
    spec = load_job(write_job(tmp_path, input={"expected_tokens": "hint"}))
    assert spec.input.expected_tokens == "hint"
