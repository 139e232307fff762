"""Inputs as people have them, through whole runs: what is seen before a model loads, and after."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_output import good_row, table_of
from replay_job import rows_of, run_replay, write_job

from batchr1.driver.resume.changed_golds import judge
from batchr1.errors import FailedError, InputError
from batchr1.output.folder import stage_part
from batchr1.reasoning.verify import Verify
from batchr1.records import Result
from batchr1.storage.base import open_storage

TWO = {"id": ["a", "b"], "problem": ["1 + 1?", "2 + 2?"]}


def write_input(folder: Path, **columns: Any) -> None:
    pq.write_table(pa.table({**TWO, **columns}), folder / "in.parquet")


def test_a_part_that_cannot_be_written_is_the_datas_fault_and_names_the_column(
    tmp_path: Path,
) -> None:
    table = pa.table({"id": ["a"], "meta": pa.array([{}], pa.struct([]))})
    storage = open_storage(tmp_path / "out")
    with pytest.raises(FailedError) as caught:
        stage_part(storage, table, "part-x.parquet")
    assert str(caught.value) == (
        "part-x.parquet: column 'meta': the part cannot be written as Parquet (Cannot write struct "
        "type 'meta' with no child field to Parquet. Consider adding a dummy child field). Leave "
        "the column out of output.keep, or convert it; its rows are generated already, and are "
        "saved."
    )
    assert not list((tmp_path / "out").rglob("*.parquet*"))


def test_a_corrected_gold_is_refused_then_judged_anew_without_generating(tmp_path: Path) -> None:
    write_input(tmp_path, answer=["2", "5"], level=[1, 1])
    sections: dict[str, Any] = {"output": {"keep": ["level"]}, "verify": {"kind": "exact"}}
    job = write_job(tmp_path, input={"gold": "answer"}, **sections)
    assert run_replay(job).exit_code == 0
    before = rows_of(tmp_path / "out")
    right = before.filter(pl.col("id") == "b")["final_answer"].to_list()
    answer = before.filter(pl.col("id") == "b")["answer"].item()
    write_input(tmp_path, answer=["2", answer], level=[1, 2])
    with pytest.raises(InputError) as caught:
        run_replay(job)
    assert str(caught.value) == (
        f"{tmp_path}/out: the input has another gold for samples that are done (got 1 of them, one "
        "with id 'b'; need none). Set input.on_changed_gold to rejudge (they are judged anew, "
        "nothing is generated) or keep (they stay as they are, with what `batchr1 verify --gold` "
        "corrected), or give a new output.path."
    )
    assert rows_of(tmp_path / "out").equals(before)
    job = write_job(tmp_path, input={"gold": "answer", "on_changed_gold": "rejudge"}, **sections)
    assert run_replay(job).exit_code == 0
    after = rows_of(tmp_path / "out")
    judged = ("gold", "correct", "verdict_by", "level", "final_answer")
    same = [c for c in before.columns if c not in judged]
    assert after.select(same).equals(before.select(same))
    assert after["gold"].to_list() == ["2", answer]
    assert after["level"].to_list() == [1, 2]
    assert after["correct"].to_list() == [False, True]
    assert right != [None] or answer is not None
    again = run_replay(write_job(tmp_path, input={"gold": "answer"}, **sections))
    assert again.exit_code == 0


def test_a_row_judged_anew_keeps_nothing_of_its_old_verdict() -> None:
    old = {"correct": None, "verdict_by": "math", "flags": ("looping", "verify_unsure")}
    [stored] = table_of([good_row(0, answer=r"\boxed{7}")]).to_pylist()
    names = {field.name for field in dataclasses.fields(Result)} - {"kept"}
    values = {name: value for name, value in stored.items() if name in names}
    row = Result(**{**values, **old, "kept": None, "gold": "7"})
    wrong, unsure = (dataclasses.replace(row, gold=gold) for gold in ("8", r"\sum_k a_k"))
    unsure = dataclasses.replace(unsure, answer=r"\boxed{\text{say } \frac{}}")
    found = {one.gold: one for one in judge([row, wrong, unsure], Verify(kind="auto"))}
    seen = {gold: (one.correct, one.verdict_by, one.flags) for gold, one in found.items()}
    assert seen["7"] == (True, "text", ("looping",))
    assert seen["8"] == (False, "number", ("looping",))
    assert seen[r"\sum_k a_k"] == (None, None, ("looping", "verify_unsure"))


def test_a_corrected_gold_may_stay_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_input(tmp_path, answer=["2", "5"])
    job = write_job(tmp_path, input={"gold": "answer"})
    run_replay(job)
    before = rows_of(tmp_path / "out")
    write_input(tmp_path, answer=["2", "4"])
    job = write_job(tmp_path, input={"gold": "answer", "on_changed_gold": "keep"})
    assert run_replay(job).exit_code == 0
    assert rows_of(tmp_path / "out").equals(before)
    assert (
        "samples that are done have 1 another gold in the input: they stay as they are "
        "(input.on_changed_gold: rejudge takes them over)"
    ) in caplog.messages


@pytest.mark.parametrize("command", ["run", "check"])
def test_golds_of_other_prompts_are_not_taken_over(
    tmp_path: Path, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another data set with the same ids: the run is refused, and no row has its golds."""
    from click.testing import CliRunner
    from replay_job import scripted

    from batchr1.cli.main import main

    write_input(tmp_path, answer=["2", "4"])
    assert run_replay(write_job(tmp_path, input={"gold": "answer"})).exit_code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    write_input(tmp_path, answer=["100", "200"], problem=["Capital of France?", "And of Peru?"])
    job = write_job(tmp_path, input={"gold": "answer", "on_changed_gold": "rejudge"})
    refused = CliRunner().invoke(main, scripted([command, str(job)]), catch_exceptions=False)
    assert refused.exit_code == 2
    assert "the input has another prompt for samples that are done (got 2 of" in refused.stderr
    assert "judged anew" not in "".join(caplog.messages)
    assert {path: path.read_bytes() for path in files} == files
    assert (tmp_path / "out/_SUCCESS").exists()


def test_a_file_of_the_same_size_and_time_is_seen_to_be_another(tmp_path: Path) -> None:
    for problem in ("1 + 1?", "9 + 9?"):
        pq.write_table(pa.table({"id": ["a"], "problem": [problem]}), tmp_path / "in.parquet")
        os.utime(tmp_path / "in.parquet", (1, 1))
        job = write_job(tmp_path)
        if problem == "1 + 1?":
            assert run_replay(job).exit_code == 0
            continue
        with pytest.raises(InputError, match="the input has another prompt for samples that are"):
            run_replay(job)


def test_a_gold_that_is_nan_is_not_judged(tmp_path: Path) -> None:
    write_input(tmp_path, answer=[2.0, float("nan")])
    run_replay(write_job(tmp_path, input={"gold": "answer"}))
    rows = rows_of(tmp_path / "out")
    assert rows["gold"].to_list() == ["2.0", None]
    assert rows["correct"].is_null().to_list() == [False, True]
