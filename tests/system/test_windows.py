"""Time windows: a run stops by the clock, says why, and the next one goes on first with what was
begun.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pytest
from replay_job import (
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    scripted,
    wanted_keys,
    write_job,
)

from batchr1.cli.main import main
from batchr1.cli.options import next_time
from batchr1.errors import JobError
from batchr1.output.checkpoints import read_checkpoints
from batchr1.storage.base import open_storage

EVENING = dt.datetime(2026, 11, 26, 22, 15, 30)
SLOW = {
    "mean_len": 200.0,
    "sigma": 0.1,
    "tokens_per_step": 1,
    "step_s": 0.05,
    "max_num_seqs": 8,
}  # 10 s a row


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("06:00", "2026-11-27T06:00:00+01:00"),
        ("6:00", "2026-11-27T06:00:00+01:00"),
        ("22:15", "2026-11-27T22:15:00+01:00"),
        ("22:15:30", "2026-11-27T22:15:30+01:00"),
        ("22:15:31", "2026-11-26T22:15:31+01:00"),
        (" 23:59 ", "2026-11-26T23:59:00+01:00"),
        ("00:00", "2026-11-27T00:00:00+01:00"),
    ],
)
def test_the_next_time_at_which_a_clock_here_says_so(berlin: None, text: str, then: str) -> None:
    found = next_time(text, EVENING)
    assert found is not None
    assert found.isoformat() == then


def test_a_night_in_which_clocks_change_ends_by_the_clock_on_the_wall(berlin: None) -> None:
    forward, back = dt.datetime(2026, 3, 28, 22, 0), dt.datetime(2026, 10, 24, 22, 0)
    hours = []
    for evening in (forward, back):
        then = next_time("06:00", evening)
        assert then is not None
        hours.append((then - evening.astimezone()).total_seconds() / 3600)
    assert hours == [7, 9]
    skipped = next_time("02:30", forward)  # there is no such time in that night
    assert skipped is not None
    assert skipped.astimezone(dt.UTC).isoformat() == "2026-03-29T00:30:00+00:00", (
        "rather early than late"
    )


@pytest.mark.parametrize(
    "text", ["", "6", "24:00", "06:60", "6pm", "06:00:61", "-1:00", "0600", "06:00+01:00", "٠٦:٠٠"]
)
def test_what_is_no_time_of_day(text: str) -> None:
    with pytest.raises(JobError) as caught:
        next_time(text, EVENING)
    assert str(caught.value) == (
        f"--stop-at: not a time of day (got {text!r}, need HH:MM, such as 06:00 or 22:30). Correct "
        "it."
    )


def test_no_time_is_none() -> None:
    assert next_time(None, EVENING) is None


def test_a_bad_time_is_a_usage_error_before_anything_is_touched(tmp_path: Path) -> None:
    job = job_of(tmp_path, questions(3))
    result = click.testing.CliRunner().invoke(
        main, scripted(["run", str(job), "--stop-at", "noon"])
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "batchr1: --stop-at: not a time of day (got 'noon', need HH:MM, such as 06:00 or 22:30). "
        "Correct it.\n"
    )
    assert not (tmp_path / "out").exists()


def job_of(folder: Path, inputs: pl.DataFrame, **sections: Any) -> Path:
    inputs.write_parquet(folder / "in.parquet")
    return write_job(
        folder, **{"sampling": {"max_tokens": 300}, "output": {"rows_per_part": 2}, **sections}
    )


def record_of(output: Path) -> dict[str, Any]:
    *_, last = sorted((output / ".batchr1/runs").glob("*.json"))
    document: dict[str, Any] = json.loads(last.read_text())
    return document


def soon(seconds: float) -> dt.datetime:
    return dt.datetime.now().astimezone() + dt.timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("stop_after_s", "stop_at_s", "reason"),
    [
        (0.01, 60.0, "the time window of 0.01 s is over"),
        (60.0, 0.01, "the time window is over: it is {now}"),
    ],
)
def test_of_two_windows_the_one_that_ends_first_counts(
    tmp_path: Path, stop_after_s: float, stop_at_s: float, reason: str
) -> None:
    stop_at = soon(stop_at_s)
    summary = run_replay(job_of(tmp_path, questions(3)), stop_after_s=stop_after_s, stop_at=stop_at)
    assert (summary.exit_code, summary.stopped) == (75, reason.format(now=f"{stop_at:%H:%M}"))
    record = record_of(tmp_path / "out")
    assert record["stopped"] == summary.stopped
    assert record["window"] == {"stop_after_s": stop_after_s, "stop_at": stop_at.isoformat()}


@pytest.mark.parametrize("schedule", ["fifo", "longest_first"])
def test_a_night_that_ends_saves_its_partials_and_the_next_goes_on_first_with_them(
    tmp_path: Path, schedule: str
) -> None:
    inputs = questions(20, start=50)
    job = job_of(tmp_path, inputs, schedule=schedule)
    window_s, begun = 2.5, set[str]()
    while not begun:  # on a busy machine the engine alone takes longer than a window
        stopped = run_replay(job, replay(**SLOW), stop_after_s=window_s)
        assert stopped.exit_code == 75
        begun = {key.id for key in read_checkpoints(open_storage(tmp_path / "out")).saved}
        window_s *= 2
    assert len(begun) <= 8

    inputs = pl.concat([questions(40), inputs])  # the next day's rows stand before them
    inputs.write_parquet(tmp_path / "in.parquet")
    summary = run_replay(job, replay(**SLOW | {"step_s": 0.0}))
    assert (summary.exit_code, summary.tally.done) == (0, 60 - stopped.tally.done)
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == wanted_keys(inputs)
    assert set(rows.filter(pl.col("resumed_at").list.len() > 0)["id"]) == begun
    first = rows.filter(pl.col("run") == summary.run).sort("finished_at")["id"].head(len(begun))
    assert set(first) == begun


def levels(result: click.testing.Result) -> dict[str, str]:
    """The level of each line that stderr holds as JSON, by its message."""
    lines = map(json.loads, result.stderr.splitlines())
    return {line["message"]: line["level"] for line in lines}


def test_the_end_of_a_window_is_no_error_of_the_log(tmp_path: Path) -> None:
    """It is planned; an engine that cannot be had is an error."""
    job = job_of(tmp_path, questions(8))
    command = ["run", str(job), "--stop-after", "0.01s", "--log-format", "json"]
    over = click.testing.CliRunner().invoke(main, scripted(command, replay(**SLOW)))
    assert over.exit_code == 75
    said = levels(over)
    assert said["the time window of 0.01 s is over"] == "info"
    assert set(said.values()) <= {"info", "warning"}
