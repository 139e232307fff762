"""`status` and `export` over several outputs: a line each, and each key once in the total."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from made_output import WHEN, good_row, table_of, write_output
from replay_job import questions, replay, run_replay, write_job
from s3_fakes import S3

from batchr1.cli.main import main
from batchr1.cli.status.many import folder_above

GLOB = "nights/*"
LATER = WHEN + dt.timedelta(days=1)


def batchr1(*args: str | Path) -> Result:
    words = [str(arg) for arg in args]
    return CliRunner().invoke(main, words, prog_name="batchr1", catch_exceptions=False)


def document(*args: str | Path) -> Any:
    done = batchr1(*args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def rows_of_set(dest: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in (dest / "data").glob("*.parquet"))


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three outputs, named against the order of their rows, and a folder that is none.

    Rows 4 and 5 are in two outputs; so is row 0, by two models.
    """
    newer = {"finished_at": LATER, "answer": "newer"}
    write_output(
        tmp_path / "nights/b", [table_of([good_row(i) for i in range(6)])], pending=3, name="first"
    )
    write_output(
        tmp_path / "nights/a",
        [table_of([good_row(4, **newer), good_row(5, prompt="Another?", **newer)])],
    )
    other = good_row(0, model="other (made)", correct=False, truncated_in="answer", truncated=True)
    write_output(tmp_path / "nights/c", [table_of([other])])
    write_output(tmp_path / "nights/quiet", [])
    (tmp_path / "nights/notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_of_a_key_the_row_that_finished_last_is_exported(nights: Path) -> None:
    said = document("export", GLOB, "set", "--to", "raw")
    assert [(one["output"][-1], one["rows"]) for one in said["outputs"]] == [
        ("a", 2),
        ("b", 6),
        ("c", 1),
        ("t", 0),
    ]
    assert (said["output"], said["rows_in"], said["rows"], said["other_prompts"]) == (None, 9, 7, 1)
    rows = rows_of_set(nights / "set")
    assert rows.select("model", "id", "sample").is_unique().all()
    assert set(rows.filter(answer="newer")["id"]) == {"row/4", "row/5"}
    assert rows.filter(id="row/0").height == 2, "a row of another model is another row"


def test_what_an_export_of_several_prints(nights: Path) -> None:
    done = batchr1("export", GLOB, "set", "--to", "sft", "--test-share", "0.3")
    assert done.stdout.replace(str(nights), "TMP") == (
        "TMP/set: 6 rows, parquet, 0.0 MB\n"
        "          2 TMP/nights/a\n"
        "          6 TMP/nights/b (not complete)\n"
        "          1 TMP/nights/c\n"
        "          0 TMP/nights/quiet\n"
        "          9 rows in 4 outputs\n"
        "          7 each key once: one of each model, id and sample: the row that finished last\n"
        "          6 complete: a closed think block and an answer, nothing cut\n"
        "          6 --dedupe exact: one of rows with the same prompt, reasoning and answer\n"
        "train  4 rows, 4 prompts, 80 tokens\n"
        "test   2 rows, 2 prompts, 40 tokens\n"
        "note   1 rows left out had another prompt than the row with their id that stays: if the "
        "inputs have nothing in common, export them apart\n"
        "note   1 outputs are not complete: what is done was exported\n"
    )
    card = (nights / "set/README.md").read_text()
    assert "| in 4 outputs | | 9 |" in card
    assert "1 of 4 outputs were not complete when this was written." in card
    assert "pretty_name: made (r1-distill-qwen-7b)" in card
    assert str(nights) not in card


def test_columns_are_those_of_all_outputs(tmp_path: Path) -> None:
    topic = pa.schema([("topic", pa.string())])
    write_output(tmp_path / "a", [table_of([good_row(0)])])
    write_output(tmp_path / "b", [table_of([good_row(1, topic="sums")], topic)])
    for form in ("raw", "sft"):
        document("export", tmp_path / "a", tmp_path / "b", tmp_path / form, "--to", form)
        rows = rows_of_set(tmp_path / form).sort("id")
        assert rows["topic"].to_list() == [None, "sums"]
        assert rows["subject"].to_list() == ["Algebra", None]
    write_output(
        tmp_path / "c", [table_of([good_row(2, level="hard")], pa.schema([("level", pa.string())]))]
    )
    refused = batchr1("export", tmp_path / "a", tmp_path / "c", tmp_path / "set", "--to", "raw")
    assert refused.stderr == (
        f"batchr1: {tmp_path}/c: the column 'level' has another type than in {tmp_path}/a (got "
        "string, need int64). Export them apart.\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none/*", "set"], "none/*: the glob matches no output of batchr1. Check the pattern."),
        (["nights/notes", "set"], "TMP/nights/notes: not an output of batchr1. Give the folder"),
        (["nights/quiet", "nights/quiet", "set"], "TMP/nights/quiet: no row is done yet (got no"),
        ([GLOB, "set", "--where", "x=1"], "--where: there is no column 'x' (TMP/nights/a has: id,"),
        ([GLOB, "nights/a/set"], "TMP/nights/a/set: DEST and the output TMP/nights/a lie within"),
        ([GLOB, "set", "--max-tokens", "1"], "4 outputs, TMP/nights/a to TMP/nights/quiet: no row"),
        (["nights/a"], "Missing argument 'OUTPUT...'"),
    ],
)
def test_what_cannot_be_exported_is_refused(nights: Path, words: list[str], said: str) -> None:
    refused = batchr1("export", *words, "--to", "raw")
    assert refused.exit_code == 2
    assert said in refused.stderr.replace(str(nights), "TMP")
    assert not (nights / "set").exists()


NO_OUTPUT = "TMP/nights/notes: not an output of batchr1. Give the folder that a job wrote"
AS_FILES = "name the columns of data files with --prompt and --completion"
ITS_FOLDERS = "TMP/nights: not an output of batchr1. Its folders are: 'TMP/nights/*' names them all"
SAME_WORDS = [
    (["report", "nights/notes"], f"{NO_OUTPUT}."),
    (["show", "nights/notes"], f"{NO_OUTPUT}."),
    (["verify", "nights/notes"], f"{NO_OUTPUT}."),
    (["export", "nights/notes", "set", "--to", "raw"], f"{NO_OUTPUT}."),
    (
        ["export", "nights/a", "set", "--to", "raw", "--verdicts", "nights/notes"],
        f"--verdicts: {NO_OUTPUT}.",
    ),
    (["status", "nights/notes"], f"{NO_OUTPUT}, or the job file."),
    (["status", "nights/notes", "nights/a"], f"{NO_OUTPUT}."),
    *[([words, "nights"], f"{ITS_FOLDERS}.") for words in ("status", "show", "report", "verify")],
    (["export", "nights", "set", "--to", "raw"], f"{ITS_FOLDERS}."),
    (["score", "nights"], f"{ITS_FOLDERS}."),
    (["score", "nights/notes"], f"{NO_OUTPUT}, or {AS_FILES}."),
]


@pytest.mark.parametrize(("words", "said"), SAME_WORDS)
def test_a_folder_that_is_no_output_is_refused_in_the_same_words(
    nights: Path, words: list[str], said: str
) -> None:
    refused = batchr1(*words)
    assert refused.exit_code == 2
    assert refused.stderr.replace(str(nights), "TMP") == f"batchr1: {said}\n"


def test_a_folder_of_scores_is_no_output_and_a_glob_passes_over_it(nights: Path) -> None:
    """It has parts and records of runs too: nobody is told to delete them as damaged."""
    from batchr1.output.folder import RUNS_DIR, SCORE_FILE

    scores = nights / "nights/c-scores"
    for name in (SCORE_FILE, f"{RUNS_DIR}/1.json", "data/part-1-0-0-00001.parquet"):
        (scores / name).parent.mkdir(parents=True, exist_ok=True)
        (scores / name).write_text("{}")
    told = (
        "batchr1: TMP/nights/c-scores: a folder of scores, not an output of batchr1. Give the "
        "output that was scored; the scores are the Parquet files in TMP/nights/c-scores/data.\n"
    )
    for words in (["status"], ["show"], ["report"], ["verify"]):
        refused = batchr1(*words, "nights/c-scores")
        assert (refused.exit_code, refused.stderr.replace(str(nights), "TMP")) == (2, told)
    found = [Path(one["output"]).name for one in document("status", GLOB)["outputs"]]
    assert sorted(found) == ["a", "b", "c", "quiet"]


def test_two_kinds_of_think_tags_are_not_put_into_one_text(nights: Path) -> None:
    path = nights / "nights/c/.batchr1/job.json"
    job = json.loads(path.read_text())
    job["format"] = {"name": "seed", "open": "<seed:think>", "close": "</seed:think>"}
    path.write_text(json.dumps(job))
    refused = batchr1("export", GLOB, "set", "--to", "sft", "--reasoning", "inline")
    assert "nights/c are others than those of" in refused.stderr
    assert batchr1("export", GLOB, "set", "--to", "sft").exit_code == 0


def test_an_output_that_has_only_begun_says_nothing_of_the_set(nights: Path) -> None:
    (nights / "nights/quiet/.batchr1/job.json").unlink()
    document("export", GLOB, "set", "--to", "sft", "--reasoning", "inline")
    card = (nights / "set/README.md").read_text()
    assert "license: mit\n" in card
    assert "`?`" not in card


def test_status_prints_a_line_each_and_a_total(nights: Path) -> None:
    write_output(nights / f"nights/{'long-' * 8}name", [table_of([good_row(9, correct=None)])])
    done = batchr1("status", GLOB)
    assert done.stdout.replace(str(nights), "TMP") == (
        "TMP/nights: 5 outputs\n"
        "                             done  failed  pending  right    cut  tokens\n"
        "  a                             2       0        0 100.0%   0.0%      40  complete\n"
        "  b                             6       0        3 100.0%   0.0%     120  stopped\n"
        "  c                             1       0        0   0.0% 100.0%      20  complete\n"
        "  …g-long-long-long-name        1       0        0      –   0.0%      20  complete\n"
        "  quiet                         0       0        0      –      –       0  complete\n"
        "  total                         8       0        3  85.7%  12.5%     160\n"
        "  2 rows have a later one of the same model, id and sample: the total leaves\n"
        "  them out\n"
        "  compared with a by prompt (pass@1, 95% intervals, in points)\n"
        "     prompts  right  difference             better  worse\n"
        "  b        1 100.0%  0.0 (no interval)           0      0\n"
        "  not compared: 3 of 4, without a judged prompt of it\n"
        "  notes, and what was left out, are in --json\n"
    )
    assert max(map(len, done.stdout.replace(str(nights), "TMP").splitlines())) <= 90


@pytest.mark.parametrize(
    ("uris", "above"),
    [
        (["/o/ab", "/o/a/b"], "/o"),
        (["s3://b/a", "s3://b/c/d"], "s3://b"),
        (["s3://b/a", "s3://c/a"], ""),
        (["/o/a", "s3://b/a"], ""),
        (["/a", "/b/c"], ""),
    ],
)
def test_the_folder_above_several_is_named_where_there_is_one(uris: list[str], above: str) -> None:
    assert folder_above(uris) == above


def test_status_of_several_as_json_has_each_whole(nights: Path) -> None:
    said = document("status", "nights/a", "nights/b", "nights/a", "--by", "subject")
    assert [one["done"] for one in said["outputs"]] == [2, 6]
    assert [one["health"]["state"] for one in said["outputs"]] == ["complete", "stopped"]
    total = said["total"]
    assert (total["done"], total["repeated"], total["pending"]) == (6, 2, 3)
    assert sum(group["rows"] for group in total["groups"]) == 6


def two_nights_of_bad_rows(folder: Path) -> None:
    """Rows 0 and 2 of three fail in the first night; in the second, row 0 is mended."""
    bad = questions(3).with_columns(problem=pl.Series(["", "What is 1 + 1?", " "]))
    bad.write_parquet(folder / "in.parquet")
    run_replay(write_job(folder, output={"path": "nights/1"}), replay())
    mended = questions(2).with_columns(problem=pl.lit("What is 1 + 2?"))
    mended.write_parquet(folder / "in.parquet")
    run_replay(write_job(folder, output={"path": "nights/2"}), replay())


def test_a_row_that_failed_in_one_output_and_is_done_in_another_is_not_failed(
    tmp_path: Path,
) -> None:
    two_nights_of_bad_rows(tmp_path)
    said = document("status", tmp_path / "nights/*")
    assert [sum(one["failed"].values()) for one in said["outputs"]] == [2, 0]
    assert (said["total"]["done"], said["total"]["failed"]) == (2, 1)
    listed = document("status", tmp_path / "nights/*", "--failed")
    assert [row["output"][-1] for row in listed] == ["1", "1"]
    assert document("export", tmp_path / "nights/*", tmp_path / "set", "--to", "raw")["rows"] == 2


def test_a_report_counts_each_key_once_as_status_and_export_do(nights: Path) -> None:
    wrong = {"correct": False, "finished_at": LATER + dt.timedelta(days=1), "answer": "newest"}
    write_output(nights / "nights/d", [table_of([good_row(0, **wrong), good_row(1, sample=1)])])
    found = document("report", GLOB)
    total = document("status", GLOB)["total"]
    rows = found["rows"]
    assert (rows["done"], rows["repeated"]) == (total["done"], total["repeated"]) == (8, 3)
    assert found["correct"] == {"judged": total["judged"], "right": total["correct"]}
    assert rows["prompts"] == 7, "row 1 has two samples, in two outputs; row 0 is of two models"
    assert found["labels"]["prompts"] == 7
    assert sorted(one["done"] for one in found["outputs"]) == [0, 1, 2, 2, 6]
    assert sum(night["rows_now"] for night in found["nights"]) == 11, "of each as it lies there"
    assert found["flags"] == {}
    assert document("export", GLOB, "set", "--to", "raw")["rows"] == 8

    page = nights / "report.html"
    assert batchr1("report", GLOB, "--to", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "3 rows have a later one of the same model, id and sample" in text
    assert ">newest</" in text, "the wrong rows that are quoted are those that count"


def test_a_report_counts_a_row_as_failed_where_no_output_has_it(tmp_path: Path) -> None:
    two_nights_of_bad_rows(tmp_path)
    found = document("report", tmp_path / "nights/*")
    assert found["rows"]["failed"] == {"empty_prompt": 1}
    assert (found["rows"]["done"], found["rows"]["repeated"]) == (2, 1)


def test_other_looks_take_several_outputs(nights: Path) -> None:
    healthy = batchr1("status", "nights/a", "nights/b", "--health")
    assert healthy.exit_code == 1, "one of them is stopped"
    assert [line.split(": ")[1].split(" ")[0] for line in healthy.stdout.splitlines()] == [
        "complete",
        "stopped",
    ]
    newest = batchr1("status", GLOB, "--rows", "2", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in newest]
    assert [row["answer"] for row in rows] == ["newer", "newer"]
    assert batchr1("status", GLOB, "--follow").exit_code == 2
    assert "a job file stands alone" in batchr1("status", "a.yaml", "nights/a").stderr


def test_outputs_on_s3_are_found_by_a_quoted_glob(
    s3_moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_moto.endpoint)
    for day in (1, 2):
        write_output(s3_moto.storage(f"out/{day}"), [table_of([good_row(day), good_row(3)])])
    pattern = f"s3://{s3_moto.bucket}/out/*"
    assert document("export", pattern, tmp_path / "set", "--to", "sft")["rows"] == 3
    lines = batchr1("status", pattern).stdout.splitlines()
    assert lines[0] == f"s3://{s3_moto.bucket}/out: 2 outputs"
    assert [line.split()[:2] for line in lines if line.startswith("  total")] == [["total", "3"]]
