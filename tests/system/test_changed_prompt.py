"""The input has another prompt for an id that is done: refused, run again, or kept, as the job
says.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from process_tree import tree
from replay_job import (
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    scripted,
    wanted_keys,
    write_job,
)

from batchr1.errors import InputError
from batchr1.output.folder import INPUTS_FILE

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
CHANGED = [3, 4, 30]


def write_input(folder: Path, table: pl.DataFrame, name: str = "0") -> None:
    path = folder / f"in/{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    table.write_parquet(path)
    if path.stat().st_mtime_ns == before:  # a coarse clock
        os.utime(path, ns=(before + 1, before + 1))


def job_in(folder: Path, choice: str | None = None, **sections: Any) -> Path:
    asked = {"on_changed_prompt": choice} if choice else {}
    given = {"input": {"path": "in", **asked}, "sampling": {"n": 2, "max_tokens": 60}, **sections}
    return write_job(folder, **given)


def changed(table: pl.DataFrame, rows: list[int] = CHANGED) -> pl.DataFrame:
    number = pl.int_range(pl.len())
    return table.with_columns(
        problem=pl.when(number.is_in(rows))
        .then(pl.col("problem") + " Now.")
        .otherwise(pl.col("problem"))
    )


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    write_input(folder, questions(40))
    assert run_replay(job_in(folder)).exit_code == 0
    return folder


def test_check_refuses_what_run_refuses(done: Path) -> None:
    import click.testing

    from batchr1.cli.main import main

    def said(command: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(
            main, scripted([command, str(job)]), catch_exceptions=False
        )

    job, before = job_in(done), sorted(done.rglob("*"))
    checked = said("check")
    assert sorted(done.rglob("*")) == before
    assert "the input has another prompt for samples that are done (got 6 of them" in checked.stderr
    assert (checked.exit_code, checked.stderr) == (2, said("run").stderr)


@pytest.fixture
def done(complete: Path, tmp_path: Path) -> Path:
    """A copy of an output that is complete, and an input of which three rows have another prompt
    since.
    """
    shutil.copytree(complete / "out", tmp_path / "out")
    write_input(tmp_path, changed(questions(40)))
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of an output but for the lock, which every run takes."""
    files = [p for p in (folder / "out").rglob("*") if p.is_file() and "/lock/" not in str(p)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_changed_prompt_is_refused_by_default_and_nothing_is_touched(done: Path) -> None:
    before = snapshot(done)
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            run_replay(job_in(done))
        ids = [i for i in CHANGED if f"with id 'row/{i}';" in str(refused.value)]
        assert str(refused.value) == (
            f"{done}/out: the input has another prompt for samples that are done (got 6 of them, "
            f"one with id 'row/{ids[0]}'; need none). Set input.on_changed_prompt to rerun (they "
            "are generated anew) or keep (they stay as they are), or give a new output.path."
        )
    assert snapshot(done) == before
    write_input(done, questions(40))  # the way it was: written anew, but the same
    assert run_replay(job_in(done)).tally.done == 0


def test_rerun_generates_those_samples_anew_and_no_others(done: Path) -> None:
    before = rows_of(done / "out")
    summary = run_replay(job_in(done, "rerun"))
    assert (summary.exit_code, summary.tally.done, summary.counts.done) == (0, 6, 80)
    rows = rows_of(done / "out")
    assert keys_of(rows) == wanted_keys(questions(40), n=2)
    new = rows.filter(pl.col("run") == summary.run)
    assert set(new["id"]) == {f"row/{i}" for i in CHANGED}
    assert new["prompt"].str.contains("Now.").all()
    others = pl.col("id").is_in([f"row/{i}" for i in CHANGED]).not_()
    assert rows.filter(others).equals(before.filter(others))
    assert (done / "out/_SUCCESS").exists()
    again = run_replay(job_in(done, "rerun"))
    assert (again.exit_code, again.tally.done) == (0, 0)
    assert run_replay(job_in(done)).tally.done == 0, "and nothing is refused any more"


def test_keep_leaves_them_and_a_later_refuse_still_knows(done: Path) -> None:
    before = rows_of(done / "out")
    more = pl.concat([changed(questions(40)), questions(2, start=40)])
    write_input(done, more)
    summary = run_replay(job_in(done, "keep"))
    assert (summary.exit_code, summary.tally.done) == (0, 4)
    assert rows_of(done / "out").filter(pl.col("run") != summary.run).equals(before)
    with pytest.raises(InputError, match="got 6 of them"):
        run_replay(job_in(done))


def test_a_row_that_is_no_prompt_any_more_is_changed_too(done: Path) -> None:
    write_input(
        done, questions(40).with_columns(problem=pl.when(pl.col("id") != "row/7").then("problem"))
    )
    with pytest.raises(InputError, match="got 2 of them, one with id 'row/7'"):
        run_replay(job_in(done))
    summary = run_replay(job_in(done, "rerun"))
    assert (summary.exit_code, summary.counts.failed, summary.counts.done) == (3, 2, 78)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged about changed prompts."""
    return [record.getMessage() for record in caplog.records if record.name == "batchr1.changed"]


def test_prompts_are_rendered_only_for_files_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_input(tmp_path, questions(20))
    write_input(tmp_path, questions(10, start=20), "1")
    job = job_in(tmp_path, input={"path": "in", "limit": 25})
    assert run_replay(job).exit_code == 0
    inputs = json.loads((tmp_path / "out" / INPUTS_FILE).read_text())
    assert [Path(uri).name for uri in inputs] == ["0.parquet", "1.parquet"]

    def never(*_: object) -> None:
        raise AssertionError("no prompt is rendered where nothing has changed")

    with monkeypatch.context() as nothing:
        nothing.setattr("batchr1.driver.run_job.make_renderer", never)
        nothing.setattr("batchr1.driver.planning.make_renderer", never)
        assert run_replay(job).tally.done == 0
    caplog.set_level("INFO", "batchr1.changed")
    caplog.clear()
    write_input(tmp_path, changed(questions(10, start=20), [9]), "1")  # a row beyond the limit
    assert run_replay(job).tally.done == 0
    assert said(caplog) == ["1 files have changed: compared the prompts of 5 done rows"]
    write_input(tmp_path, changed(questions(10, start=20), [4]), "1")
    with pytest.raises(InputError, match="got 2 of them, one with id 'row/24'"):
        run_replay(job)
    write_input(tmp_path, questions(10, start=20), "1")
    write_input(
        tmp_path, questions(10, start=30), "2"
    )  # a nightly addition: none of its rows is done
    caplog.clear()
    assert run_replay(job_in(tmp_path)).tally.done == 30
    assert said(caplog)[0] == "2 files have changed: compared the prompts of 5 done rows"


@pytest.mark.parametrize(
    "narrowed",
    [
        {"input": {"path": "in", "limit": 2}},
        {"input": {"path": "in", "where": "id = 'row/0'"}},
        {"sampling": {"n": 1, "max_tokens": 60}},
    ],
    ids=["limit", "where", "n"],
)
def test_a_narrower_run_hides_no_changed_prompt_from_a_wider_one(
    done: Path, narrowed: dict[str, Any]
) -> None:
    for path in (done / "out/data").glob(
        "*.parquet"
    ):  # of the changed rows only the second sample is left
        left = ~pl.col("id").is_in([f"row/{i}" for i in CHANGED]) | (pl.col("sample") == 1)
        pl.read_parquet(path).filter(left).write_parquet(path)
    assert run_replay(job_in(done, **narrowed)).exit_code == 0
    with pytest.raises(InputError, match="got 3 of them"):
        run_replay(job_in(done))


def test_an_output_from_before_this_was_noted_is_compared_once(done: Path) -> None:
    (done / "out" / INPUTS_FILE).unlink()
    with pytest.raises(InputError, match="got 6 of them"):
        run_replay(job_in(done))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["intent.written", "intent.published", "intent.removing"])
def test_killed_while_parts_are_replaced_it_ends_right(done: Path, step: str) -> None:
    job = job_in(done, "rerun")
    (done / "script.json").write_text("{}")
    os.environ["BATCHR1_FAULT"] = f"{step}:2"
    try:
        with tree([HELPER, str(done / "script.json"), "run", str(job)], done) as run:
            assert run.wait(120) == -9, run.stderr
    finally:
        del os.environ["BATCHR1_FAULT"]
    time.sleep(0.1)
    summary = run_replay(job, replay())
    assert summary.exit_code == 0
    rows = rows_of(done / "out")
    assert keys_of(rows) == wanted_keys(questions(40), n=2)
    assert rows.filter(pl.col("prompt").str.contains("Now.")).height == 6


def test_rows_that_the_input_does_not_have_are_counted_in_words(tmp_path: Path) -> None:
    """A second input with the same settings goes into the same output: no row is hidden."""
    import click.testing

    from batchr1.cli.main import main

    def said(command: str, of: Path) -> str:
        words = scripted([command, str(of)])
        result = click.testing.CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    write_input(tmp_path, questions(40))
    job = job_in(tmp_path)
    assert "beside" not in said("run", job) + said("status", tmp_path / "out")
    write_input(tmp_path, questions(15, start=30))
    told = "60 samples in the output that this input does not ask for (other rows, where, limit"
    for command in ("check", "run", "run"):
        assert f"beside: {told}" in said(command, job), command
    for target in (job, tmp_path / "out"):
        seen = said("status", target)
        assert "90 done, 0 failed, 0 pending" in seen
        assert "beside     60 of the done are not asked for by the input" in seen
    for part in sorted((tmp_path / "out/data").iterdir())[:-1]:  # somebody deletes them
        part.unlink()
    seen = said("status", tmp_path / "out")
    assert "10 done, 0 failed, 20 pending" in seen and "beside" not in seen
