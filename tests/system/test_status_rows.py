"""`status --rows` and `--follow`: rows are looked at while a run goes on."""

from __future__ import annotations

import datetime as dt
import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_output import WHEN, good_row, table_of, write_output
from process_tree import tree, until
from replay_job import questions, replay, rows_of, set_engine, write_job

from batchr1.cli.main import main
from batchr1.cli.status.rows import SHOWN_CHARS


def status(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, args)], catch_exceptions=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two parts whose rows finished in turn."""
    rows = [good_row(i, finished_at=WHEN + dt.timedelta(seconds=i)) for i in range(6)]
    rows[5] |= {"reasoning": "so " * 400, "flags": ["looping"], "answer": "a\x1b[31m\nb"}
    write_output(tmp_path / "out", [table_of(rows[::2]), table_of(rows[1::2])])
    return tmp_path / "out"


def test_the_newest_rows_are_shown_whole_as_json(output: Path) -> None:
    done = status(output, "--rows", "3", "--json")
    assert done.exit_code == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["row/3", "row/4", "row/5"]
    assert rows[-1]["reasoning"] == "so " * 400
    assert len(status(output, "--rows", "99", "--json").stdout.splitlines()) == 6


def test_the_newest_rows_are_shown_as_show_does_but_shorter(output: Path) -> None:
    lines = status(output, "--rows", "1").stdout.splitlines()
    assert lines[0] == "row/5 · sample 0 · right"
    assert f"    [… {3 * 400 - SHOWN_CHARS:,} characters …]" in lines
    assert lines[-4:] == ["    a\\x1b[31m", "    b", "  gold 10, found 10", "  flags looping"]


def test_text_of_any_script_stays_readable_as_json(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(0, answer="½ é 東\x9b")])])
    [line] = status(tmp_path / "out", "--rows", "1", "--json").stdout.splitlines()
    assert "½ é 東" in line
    assert "\x9b" not in line
    assert json.loads(line)["answer"] == "½ é 東\x9b"


@pytest.mark.parametrize("option", ["--rows=3", "--follow"])
def test_an_output_that_is_none_is_refused(tmp_path: Path, option: str) -> None:
    done = status(tmp_path / "absent", option)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"batchr1: {tmp_path}/absent: not an output of batchr1.")


@pytest.mark.parametrize("option", ["--rows=3", "--follow"])
def test_a_job_that_never_ran_has_no_rows_yet(tmp_path: Path, option: str) -> None:
    questions(4).write_parquet(tmp_path / "in.parquet")
    done = status(write_job(tmp_path), option)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"{tmp_path}/out: nothing here yet\n"


def test_rows_do_not_go_with_other_looks(output: Path) -> None:
    assert status(output, "--rows", "3", "--health").exit_code == 2
    assert status(output, "--follow", "--failed").exit_code == 2


def test_following_shows_every_row_once_and_ends_with_the_run(tmp_path: Path) -> None:
    questions(40).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, output={"rows_per_part": 5})
    set_engine(job, replay(step_s=0.05, max_num_seqs=8, tokens_per_step=2))
    with tree(["-m", "batchr1", "run", str(job)], tmp_path) as run:
        while not list((tmp_path / "out").glob("data/*.parquet")):
            assert run.driver.poll() is None
        shown = status(job, "--follow", "--rows", "99", "--json").stdout.splitlines()
        assert run.wait(60) == 0
    ids = [json.loads(line)["id"] for line in shown]
    assert sorted(ids) == rows_of(tmp_path / "out")["id"].to_list()


def test_ctrl_c_ends_following_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    questions(4).write_parquet(tmp_path / "in.parquet")
    job = set_engine(write_job(tmp_path), replay(load_s=60.0))
    with tree(["-m", "batchr1", "run", str(job)], tmp_path) as run:
        until(lambda: list((tmp_path / "out/.batchr1/runs").glob("*.log")))
        monkeypatch.setattr("batchr1.report.newest.time.sleep", pressed)
        done = status(job, "--follow")
        monkeypatch.undo()
        run.kill()
    assert (done.exit_code, done.output) == (128 + signal.SIGINT, "")
