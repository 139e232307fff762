"""Kills cost seconds: generations go on from their last saved token.

Rows that wait for their part are kept.

The replay engine continues a prompt as the uninterrupted generation would, so a resumed output has
to equal one that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from killed_runs import SLOW, content, inflight, record, started, wait_for_saved
from process_tree import until
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job

from batchr1.output.checkpoints import INFLIGHT_DIR

ROWS = 40


def long_job(folder: Path, **sections: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    given = {
        "sampling": {"max_tokens": 300},
        "checkpoint": {"every_s": 0.25},
        "output": {"rows_per_part": 1000},
    }
    return write_job(folder, **(given | sections))


def quick() -> Any:
    return replay(**{**SLOW, "step_s": 0.0})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_replay(long_job(folder), quick())
    assert not (folder / "out" / INFLIGHT_DIR).exists()
    return content(rows_of(folder / "out"))


def test_after_a_kill_every_generation_goes_on_from_its_last_saved_token(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job, output = long_job(tmp_path), tmp_path / "out"
    with started(job) as run:
        wait_for_saved(run, output, 1200, finished=6)
        run.kill()
    first = inflight(output)
    assert not list((output / "data").glob("*")) if (output / "data").exists() else True
    with started(job) as run:  # and again: some have been interrupted twice then
        wait_for_saved(run, output, first.tokens + 900)
        run.kill()
    what = f"{first.tokens:,} saved tokens of {len(first.saved)} rows, {first.finished} of them"
    assert f"going on from {what} finished\n" in run.stderr
    left = inflight(output)
    done = {s.key: s for s in left.saved.values() if s.finish_reason}
    assert left.tokens > first.tokens
    summary = run_replay(job, quick())
    assert summary.exit_code == 0
    rows = rows_of(output)
    assert content(rows).equals(undisturbed)
    assert record(output)["taken_over"] == {
        "generations": len(left.saved) - len(done),
        "finished": len(done),
        "tokens": left.tokens,
        "unreadable": [],
    }
    assert summary.tally.carried == left.tokens, "saved tokens are not generated again"
    assert rows["resumed_at"].list.len().max() == 2
    for row in rows.iter_rows(named=True):
        saved = next((s for k, s in left.saved.items() if k.id == row["id"]), None)
        if saved is None:
            assert row["resumed_at"] == []
        elif saved.finish_reason:
            assert row["resumed_at"] == list(saved.resumed_at)
            assert row["finished_at"] == saved.finished_at
        else:
            assert row["resumed_at"][-1] == len(saved.tokens) < row["completion_tokens"]
    assert not (output / INFLIGHT_DIR).exists() or not list((output / INFLIGHT_DIR).iterdir())


def test_a_signal_saves_what_is_under_way_and_commits_what_is_finished(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job, output = long_job(tmp_path, checkpoint={"every_s": 3600}), tmp_path / "out"
    with started(job) as run:
        until(
            lambda: (
                list((output / ".batchr1/runs").glob("*.log")) and "ready after" in log_of(output)
            )
        )
        time.sleep(4)
        run.driver.send_signal(signal.SIGTERM)
        assert run.wait(30) == 75
    left = inflight(output)
    assert left.tokens > 100
    assert rows_of(output).height == left.finished > 0, "both saved and committed"
    summary = run_replay(job, quick())
    assert summary.exit_code == 0
    assert 0 < summary.tally.carried < left.tokens, "what is committed is not taken over"
    assert content(rows_of(output)).equals(undisturbed)


def log_of(output: Path) -> str:
    return "".join(path.read_text() for path in (output / ".batchr1/runs").glob("*.log"))


def test_a_torn_snapshot_costs_tokens_and_no_row(tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    job, output = long_job(tmp_path), tmp_path / "out"
    with started(job) as run:
        wait_for_saved(run, output, 500)
        run.kill()
    files = list((output / INFLIGHT_DIR).glob("*.bin"))
    for path in files:
        path.write_bytes(path.read_bytes()[:-1])
    summary = run_replay(job, quick())
    assert summary.exit_code == 0
    assert sorted(record(output)["taken_over"]["unreadable"]) == sorted(
        f"{INFLIGHT_DIR}/{p.name}" for p in files
    )
    assert "not used (torn, or not a snapshot): its generations begin again" in log_of(output)
    assert summary.tally.carried == 0
    assert content(rows_of(output)).equals(undisturbed)


def test_a_narrower_run_leaves_what_was_saved_of_other_rows(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job, output = long_job(tmp_path), tmp_path / "out"
    with started(job) as run:
        wait_for_saved(run, output, 500)
        run.kill()
    before = inflight(output)
    others = {
        key: saved
        for key, saved in before.saved.items()
        if key.id not in ("row/0", "row/1", "row/2")
    }
    assert others
    few = long_job(tmp_path, input={"limit": 3})
    for done in (3, 0):  # a run that ends, and one that finds nothing to do
        summary = run_replay(few, quick())
        assert (summary.exit_code, summary.tally.done) == (0, done)
        assert inflight(output).saved == others
    summary = run_replay(long_job(tmp_path), quick())
    assert summary.tally.carried == sum(len(saved.tokens) for saved in others.values())
    assert content(rows_of(output)).equals(undisturbed)
    assert not (output / INFLIGHT_DIR).exists()


def test_saved_tokens_of_a_changed_prompt_are_dropped(tmp_path: Path) -> None:
    job, output = long_job(tmp_path), tmp_path / "out"
    with started(job) as run:
        wait_for_saved(run, output, 500)
        run.kill()
    changed = questions(ROWS).with_columns(problem=pl.col("problem") + " Now.")
    changed.write_parquet(tmp_path / "in.parquet")
    summary = run_replay(job, quick())
    assert (summary.exit_code, summary.tally.carried) == (0, 0)
    rows = rows_of(output)
    assert rows["prompt"].str.contains("Now.").all()
    assert keys_of(rows) == wanted_keys(changed)


def test_the_replacement_of_a_dead_worker_goes_on_from_its_snapshot(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job, output = long_job(tmp_path), tmp_path / "out"
    with started(job) as run:
        wait_for_saved(run, output, 900, finished=3)
        before = inflight(output)
        [worker] = run.workers()
        os.kill(worker, signal.SIGKILL)
        assert run.wait(200) == 0
    rows = rows_of(output)
    assert content(rows).equals(undisturbed)
    resumed = rows.filter(pl.col("resumed_at").list.len() > 0)
    assert resumed.height > 3
    tally = record(output)["tally"]
    assert tally["restarts"] == 1
    assert tally["carried"] >= before.tokens
    assert 0 < resumed["resumed_at"].list.sum().sum() < tally["carried"], (
        "finished rows were kept too"
    )


# Rows that kill the engine.


def test_a_row_that_kills_the_engine_fails_alone(tmp_path: Path) -> None:
    job = long_job(tmp_path, model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 8}})
    output = tmp_path / "out"
    poisoned = {**SLOW, "step_s": 0.001, "poison_every": 29, "poison_at": 40, "mean_len": 60.0}
    summary = run_replay(job, replay(**poisoned))
    failed = pl.concat(
        [pl.read_parquet(path) for path in (output / ".batchr1/failed").glob("*.parquet")]
    )
    assert failed.height == 1
    assert set(failed["reason"]) == {"killed_engine"}
    assert set(failed["message"]) == {"killed the engine 3 times, at last when it was alone in it"}
    assert (summary.exit_code, summary.counts.failed, summary.counts.pending) == (
        3,
        failed.height,
        0,
    )
    rows = rows_of(output)
    assert sorted([*rows["id"], *failed["id"]]) == sorted(questions(ROWS)["id"])
    again = run_replay(job, replay(**{**poisoned, "poison_every": 0}), retry_failed=True)
    assert (again.exit_code, again.tally.done) == (0, failed.height)
