"""Printed words of `batchr1 score`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchr1.cli.printing import echo

if TYPE_CHECKING:
    from batchr1.scoring.score import Scored


def progress_lines(*, quiet: bool) -> Callable[[int, int], None]:
    """Print a line for each twentieth of the rows."""
    said = 0

    def show(done: int, rows: int) -> None:
        nonlocal said
        share = 20 * done // max(1, rows)
        if share > said and not quiet:
            said = share
            echo(f"{done:,} of {rows:,} rows", err=True)

    return show


def document_of(found: Scored) -> dict[str, object]:
    """As plain values, for --json."""
    plan = found.plan.to_dict() if found.plan is not None else None
    names = ("output", "run", "done", "failed", "tokens", "wall_s", "tokens_per_s", "exit_code")
    return {name: getattr(found, name) for name in names} | {
        "parts": list(found.parts),
        "plan": plan,
    }


def text_of(found: Scored) -> str:
    """In one line."""
    speed = ""
    if found.tokens_per_s is not None:
        speed = f", {found.tokens_per_s:,.0f} tokens/s"
    failed = ""
    if found.failed:
        failed = f", {found.failed:,} failed (.batchr1/failed/)"
    return f"{found.output}: {found.done:,} rows scored{failed}{speed}"
