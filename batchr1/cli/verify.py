"""`batchr1 verify OUTPUT`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import JSON
from batchr1.cli.printing import say
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.rejudge.golds import GoldCounts
    from batchr1.rejudge.output import Judged


@click.command()
@click.argument("target", metavar="OUTPUT")
@click.option("--kind", metavar="KIND", help="Verify so instead: auto, math, …, module:function.")
@click.option("--extract", metavar="REGEX", help="Take this for the final answer.")
@click.option("--path", metavar="FOLDER", help="Where the function's module is; here without it.")
@click.option(
    "--gold",
    metavar="FILE",
    help="Right answers from here, by id; other rows keep theirs.",
)
@click.option("--gold-column", metavar="NAME", help="Their column; the job's without it.")
@click.option(
    "--id-column",
    "id_columns",
    multiple=True,
    metavar="NAME",
    help="The column of ids, or each of several; the job's without it.",
)
@click.option("--timeout-s", type=float, metavar="S", help="Longest time for a row.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Verifying processes.")
@JSON
def command(
    target: str,
    kind: str | None,
    extract: str | None,
    path: str | None,
    gold: str | None,
    gold_column: str | None,
    id_columns: tuple[str, ...],
    timeout_s: float | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Judge an output's rows again, without generating: another kind, other right answers.

    Without options, as the job says, by this version's rules. Nothing else of a row changes. May be
    killed and run again.
    """
    if gold is None and (gold_column or id_columns):
        raise click.UsageError("--gold-column and --id-column belong to --gold")
    from batchr1.output.find import open_output
    from batchr1.rejudge.output import GoldFile, judge_again, to_dict

    given = {
        "kind": kind,
        "extract": extract,
        "path": path,
        "timeout_s": timeout_s,
        "processes": processes,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if kind is not None and ":" in kind:
        changes["path"] = str(Path(path or ".").resolve())
    golds = None
    if gold is not None:
        golds = GoldFile(gold, list(id_columns) or None, gold_column)
    found = judge_again(open_output(target), changes, golds)
    say(to_dict(found), as_text(found), as_json=as_json)


def as_text(found: Judged) -> str:
    """Write the outcome for people."""
    c = found.counts
    chosen = ""
    if found.chosen != found.kind:
        chosen = f" (as {found.chosen}: {found.why})"
    before = f"{c.was_correct:,} of {c.was_judged:,}"
    lines = [
        f"{found.output}: {c.rows:,} rows judged by {found.kind}{chosen}",
        f"  correct    {c.correct:,} of {c.judged:,} = {c.correct / max(1, c.judged):.1%}"
        f" (before: {before})",
        f"  changed    {c.changed:,} rows, {found.replaced:,} of {found.parts:,} "
        f"parts written anew",
    ]
    if found.golds is not None:
        lines.insert(1, _golds(found.golds))
    if c.unsure or c.failed:
        lines.append(f"  no verdict {c.unsure:,} verify_unsure, {c.failed:,} verify_failed")
    return "\n".join(lines)


def _golds(golds: GoldCounts) -> str:
    """The line about a file of right answers."""
    line = f"  golds      {golds.read:,} read, {golds.other:,} other than before"
    if golds.missing is not None:
        missing = golds.read - golds.found
        line += f", {missing:,} without a row (such as {printable(golds.missing)})"
    return line
