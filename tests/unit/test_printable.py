"""What users, data and servers say cannot forge lines, colours or keys of a terminal or log."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path

import click.testing
import pytest
from made_output import good_row, table_of, write_output

from batchr1.cli.main import main
from batchr1.driver.monitor.logs import log_file
from batchr1.events import JsonLines, TextLines, printable
from batchr1.output.folder import Output
from batchr1.output.parts import failures_table
from batchr1.records import Failure
from batchr1.storage.base import open_storage

ESCAPE, BELL = "\x1b", "\x07"
INJECTIONS = {
    "a line feed forges a row": ("a\nrow-9\t0\tdone", "a\\nrow-9\\t0\\tdone"),
    "a carriage return overwrites": ("bad\rgood", "bad\\rgood"),
    "a tab moves a column": ("a\tb", "a\\tb"),
    "a colour": (f"{ESCAPE}[31mred", "\\u001b[31mred"),
    "a cleared screen": (f"{ESCAPE}[2J", "\\u001b[2J"),
    "a title of the window": (f"{ESCAPE}]0;title{BELL}", "\\u001b]0;title\\u0007"),
    "a link": (f"{ESCAPE}]8;;http://x{ESCAPE}\\here", "\\u001b]8;;http://x\\u001b\\here"),
    "the clipboard": (f"{ESCAPE}]52;c;QQ=={BELL}", "\\u001b]52;c;QQ==\\u0007"),
    "a control of one byte": ("\x9b31m", "\\u009b31m"),
    "a next line": ("a\x85b", "a\\u0085b"),
    "a line separator": ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
    "a backspace": ("good\x08\x08bad", "good\\u0008\\u0008bad"),
    "a delete": ("a\x7f", "a\\u007f"),
    "a null": ("a\0b", "a\\u0000b"),
    "text that turns around": ("\u202etxt.exe", "\\u202etxt.exe"),
    "text isolated": ("\u2066a\u2069", "\\u2066a\\u2069"),
    "half a pair": ("\ud800", "\\ud800"),
}
HARMLESS = ["½ é 東 🙂", "e\u0301", "a\u200db", "\\n", "C:\\x1b"]


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_control_is_shown_and_not_obeyed(name: str) -> None:
    text, shown = INJECTIONS[name]
    assert printable(text) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_letters_of_all_kinds_stay(text: str) -> None:
    assert printable(text) == text


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("batchr1", logging.WARNING, "", 0, "%s", (text,), None)


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_log_has_no_forged_line(name: str) -> None:
    text, _ = INJECTIONS[name]
    first, *more = TextLines("%(levelname)s %(message)s").format(record(text)).split("\n")
    assert first.startswith("WARNING ")
    assert all(line.startswith("    ") for line in more)
    assert not set("".join([first, *more])) & set("\x1b\r\x07\x9b\x85\u202e\0")


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_line_of_the_json_log_is_one_line_and_says_the_same(name: str) -> None:
    text, _ = INJECTIONS[name]
    line = JsonLines().format(record(text))
    assert json.loads(line)["message"] == text
    assert printable(line) == line


def hostile(folder: Path) -> Output:
    """An output whose ids, kept column and errors are injections."""
    texts = [text for text, _ in INJECTIONS.values() if text != "\ud800"]
    rows = [good_row(number, id=text, subject=text) for number, text in enumerate(texts)]
    output = write_output(folder, [table_of(rows)])
    failures = [Failure(text, 1, "refused", text, 1, b"") for text in texts]
    table = failures_table(failures, run="r", failed_at=dt.datetime.now(dt.UTC))
    output.commit_failed(table, "part-r-failed-00001.parquet")
    return output


@pytest.mark.parametrize("options", [["--failed"], ["--by", "subject"]], ids=["failed", "by"])
def test_status_lists_one_line_for_each_hostile_row(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "out"
    hostile(folder)
    found = click.testing.CliRunner().invoke(main, ["status", str(folder), *options])
    assert found.exit_code == 0, found.output
    count = len(INJECTIONS) - 1
    marks = [line for line in found.stdout.split("\n") if line.startswith("  subject ")]
    lines = found.stdout.rstrip("\n").split("\n") if options == ["--failed"] else marks
    assert len(lines) == count
    assert printable(found.stdout, keep="\n\t") == found.stdout


def test_a_runs_log_file_is_escaped(tmp_path: Path) -> None:
    (tmp_path / ".batchr1/runs").mkdir(parents=True)
    with log_file(Output(open_storage(tmp_path)), "r") as path:
        logging.getLogger("batchr1").warning("%s", "bad\n2026-11-29 batchr1 INFO good\x1b[2J")
    second = path.read_text().split("\n")[1]
    assert second == "    2026-11-29 batchr1 INFO good\\u001b[2J"


def test_a_prompt_that_is_shown_keeps_its_lines_and_no_controls() -> None:
    assert printable("a\n\tb\x1b[31m", keep="\n\t") == "a\n\tb\\u001b[31m"
