"""Rows that `status` shows: newest ones, coming ones, failed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from batchr1.cli.printing import echo, echo_json
from batchr1.cli.show import as_text
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.output.folder import Output

SHOWN_CHARS = 240
"""Longer texts are cut in their middle."""


def say_rows(outputs: Sequence[Output], count: int, *, follow: bool, as_json: bool) -> None:
    """Print the newest rows; with `follow` also those that come."""
    from batchr1.report.newest import follow as follow_rows
    from batchr1.report.newest import newest_rows

    def say_one(row: dict[str, Any]) -> None:
        if as_json:
            echo_json(row)
        else:
            echo(as_text(row, SHOWN_CHARS))

    begun = [output for output in outputs if output.was_tried()]
    if not begun:
        echo(f"{outputs[0].uri}: nothing here yet", err=True)
        return
    if follow:
        follow_rows(begun[0], say_one, count)
        return
    found = newest_rows(begun, count)
    if not found:
        echo("no rows yet", err=True)
    for row in found:
        say_one(row)


def say_failed(outputs: Sequence[Output], *, as_json: bool) -> None:
    """Print the rows that failed, and why.

    Those of several outputs name theirs.
    """
    from batchr1.report.summary import failed_rows

    is_many = len(outputs) > 1
    rows = [(output.uri, row) for output in outputs for row in failed_rows(output)]
    if as_json:
        echo_json([row | ({"output": uri} if is_many else {}) for uri, row in rows])
        return
    if not rows:
        echo("no failed rows", err=True)
    for uri, row in rows:
        cells = [row["id"], row["sample"], row["reason"], row["message"]]
        echo("\t".join(printable(cell) for cell in ([uri, *cells] if is_many else cells)))
