"""Texts of prompts, read a part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchr1.output.folder import Output

BATCH_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of outputs, by the places of rows.

    A place is `part`, its number in `parts`, and `row`, in that part.
    """

    parts: Sequence[tuple[Output, str]]

    def texts(self, places: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.Series]]:
        """Read the prompts of `places`, some megabytes at a time.

        Yields (their places, texts).
        """
        for wanted in places.sort("part", "row").partition_by("part", maintain_order=True):
            output, rel = self.parts[wanted["part"][0]]
            table = output.read_part(rel, ["prompt"])
            column = pl.DataFrame(table)["prompt"].gather(wanted["row"])
            for start, texts in batches(column):
                yield wanted.slice(start, len(texts)), texts


def distinct(rows: pl.DataFrame) -> pl.DataFrame:
    """Choose a row of each prompt: that of its first id.

    Ids are in the order of their characters.
    """
    columns = ["prompt_key", "id", "part", "row"]
    first = rows.select(*columns, "sample").sort("id", "sample", "prompt_key", "part", "row")
    return first.unique("prompt_key", keep="first", maintain_order=True).select(columns)


def batches(texts: pl.Series) -> Iterator[tuple[int, pl.Series]]:
    """Cut texts into pieces of about `BATCH_BYTES`.

    Yields (number of the first text, texts).
    """
    ends = texts.str.len_bytes().fill_null(0).cum_sum().to_numpy()
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield start, texts.slice(start, stop - start)
        start = stop
