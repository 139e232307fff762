"""Runs without a seed: no output repeats another, and each records what it drew."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from batchr1.cli.main import main

MATH = str(Path(__file__).parents[2] / "jobs/math.yaml")
LONG = 40  # tokens: a short trace has hardly another way


def run(out: Path, *words: str) -> tuple[dict[str, str], dict[str, object]]:
    """Run the job; give its long traces by sample, and the record's engine arguments."""
    command = ["run", MATH, "--gpus", "none", "--set", f"output.path={out}"]
    command += ["--set", "input.limit=24", "--set", "sampling.temperature=0.6", *words]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = pl.read_parquet(out / "data/*.parquet").filter(pl.col("completion_tokens") >= LONG)
    keys = [f"{id}/{sample}" for id, sample in rows.select("id", "sample").iter_rows()]
    record = json.loads(next((out / ".batchr1/runs").glob("*.json")).read_text())
    return dict(zip(keys, rows["reasoning"], strict=True)), record["plan"]["engine_args"]


@pytest.mark.timeout(300)
def test_two_unseeded_outputs_share_no_traces(tmp_path: Path) -> None:
    (first, drawn), (second, again) = run(tmp_path / "a"), run(tmp_path / "b")
    both = first.keys() & second.keys()
    assert len(both) > 12
    shared = sum(first[key] == second[key] for key in both)
    assert shared < 0.01 * len(both), f"{shared} of {len(both)}"
    assert isinstance(drawn["seed"], int) and drawn["seed"] != again["seed"]
    jobs = [json.loads((tmp_path / name / ".batchr1/job.json").read_text()) for name in "ab"]
    assert jobs[0]["fingerprint"] == jobs[1]["fingerprint"]
