"""An output as the next job's input: each (id, sample) of it is a row."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from click.testing import CliRunner
from made_output import good_row, table_of, write_output
from replay_job import keys_of, rows_of, run_replay, write_job

from batchr1.cli.main import main


def batchr1(*words: object) -> str:
    arguments = [str(word) for word in words]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_output_of_two_samples_a_row_is_the_input_of_the_next_job(tmp_path: Path) -> None:
    before = [good_row(i, sample=n) for i in range(3) for n in range(2)]
    write_output(tmp_path / "first", [table_of(before)])
    keys = {"path": "first/data", "id": ["id", "sample"], "prompt": "prompt", "gold": "gold"}

    limited = run_replay(write_job(tmp_path, input={**keys, "limit": 2}))
    resumed = run_replay(write_job(tmp_path, input=keys))

    rows = rows_of(tmp_path / "out")
    assert (limited.counts.done, resumed.counts.done, rows.height) == (2, 6, 6)
    assert rows["id"].to_list() == [f"row%2F{i}/{n}" for i in range(3) for n in range(2)]
    assert rows.columns[:4] == ["id", "sample", "input_id", "input_sample"]
    assert rows.schema["input_sample"] == pl.Int32
    answered = pl.DataFrame(before)
    joined = rows.join(answered, left_on=["input_id", "input_sample"], right_on=["id", "sample"])
    assert joined["gold"].equals(joined["gold_right"])

    shown = batchr1("show", tmp_path / "out", "--id", "row%2F1/1", "--json")
    assert json.loads(shown)["input_id"] == "row/1"
    batchr1("export", tmp_path / "out", tmp_path / "exported", "--to", "raw")
    exported = pl.read_parquet(tmp_path / "exported/data/*.parquet")
    assert keys_of(exported) == keys_of(rows)
    assert exported.schema["input_sample"] == pl.Int32

    golds = pl.DataFrame({"id": ["row/1"], "sample": [1], "gold": ["7"]})
    golds.cast({"sample": pl.Int8}).write_parquet(tmp_path / "golds.parquet")
    batchr1("verify", tmp_path / "out", "--gold", tmp_path / "golds.parquet")
    judged = rows_of(tmp_path / "out").filter(pl.col("gold") == "7")
    assert judged["id"].to_list() == ["row%2F1/1"]
