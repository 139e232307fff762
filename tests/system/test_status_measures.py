"""Measures that `batchr1 status` shows of a real output."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from click.testing import CliRunner
from replay_job import questions, run_replay, write_job

from batchr1.cli.main import main


def test_status_shows_measures_where_there_are_right_answers_and_samples(tmp_path: Path) -> None:
    rows = questions(6).with_columns(gold=pl.lit("5"), kind=pl.Series(["x", "y"] * 3))
    rows.write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, input={"gold": "gold"}, output={"keep": ["kind"]}, sampling={"n": 4})
    assert run_replay(job).exit_code == 0
    for i, part in enumerate(
        sorted((tmp_path / "out/data").glob("*"))
    ):  # the replay engine is never right: be it
        part_rows = pl.read_parquet(part).with_columns(
            correct=(pl.col("sample") == 0), final_answer=pl.lit("5")
        )
        assert i == 0 or part_rows.height > 0
        part_rows.write_parquet(part)
    status = (
        CliRunner()
        .invoke(main, ["status", str(tmp_path / "out"), "--by", "kind"])
        .output.splitlines()
    )
    at = next(i for i, line in enumerate(status) if line.startswith("  pass@k"))
    assert status[at : at + 3] == [
        "  pass@k     @1 25.0% (25.0-25.0)  @2 50.0% (50.0-50.0)  @4 100.0% (100.0-100.0)",
        "  cons@k     @2 25.0% (25.0-25.0)  @4 0.0% (0.0-0.0)",
        "             95% intervals, bootstrap over 6 prompts",
    ]
    assert [line.split("tokens")[1] for line in status if line.startswith("  kind")] == [
        "  pass@4 100.0%  cons@4 0.0%"
    ] * 2
    document = json.loads(
        CliRunner().invoke(main, ["status", str(tmp_path / "out"), "--json"]).output
    )
    assert document["measures"]["pass_at"]["2"] == {
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
        "prompts": 6,
    }
    for part in (tmp_path / "out/data").glob("*"):
        pl.read_parquet(part).with_columns(correct=pl.lit(None, pl.Boolean)).write_parquet(part)
    assert "pass@k" not in CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
