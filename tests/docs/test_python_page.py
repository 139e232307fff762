"""docs/python.md: its examples run, one after another, as they stand."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from made_output import good_row, table_of, write_output
from replay_job import questions, replay, set_engine, write_job

import batchr1
from batchr1.api import JobChanges, _options
from batchr1.cli.main import main
from batchr1.cli.options import JobOptions
from batchr1.errors import BatchError, OutputError, UsageError

PAGE = Path(__file__).parents[2] / "docs/python.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    questions(12).write_parquet(tmp_path / "in.parquet")
    set_engine(write_job(tmp_path), replay())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec("\n".join(blocks), {"__name__": "page"})
    lines = said.getvalue().splitlines()
    assert lines[1] == "0 8"
    assert lines[-3:-1] == ["8 0", "1 8"]
    assert lines[-1] == "job.yaml: sampling.temprature: unknown key. Did you mean temperature?"


def test_a_run_from_python_is_the_commands(folder: Path) -> None:
    summary = batchr1.run("job.yaml", output="other", progress=False)
    assert (summary.exit_code, summary.counts.done) == (0, 12)
    rows = batchr1.load("other")
    assert isinstance(rows, pl.LazyFrame)
    assert rows.collect().height == 12
    assert batchr1.status("other").done == 12
    again = batchr1.run("job.yaml", output="other", progress=False)
    assert again.tally.done == 0
    fresh = batchr1.run("job.yaml", output="other", fresh=True, progress=False)
    assert fresh.tally.done == 12


def test_a_change_keeps_its_type(folder: Path) -> None:
    changes = {"sampling.stop": ["a", "b: c"], "sampling.seed": None, "name": "4"}
    found = batchr1.check("job.yaml", set=changes)
    assert found["job"] == "4"
    given = _options({"gpus": 1, "output": Path("out"), "limit": 8, "replicas": 2})
    assert given == JobOptions(gpus="1", output="out", limit=8, replicas=2)


def test_no_change_goes_by_unseen(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^limt: there is no such change. Did you mean limit\?$"):
        batchr1.run("job.yaml", limt=8)  # type: ignore[call-arg]
    assert not (folder / "out").exists()
    with pytest.raises(UsageError, match=r"^stop_after: there is no such change"):
        batchr1.plan("job.yaml", stop_after="1h")  # type: ignore[call-arg]
    nothing: dict[str, Any] = {"variant": None, "limit": None, "gpus": None, "set": None}
    assert batchr1.plan("job.yaml", **nothing).replicas == 1


def test_status_takes_several_outputs_as_the_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_output(tmp_path / "nights/a", [table_of([good_row(0), good_row(1)])])
    write_output(tmp_path / "nights/b", [table_of([good_row(1), good_row(2)])])
    found = batchr1.status(["nights/a", "nights/b"])
    assert [line.done for line in found.outputs] == [2, 2]
    assert (found.total.done, found.repeated) == (3, 1)
    for same in (["nights/*"], [Path("nights/b"), Path("nights/a")], ("nights/*", "nights/a")):
        assert batchr1.status(same).total == found.total
    done = CliRunner().invoke(main, ["status", "nights/*", "--json"])
    assert json.loads(done.stdout)["total"] == found.to_dict()["total"]

    with pytest.raises(UsageError, match=r"^status: no output is named \(got an empty list"):
        batchr1.status([])
    with pytest.raises(UsageError, match=r"^nights/a: changes need a job file \(got outputs and l"):
        batchr1.status(["nights/a"], limit=3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="none: not an output of batchr1"):
        batchr1.status(["nights/a", "none"])


def test_parts_of_an_older_version_hide_no_column_of_newer_ones(tmp_path: Path) -> None:
    newer = table_of([good_row(0, verdict_by="exact")])
    older = table_of([good_row(1)]).drop_columns(["verdict_by"])
    for parts in ([older, newer], [newer, older]):
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        write_output(output, parts)
        rows = batchr1.load(output).collect()
        assert rows.columns == newer.schema.names
        assert rows["verdict_by"].null_count() == 1


def test_an_error_is_the_commands_line(folder: Path) -> None:
    with pytest.raises(UsageError) as refused:
        batchr1.plan("job.yaml", set={"input.id": "nowhere"})
    assert "input.id: there is no column 'nowhere'" in str(refused.value)
    with pytest.raises(OutputError) as missing:
        batchr1.load("nothing")
    assert str(missing.value) == (
        f"{folder}/nothing: there are no rows (got no part in data/, need one). Run the job, or "
        "correct the path."
    )
    with pytest.raises(UsageError, match=r"out: changes need a job file \(got an output and limit"):
        batchr1.status("out", limit=3)
    with pytest.raises(BatchError, match="there is no such job file"):
        batchr1.run("absent.yaml")
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        batchr1.walk  # noqa: B018


def test_every_option_of_a_job_is_a_change() -> None:
    options = {field.name for field in fields(JobOptions)}
    assert JobChanges.__annotations__.keys() == options - {"settings"} | {"set"}
