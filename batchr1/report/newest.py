"""Rows of an output, while a run goes on.

`batchr1 status --rows N` and `--follow`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchr1.output.folder import Output

COLUMNS = (
    "id",
    "sample",
    "prompt",
    "gold",
    "reasoning",
    "answer",
    "final_answer",
    "correct",
    "truncated_in",
    "flags",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "completion_tokens",
    "finished_at",
)
PARTS = 8
"""Newest parts of which rows are shown: workers commit side by side."""
FOLLOW_EVERY_S = 2.0


def newest_rows(outputs: Sequence[Output], count: int) -> list[dict[str, Any]]:
    """List the rows of outputs that finished last, oldest first."""
    rows = [row for output in outputs for row in _newest(output, output.parts(), count)]
    return sorted(rows, key=lambda row: row["finished_at"])[-count:]


def _newest(output: Output, parts: Iterable[str], count: int) -> list[dict[str, Any]]:
    newest = sorted(parts, key=_order)[-max(PARTS, count) :]
    return _read(output, newest)[-count:]


def follow(output: Output, say: Callable[[dict[str, Any]], None], count: int) -> None:
    """Say each row as its part appears.

    Ends when no run holds the output. Begins with the `count` newest ones.
    """
    from batchr1.report.health import look

    seen = set(output.parts())
    for row in _newest(output, seen, count):
        say(row)
    is_running = True
    while is_running:
        is_running = look(output).state in ("running", "stuck")
        new = [rel for rel in output.parts() if rel not in seen]
        seen.update(new)
        for row in _read(output, new):
            say(row)
        if is_running:
            time.sleep(FOLLOW_EVERY_S)


def _order(rel: str) -> tuple[str, int]:
    """Sort parts by run and number, whichever worker wrote them."""
    name = rel.rpartition("/")[2].removesuffix(".parquet")
    head, _, number = name.rpartition("-")
    return head[: len("part-20261129T192417189Z-c32e")], int(number) if number.isdigit() else 0


def _read(output: Output, parts: Iterable[str]) -> list[dict[str, Any]]:
    """Read rows of parts, in the order in which they finished."""
    rows = [row for rel in parts for row in output.read_part(rel, list(COLUMNS)).to_pylist()]
    return sorted(rows, key=lambda row: row["finished_at"])
