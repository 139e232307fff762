"""`batchr1 show OUTPUT…`"""

from __future__ import annotations

import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import JSON
from batchr1.cli.printing import WIDTH, echo, echo_json
from batchr1.errors import UsageError
from batchr1.records import FLAGS

if TYPE_CHECKING:
    from batchr1.output.folder import Output
    from batchr1.report.rows import Choice, RowSearch

FEW = 3
INDENT = "    "
# Of C0 and C1 only tab and line feed belong to a text on a terminal.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@click.command()
@click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
@click.option(
    "--rows",
    type=click.IntRange(1),
    metavar="N",
    help="At most N rows; without it 3, each of another prompt, and with --id all.",
)
@click.option("--id", "ids", multiple=True, metavar="ID", help="The row of this id; repeatable.")
@click.option(
    "--flag", "flags", multiple=True, metavar="FLAG", help="Rows with this flag; repeatable."
)
@click.option("--right/--wrong", "correct", default=None, help="Rows judged so.")
@click.option(
    "--unsure", is_flag=True, help="Rows that verification looked at and gave no verdict."
)
@click.option("--truncated", is_flag=True, help="Rows that a limit cut.")
@click.option(
    "--skip", type=click.IntRange(0), default=0, metavar="N", help="Leave out the first N of them."
)
@click.option(
    "--chars",
    type=click.IntRange(0),
    default=1200,
    help="Cut longer texts in their middle; 0: never.",
)
@JSON
def command(
    outputs: tuple[str, ...],
    rows: int | None,
    ids: tuple[str, ...],
    flags: tuple[str, ...],
    correct: bool | None,
    unsure: bool,
    truncated: bool,
    skip: int,
    chars: int,
    as_json: bool,
) -> None:
    """Show rows with their prompt, reasoning and answer, while a run is under way too.

    Several outputs, or a glob of their folders, are looked through in turn. --rows 10 --skip 10 is
    the second page of ten. With --json each row is a line, its texts whole.
    """
    if unsure and correct is not None:
        raise click.UsageError("--unsure rows are neither right nor wrong: leave one of them out")
    for flag in flags:
        if flag not in FLAGS:
            raise UsageError(
                f"--flag: there is no such flag (got {flag}, need {', '.join(FLAGS)})."
            )
    from batchr1.output.find import find_outputs
    from batchr1.report.rows import Choice, RowSearch

    most = rows or (sys.maxsize if ids else FEW)
    found = find_outputs(outputs)
    count = 0
    choice = Choice(ids, flags, correct, truncated, unsure)
    search = RowSearch(found, choice, most, skip=skip, each_prompt=rows is None and not ids)
    for row in search:
        if as_json:
            echo_json(row)
        else:
            if count:
                echo("")
            echo(as_text(row, chars))
        count += 1
    if not count and search.skipped:
        echo(f"no more rows: --skip left out all {search.skipped:,}", err=True)
    elif not count:
        echo(_nothing(found, choice), err=True)
    elif search.left or search.goes_on:
        echo(_more(search, skip + count), err=True)


def _more(search: RowSearch, shown: int) -> str:
    """Say how to see further rows."""
    ways = "--rows N shows more"
    if search.goes_on:
        ways += f", --skip {shown} goes on"
    many = f"{search.left:,} more such rows" if search.left else "files were not read"
    return f"{many}: {ways}"


def _nothing(outputs: list[Output], choice: Choice) -> str:
    """Say why no row is shown."""
    from batchr1.output.checkpoints import read_checkpoints

    if any(output.parts() for output in outputs):
        asked = choice.in_words()
        return f"no row is {asked}" if asked and not choice.ids else "no such row"
    saved = [read_checkpoints(output.storage) for output in outputs]
    finished = sum(found.finished for found in saved)
    under_way = sum(len(found.saved) for found in saved) - finished
    return f"no row yet: {under_way:,} under way, {finished:,} waiting for their file"


def as_text(row: dict[str, Any], chars: int = 0) -> str:
    """Write a row for people, at most 80 columns wide."""
    lines = [f"{_one_line(row['id'])} · sample {row['sample']} · {_outcome(row)}"]
    for name in ("prompt", "reasoning", "answer"):
        lines.append(f"  {name}{_tokens(row, name)}")
        lines.extend(_wrapped(row[name], chars))
    if row["gold"] is not None:
        lines.append(f"  gold {_one_line(row['gold'])}, found {_one_line(row['final_answer'])}")
    if row["flags"]:
        lines.append(f"  flags {', '.join(row['flags'])}")
    return "\n".join(lines)


def _outcome(row: dict[str, Any]) -> str:
    verdict = {True: "right", False: "wrong", None: "not judged"}[row["correct"]]
    if row["truncated_in"]:
        return f"{verdict} · cut in its {row['truncated_in']}"
    return verdict


def _tokens(row: dict[str, Any], name: str) -> str:
    count = row[f"{name}_tokens"]
    if count is None:
        return ""
    return f" ({count:,} tokens)"


def _wrapped(text: str | None, chars: int) -> list[str]:
    if text is None:
        return [f"{INDENT}(none)"]
    if chars and len(text) > chars:
        half = chars // 2
        end = len(text) - half
        text = f"{text[:half]}\n[… {end - half:,} characters …]\n{text[end:]}"
    lines: list[str] = []
    for line in _printable(text).split("\n"):
        lines.extend(
            textwrap.wrap(
                line,
                WIDTH,
                initial_indent=INDENT,
                subsequent_indent=INDENT,
                replace_whitespace=False,
            )
            or [""]
        )
    return lines


def _one_line(text: str | None) -> str:
    if text is None:
        return "nothing"
    return _printable(text).replace("\n", "\\n")


def _printable(text: str) -> str:
    """Spell out what a terminal would act upon."""
    return CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
