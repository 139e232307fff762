"""Standard output and error that take nothing more: nothing of a run is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from replay_job import questions, replay, set_engine, write_job

from batchr1.output.folder import Output
from batchr1.storage.base import open_storage

FULL = Path("/dev/full")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    if not FULL.is_char_device():
        pytest.skip("needs /dev/full")
    questions(5).write_parquet(tmp_path / "in.parquet")
    path = write_job(tmp_path)
    set_engine(path, replay())
    return path


def run(job: Path, *words: str, full: str = "") -> subprocess.CompletedProcess[str]:
    """Run the job; `full`: the streams that take nothing."""
    with FULL.open("w") as nowhere:
        return subprocess.run(
            [sys.executable, "-m", "batchr1", "run", str(job), *words],
            stdout=nowhere if "stdout" in full else subprocess.PIPE,
            stderr=nowhere if "stderr" in full else subprocess.PIPE,
            text=True,
        )


def output_of(job: Path) -> Output:
    return Output(open_storage(job.parent / "out"))


def test_a_summary_that_nobody_takes_is_printed_by_the_next_run(job: Path) -> None:
    """Its exit code says that the command is not through; all rows are there."""
    done = run(job, "--json", full="stdout")
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == (
        "batchr1: stdout: the disk is full (got ENOSPC). Free some space, then run the same "
        "command again."
    )
    output = output_of(job)
    assert output.is_complete()
    [record] = output.runs()
    assert (record.state, record.exit_code) == ("ended", 0), "the run itself came to its end"

    again = run(job, "--json")
    assert again.returncode == 0
    said = json.loads(again.stdout)
    assert (said["done"], said["this_run"]["done"]) == (5, 0)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_help_that_nobody_takes_is_said_in_a_line(job: Path, option: str) -> None:
    with FULL.open("w") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "batchr1", option],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 75
    [line] = done.stderr.splitlines()
    assert line.startswith("batchr1: stdout: the disk is full (got ENOSPC).")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_that_nobody_takes_ends_no_run(job: Path, form: str) -> None:
    done = run(job, "--json", "--log-format", form, full="stderr")
    assert done.returncode == 0
    assert json.loads(done.stdout)["done"] == 5
    assert output_of(job).is_complete()


def test_an_error_keeps_its_exit_code_where_nobody_takes_its_line(job: Path) -> None:
    assert run(job, "--set", "input.id=nowhere", full="stderr").returncode == 2
    assert run(job, "--set", "input.id=nowhere", full="stdout stderr").returncode == 2
    assert run(job, full="stdout stderr").returncode == 75
    assert output_of(job).is_complete()
