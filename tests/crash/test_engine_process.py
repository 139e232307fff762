"""vLLM with its engine in a process of its own, as on a GPU: that process is killed, and the work
goes on.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import polars as pl
import pytest
from process_tree import engine_process, tree, until
from replay_job import keys_of, rows_of, wanted_keys, write_job

PROBLEMS = Path(__file__).parent.parent.parent / "jobs/data/math.parquet"
ROWS = 120


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_engine_process_is_noticed_at_once_and_its_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    job, output = (
        write_job(
            tmp_path,
            input={"path": str(PROBLEMS), "gold": "answer", "limit": ROWS},
            output={"rows_per_part": 10},
            sampling={"max_tokens": 512},
            checkpoint={"every_s": 1},
        ),
        tmp_path / "out",
    )
    with tree(["-m", "batchr1", "run", str(job), "--gpus", "none"], tmp_path) as run:
        until(
            lambda: (output / "data").exists() and list((output / "data").glob("*")),
            800,
            "the first part",
        )
        [worker], core = run.workers(), engine_process(run)
        assert core is not None and core != worker
        os.kill(core, signal.SIGKILL)
        killed_at = time.monotonic()
        until(lambda: worker not in run.workers(), 60, "the worker's end")
        print(f"\nthe worker left {time.monotonic() - killed_at:.1f} s after its engine")
        assert run.wait(1200) == 0, run.stderr
        until(lambda: not run.left(), 10, "the end of every process")
    record = json.loads(max((output / ".batchr1/runs").glob("*.json")).read_text())
    assert record["tally"]["restarts"] == 1
    rows = rows_of(output)
    assert keys_of(rows) == wanted_keys(pl.read_parquet(PROBLEMS).head(ROWS))
    assert rows["resumed_at"].list.len().max() == 1, "generations went on from their saved tokens"
