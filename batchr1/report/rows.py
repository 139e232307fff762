"""Rows of outputs, chosen to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from batchr1.output.folder import Output
from batchr1.report.scan import each_once

CHOOSING = ("id", "sample", "correct", "truncated", "flags")


@dataclass(frozen=True, slots=True)
class Choice:
    """Conditions on a row, all of which hold.

    None and () ask for nothing.
    """

    ids: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    correct: bool | None = None
    truncated: bool = False

    def condition(self) -> pl.Expr:
        """Give the condition over the columns of CHOOSING."""
        found = pl.lit(True)
        if self.ids:
            found &= pl.col("id").is_in(self.ids)
        for flag in self.flags:
            found &= pl.col("flags").list.contains(flag)
        if self.correct is not None:
            found &= (pl.col("correct") == self.correct).fill_null(False)
        if self.truncated:
            found &= pl.col("truncated")
        return found


def find_rows(outputs: Sequence[Output], choice: Choice, most: int) -> Iterator[dict[str, Any]]:
    """Yield rows, whole, at most so many.

    They come in the order of their parts. Texts are read only of parts that hold such a row.
    """
    for output in outputs:
        seen: set[tuple[str, int]] = set()
        for rel in output.parts():
            if most == 0:
                return
            rows = _rows_of_part(output, rel, choice)
            rows = [row for row in rows if (row["id"], row["sample"]) not in seen][:most]
            seen |= {(row["id"], row["sample"]) for row in rows}
            most -= len(rows)
            yield from rows


def _rows_of_part(output: Output, rel: str, choice: Choice) -> list[dict[str, Any]]:
    numbers = pl.DataFrame(output.read_part(rel, list(CHOOSING)))
    wanted = numbers.select(choice.condition()).to_series()
    if not wanted.any():
        return []
    texts = pl.DataFrame(output.read_part(rel, None))
    return each_once(texts.filter(wanted)).to_dicts()
