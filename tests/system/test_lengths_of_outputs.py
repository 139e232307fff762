"""Expected lengths, learnt from the rows of real outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from length_jobs import approx, expect, job_spec, moments, write
from replay_job import questions, replay, rows_of, run_replay, write_job

from batchr1.driver.feed.lengths import (
    MIN_EARLIER_ROWS,
    MIN_UNFINISHED_ROWS,
)
from batchr1.job.spec import OutputSpec, SamplingSpec
from batchr1.output.folder import Output
from batchr1.storage.base import open_storage


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Output]:
    """Real outputs, by their number of rows; some of their rows were cut at 100 tokens."""
    made = {}
    for rows in (10, 20, 40):
        folder = tmp_path_factory.mktemp(f"rows{rows}")
        questions(rows).write_parquet(folder / "in.parquet")
        run_replay(write_job(folder), replay(mean_len=60.0))
        made[rows] = Output(open_storage(str(folder / "out")))
        assert 0 < rows_of(folder / "out")["truncated"].sum() < rows
    return made


def completion_tokens(output: Output) -> list[int]:
    tokens: list[int] = rows_of(output.uri)["completion_tokens"].to_list()
    return tokens


def test_without_a_column_rows_that_are_done_say_how_long_the_others_will_be(
    tmp_path: Path, outputs: dict[int, Output]
) -> None:
    write(tmp_path / "in.parquet", {"q": ["a"], "hint": [5]})
    own, other, small = outputs[40], outputs[20], outputs[10]
    nothing = Output(open_storage(str(tmp_path / "out")))
    to_own = {"output": OutputSpec(path=own.uri)}
    found = expect(job_spec(tmp_path, **to_own), [other, own, small])
    assert found == approx(
        moments(completion_tokens(own), f"40 rows of an earlier run at {own.uri}")
    )
    pooled = moments(
        completion_tokens(other) + completion_tokens(small),
        f"30 rows of earlier runs at {other.uri} and 1 more",
    )
    assert expect(job_spec(tmp_path), [nothing, other, small]) == approx(pooled), (
        "of excluded outputs, together"
    )
    few = job_spec(tmp_path, output=OutputSpec(path=small.uri))
    assert expect(few, [small, nothing, own]) == approx(found), "ten rows of one's own are too few"
    hinted = job_spec(tmp_path, input={"expected_tokens": "hint"}, **to_own)
    assert expect(hinted, [own]).source == "column hint"


def test_earlier_rows_are_capped_at_what_the_job_asks_for_now(
    tmp_path: Path, outputs: dict[int, Output]
) -> None:
    write(tmp_path / "in.parquet", {"q": ["a"]})
    own = outputs[40]
    found = expect(job_spec(tmp_path, sampling=SamplingSpec(max_tokens=30)), [own])
    lengths = [min(tokens, 30) for tokens in completion_tokens(own)]
    assert lengths != completion_tokens(own)
    assert found == approx(moments(lengths, f"40 rows of an earlier run at {own.uri}"))


def test_the_first_rows_of_an_unfinished_output_are_the_short_ones_and_say_nothing(
    tmp_path: Path, outputs: dict[int, Output]
) -> None:
    write(tmp_path / "in.parquet", {"q": ["a"]})
    shutil.copytree(outputs[40].uri, tmp_path / "out")
    (tmp_path / "out/_SUCCESS").unlink()
    own = Output(open_storage(str(tmp_path / "out")))
    assert expect(job_spec(tmp_path), [own]) == expect(job_spec(tmp_path), [])
    assert MIN_UNFINISHED_ROWS == 2048


def test_too_few_earlier_rows_say_nothing(tmp_path: Path, outputs: dict[int, Output]) -> None:
    assert MIN_EARLIER_ROWS == 30
    write(tmp_path / "in.parquet", {"q": ["a"]})
    found = expect(job_spec(tmp_path), [outputs[20]])
    assert (
        found.source
        == "6,094 tokens, DeepSeek's average for maths, capped at 1,000: many will be cut"
    )
