"""The command line: its help, word for word and at once; what it prints at the end of a run, and
its exit codes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pytest
from replay_job import questions, scripted, write_job

from batchr1 import __version__
from batchr1.cli.main import COMMANDS, main
from batchr1.cli.options import duration
from batchr1.errors import BatchError, UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "help"
HEAVY = [
    "torch",
    "vllm",
    "transformers",
    "tokenizers",
    "polars",
    "pyarrow",
    "ray",
    "pydantic",
    "numpy",
    "yaml",
    "s3fs",
]


def batchr1(*args: str | Path) -> click.testing.Result:
    arguments = [str(a) for a in args]
    return click.testing.CliRunner().invoke(
        main, scripted(arguments), prog_name="batchr1", catch_exceptions=False
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_what_the_golden_file_says(command: str) -> None:
    """Write them anew with BATCHR1_GOLDEN=write."""
    result = click.testing.CliRunner().invoke(
        main,
        [*command.split(), "--help"],
        prog_name="batchr1",
        terminal_width=100,
        catch_exceptions=False,
    )
    path = GOLDEN / f"{command or 'batchr1'}.txt"
    if os.environ.get("BATCHR1_GOLDEN") == "write":
        path.write_text(result.stdout, encoding="utf-8")
    assert result.exit_code == 0
    assert result.stdout == path.read_text(encoding="utf-8")


def test_the_list_of_commands_says_what_each_commands_own_help_says() -> None:
    text = (GOLDEN / "batchr1.txt").read_text(encoding="utf-8")
    for name, summary in COMMANDS.items():
        assert f"  {name:<8}  {summary}" in text
        assert main.get_command(click.Context(main), name) is not None


def test_h_is_help_and_an_unknown_command_is_a_usage_error() -> None:
    assert batchr1("-h").stdout == batchr1("--help").stdout
    result = batchr1("rnu")
    assert result.exit_code == 2
    assert "No such command 'rnu'." in result.stderr


def test_version() -> None:
    assert batchr1("--version").stdout == f"batchr1, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_comes_at_once(arguments: list[str]) -> None:
    """The program itself, from its first line on, imports nothing that takes long."""
    command = [sys.executable, "-X", "importtime", "-m", "batchr1", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "batchr1.cli.main" in imported
    assert not imported & set(HEAVY)


@pytest.mark.parametrize(
    "code",
    [
        "import batchr1",
        "import batchr1; batchr1.run, batchr1.load",
        "import batchr1.records, batchr1.errors",
        "from batchr1.cli.main import main; main(['--help'], standalone_mode=False)",
        "from batchr1.cli.main import main; main(['run', '--help'], standalone_mode=False)",
        "from batchr1.cli.main import main; main(['status', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_for_it(code: str) -> None:
    report = (
        f"import sys; {code}; print('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_checking_a_job_and_its_engine_arguments_does_not_import_vllm(tmp_path: Path) -> None:
    job = write_good_job(tmp_path, model={"engine_args": {"max_num_seqs": 8}})
    code = (
        f"import sys; from batchr1.cli.main import main; main(['check', {str(job)!r}], "
        "standalone_mode=False); print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6h", 21600),
        ("90m", 5400),
        ("45s", 45),
        ("1h30m", 5400),
        ("1H 30m".replace(" ", ""), 5400),
        ("0.5h", 1800),
        (None, None),
    ],
)
def test_durations(text: str | None, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "6", "h", "0h", "1.2.3h", "30m1h", "-1h", "1h 30m", "soon", "²h"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        duration(text)
    assert str(caught.value) == (
        f"--stop-after: not a duration (got {text!r}, need 6h, 90m, 1h30m or the like). Correct it."
    )


def all_errors(kind: type[BatchError] = BatchError) -> list[type[BatchError]]:
    return [kind, *(e for sub in kind.__subclasses__() for e in all_errors(sub))]


def test_exit_codes_are_those_of_the_help() -> None:
    assert {e.exit_code for e in all_errors()} == {1, 2, 4, 75}


def write_good_job(folder: Path, rows: int = 5, **sections: Any) -> Path:
    questions(rows).write_parquet(folder / "in.parquet")
    return write_job(folder, **sections)


def test_a_run_ends_with_its_counts_its_output_and_the_next_command(tmp_path: Path) -> None:
    result = batchr1("run", write_good_job(tmp_path))
    assert result.exit_code == 0
    first, second, *rest = result.stdout.splitlines()
    assert first == "5 rows = 5 done + 0 failed + 0 pending"
    assert second.startswith("this run: 5 rows, ")
    assert rest == [f"output: {tmp_path}/out", f"next: batchr1 status {tmp_path}/out"]


def test_run_again_says_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    batchr1("run", job)
    result = batchr1("run", job)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == [
        "5 rows = 5 done + 0 failed + 0 pending",
        "nothing to do",
    ]


def test_json_holds_what_the_text_holds_and_nothing_else_is_on_stdout(tmp_path: Path) -> None:
    result = batchr1("run", write_good_job(tmp_path, sampling={"n": 2}), "--json")
    document = json.loads(result.stdout)
    assert {
        k: document[k] for k in ("output", "exit_code", "samples", "done", "failed", "pending")
    } == {
        "output": f"{tmp_path}/out",
        "exit_code": 0,
        "samples": 10,
        "done": 10,
        "failed": 0,
        "pending": 0,
    }
    assert (
        document["this_run"]["tokens"]
        == pl.read_parquet(tmp_path / "out/data/*.parquet")["completion_tokens"].sum()
    )


def test_check_says_what_run_would_do_and_writes_nothing(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = batchr1("check", job, "--show-prompt")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "job      replayed: nothing is wrong with it"
    assert "input    5 rows × 1: 0 done, 0 failed, 5 pending" in lines
    assert f"output   {tmp_path}/out" in lines
    assert "What is 0 + 0? ½ é 東" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_check_names_the_first_bad_row_of_each_reason(tmp_path: Path) -> None:
    job = write_good_job(tmp_path, input={"path": "*.parquet", "where": "id != 'row/1'"})
    rows = questions(8)
    nulls = pl.col("id").is_in(["row/4", "row/6"])
    holes = rows.with_columns(problem=pl.when(nulls).then(None).otherwise("problem"))
    (tmp_path / "in.parquet").unlink()
    holes[:3].write_parquet(tmp_path / "a.parquet")
    holes[3:].write_parquet(tmp_path / "b.parquet")

    said = batchr1("check", job).stdout
    assert "can run, but 2 of the first 7 rows will fail" in said
    place = f"empty_prompt: first in {tmp_path}/b.parquet, row 1 from 0 (the prompt is null)"
    assert place in " ".join(said.split())
    assert json.loads(batchr1("check", job, "--json").stdout)["bad_examples"] == [
        {
            "reason": "empty_prompt",
            "file": f"{tmp_path}/b.parquet",
            "row": 1,
            "message": "the prompt is null",
        }
    ]


def test_long_lines_of_check_are_wrapped(tmp_path: Path) -> None:
    lines = batchr1("check", write_good_job(tmp_path, rows=5)).stdout.splitlines()
    engine = next(n for n, line in enumerate(lines) if line.startswith("engine "))
    assert lines[engine + 1].startswith(" " * 9)
    assert max(map(len, lines[: engine + 2])) <= 80


def test_check_as_json(tmp_path: Path) -> None:
    document = json.loads(batchr1("check", write_good_job(tmp_path), "--json").stdout)
    assert document["counts"]["pending"] == 5
    assert document["sampled"] == 5


def test_status_of_an_output_and_of_a_job(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    nothing = batchr1("status", job)
    assert (nothing.exit_code, nothing.stdout) == (
        0,
        f"{tmp_path}/out: nothing here yet, 5 pending\n",
    )
    assert json.loads(batchr1("status", job, "--json").stdout)["pending"] == 5
    assert json.loads(batchr1("status", job, "--failed", "--json").stdout) == []
    batchr1("run", job, "--limit", "3")
    assert batchr1("status", tmp_path / "out").stdout.splitlines()[:2] == [
        f"{tmp_path}/out: complete",
        "  rows       3 done, 0 failed, 0 pending, 1 run",
    ]
    assert (
        "  rows       3 done, 0 failed, 2 pending, 1 run"
        in batchr1("status", job).stdout.splitlines()
    )
    document = json.loads(batchr1("status", job, "--json").stdout)
    assert (document["done"], document["pending"]) == (3, 2)


@pytest.mark.parametrize("option", [(), ("--failed",)])
def test_status_of_something_else_is_a_usage_error(tmp_path: Path, option: tuple[str, ...]) -> None:
    result = batchr1("status", tmp_path / "nowhere", *option)
    assert (result.exit_code, result.stdout, result.stderr) == (
        2,
        "",
        (
            f"batchr1: {tmp_path}/nowhere: not an output of batchr1. Give the folder that a job "
            "wrote, or the job file.\n"
        ),
    )


def test_status_by_a_column_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    batchr1("run", write_good_job(tmp_path))
    result = batchr1("status", tmp_path / "out", "--by", "level")
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: {tmp_path}/out: --by level: there is no such column (kept columns: none).\n",
    )


def test_status_groups_by_a_kept_column_whatever_its_name(tmp_path: Path) -> None:
    questions(4).with_columns(tokens=pl.Series([7, 7, 7, 9])).write_parquet(tmp_path / "in.parquet")
    batchr1("run", write_job(tmp_path, output={"keep": ["tokens"]}))
    result = batchr1("status", tmp_path / "out", "--by", "tokens", "--json")
    assert [(g["value"], g["rows"]) for g in json.loads(result.stdout)["groups"]] == [
        ("7", 3),
        ("9", 1),
    ]


def test_status_counts_what_a_run_without_final_counts_has_done(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    batchr1("run", job, "--limit", "2")
    batchr1("run", job)
    *_, last = sorted((tmp_path / "out/.batchr1/runs").glob("*.json"))
    record = json.loads(last.read_text())
    record["counts_before"]["pending"] = 10  # of which 3 are done: as if it had been killed there
    del record["counts"]
    last.write_text(json.dumps(record))
    document = json.loads(batchr1("status", tmp_path / "out", "--json").stdout)
    assert (document["done"], document["pending"]) == (5, 7)


def test_the_next_command_of_a_stopped_run_repeats_what_was_overridden(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    there = tmp_path / "an other"
    given = ["--output", there, "--limit", "4", "--set", "sampling.n=2", "--retry-failed"]
    result = batchr1("run", job, *given, "--stop-after", "0.001s")
    assert result.exit_code == 75
    assert result.stdout.splitlines()[-1] == (
        f"next: batchr1 run {job} --output '{there}' --limit 4 --set sampling.n=2 "
        "--retry-failed    (goes on from here)"
    )


def test_a_run_whose_rows_are_all_done_elsewhere_is_complete(tmp_path: Path) -> None:
    job = write_good_job(tmp_path)
    batchr1("run", job)
    again = ["run", job, "--output", tmp_path / "next", "--set", f"input.exclude=[{tmp_path}/out]"]
    for _ in range(2):
        result = batchr1(*again)
        assert (result.exit_code, result.stdout.splitlines()[0]) == (
            0,
            "0 rows = 0 done + 0 failed + 0 pending",
        )
        assert (tmp_path / "next/_SUCCESS").exists()


def test_an_access_token_in_a_job_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    job = write_good_job(tmp_path, model={"engine_args": {"hf_token": "hf_secret"}})
    result = batchr1("check", job)
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: {job}: model.engine_args.hf_token: a job file holds no secrets (it is copied "
        "into the output). Set HF_TOKEN in the environment.\n",
    )


def test_a_closed_stdout_does_not_change_the_exit_code() -> None:
    for command, code in (("batchr1 schema run", 0), ("batchr1 show nowhere", 2)):
        words = ["sh", "-c", f"{sys.executable} -m {command} >&- 2>&-"]
        assert subprocess.run(words, timeout=120, check=False).returncode == code
