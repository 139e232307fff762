"""`batchr1 show`: the rows that were asked for, as they can be read on a terminal."""

from __future__ import annotations

import json
import shutil
from array import array
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_output import RUN, WHEN, good_row, table_of, write_output

from batchr1.cli.main import main
from batchr1.output.checkpoints import GenerationCheckpoint, checkpoint_name, encode
from batchr1.records import FinishReason

BEFORE = Path(__file__).parents[1] / "data/before_rebuild/output"


def show(*args: str | Path) -> Result:
    arguments = ["show", *(str(arg) for arg in args)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def made(folder: Path, *parts: list[dict[str, Any]]) -> None:
    write_output(folder, [table_of(rows) for rows in parts])


def ids(*args: str | Path) -> list[str]:
    return [json.loads(line)["id"] for line in show(*args, "--json").stdout.splitlines()]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    rows = [
        good_row(0),
        good_row(1, correct=False),
        good_row(2, correct=None, flags=["verify_unsure"]),
        good_row(3, truncated=True, truncated_in="reasoning", answer=None, answer_tokens=0),
        good_row(4, flags=["looping"], correct=False),
        *(good_row(5, sample=sample) for sample in range(5)),
    ]
    made(folder, rows[:2], rows[2:], rows[2:4])
    return folder


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], [0, 1, 2]),
        (["--rows", "1"], [0]),
        (["--wrong"], [1, 4]),
        (["--right", "--rows", "2"], [0, 3]),
        (["--truncated"], [3]),
        (["--unsure"], [2]),
        (["--skip", "2"], [2, 3, 4]),
        (["--rows", "3", "--skip", "6"], [5, 5, 5]),
        (["--wrong", "--skip", "1"], [4]),
        (["--id", "row/5", "--skip", "3"], [5, 5]),
        (["--skip", "99"], []),
        (["--flag", "looping"], [4]),
        (["--flag", "looping", "--right"], []),
        (["--id", "row/5"], [5, 5, 5, 5, 5]),
        (["--id", "row/5", "--rows", "2"], [5, 5]),
        (["--id", "row/1", "--id", "row/2"], [1, 2]),
    ],
)
def test_rows_are_those_asked_for(output: Path, options: list[str], wanted: list[int]) -> None:
    assert ids(output, *options) == [f"row/{number}" for number in wanted]


def test_outputs_of_a_glob_are_looked_through_in_turn(output: Path) -> None:
    shutil.copytree(output, output.parent / "out2")

    assert ids(output.parent / "out*", "--wrong") == ["row/1", "row/4", "row/1"]


@pytest.mark.parametrize("name", ["nowhere", "job.yaml"])
def test_what_is_no_output_is_refused(tmp_path: Path, name: str) -> None:
    result = show(tmp_path / name)

    assert result.exit_code == 2
    assert "not an output of batchr1. Give the folder that a job wrote." in result.stderr


def test_no_such_row_is_said_and_an_unknown_flag_gets_the_list(output: Path) -> None:
    assert show(output, "--id", "nobody").stderr == "no such row\n"
    asked = ["--wrong", "--truncated", "--flag", "token_soup"]
    assert show(output, *asked).stderr == "no row is wrong and cut and flagged token_soup\n"
    unknown = show(output, "--flag", "loops")
    assert unknown.exit_code == 2
    assert "--flag: there is no such flag (got loops, need no_think, " in unknown.stderr


def test_without_a_number_each_row_is_of_another_prompt(tmp_path: Path) -> None:
    made(tmp_path / "out", [good_row(i, sample=sample) for i in range(4) for sample in range(3)])

    assert ids(tmp_path / "out") == ["row/0", "row/1", "row/2"]
    assert ids(tmp_path / "out", "--rows", "4") == ["row/0", "row/0", "row/0", "row/1"]


@pytest.mark.parametrize(
    ("options", "left"), [([], 9), (["--rows", "5"], 7), (["--rows", "12"], 0), (["--wrong"], 0)]
)
def test_rows_that_are_not_shown_are_counted(tmp_path: Path, options: list[str], left: int) -> None:
    rows = [good_row(i, sample=sample) for i in range(4) for sample in range(3)]
    rows[5]["correct"] = False
    made(tmp_path / "out", rows)

    ways = "--rows N shows more"
    if options != ["--wrong"]:
        ways += f", --skip {options[-1] if options else 3} goes on"
    said = f"{left} more such rows: {ways}\n" if left else ""
    assert show(tmp_path / "out", *options).stderr == said


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_pages_show_every_row_once(tmp_path: Path, rows: int) -> None:
    """Each page names the next, over files and repeated rows, until there is none."""
    made(tmp_path / "out", *([good_row(2 * i), good_row(2 * i + 1)] for i in range(3)))
    shown, skip, said = [], "0", "goes on"
    while "goes on" in said:
        page = show(tmp_path / "out", "--rows", str(rows), "--skip", skip, "--json")
        shown += [json.loads(line)["id"] for line in page.stdout.splitlines()]
        said = page.stderr
        skip = said.rpartition("--skip ")[2].split()[0] if said else ""

    assert shown == [f"row/{i}" for i in range(6)]
    assert show(tmp_path / "out", "--skip", "6").stderr == ("no more rows: --skip left out all 6\n")


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ([], [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1)]),
        (["--rows", "2"], [(1, 0), (1, 1)]),
        (["--skip", "2"], [(1, 2), (0, 0), (0, 1)]),
        (["--rows", "2", "--skip", "2"], [(1, 2), (0, 0)]),
        (["--id", good_row(1)["id"]], [(1, 0), (1, 1), (1, 2), (0, 0), (0, 1)]),
    ],
)
def test_chosen_ids_come_as_they_are_named_and_by_sample(
    tmp_path: Path, more: list[str], wanted: list[tuple[int, int]]
) -> None:
    ended = [(1, 2), (0, 1), (1, 0), (0, 0), (1, 1)]
    made(tmp_path / "a", *([good_row(i, sample=sample)] for i, sample in ended))
    made(tmp_path / "b", [good_row(1, sample=0)])
    named = ["--id", good_row(1)["id"], "--id", good_row(0)["id"], *more, "--json"]
    rows = [json.loads(line) for line in show(tmp_path / "a", *named).stdout.splitlines()]
    assert [(row["id"], row["sample"]) for row in rows] == [
        (good_row(i)["id"], sample) for i, sample in wanted
    ]
    both = show(tmp_path / "a", tmp_path / "b", *named[:4], "--json").stdout.splitlines()
    assert [json.loads(line)["sample"] for line in both] == [0, 1, 2, 0, 1, 0], "one after another"


def test_what_is_unsure_is_neither_right_nor_wrong(output: Path) -> None:
    refused = show(output, "--unsure", "--wrong")

    assert refused.exit_code == 2
    assert "--unsure rows are neither right nor wrong: leave one of them out" in refused.stderr


def test_rows_that_wait_for_their_file_are_counted_where_none_is_shown(tmp_path: Path) -> None:
    ends: list[FinishReason | None] = ["stop", "length", None, None, None]
    saved = [
        GenerationCheckpoint(
            f"row/{i}", 0, 1, bytes(16), array("i", [1, 2]), finish_reason=end, finished_at=WHEN
        )
        for i, end in enumerate(ends)
    ]
    output = write_output(tmp_path / "out", [], pending=5)
    output.storage.write_bytes(checkpoint_name(RUN, 0, 0, 0), encode(saved, job="j"))

    assert show(tmp_path / "out").stderr == ("no row yet: 3 under way, 2 waiting for their file\n")


def test_an_output_of_an_older_version_is_shown() -> None:
    result = show(BEFORE, "--rows", "1")

    assert "right" in result.stdout
    assert "reasoning (" in result.stdout


def test_lines_fit_a_terminal_and_controls_are_spelt_out(tmp_path: Path) -> None:
    text = "a word and \x1b[31manother\x07\r\n" + "very " * 100
    made(tmp_path / "out", [good_row(0, id="a\nb\x1b[2J", reasoning=text, gold="1\n2")])
    shown = show(tmp_path / "out").stdout

    assert max(map(len, shown.splitlines())) <= 80
    assert not any(ord(char) < 32 and char != "\n" for char in shown)
    assert shown.startswith("a\\nb\\x1b[2J · sample 0 · right\n")
    assert "gold 1\\n2, found" in shown


def test_long_texts_are_cut_in_their_middle(tmp_path: Path) -> None:
    made(tmp_path / "out", [good_row(0, reasoning="z" * 5000)])

    assert "[… 3,800 characters …]" in show(tmp_path / "out").stdout
    assert show(tmp_path / "out", "--chars", "0").stdout.count("z") == 5000


def test_a_cut_to_one_character_cuts(tmp_path: Path) -> None:
    made(tmp_path / "out", [good_row(0, reasoning="z" * 5000)])
    shown = show(tmp_path / "out", "--chars", "1").stdout

    assert "[… 5,000 characters …]" in shown
    assert "z" not in shown


@pytest.mark.parametrize("words", [["show"], ["verify"], ["export", "--to", "raw"], ["report"]])
def test_a_place_that_is_no_output_is_refused(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "job.yaml").write_text("name: none")
    more = [str(tmp_path / "dest")] * (words[0] == "export")
    for place in (tmp_path / "job.yaml", tmp_path / "nowhere", tmp_path):
        done = CliRunner().invoke(main, [*words, str(place), *more], catch_exceptions=False)
        assert done.exit_code == 2
        assert done.stderr == (
            f"batchr1: {place}: not an output of batchr1. Give the folder that a job wrote.\n"
        )
