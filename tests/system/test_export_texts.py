"""Exports that look at prompts' texts: contaminated ones and near duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from made_output import good_row, table_of, write_output
from replay_job import replay, set_engine, write_job
from test_export import assert_valid_card, export, exported, rows_in

from batchr1.cli.main import main

INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
THINGS = ("apples", "lamps", "books", "drums", "kites", "maps", "nails", "pans", "ropes", "seeds")
PEOPLE = ("Ada", "Bela", "Carl")


def problem(thing: str, person: str, number: int = 12) -> str:
    return (
        f"{person} buys {number} {thing} in the {thing} shop. Each of the {thing} costs 3 coins, "
        f"the {thing} bag 2, and a {thing} box 4. Count the coins that the {thing} cost {person}."
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Ten prompts of two samples in two parts; some are copies of others with a word more."""
    texts = [problem(thing, PEOPLE[at % 3]) for at, thing in enumerate(THINGS)]
    texts[7] = texts[2].replace("Count the", "Now count the")
    texts[9] = texts[2].upper().replace(". ", ".\n\n")
    rows = [
        good_row(at, sample=sample, prompt=text + INSTRUCTION)
        for at, text in enumerate(texts)
        for sample in range(2)
    ]
    write_output(tmp_path / "out", [table_of(rows[::2]), table_of(rows[1::2])])
    return tmp_path / "out"


@pytest.fixture
def benchmarks(tmp_path: Path) -> tuple[Path, Path]:
    """Parquet with row 4 and other numbers, and JSON lines with rows 1 and 8."""
    foreign = "How far does a train go in two hours at ninety miles an hour, without any stop?"
    one = tmp_path / "one.parquet"
    pl.DataFrame({"question": [foreign, problem("kites", "Bela", 7)]}).write_parquet(one)
    rows = [problem("lamps", "Bela"), problem("ropes", "Carl").replace("Each", "Every one")]
    two = tmp_path / "two.jsonl"
    two.write_text("".join(json.dumps({"task": 1, "text": text}) + "\n" for text in rows))
    return one, two


def report_of(dest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dest / "contamination.jsonl").read_text().splitlines()]


def ids(dest: Path) -> set[int]:
    return {int(id.removeprefix("row/")) for id in rows_in(dest)["id"]}


@pytest.mark.parametrize("form", ["raw", "sft"])
def test_contaminated_prompts_are_left_out_and_named(
    output: Path, benchmarks: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    one, two = benchmarks
    dest = tmp_path / "ds"
    said = exported(output, dest, "--to", form, "--decontaminate", f"{one},{two}")
    assert ids(dest) == {0, 2, 3, 5, 6, 7, 9}
    assert (said["rows"], said["steps"][-1]["name"]) == (14, "--decontaminate")
    found = report_of(dest)
    assert [(hit["id"], hit["benchmark"], hit["benchmark_row"]) for hit in found] == [
        ("row/1", str(two), 0),
        ("row/4", str(one), 1),
        ("row/8", str(two), 1),
    ]
    assert [hit["overlap"] for hit in found[:2]] == [1.0, 1.0]
    assert 0.5 < found[2]["overlap"] < 1
    assert found[1]["ngram"].startswith(
        "bela buys # kites in the kites shop each of the kites costs # coins"
    )
    assert said["contamination"] == {
        "benchmarks": [
            {"file": str(one), "column": "question", "prompts": 2},
            {"file": str(two), "column": "text", "prompts": 2},
        ],
        "hits": 3,
        "prompts": 3,
        "rows": "drop",
        "report": "contamination.jsonl",
    }
    assert_valid_card(dest)
    assert "3 overlapped and were left out" in (dest / "README.md").read_text()


def test_benchmarks_may_be_csv_and_their_column_named(output: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    pl.DataFrame({"no": [1], "Question text": [problem("lamps", "Bela")]}).write_csv(sheet)
    named = ("--benchmark-column", "Question text")
    exported(output, tmp_path / "ds", "--to", "raw", "--decontaminate", sheet, *named)
    assert [(hit["id"], hit["benchmark_row"]) for hit in report_of(tmp_path / "ds")] == [
        ("row/1", 0)
    ]


def test_contaminated_prompts_are_marked(
    output: Path, benchmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = benchmarks
    asked = ("--to", "raw", "--decontaminate", f"{one},{two}", "--contaminated", "mark")
    done = export(output, tmp_path / "ds", *asked)
    rows = rows_in(tmp_path / "ds")
    marks = rows.drop_nulls("contaminated_by").select("id", "contaminated_by").unique()
    assert rows.height == 20
    assert dict(marks.rows()) == {
        "row/1": f"{two}: row 0",
        "row/4": f"{one}: row 1",
        "row/8": f"{two}: row 1",
    }
    assert len(report_of(tmp_path / "ds")) == 3
    said = "note   3 prompts overlap with the benchmarks (3 hits): contamination.jsonl names them\n"
    assert said in done.stdout


@pytest.mark.parametrize("form", ["prompt", "messages"])
def test_a_job_is_checked_before_it_runs(
    benchmarks: tuple[Path, Path], tmp_path: Path, form: str
) -> None:
    texts = [problem(thing, PEOPLE[at % 3], 40) for at, thing in enumerate(THINGS)]
    rows = pl.DataFrame({"id": range(10), "prompt": texts})
    if form == "messages":
        asked = [[{"role": "user", "content": text}] for text in texts]
        rows = pl.DataFrame({"id": range(10), "messages": asked})
    rows.write_parquet(tmp_path / "in.parquet")
    read = {"path": "in.parquet", "id": "id", "prompt": None, form: form}
    job = set_engine(write_job(tmp_path, input=read), replay())
    one, two = benchmarks
    command = ["check", str(job), "--decontaminate", f"{one}, {two}"]
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)["contamination"]
    assert (found["rows"], found["overlapping"]) == (10, 3)
    assert [(hit["id"], hit["benchmark_row"]) for hit in found["hits"]] == [
        ("1", 0),
        ("4", 1),
        ("8", 1),
    ]
    lines = CliRunner().invoke(main, command).stdout.splitlines()
    assert "overlap  3 of 10 prompts overlap with benchmarks" in lines
    assert f"         4 with {one}: row 1 (100%)" in lines


def test_of_near_duplicates_the_first_id_is_kept(output: Path, tmp_path: Path) -> None:
    said = exported(output, tmp_path / "ds", "--to", "raw", "--near-duplicates", "drop")
    assert ids(tmp_path / "ds") == {0, 1, 2, 3, 4, 5, 6, 8}
    assert said["steps"] == [
        {
            "name": "--near-duplicates drop",
            "keeps": "one of prompts that have 80% of their word triples in common",
            "rows": 16,
        }
    ]
    exported(output, tmp_path / "marked", "--to", "sft", "--near-duplicates", "mark")
    rows = rows_in(tmp_path / "marked")
    marks = rows.drop_nulls("near_duplicate_of").select("id", "near_duplicate_of").unique()
    assert rows.height == 20
    assert dict(marks.rows()) == {"row/7": "row/2", "row/9": "row/2"}


def test_near_duplicates_are_the_same_however_rows_lie(output: Path, tmp_path: Path) -> None:
    whole = pl.concat([pl.read_parquet(part) for part in (output / "data").glob("*.parquet")])
    rows = whole.sort("answer", "id", descending=True).to_dicts()
    write_output(tmp_path / "other", [table_of(rows[:3]), table_of(rows[3:])])
    for name in ("out", "other"):
        dest = tmp_path / f"{name}-ds"
        exported(tmp_path / name, dest, "--to", "raw", "--near-duplicates", "drop")
    assert ids(tmp_path / "out-ds") == ids(tmp_path / "other-ds")


def test_an_instruction_makes_no_prompts_alike(tmp_path: Path) -> None:
    rows = [good_row(at, prompt=f"What is {at} + {at}?{INSTRUCTION}") for at in range(60)]
    write_output(tmp_path / "out", [table_of(rows)])
    exported(tmp_path / "out", tmp_path / "ds", "--to", "raw", "--near-duplicates", "drop")
    assert len(ids(tmp_path / "ds")) == 60


def test_minhash_finds_what_exact_sets_say(tmp_path: Path) -> None:
    """All pairs of 400 drawn prompts, by brute force."""
    from batchr1.export.near_duplicates import SIMILAR, near_duplicates
    from batchr1.export.prompts import Prompts, distinct

    draw = np.random.default_rng(5)
    bases = [draw.integers(0, 5000, 40) for _ in range(80)]
    texts = []
    for base in bases:
        for changes in (0, 1, 2, 4, 8):
            words = base.copy()
            words[draw.choice(40, changes, replace=False)] = draw.integers(5000, 9999, changes)
            texts.append(" ".join(f"{word}" for word in words))
    made = write_output(
        tmp_path / "out", [table_of([good_row(at, prompt=text) for at, text in enumerate(texts)])]
    )
    rows = pl.DataFrame(made.read_part(made.parts()[0], ["id", "sample", "prompt"]))
    rows = rows.with_row_index("row").with_columns(
        pl.lit(0, pl.UInt32).alias("part"), pl.col("prompt").cast(pl.Binary).alias("prompt_key")
    )
    places = distinct(rows)
    found = near_duplicates(Prompts([(made, rel) for rel in made.parts()]), places)
    ordered = [key.decode() for key in places["prompt_key"]]
    triples = [{*zip(w, w[1:], w[2:], strict=False)} for w in (text.split() for text in ordered)]
    dropped: list[int] = []
    for at, mine in enumerate(triples):
        kept = (other for other in range(at) if other not in dropped)
        if any(len(mine & triples[o]) / len(mine | triples[o]) >= SIMILAR for o in kept):
            dropped.append(at)
    assert 60 < len(dropped) < 200
    assert [key.decode() for key in found["prompt_key"]] == [ordered[at] for at in dropped]


# What is asked, and what is answered: {out} and {tmp} are the output's folder and the test's.
KNOWN = "prompt, problem, question, instruction, query, input, text"
REFUSED = {
    "no such file": (
        ["--decontaminate", "{tmp}/none.parquet"],
        "--decontaminate: {tmp}/none.parquet: no such file or folder (need .parquet, .jsonl, "
        ".csv or .tsv files). Check the path.",
    ),
    "not Parquet": (
        ["--decontaminate", "{tmp}/torn.parquet"],
        "--decontaminate: {tmp}/torn.parquet: not a readable Parquet file (Parquet magic bytes "
        "not found in footer. Either the file is corrupted or this is not a parquet file). Write "
        "it again, or take it out.",
    ),
    "no column of a known name": (
        ["--decontaminate", "{tmp}/odd.parquet"],
        "--decontaminate: {tmp}/odd.parquet: no column of prompts (got frage, zahl; need one of "
        f"{KNOWN}). Name it with --benchmark-column.",
    ),
    "no such column": (
        ["--decontaminate", "{tmp}/odd.parquet", "--benchmark-column", "fragen"],
        "--decontaminate: {tmp}/odd.parquet: no column of prompts (got frage, zahl; need "
        "'fragen'). Name it with --benchmark-column.",
    ),
    "a column of numbers": (
        ["--decontaminate", "{tmp}/odd.parquet", "--benchmark-column", "zahl"],
        "--decontaminate: {tmp}/odd.parquet: the column 'zahl' is not text (got int64). Name "
        "another with --benchmark-column.",
    ),
    "no words": (
        ["--decontaminate", "{tmp}/empty.parquet"],
        "--decontaminate: {tmp}/empty.parquet: the column 'prompt' has no words (got 3 rows). Give "
        "a file of prompts.",
    ),
    "an empty name": (
        ["--decontaminate", "{tmp}/odd.parquet,"],
        "--decontaminate: an empty name among the files (got '{tmp}/odd.parquet,', need FILE or "
        "FILE,FILE). Correct it.",
    ),
    "a column without files": (
        ["--benchmark-column", "frage"],
        "--benchmark-column: belongs to --decontaminate (got 'frage' without it). Give files of "
        "benchmarks, or leave --benchmark-column out.",
    ),
    "marks without files": (
        ["--contaminated", "mark"],
        "--contaminated: belongs to --decontaminate (got 'mark' without it). Give files of "
        "benchmarks, or leave --contaminated out.",
    ),
    "all is contaminated": (
        ["--decontaminate", "{tmp}/all.parquet"],
        "{out}: no row is left to export (got 1 rows; left after each filter: --decontaminate 0). "
        "Loosen --decontaminate.",
    ),
    "a column of ours": (
        ["--near-duplicates", "mark"],
        "--near-duplicates mark: the output has a column 'near_duplicate_of' of its own. Leave "
        "--near-duplicates mark out, or keep it under another name (output.keep).",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, name: str) -> None:

    kept = pa.schema([("near_duplicate_of", pa.string())])
    write_output(tmp_path / "out", [table_of([good_row(1, near_duplicate_of="x")], kept)])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more than that")
    pl.DataFrame({"frage": ["Wie?"], "zahl": [1]}).write_parquet(tmp_path / "odd.parquet")
    nothing = pl.Series("prompt", ["...", None, ""])
    pl.DataFrame({"prompt": nothing}).write_parquet(tmp_path / "empty.parquet")
    pl.DataFrame({"prompt": ["What is 1 + 1?"]}).write_parquet(tmp_path / "all.parquet")
    args, line = REFUSED[name]
    places = {"tmp": tmp_path, "out": tmp_path / "out"}
    asked = [arg.format(**places) for arg in args]
    result = export(tmp_path / "out", tmp_path / "ds", "--to", "raw", *asked)
    assert (result.exit_code, result.stderr) == (2, f"batchr1: {line.format(**places)}\n")
    assert not (tmp_path / "ds").exists()
