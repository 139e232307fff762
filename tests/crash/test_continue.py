"""Rows that a limit cut go on under a larger one, from their own tokens, wherever that is
interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from process_tree import tree
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job

from batchr1.errors import FingerprintError, InputError, OutputError
from batchr1.faults import POINTS
from batchr1.output.replace import INTENT_FILE
from batchr1.storage.base import open_storage
from batchr1.storage.lock import read_lock

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
ROWS, SMALL, LARGE = 60, 40, 300
QUICK = {"mean_len": 60.0, "tokens_per_step": 4}


def job_in(folder: Path, max_tokens: int) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(folder, sampling={"max_tokens": max_tokens}, output={"rows_per_part": 16})


def content(output: Path) -> pl.DataFrame:
    return rows_of(output).drop("run", "finished_at", "resumed_at")


@pytest.fixture(scope="module")
def from_the_start(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """What a run with the large limit gives."""
    folder = tmp_path_factory.mktemp("large")
    run_replay(job_in(folder, LARGE), replay(**QUICK))
    return content(folder / "out")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with the small limit, complete."""
    folder = tmp_path_factory.mktemp("small")
    run_replay(job_in(folder, SMALL), replay(**QUICK))
    assert 10 < rows_of(folder / "out")["truncated"].sum() < ROWS
    return folder


@pytest.fixture
def job(small: Path, tmp_path: Path) -> Path:
    """A copy of it, and the job with the large limit."""
    shutil.copytree(small / "out", tmp_path / "out")
    return job_in(tmp_path, LARGE)


def test_only_the_missing_tokens_are_generated(job: Path, from_the_start: pl.DataFrame) -> None:
    before = rows_of(job.parent / "out")
    cut = before.filter("truncated")
    summary = run_replay(job, replay(**QUICK), continue_truncated=True)
    after = rows_of(job.parent / "out")
    assert (summary.exit_code, summary.tally.done) == (0, cut.height)
    assert content(job.parent / "out").equals(from_the_start)
    assert summary.tally.carried == cut["completion_tokens"].sum()
    went_on = after.filter(pl.col("id").is_in(cut["id"].implode()))
    assert went_on["resumed_at"].to_list() == [[SMALL]] * cut.height
    assert after.filter(pl.col("run") != summary.run).equals(before.filter(~pl.col("truncated")))
    again = run_replay(job, replay(**QUICK), continue_truncated=True)
    assert (again.exit_code, again.tally.done) == (0, 0), "nothing is left that could go on"
    assert run_replay(job, replay(**QUICK)).tally.done == 0, "the job of the output is the new one"


def test_a_larger_limit_is_refused_without_the_option_and_a_smaller_one_with_it(job: Path) -> None:
    with pytest.raises(FingerprintError) as refused:
        run_replay(job, replay(**QUICK))
    assert f"\n  sampling.max_tokens: {SMALL} → {LARGE}\n" in str(refused.value)
    assert "\nWith --continue-truncated the rows that were cut go on to the larger limit.\n" in str(
        refused.value
    )
    with pytest.raises(FingerprintError) as smaller:
        run_replay(job_in(job.parent, 20), replay(**QUICK), continue_truncated=True)
    assert "--continue-truncated" not in str(smaller.value)
    assert (job.parent / "out/_SUCCESS").exists()


def test_only_rows_of_this_run_are_reopened(job: Path, from_the_start: pl.DataFrame) -> None:
    output = job.parent / "out"
    before = rows_of(output)
    few = write_job(job.parent, sampling={"max_tokens": LARGE}, input={"limit": 20})
    mine = pl.col("id").is_in([f"row/{i}" for i in range(20)])
    cut = before.filter(mine & pl.col("truncated")).height
    assert 0 < cut < before["truncated"].sum()
    summary = run_replay(few, replay(**QUICK), continue_truncated=True)
    assert (summary.exit_code, summary.tally.done) == (0, cut)
    assert rows_of(output).filter(~mine).equals(before.filter(~mine))
    summary = run_replay(job_in(job.parent, LARGE), replay(**QUICK), continue_truncated=True)
    assert summary.tally.carried == SMALL * summary.tally.done > 0
    assert content(output).equals(from_the_start)


@pytest.mark.parametrize("choice", ["refuse", "rerun", "keep"])
def test_a_changed_prompt_is_noticed_before_its_row_goes_on(job: Path, choice: str) -> None:
    output = job.parent / "out"
    before = rows_of(output)
    cut = before.filter("truncated")["id"].to_list()
    changed = cut[:3]
    now = (
        pl.when(pl.col("id").is_in(changed))
        .then(pl.col("problem") + " Now.")
        .otherwise(pl.col("problem"))
    )
    questions(ROWS).with_columns(problem=now).write_parquet(job.parent / "in.parquet")
    job = write_job(job.parent, sampling={"max_tokens": LARGE}, input={"on_changed_prompt": choice})
    if choice == "refuse":
        with pytest.raises(InputError, match="got 3 of them"):
            run_replay(job, replay(**QUICK), continue_truncated=True)
        assert rows_of(output).equals(before)
        return
    summary = run_replay(job, replay(**QUICK), continue_truncated=True)
    again = 3 if choice == "rerun" else 0
    assert (summary.exit_code, summary.tally.done) == (0, len(cut) - 3 + again)
    assert summary.tally.carried == SMALL * (len(cut) - 3)
    rows = rows_of(output)
    assert keys_of(rows) == wanted_keys(questions(ROWS))
    assert rows.filter(pl.col("prompt").str.contains("Now.")).height == again


def test_a_row_at_its_own_cap_does_not_go_on(tmp_path: Path) -> None:
    caps = pl.when(pl.int_range(20) < 10).then(10).otherwise(None)
    questions(20).with_columns(cap=caps).write_parquet(tmp_path / "in.parquet")
    run_replay(
        write_job(tmp_path, input={"max_tokens": "cap"}, sampling={"max_tokens": 20}),
        replay(**QUICK),
    )
    cut = rows_of(tmp_path / "out").filter("truncated")
    free = cut.filter(pl.col("completion_tokens") == 20).height
    assert 0 < free < cut.height
    job = write_job(tmp_path, input={"max_tokens": "cap"}, sampling={"max_tokens": LARGE})
    summary = run_replay(job, replay(**QUICK), continue_truncated=True)
    assert (summary.exit_code, summary.tally.done) == (0, free)
    caps = pl.when(pl.int_range(20) < 10).then(15).otherwise(None)
    questions(20).with_columns(cap=caps).write_parquet(
        tmp_path / "in.parquet"
    )  # the caps have grown
    assert run_replay(job, replay(**QUICK), continue_truncated=True).tally.done == cut.height - free


INTENT_STEPS = sorted(name for name in POINTS if name.startswith("intent."))


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(name, marks=[] if name == "intent.published" else pytest.mark.slow)
        for name in INTENT_STEPS
    ],
)
def test_killed_while_parts_are_replaced_it_ends_right(
    job: Path, from_the_start: pl.DataFrame, step: str
) -> None:
    output = job.parent / "out"
    (job.parent / "script.json").write_text(json.dumps(QUICK))
    command = [HELPER, str(job.parent / "script.json"), "run", str(job), "--continue-truncated"]
    os.environ["BATCHR1_FAULT"] = f"{step}:2"  # in the second part
    try:
        with tree(command, job.parent) as run:
            assert run.wait(120) == -9, run.stderr
    finally:
        del os.environ["BATCHR1_FAULT"]
    assert intent_of(output)["do"] == "replace"
    assert not (output / "_SUCCESS").exists()
    summary = run_replay(job, replay(**QUICK), continue_truncated=True)
    assert summary.exit_code == 0
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))
    assert content(output).equals(from_the_start)
    assert summary.tally.carried == SMALL * summary.tally.done, "no token of the cut rows was lost"
    assert intent_of(output) is None


def intent_of(output: Path) -> Any:
    """What the last owner recorded to be finished."""
    holder = read_lock(open_storage(output))
    assert holder is not None
    return holder.intent


def test_an_intent_that_is_no_intent_stops_the_run(job: Path) -> None:
    (job.parent / "out" / INTENT_FILE).write_text("{")
    with pytest.raises(OutputError, match=r"intent\.json: not a record of a replacement"):
        run_replay(job, replay(**QUICK), continue_truncated=True)
