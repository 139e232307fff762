"""kill -9 at any moment: of the whole process tree, of the driver alone, of the worker alone.

Afterwards no process is left, what was committed is there and whole, and the same command goes on
from it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from parts_on_disk import parts_of
from process_tree import Tree, tree, until
from replay_job import keys_of, questions, rows_of, wanted_keys, write_job

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
ORPHAN_S = 5.0
SLOW = {"max_num_seqs": 8, "step_s": 0.03}  # about 25 rows a second
ROWS = 300


def replay_command(job: Path, **changes: float) -> list[str]:
    script = job.with_name("script.json")
    script.write_text(json.dumps(SLOW | changes))
    return [HELPER, str(script), "run", str(job)]


def replay_job(folder: Path) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(folder, output={"rows_per_part": 8})


def assert_whole(output: Path, before: dict[str, str]) -> dict[str, str]:
    """All that lies under data/ is readable to its end, has no row twice, and holds what was there
    before.
    """
    now = parts_of(output)
    assert before.items() <= now.items(), "a committed part never changes"
    keys: list[tuple[str, int]] = []
    for name in now:
        assert name.startswith("part-") and name.endswith(".parquet")
        keys += keys_of(pl.from_arrow(pq.ParquetFile(output / "data" / name).read()))  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)
    assert not (output / "_SUCCESS").exists()
    return now


def assert_nothing_left(run: Tree, killed: list[int]) -> None:
    until(
        lambda: not set(run.left()) | (set(killed) & set(run.pids())),
        ORPHAN_S,
        f"the end of all of {killed}",
    )


def kill_the_tree_three_times(job: Path, output: Path) -> None:
    """Kills at random moments: after a random number of new parts and a random fraction of a
    second.
    """
    rng, parts = random.Random(20), dict[str, str]()
    for _ in range(3):
        new, delay = rng.randint(0, 4), rng.uniform(0, 0.5)
        with tree(replay_command(job), job.parent) as run:
            goal = len(parts) + new
            until(lambda goal=goal: run.workers() and len(parts_of(output)) >= goal)
            time.sleep(delay)  # the random moment
            assert run.driver.poll() is None, "the run ended before it could be killed"
            killed = run.kill()
            assert len(killed) > 1
            assert_nothing_left(run, killed)
        parts = assert_whole(output, parts)
    assert parts, "something was committed before the last kill"


def finish(job: Path, output: Path, before: dict[str, str]) -> str:
    with tree(replay_command(job, step_s=0.0), job.parent) as run:
        assert run.wait(200) == 0, run.stderr
        assert_nothing_left(run, [])
    now = parts_of(output)
    assert before.items() <= now.items()
    assert (output / "_SUCCESS").exists()
    assert list((output / ".batchr1/staging").glob("*")) == []
    assert [path for path in output.rglob("*") if path.name.endswith(".tmp")] == []
    return run.stdout


def test_killing_the_whole_tree_three_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    job, output = replay_job(tmp_path), tmp_path / "out"
    with tree(replay_command(job), tmp_path) as run:
        until(run.workers)
        assert_nothing_left(run, run.kill())
    assert not (output / "data").exists(), "killed while it was loading"
    assert (output / ".batchr1/lock").exists(), "the lock of the dead"
    kill_the_tree_three_times(job, output)
    before = parts_of(output)
    done = rows_of(output).height
    assert 0 < done < ROWS
    said = finish(job, output, before)
    assert said.splitlines()[0] == f"{ROWS} rows = {ROWS} done + 0 failed + 0 pending"
    assert said.splitlines()[1].startswith(f"this run: {ROWS - done} rows, "), (
        "what was committed is not made again"
    )
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))


def test_killing_the_driver_ends_its_worker_and_killing_a_worker_does_not_end_the_run(
    tmp_path: Path,
) -> None:
    job, output = replay_job(tmp_path), tmp_path / "out"
    with tree(replay_command(job), tmp_path) as run:
        until(lambda: len(parts_of(output)) > 2)
        [worker] = run.workers()
        assert os.getsid(worker) == worker != os.getsid(run.driver.pid), (
            "Ctrl-C reaches the driver alone"
        )
        os.kill(run.driver.pid, signal.SIGKILL)
        run.driver.wait()
        assert_nothing_left(run, [worker])
    before = assert_whole(output, {})
    with tree(replay_command(job), tmp_path) as run:
        until(lambda: len(parts_of(output)) > len(before) + 2)
        [worker] = run.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in run.left(), ORPHAN_S)
        assert run.wait() == 0, run.stderr
        assert_nothing_left(run, [worker])
    assert before.items() <= parts_of(output).items()
    assert {name.split("-")[4] for name in set(parts_of(output)) - set(before)} == {"0", "1"}, (
        "the worker was replaced"
    )
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))
    assert (output / "_SUCCESS").exists()
