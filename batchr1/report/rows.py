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


class RowSearch:
    """Search for rows of outputs; iterated over, it yields them whole.

    They come in the order of their parts, at most `most`, with `each_prompt` one of an id. Texts
    are read only of parts that hold such a row. `left` counts more such rows in the parts that were
    read.
    """

    def __init__(
        self, outputs: Sequence[Output], choice: Choice, most: int, *, each_prompt: bool = False
    ) -> None:
        self._outputs = outputs
        self._choice = choice
        self._most = most
        self._each_prompt = each_prompt
        self.left = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        given = 0
        for output in self._outputs:
            seen: set[tuple[str, int]] = set()
            prompts: set[str] = set()
            for rel in output.parts():
                if given == self._most:
                    return
                for row in _rows_of_part(output, rel, self._choice):
                    key = (row["id"], row["sample"])
                    if key in seen:
                        continue
                    seen.add(key)
                    if given == self._most or (self._each_prompt and row["id"] in prompts):
                        self.left += 1
                        continue
                    prompts.add(row["id"])
                    given += 1
                    yield row


def _rows_of_part(output: Output, rel: str, choice: Choice) -> list[dict[str, Any]]:
    numbers = pl.DataFrame(output.read_part(rel, list(CHOOSING)))
    wanted = numbers.select(choice.condition()).to_series()
    if not wanted.any():
        return []
    texts = pl.DataFrame(output.read_part(rel, None))
    return each_once(texts.filter(wanted)).to_dicts()
