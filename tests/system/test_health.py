"""`batchr1 status --health`: what a container's health check is told, and its exit code."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import click.testing
import pytest
from process_tree import tree, until
from replay_job import questions, run_replay, write_job
from s3_fakes import S3, FaultyS3

from batchr1.cli.main import main
from batchr1.driver.fleet import HANG_S
from batchr1.output.folder import Output
from batchr1.output.run_record import RunRecord
from batchr1.report.health import MAX_AGE_S, look
from batchr1.storage.base import open_storage
from batchr1.storage.lock import LOCK, STALE_AFTER_S, Lock

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
SLOW: dict[str, Any] = {
    "mean_len": 80.0,
    "tokens_per_step": 1,
    "step_s": 0.02,
    "max_num_seqs": 8,
    "record_every_s": 0.2,
}


def status(*args: str | Path) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, ["status", *map(str, args)], prog_name="batchr1")


def health(*args: str | Path) -> dict[str, Any]:
    result = status(*args, "--health", "--json")
    document: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if document["healthy"] else 1)
    assert status(*args, "--json").exit_code in (0, 2)
    return document


def test_an_output_in_every_state_that_it_can_be_seen_in(tmp_path: Path) -> None:
    questions(60).write_parquet(tmp_path / "in.parquet")
    job, output = write_job(tmp_path, output={"rows_per_part": 8}), tmp_path / "out"
    nothing = status(output, "--health")
    assert (nothing.exit_code, nothing.stdout) == (1, f"{output}: absent\n")
    (tmp_path / "script.json").write_text(json.dumps(SLOW))
    with tree([HELPER, str(tmp_path / "script.json"), "run", str(job)], tmp_path) as run:
        until(lambda: (found := health(output))["state"] == "running" and (found["done"] or 0) >= 8)
        live = health(output)
        assert (live["heartbeat_s"] < STALE_AFTER_S, live["progress_s"] < 30) == (True, True)
        assert f"pid {run.driver.pid}" in live["holder"]
        assert live["samples"] == 60 == live["done"] + live["failed"] + live["pending"]
        assert status(output, "--health").stdout.startswith(f"{output}: running, heartbeat ")
        assert health(job)["state"] == "running", "a job file says where the output is"

        [worker] = run.workers()
        os.kill(worker, signal.SIGSTOP)
        until(
            lambda: health(output, "--max-age", "2s")["state"] == "stuck",
            what="a run that stands still",
        )
        assert health(output)["state"] == "running", "it may be silent for longer"
        os.kill(worker, signal.SIGCONT)
        until(lambda: health(output, "--max-age", "2s")["state"] == "running")
        run.kill()
    dead = health(output)
    assert (dead["state"], dead["holder"], dead["heartbeat_s"]) == ("killed", None, None)
    assert dead["pending"] > 0

    assert run_replay(job, stop_after_s=0.01).exit_code == 75
    cut = status(output, "--health")
    assert cut.exit_code == 1
    assert cut.stdout.startswith(f"{output}: stopped (the time window of 0.01 s is over): ")
    assert run_replay(job).exit_code == 0
    assert (
        status(output, "--health").stdout == f"{output}: complete: 60 done, 0 failed, 0 pending\n"
    )
    assert run_replay(job).exit_code == 0
    assert health(output)["state"] == "complete", "after an empty night too"
    both = json.loads(status(output, "--json").stdout)
    assert {**both["health"], "heartbeat_s": None} == {**health(output), "heartbeat_s": None}
    (output / "_SUCCESS").unlink()
    assert health(output)["state"] == "stopped"


def test_failed_rows_are_no_matter_of_health(tmp_path: Path) -> None:
    questions(2).with_columns(problem="id").head(1).write_parquet(tmp_path / "in.parquet")
    rows = questions(2)
    rows.with_columns(problem=rows["problem"].replace(rows["problem"][0], " ")).write_parquet(
        tmp_path / "in.parquet"
    )
    assert run_replay(write_job(tmp_path)).exit_code == 3
    found = health(tmp_path / "out")
    assert (found["state"], found["healthy"], found["exit_code"], found["failed"]) == (
        "failed rows",
        True,
        3,
        1,
    )


def test_a_lock_that_nobody_renews_is_lost(tmp_path: Path) -> None:
    output = Output(open_storage(tmp_path / "out"))
    with Lock.acquire(output.storage, run="x"):
        assert look(output).state == "running", "before it has a record"
        for path in (tmp_path / "out" / LOCK).iterdir():
            os.utime(path, (0, dt.datetime.now().timestamp() - STALE_AFTER_S - 5))
        assert look(output).state == "lost"


def test_on_s3(s3_moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_moto.endpoint)
    uri = f"s3://{s3_moto.bucket}/out"
    questions(4).write_parquet(tmp_path / "in.parquet")
    assert health(uri)["state"] == "absent"
    with Lock.acquire(s3_moto.storage("out"), run="x"):
        found = health(uri)
        assert (found["state"], found["heartbeat_s"] < 30) == ("running", True)
    assert run_replay(write_job(tmp_path, output={"path": uri})).exit_code == 0
    assert (health(uri)["state"], health(uri)["done"]) == ("complete", 4)


def test_storage_that_cannot_be_read_is_not_healthy(
    faulty_s3: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(faulty_s3.options.endpoint))
    faulty_s3.script = ["403 AccessDenied"] * 20
    result = status("s3://bucket/out", "--health")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        "s3://bucket/out: unreadable (s3://bucket/out/.batchr1/lock: access is denied"
    )


def test_the_age_is_above_what_a_run_itself_waits() -> None:
    assert MAX_AGE_S > HANG_S


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--health", "--by", "x"),
            "--health reads no rows: leave --by, --failed, --rows and --follow out",
        ),
        (
            ("--health", "--failed"),
            "--health reads no rows: leave --by, --failed, --rows and --follow out",
        ),
        (("--max-age", "5m"), "--max-age belongs to --health"),
        (
            ("--health", "--max-age", "soon"),
            "--max-age: not a duration (got 'soon', need 6h, 90m, 1h30m or the like)",
        ),
        (("--health", "--limit", "3"), "--limit: needs a job file, not an output"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = status(tmp_path, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def ended_record(run: str) -> RunRecord:
    return RunRecord(run=run, state="ended", started="2026-01-01T00:00:00+00:00", exit_code=0)


def test_a_look_while_one_empty_night_takes_the_place_of_another_finds_one(tmp_path: Path) -> None:
    output = Output(open_storage(tmp_path))
    nights = [f"20260101T000000{n:03}Z-0000" for n in range(200)]
    output.write_run(ended_record("20250101T000000000Z-0000"))
    output.write_run(ended_record(nights[0]))

    def run_empty() -> None:
        for before, night in pairwise(nights):
            output.write_run(ended_record(night))
            output.forget_run(before)

    scheduler = threading.Thread(target=run_empty)
    scheduler.start()
    while scheduler.is_alive():
        assert output.last_run() is not None
        assert {record.exit_code for record in output.runs()} <= {0}
    scheduler.join()
