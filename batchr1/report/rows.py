"""Rows of outputs, chosen to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
    unsure: bool = False  # no verdict, though verification looked

    def in_words(self) -> str:
        """Name the conditions, but for ids: "wrong and flagged looping"."""
        words = [] if self.correct is None else ["right" if self.correct else "wrong"]
        words += ["cut"] * self.truncated + ["unsure"] * self.unsure
        return " and ".join([*words, *(f"flagged {flag}" for flag in self.flags)])

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
        if self.unsure:
            flags = pl.col("flags").list
            found &= flags.contains("verify_unsure") | flags.contains("verify_failed")
        return found


class RowSearch:
    """Search for rows of outputs; iterated over, it yields them whole.

    They come in the order of their parts; those of chosen ids by id as it was named, then by
    sample. At most `most` come after the first `skip`, with `each_prompt` one of an id. Texts are
    read only of parts that hold such a row. `skipped` counts those left out at the beginning,
    `left` more such rows in the parts that were read. `goes_on`: a larger `skip` may find more.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        choice: Choice,
        most: int,
        *,
        skip: int = 0,
        each_prompt: bool = False,
    ) -> None:
        self._outputs = outputs
        self._choice = choice
        self._most = most
        self._each_prompt = each_prompt
        self._skip = skip
        self.skipped = self.left = 0
        self.goes_on = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        given = 0
        for output in self._outputs:
            seen: set[tuple[str, int]] = set()
            prompts: set[str] = set()
            for portion in self._portions(output):
                if given == self._most:
                    self.goes_on = True
                    return
                for row in portion():
                    key = (row["id"], row["sample"])
                    if key in seen:
                        continue
                    seen.add(key)
                    is_repeated = self._each_prompt and row["id"] in prompts
                    if given == self._most or is_repeated:
                        self.left += 1
                        self.goes_on |= not is_repeated
                        continue
                    prompts.add(row["id"])
                    if self.skipped < self._skip:
                        self.skipped += 1
                        continue
                    given += 1
                    yield row

    def _portions(self, output: Output) -> list[Callable[[], list[dict[str, Any]]]]:
        """List readers of rows, in order.

        One a part, or one of all where ids are chosen.
        """
        parts = [partial(_rows_of_part, output, rel, self._choice) for rel in output.parts()]
        place = {id: at for at, id in enumerate(dict.fromkeys(self._choice.ids))}

        def in_order() -> list[dict[str, Any]]:
            rows = [row for part in parts for row in part()]
            return sorted(rows, key=lambda row: (place[row["id"]], row["sample"]))

        return [in_order] if place else [*parts]


def _rows_of_part(output: Output, rel: str, choice: Choice) -> list[dict[str, Any]]:
    numbers = pl.DataFrame(output.read_part(rel, list(CHOOSING)))
    wanted = numbers.select(choice.condition()).to_series()
    if not wanted.any():
        return []
    texts = pl.DataFrame(output.read_part(rel, None))
    return each_once(texts.filter(wanted)).to_dicts()
