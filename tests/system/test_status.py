"""`batchr1 status` of an output that is being written, was killed, goes on, is complete."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import polars as pl
from click.testing import CliRunner
from process_tree import tree, until
from replay_job import questions, replay, run_replay, set_engine, write_job

from batchr1.cli.main import main
from batchr1.output.checkpoints import INFLIGHT_DIR, read_checkpoints
from batchr1.report.summary import InFlight, _eta
from batchr1.storage.base import open_storage

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
SCRIPT: dict[str, Any] = {"mean_len": 80.0, "tokens_per_step": 1, "step_s": 0.02, "max_num_seqs": 8}


def status(output: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        CliRunner().invoke(main, ["status", str(output), "--json"]).output
    )
    return document


def test_status_follows_an_output_through_its_life(tmp_path: Path) -> None:
    questions(60).write_parquet(tmp_path / "in.parquet")
    job, output = (
        write_job(tmp_path, checkpoint={"every_s": 0.2}, output={"rows_per_part": 8}),
        tmp_path / "out",
    )
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    with tree([HELPER, str(tmp_path / "script.json"), "run", str(job)], tmp_path) as run:
        until(
            lambda: (
                len(list((output / "data").glob("*"))) >= 2
                and list((output / INFLIGHT_DIR).glob("*"))
            )
        )
        live = status(output)
        text = CliRunner().invoke(main, ["status", str(output)]).output
        run.kill()
    assert f"pid {run.driver.pid}" in live["holder"]
    assert live["done"] >= 16
    assert live["in_flight"]["under_way"] + live["in_flight"]["finished"] > 0
    assert live["in_flight"]["tokens"] > 0
    assert live["tokens_per_s"] > 0
    assert live["eta_s"] > 0
    assert ": running (run " in text
    assert " tokens saved\n" in text
    assert " tokens/s since this run began, ETA " in text

    dead = status(output)
    keys = read_checkpoints(open_storage(output)).saved
    assert (dead["holder"], dead["eta_s"], dead["tokens_per_s"]) == (None, None, None)
    assert 0 < dead["in_flight"]["tokens"] <= sum(len(s.tokens) for s in keys.values())
    text = CliRunner().invoke(main, ["status", str(output)]).output
    assert "ended without a word: run the job again, it goes on)" in text
    [snapshot] = (output / INFLIGHT_DIR).glob("*.bin")
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[:-5])
    assert status(output)["in_flight"] == {
        "under_way": 0,
        "finished": 0,
        "tokens": 0,
        "unreadable": 1,
    }
    text = CliRunner().invoke(main, ["status", str(output)]).output
    assert "1 snapshots cannot be read: their tokens are generated again" in text
    snapshot.write_bytes(whole)

    summary = run_replay(job, replay(**{**SCRIPT, "step_s": 0.0}))
    assert summary.tally.carried == dead["in_flight"]["tokens"]
    complete = status(output)
    assert complete["complete"]
    assert complete["in_flight"] == {"under_way": 0, "finished": 0, "tokens": 0, "unreadable": 0}
    assert complete["tokens_per_s"] == round(summary.tokens_per_s, 1)


def test_a_run_that_was_stopped_while_the_model_loaded_is_told(tmp_path: Path) -> None:
    questions(6).write_parquet(tmp_path / "in.parquet")
    job = set_engine(write_job(tmp_path), replay(load_s=60.0))
    with tree(["-m", "batchr1", "run", str(job)], tmp_path) as run:
        until(lambda: list((tmp_path / "out/.batchr1/runs").glob("*.log")))
        run.driver.send_signal(signal.SIGTERM)
        assert run.wait() == 75
    assert "0/6 rows, loading the model" in run.stderr.splitlines()
    for target in (job, tmp_path / "out"):
        assert CliRunner().invoke(main, ["status", str(target)]).output == (
            f"{tmp_path}/out: not complete (stopped: received SIGTERM)\n"
            "  rows       0 done, 0 failed, 6 pending, 1 run\n"
        )


def test_a_part_that_was_deleted_is_pending_again(tmp_path: Path) -> None:
    questions(6).write_parquet(tmp_path / "in.parquet")
    run_replay(write_job(tmp_path, output={"rows_per_part": 2}), replay())
    parts = sorted((tmp_path / "out/data").glob("*"))
    gone = pl.read_parquet(parts[0]).height
    parts[0].unlink()
    said = status(tmp_path / "out")
    assert (said["done"], said["pending"], said["complete"]) == (6 - gone, gone, False)


def test_a_part_that_was_copied_counts_once(tmp_path: Path) -> None:
    questions(20).write_parquet(tmp_path / "in.parquet")
    run_replay(write_job(tmp_path, output={"rows_per_part": 8}))
    first, *_ = sorted((tmp_path / "out/data").iterdir())
    shutil.copy(first, first.with_name(first.name.replace(".parquet", "-copy.parquet")))
    found = status(tmp_path / "out")
    assert (found["done"], found["repeated"], found["pending"]) == (20, 8, 0)
    text = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
    assert (
        "  repeated   8 rows lie in data/ twice (a part was copied there?): counted once, "
        "and the next run keeps one of each\n" in text
    )
    report = json.loads(
        CliRunner().invoke(main, ["report", str(tmp_path / "out"), "--json"]).output
    )
    assert report["rows"]["done"] == 20


def test_the_speed_is_that_of_the_last_run_that_worked(tmp_path: Path) -> None:
    questions(20).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path)
    summary = run_replay(job)
    assert run_replay(job).tally.done == 0
    found = status(tmp_path / "out")
    assert (found["runs"], found["tokens_per_s"]) == (2, round(summary.tokens_per_s, 1))
    assert found["last_run"]["tokens_per_s"] == round(summary.tokens_per_s, 1)


def test_the_record_of_a_run_holds_its_series(real_output: Path) -> None:
    [path] = (real_output / ".batchr1/runs").glob("*.json")
    record = json.loads(path.read_text())
    series = record["timeline"]
    assert len({len(values) for values in series.values()}) == 1
    assert len(series["seconds"]) >= 3
    assert series["tokens"][-1] == record["tally"]["tokens"]
    assert series["finished"][-1] == 40
    assert max(series["running"]) >= 3
    assert series["seconds"] == sorted(series["seconds"])
    assert series["seconds"][-1] <= record["wall_s"]
    lines = path.read_text().splitlines()
    assert [line.count(",") for line in lines if '"tokens": [' in line] == [len(series["tokens"])]


def test_an_eta_is_left_while_anything_is_pending() -> None:
    """Long generations are under way when short ones are done: their tokens are no credit."""
    rows = pl.DataFrame({"completion_tokens": [100] * 10})
    under_way = InFlight(under_way=20, finished=0, tokens=60_000, unreadable=0)
    assert _eta(rows, 62, under_way, rate=1000.0) == round((1000 + 60_000) / 10 * 62 / 1000, 1)
    assert _eta(rows, 0, under_way, rate=1000.0) is None
    # Finished ones wait for a part: they count as done, and are not generated again.
    waiting = InFlight(under_way=20, finished=2, tokens=60_000, unreadable=0)
    assert _eta(rows, 62, waiting, rate=1000.0) == round(61_000 / 12 * 60 / 1000, 1)


def test_no_eta_is_given_before_half_as_many_are_done_as_are_under_way() -> None:
    rows = pl.DataFrame({"completion_tokens": [100] * 10})
    early = InFlight(under_way=21, finished=0, tokens=60_000, unreadable=0)
    assert _eta(rows, 62, early, rate=1000.0) is None
    assert _eta(rows.clear(), 62, early, rate=1000.0) is None
