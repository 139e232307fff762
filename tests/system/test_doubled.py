"""Keys that are there twice, and a `_SUCCESS` that does not fit: noticed, refused, repaired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click.testing
import polars as pl
import pytest
from replay_job import keys_of, questions, rows_of, run_replay, wanted_keys, write_job

from batchr1.cli.main import main
from batchr1.output.doubled import doubled_rows
from batchr1.output.folder import Output
from batchr1.storage.base import open_storage

EARLY, LATE = "part-20200101T000000000Z-aaaa", "part-20990101T000000000Z-bbbb"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    questions(12).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, output={"rows_per_part": 4})
    assert run_replay(job).exit_code == 0
    return job


def ask(*args: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(main, list(map(str, args)), catch_exceptions=False)


def test_success_names_run_epoch_and_counts(job: Path) -> None:
    output = job.parent / "out"
    found = json.loads((output / "_SUCCESS").read_text())
    parts = list((output / "data").iterdir())
    [record] = Output(open_storage(output)).runs()
    assert found == {
        "run": record.run,
        "epoch": 1,
        "rows": 12,
        "samples": 12,
        "parts": len(parts),
        "bytes": sum(part.stat().st_size for part in parts),
    }


@pytest.mark.parametrize("fault", ["a part is gone", "a part came", "garbage", "other counts"])
def test_a_success_that_does_not_fit_is_none_until_the_next_run(job: Path, fault: str) -> None:
    output = job.parent / "out"
    first, *_ = sorted((output / "data").iterdir())
    match fault:
        case "a part is gone":
            first.unlink()
        case "a part came":
            shutil.copy(first, first.with_name(f"{LATE}-0-0-00001.parquet"))
        case "garbage":
            (output / "_SUCCESS").write_text("\x00[")
        case "other counts":
            (output / "_SUCCESS").write_text('{"parts": 1, "bytes": 2}')
    assert "not complete" in ask("status", output).output
    assert run_replay(job).exit_code == 0
    assert ": complete\n" in ask("status", output).output
    assert keys_of(rows_of(output)) == wanted_keys(questions(12))


def test_the_success_of_an_older_version_is_empty_and_counts(job: Path) -> None:
    (job.parent / "out/_SUCCESS").write_bytes(b"")
    assert ": complete\n" in ask("status", job.parent / "out").output


@pytest.mark.parametrize("name", [EARLY, LATE], ids=["an earlier run's", "a later run's"])
def test_doubled_keys_are_refused_by_export_and_the_later_runs_stay(job: Path, name: str) -> None:
    output = job.parent / "out"
    first, *_ = sorted((output / "data").iterdir())
    stray = first.with_name(f"{name}-0-0-00001.parquet")
    pl.read_parquet(first).with_columns(run=pl.lit("stray")).write_parquet(stray)
    refused = ask("export", output, job.parent / "exported", "--to", "raw")
    assert refused.exit_code == 2
    assert "rows are there twice (got 4 of them" in refused.stderr
    assert "rows lie in data/ twice" in ask("status", output).output

    summary = run_replay(job)

    rows = rows_of(output)
    assert (summary.exit_code, summary.tally.done) == (0, 0), "nothing is generated for it"
    assert keys_of(rows) == wanted_keys(questions(12))
    assert rows.filter(pl.col("run") == "stray").height == (4 if name == LATE else 0)
    assert Output(open_storage(output)).is_complete()


def test_of_one_runs_rows_the_first_parts_stays(job: Path) -> None:
    output = Output(open_storage(job.parent / "out"))
    first = output.parts()[0]
    again = first.replace("-00001.", "-00009.")
    shutil.copy(output.storage.path(first), output.storage.path(again))
    assert doubled_rows(output) == {again: [0, 1, 2, 3]}
