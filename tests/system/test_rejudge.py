"""`batchr1 verify` judges an output again: every row once, whatever kills it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pyarrow.parquet as pq
import pytest
from made_output import good_row, table_of, write_large, write_output
from replay_job import questions, run_replay, write_job

from batchr1.cli.main import main
from batchr1.columns import COLUMNS

VERDICTS = ["gold", "final_answer", "correct", "verdict_by", "flags"]
OTHERS = [c.name for c in COLUMNS if c.name not in VERDICTS]


def verify(*args: object, exit_code: int = 0) -> dict[str, Any]:
    result = click.testing.CliRunner().invoke(
        main, ["verify", *map(str, args), "--json"], catch_exceptions=False
    )
    assert result.exit_code == exit_code, result.stderr
    found: dict[str, Any] = json.loads(result.stdout) if exit_code == 0 else {"said": result.stderr}
    return found


def rows_of(output: Path) -> pl.DataFrame:
    parts = [pl.read_parquet(part) for part in sorted((output / "data").glob("*.parquet"))]
    return pl.concat(parts).sort("id", "sample")


def small_output(folder: Path) -> None:
    rows = [
        good_row(0),
        good_row(1, answer=r"\boxed{1 61/64}", gold="125/64", correct=False),
        good_row(2, answer=r"\boxed{1.6\times10^{-19}}", gold=r"1.7\times10^{-19}", correct=True),
        good_row(3, answer="It is 6.", final_answer=None, correct=False, flags=["verify_failed"]),
        good_row(4, answer=None, final_answer=None, correct=None, flags=["looping"]),
        good_row(5, answer=r"\boxed{\sqrt{2+\sqrt{3}}}", gold=r"\frac{\sqrt6+\sqrt2}{2}"),
        good_row(6, answer=r"\boxed{\text{say } \frac{}}", gold=r"\sum_k a_k", flags=["looping"]),
    ]
    write_output(folder, [table_of(rows[:4]), table_of(rows[4:])])


def test_verdicts_are_those_of_a_run_and_all_else_stays(tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    before = rows_of(tmp_path / "out")
    found = verify(tmp_path / "out")
    after = rows_of(tmp_path / "out")
    assert after["correct"].to_list() == [True, True, False, False, False, True, None]
    assert after["verdict_by"].to_list() == ["text", "number", "number", None, None, "math", None]
    assert after["flags"].to_list() == [[]] * 4 + [["looping"], [], ["looping", "verify_unsure"]]
    assert after.select(OTHERS).equals(before.select(OTHERS))
    assert after["gold"].equals(before["gold"])
    assert (found["counts"]["rows"], found["counts"]["unsure"], found["replaced"]) == (7, 1, 2)
    assert (tmp_path / "out/_SUCCESS").exists()
    again = verify(tmp_path / "out")
    assert (again["counts"]["changed"], again["replaced"]) == (0, 0)
    status = click.testing.CliRunner().invoke(main, ["status", str(tmp_path / "out")])
    assert "1 verify_unsure" in status.stdout


def test_another_kind_and_other_right_answers(tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    ids = [f"row/{n}" for n in (0, 3)]
    pl.DataFrame({"name": ids, "right": ["7", "6"]}).write_parquet(tmp_path / "golds.parquet")
    golds = ["--gold", tmp_path / "golds.parquet", "--gold-column", "right", "--id-column", "name"]
    verify(tmp_path / "out", "--kind", "number", *golds)
    rows = rows_of(tmp_path / "out")
    assert rows["gold"].to_list()[:4] == ["7", "125/64", r"1.7\times10^{-19}", "6"]
    assert rows["correct"].to_list()[:4] == [False, False, False, True]
    document = json.loads((tmp_path / "out/.batchr1/job.json").read_text())
    assert document["fingerprint"]["verify.kind"] == document["spec"]["verify"]["kind"] == "number"


def test_columns_of_right_answers_may_have_any_name(tmp_path: Path) -> None:
    """Of ids too: `problem-id` and `{n}` are no names of Python."""
    small_output(tmp_path / "out")
    golds = {"problem-id": ["row/0", "row/3"], "{n}": [0, 0], "right answer": ["7", "6"]}
    pl.DataFrame(golds).write_parquet(tmp_path / "golds.parquet")
    given = ["--gold", tmp_path / "golds.parquet", "--gold-column", "right answer"]
    verify(tmp_path / "out", *given, "--id-column", "problem-id")
    assert rows_of(tmp_path / "out")["gold"].to_list()[:4:3] == ["7", "6"]

    rows = [good_row(n, id=f"row%2F{n}/0") for n in (0, 3)]
    write_output(tmp_path / "joined", [table_of(rows)])
    verify(tmp_path / "joined", *given, "--id-column", "problem-id", "--id-column", "{n}")
    assert rows_of(tmp_path / "joined")["gold"].to_list() == ["7", "6"]


def test_a_column_of_ids_is_named_once(tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    pl.DataFrame({"id": ["row/0"], "gold": ["7"]}).write_parquet(tmp_path / "golds.parquet")
    args = ["--gold", tmp_path / "golds.parquet", "--gold-column", "gold"]
    found = verify(tmp_path / "out", *args, "--id-column", "id", "--id-column", "id", exit_code=2)
    assert found["said"] == (
        "batchr1: --id-column: 'id' is named twice (need each once). Correct it.\n"
    )


def test_a_function_judges_rows_with_their_kept_columns(tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    (tmp_path / "mine.py").write_text(
        "def judge(answer, gold, row):\n    return row['level'] > 2 if row['subject'] else None\n"
    )
    found = verify(tmp_path / "out", "--kind", "mine:judge", "--path", tmp_path)
    rows = rows_of(tmp_path / "out")
    wanted = [level > 2 for level in rows["level"]]
    wanted[4] = False  # without an answer no function is called
    assert rows["correct"].to_list() == wanted
    assert set(rows["verdict_by"]) == {"function", None}
    assert found["kind"] == "mine:judge"


def test_a_column_of_letters_is_judged_as_multiple_choice(tmp_path: Path) -> None:
    letters = "ABCDABCD"
    rows = [
        good_row(n, gold=letter, answer=f"So the answer is ({letters[n - n % 2]}).", correct=None)
        for n, letter in enumerate(letters)
    ]
    write_output(tmp_path / "out", [table_of(rows)])
    found = verify(tmp_path / "out")
    assert (found["kind"], found["chosen"]) == ("auto", "choice")
    assert found["why"] == "8 of 8 right answers are letters from A to J"
    assert rows_of(tmp_path / "out")["correct"].to_list() == [True, False] * 4


def test_one_right_answer_is_corrected_and_the_column_stays_what_it_is(tmp_path: Path) -> None:
    letters = "ABCDABCD"
    rows = [
        good_row(n, gold=letter, answer=f"So the answer is ({letter}).", correct=None)
        for n, letter in enumerate(letters)
    ]
    write_output(tmp_path / "out", [table_of(rows[:4]), table_of(rows[4:])])
    (tmp_path / "gold.csv").write_text("id,answer\nrow/1,C\nrow/2,C\nrow/77,A\n")
    golds = ["--gold", tmp_path / "gold.csv", "--gold-column", "answer", "--id-column", "id"]
    found = verify(tmp_path / "out", *golds)
    assert found["golds"] == {"read": 3, "found": 2, "other": 1, "missing": "row/77"}
    assert found["chosen"] == "choice"  # as of all eight, not of the three
    assert rows_of(tmp_path / "out")["correct"].to_list() == [True, False] + [True] * 6
    said = click.testing.CliRunner().invoke(
        main, ["verify", *map(str, [tmp_path / "out", *golds])], catch_exceptions=False
    )
    assert "  golds      3 read, 0 other than before, 1 without a row (such as row/77)" in (
        said.stdout
    )


def test_right_answers_of_no_row_are_refused(tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    (tmp_path / "gold.csv").write_text("id,answer\nrow-0,8\n")
    before = (tmp_path / "out/.batchr1/job.json").read_bytes()
    golds = ["--gold", tmp_path / "gold.csv", "--id-column", "id", "--gold-column"]
    said = verify(tmp_path / "out", *golds, "answer", exit_code=2)["said"]
    assert "none of its ids is in the output (got 1, such as 'row-0')" in said
    said = verify(tmp_path / "out", *golds, "gold", exit_code=2)["said"]
    assert "gold.csv: --gold-column: there is no column 'gold' (the file has: id, answer)" in said
    assert (tmp_path / "out/.batchr1/job.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--kind", "llm"], "options: verify.kind: wrong value (got text 'llm', need auto, math, "),
        (["--kind", "maths"], "Did you mean math?"),
        (["--timeout-s", "0"], "options: verify.timeout_s: wrong value (got a number 0.0"),
        (["--kind", "math", "--extract", "("], "this is no regular expression"),
        (["--kind", "nowhere:judge"], "there is no module nowhere"),
        (["--gold", "no.parquet"], "no.parquet"),
    ],
)
def test_what_cannot_work_changes_nothing(args: list[str], said: str, tmp_path: Path) -> None:
    small_output(tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    found = verify(tmp_path / "out", *args, exit_code=2)["said"]
    assert found.startswith("batchr1: ") and said in found
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert after == before


def test_a_killed_one_forgets_no_rows_of_the_input(tmp_path: Path) -> None:
    questions(12).with_columns(gold=pl.lit("4")).write_parquet(tmp_path / "in.parquet")
    run_replay(write_job(tmp_path, input={"gold": "gold"}))
    success = tmp_path / "out/_SUCCESS"
    success.unlink()  # a killed one has begun
    verify(tmp_path / "out", "--kind", "exact")
    assert json.loads(success.read_text())["rows"] == 12


def killed_in_the_middle(output: Path, rng: random.Random, kills: int) -> int:
    """Run the command and kill it while it replaces parts; how often it was killed."""
    killed = 0
    command = [sys.executable, "-m", "batchr1", "verify", str(output), "--kind", "number", "--json"]
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0)
        at = None
        while process.poll() is None:
            replaced = len(list((output / "data").glob("*-c-*.parquet")))
            if at is None:
                at = replaced + rng.randint(1, 4)
            if killed < kills and replaced >= at:
                time.sleep(rng.random() / 10)
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.005)
        if process.wait() == 0:
            return killed


@pytest.mark.parametrize(
    ("rows", "rows_per_part", "kills"),
    [(3000, 200, 3), pytest.param(100_000, 2000, 6, marks=pytest.mark.slow)],
)
def test_a_kill_in_the_middle_leaves_every_row_once(
    rows: int, rows_per_part: int, kills: int, tmp_path: Path
) -> None:
    write_large(tmp_path / "out", rows, rows_per_part)
    before = rows_of(tmp_path / "out").select("id", "sample", "answer", "completion_tokens")
    assert killed_in_the_middle(tmp_path / "out", random.Random(rows), kills) == kills
    after = rows_of(tmp_path / "out")
    assert after.height == rows == after.select("id", "sample").n_unique()
    assert after.select("id", "sample", "answer", "completion_tokens").equals(before)
    assert (tmp_path / "out/_SUCCESS").exists()
    assert set(after["verdict_by"]) == {"number", None}
    for part in (tmp_path / "out/data").glob("*.parquet"):
        assert "verdict_by" in pq.read_schema(part).names
