"""Text of `status` about several outputs: a line each, a total."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from batchr1.cli.printing import wrapped
from batchr1.cli.status.compared import as_lines
from batchr1.cli.status.text import group_line
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.report.totals import Line, Totals

NAME_CHARS = 22
"""Longer names lose their beginning, so that lines fit 80 columns."""


def as_text(totals: Totals, by: str | None) -> str:
    """The table that `status` prints of several outputs."""
    uris = [line.output for line in totals.outputs]
    above = folder_above(uris)
    names = [_cut(uri.removeprefix(f"{above}/") if above else uri) for uri in uris]
    width = max(map(len, [*names, "total"]))
    head = ("done", "failed", "pending", "right", "cut", "tokens")
    lines = [
        f"{above}: {len(uris)} outputs" if above else f"{len(uris)} outputs",
        f"  {'':<{width}} {head[0]:>8}{head[1]:>8}{head[2]:>9}{head[3]:>7}{head[4]:>7}{head[5]:>8}",
    ]
    for name, line in zip([*names, "total"], [*totals.outputs, totals.total], strict=True):
        lines.append(f"  {printable(name):<{width}} {_cells(line)}  {line.state}".rstrip())
    if totals.repeated:
        lines.append(
            wrapped(
                "  ",
                f"{totals.repeated:,} rows have a later one of the same model, id and sample: "
                "the total leaves them out",
            )
        )
    lines += [group_line(group, by) for group in totals.groups]
    return "\n".join(lines + as_lines(totals.comparisons, names))


def folder_above(uris: list[str]) -> str:
    """Find the folder that all are below; empty without one."""
    parents = zip(*(uri.rpartition("/")[0].split("/") for uri in uris), strict=False)
    above = "/".join(parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, parents))
    return "" if above.endswith((":", ":/")) else above


def _cut(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"…{name[1 - NAME_CHARS :]}"


def _cells(line: Line) -> str:
    pending = "?" if line.pending is None else f"{line.pending:,}"
    right = _share(line.correct, line.judged)
    cut = _share(line.truncated, line.done)
    return f"{line.done:>8,}{line.failed:>8,}{pending:>9}{right:>7}{cut:>7}{_short(line.tokens):>8}"


def _share(count: int, of: int) -> str:
    return f"{count / of:.1%}" if of else "–"


def _short(tokens: int) -> str:
    """A number of tokens in at most seven characters."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if tokens >= unit:
            return f"{tokens / (unit if name != 'k' else 1000):.1f}{name}"
    return f"{tokens:,}"
