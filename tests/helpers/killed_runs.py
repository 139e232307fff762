"""Replayed jobs that are started, watched and killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from process_tree import Tree, tree, until

from batchr1.output.checkpoints import INFLIGHT_DIR, FoundCheckpoints, read_checkpoints
from batchr1.storage.base import open_storage

HELPER = str(Path(__file__).with_name("replay_job.py"))
SLOW = {
    "mean_len": 150.0,
    "sigma": 0.5,
    "tokens_per_step": 1,
    "step_s": 0.02,
    "max_num_seqs": 8,
}
"""A script of about 3 s a row."""


def content(rows: pl.DataFrame) -> pl.DataFrame:
    """What a row says, without when it was made, by which run, with how many interruptions."""
    return rows.drop("run", "finished_at", "resumed_at")


def inflight(output: Path) -> FoundCheckpoints:
    return read_checkpoints(open_storage(output))


def started(job: Path, **changes: Any) -> Any:
    script = job.with_name("script.json")
    script.write_text(json.dumps(SLOW | changes))
    return tree([HELPER, str(script), "run", str(job)], job.parent)


def wait_for_saved(run: Tree, output: Path, tokens: int, finished: int = 0) -> None:
    def enough() -> bool:
        if not (output / INFLIGHT_DIR).exists():
            return False
        found = inflight(output)
        return found.tokens >= tokens and found.finished >= finished

    until(enough, 120, f"{tokens} saved tokens")
    assert run.driver.poll() is None


def record(output: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(max((output / ".batchr1/runs").glob("*.json")).read_text())
    return last
