"""Even samples of rows of a dataset too large to read.

Only row groups that hold a chosen row are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.dataset.predicate import Mask, Predicate
from batchr1.dataset.readers import DataFile, Selector, refuse_changed

# Rows cannot be read singly, only by row group. Up to this many times the rows wanted, every group
# is read.
READ_FACTOR = 8
# Beyond, so many groups at least, however large they are: fewer would not show a dataset that
# drifts.
MIN_GROUPS = 16

Numbers = np.ndarray[Any, np.dtype[np.int64]]


def count_groups(
    files: Sequence[DataFile],
    columns: Sequence[str],
    predicate: Predicate | None,
    limit: int | None,
) -> list[list[int]]:
    """Count the rows of each row group that pass `predicate`.

    By file; up to `limit` in all. Of Parquet only the predicate's columns are read. The groups of
    JSON lines are the reader's batches.
    """
    counts = []
    left = limit
    for file in files:
        found = list(file.groups)
        if predicate is not None or file.num_rows is None:
            counter = _Counter(predicate)
            for _ in _read(file, columns, counter):
                pass
            found = counter.rows
        if left is not None:
            for group, rows in enumerate(found):
                found[group] = min(rows, left)
                left -= found[group]
        counts.append(found)
        if left == 0:
            break
    return counts


def read_spread(
    files: Sequence[DataFile],
    columns: Sequence[str],
    predicate: Predicate | None,
    counts: Sequence[Sequence[int]],
    at_most: int,
) -> Iterator[pa.RecordBatch]:
    """Yield about `at_most` of the counted rows, in file order.

    Each is as likely to be taken as any.
    """
    wanted = iter(quotas([rows for groups in counts for rows in groups], at_most))
    for file, groups in zip(
        files, counts, strict=False
    ):  # a limit may leave the last files uncounted
        picks = [next(wanted) for _ in groups]
        if any(picks):
            for _, batch in _read(
                file, columns, _Picker(predicate, zip(groups, picks, strict=True))
            ):
                if batch.num_rows:
                    yield batch


def quotas(counts: Sequence[int], at_most: int) -> list[int]:
    """Count the rows to take of each row group, `at_most` in all.

    They are fewer where a small group stands for many rows.

    Places are spread over all rows, and a group gives as many rows for each place that falls into
    it: larger groups are taken more often, and no row is more likely than another. One row a place
    where all groups are read, else so many places that about READ_FACTOR × at_most rows are read.
    """
    total = sum(counts)
    if total <= at_most:
        return list(counts)
    places = at_most
    if total > READ_FACTOR * at_most:
        groups = sum(rows > 0 for rows in counts)
        places = min(at_most, max(MIN_GROUPS, READ_FACTOR * at_most * groups // total))
    ends = np.cumsum(counts)
    hits = np.searchsorted(_stratified(total, places, seed=0), ends) * at_most // places
    taken = np.minimum(np.diff(hits, prepend=0), counts)
    return [int(rows) for rows in taken]


def _stratified(total: int, picks: int, *, seed: int) -> Numbers:
    """Pick `picks` different numbers below `total`, in order.

    Each is a random one of its stretch; all stretches are equal.

    Random within its stretch (the same each time), since equal steps could fall in with a pattern
    of the rows, such as two tasks that alternate.
    """
    edges: Numbers = np.arange(picks + 1) * total // picks
    chosen: Numbers = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    return chosen


def _read(
    file: DataFile, columns: Sequence[str], selector: Selector
) -> Iterator[tuple[int, pa.RecordBatch]]:
    refuse_changed(file.file)
    return file.read(columns, selector)


class _Counter:
    """Counter of passing rows that lets none through.

    So the other columns of a row group are not read.
    """

    def __init__(self, inner: Predicate | None) -> None:
        self._inner = inner
        self.columns = inner.columns if inner else ()
        self.rows: list[int] = []

    def select(self, tables: Iterator[pa.Table], num_rows: int) -> Mask:
        passing = num_rows if self._inner is None else self._inner.select(tables, num_rows).sum()
        self.rows.append(int(passing))
        return np.zeros(num_rows, dtype=bool)


class _Picker:
    """Selector of rows spread over those that pass.

    Of each row group in turn, given as (rows, picks): `picks` of its first `rows` passing rows.
    """

    def __init__(self, inner: Predicate | None, groups: Iterable[tuple[int, int]]) -> None:
        self._inner = inner
        self._groups = iter(groups)
        self._seed = 0
        self.columns = inner.columns if inner else ()

    def select(self, tables: Iterator[pa.Table], num_rows: int) -> Mask:
        rows, picks = next(self._groups)
        chosen: Mask = np.zeros(num_rows, dtype=bool)
        if picks:
            self._seed += 1
            passing = (
                np.arange(num_rows)
                if self._inner is None
                else np.flatnonzero(self._inner.select(tables, num_rows))
            )
            chosen[passing[_stratified(rows, picks, seed=self._seed)]] = True
        return chosen
