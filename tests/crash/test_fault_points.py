"""Kills at each named step of a run: nothing is lost or doubled.

Steps of stage, commit, snapshot, take-over, replacement and finish.

Each case reaches its step for certain: the process kills itself there and leaves a mark.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from process_tree import Tree, tree
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job

from batchr1.faults import POINTS

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
PACKAGE = Path(__file__).parent.parent.parent / "batchr1"
ROWS = 40
SCRIPT: dict[str, Any] = {
    "mean_len": 60.0,
    "tokens_per_step": 1,
    "step_s": 0.005,
    "max_num_seqs": 8,
}

# step → which of its passings kills, and whose process dies. Of a replacement: test_continue.py; of
# an export: test_export.py.
DRIVER = {
    "commit.checked": 2,
    "commit.published": 2,
    "commit.done": 2,
    "lock.watched": 1,
    "lock.taken": 1,
    "finish.recorded": 1,
    "finish.cleared": 1,
    "finish.succeeded": 1,
}
WORKER = {
    "stage.written": 2,
    "stage.staged": 2,
    "snapshot.begun": 3,
    "snapshot.written": 2,
    "snapshot.rotated": 2,
}
TAKE_OVER = {"carry.written": 1, "carry.removing": 1, "lock.watched": 1, "lock.taken": 1}


def steps(names: dict[str, int], quick: str) -> list[Any]:
    """One of them in every run of the tests, all of them in `make crash`."""
    return [
        pytest.param(name, marks=[] if name == quick else pytest.mark.slow)
        for name in sorted(names)
    ]


def test_every_step_is_in_the_code_and_in_a_test() -> None:
    used = [
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'fault_point\("([\w.]+)"\)', path.read_text())
    ]
    assert sorted(set(used)) == sorted(POINTS)
    tested = {*DRIVER, *WORKER, *TAKE_OVER} | {
        name for name in POINTS if name.startswith(("intent.", "export."))
    }
    assert tested == set(POINTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_replay(job_in(folder), replay(**{**SCRIPT, "step_s": 0.0}))
    return content(folder / "out")


def job_in(folder: Path) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(folder, checkpoint={"every_s": 0.1}, output={"rows_per_part": 8})


def content(output: Path) -> pl.DataFrame:
    return rows_of(output).drop("run", "finished_at", "resumed_at")


def run_until_killed(job: Path, fault: str, **changes: Any) -> Tree:
    """Run with a fault until the driver has ended; the fault must have happened."""
    script, mark = job.with_name("script.json"), job.with_name("happened")
    script.write_text(json.dumps(SCRIPT | changes))
    environment = {"BATCHR1_FAULT": fault, "BATCHR1_FAULT_ONCE": str(mark)}
    os.environ.update(environment)
    try:
        with tree([HELPER, str(script), "run", str(job)], job.parent) as run:
            run.wait(200)
            assert mark.exists(), f"{fault} was not reached: {run.stderr}"
    finally:
        for name in environment:
            del os.environ[name]
    return run


def assert_goes_on(job: Path, undisturbed: pl.DataFrame) -> None:
    output = job.parent / "out"
    assert run_replay(job, replay(**{**SCRIPT, "step_s": 0.0})).exit_code == 0
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))
    assert content(output).equals(undisturbed)
    for path in (output / "data").iterdir():
        pq.ParquetFile(path).read()
    assert (output / "_SUCCESS").exists()
    control = output / ".batchr1"
    assert [
        str(p) for folder in ("staging", "inflight") for p in (control / folder).glob("*")
    ] == []


@pytest.mark.parametrize("step", steps(DRIVER, quick="commit.published"))
def test_a_driver_killed_at_this_step_loses_and_doubles_nothing(
    tmp_path: Path, undisturbed: pl.DataFrame, step: str
) -> None:
    job = job_in(tmp_path)
    run = run_until_killed(job, f"{step}:{DRIVER[step]}")
    assert run.driver.returncode == -9
    assert_goes_on(job, undisturbed)


@pytest.mark.parametrize("step", steps(WORKER, quick="snapshot.written"))
def test_a_worker_killed_at_this_step_is_replaced_and_nothing_is_lost_or_doubled(
    tmp_path: Path, undisturbed: pl.DataFrame, step: str
) -> None:
    job = job_in(tmp_path)
    run = run_until_killed(job, f"{step}:{WORKER[step]}")
    assert run.driver.returncode == 0, run.stderr
    assert content(tmp_path / "out").equals(undisturbed)
    assert_goes_on(job, undisturbed)


@pytest.mark.parametrize("step", steps(TAKE_OVER, quick="carry.removing"))
def test_a_run_killed_while_it_takes_over_loses_nothing_that_was_saved(
    tmp_path: Path, undisturbed: pl.DataFrame, step: str
) -> None:
    job = job_in(tmp_path)
    assert run_until_killed(job, "commit.done:2").driver.returncode == -9
    (tmp_path / "happened").unlink()
    assert run_until_killed(job, f"{step}:{TAKE_OVER[step]}").driver.returncode == -9
    summary_before = rows_of(tmp_path / "out").height
    assert summary_before >= 16
    assert_goes_on(job, undisturbed)
    assert rows_of(tmp_path / "out")["resumed_at"].list.len().max() == 1, "generations went on"
