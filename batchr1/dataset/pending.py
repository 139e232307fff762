"""Pending samples: the input's ids against committed parts.

They are columns of numbers, not objects.

Memory: 16 bytes of hash and 8 of sort order per input row while done rows are matched, then ceil(n
/ 8) bytes per row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchr1.dataset.source import Source, key_hashes
from batchr1.errors import InputError

HASH_ROWS = 16_384
"""Ids that are hashed in one call, at least."""

Bits = np.ndarray[Any, np.dtype[np.uint8]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Counts:
    """Samples by state.

    rows × n = done + failed + pending + spared. `spared`: samples of rows of which enough are
    right. `beside`: what the output holds and the input does not ask for.
    """

    rows: int
    n: int
    done: int
    failed: int
    duplicates: int
    spared: int = 0
    beside: int = 0

    @property
    def samples(self) -> int:
        return self.rows * self.n

    @property
    def pending(self) -> int:
        return self.samples - self.done - self.failed - self.spared

    def to_dict(self) -> dict[str, int]:
        """As plain values, the derived ones too."""
        return {**asdict(self), "samples": self.samples, "pending": self.pending}


@dataclass(frozen=True, slots=True)
class PendingRows:
    """A batch of input rows that still have work.

    Of each row it has the pending samples. Of the done samples it has the mean length in tokens
    (NaN where none is known) and how many are right (0 where that is not known).
    """

    batch: pa.RecordBatch
    samples: list[tuple[int, ...]]
    lengths: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]


class Pending:
    """The input's ids, and a bitmap of samples still needed.

    Made by one pass over the id column. Raises `InputError` when an id is null or comes twice, or
    nothing is there and that is not allowed.
    """

    def __init__(
        self, source: Source, n: int, *, ids_are_hashes: bool, allow_empty: bool = False
    ) -> None:
        hashes: list[np.ndarray[Any, Any]] = []
        waiting: list[pa.Array] = []
        row = hashed = 0
        self._starts: dict[str, int] = {}  # URI of a file: number of its first row
        for position, batch in source.batches(source.id_columns):
            self._starts.setdefault(position.file, row)
            ids = source.id_array(batch)
            if ids.null_count:
                first_null = row + ids.to_pylist().index(None)
                at = source.position(position.file, first_null - self._starts[position.file])
                got = "null"
                if len(source.id_columns) > 1:
                    got = source.show_id(batch, first_null - row)
                raise InputError(
                    f"{at}: the id is null (got {got}, need a unique id). Fill it, or drop "
                    "input.id."
                )
            waiting.append(ids)
            row += len(ids)
            if row - hashed >= HASH_ROWS:
                hashes.append(key_hashes(pa.chunked_array(waiting, pa.string())))
                waiting, hashed = [], row
        hashes.append(key_hashes(pa.chunked_array(waiting, pa.string())))
        if not row and not allow_empty:
            raise InputError(
                "input: no rows (got 0 after where and limit, need at least 1). Look at path, "
                "where and limit, or set "
                "input.allow_empty: true where a night may bring none."
            )
        keys = np.concatenate([np.empty((0, 2), dtype=np.uint64), *hashes])
        self._order = _order(keys)
        self._high, self._low = keys[self._order, 0], keys[self._order, 1]
        self._n = n
        self._bits: Bits = np.zeros((row, (n + 7) // 8), dtype=np.uint8)
        self._bits[:] = np.packbits(np.arange(self._bits.shape[1] * 8) < n, bitorder="little")
        self._failed = 0
        self._dropped = 0
        self._excluded: Bools | None = None  # by row, once one was
        self._lengths: Floats | None = None  # mean of a row's done samples, once one was told
        self._reported: Floats | None = None
        self._right: Numbers | None = None  # done samples that are right, by row, once one was told
        self._spared = 0
        self._beside = 0  # committed samples that the input does not ask for
        self._begun: Bools | None = None  # by row: some of its samples were begun before
        self._drop_repeats(source, ids_are_hashes)

    def _drop_repeats(self, source: Source, ids_are_hashes: bool) -> None:
        high, low = self._high, self._low
        same = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1])) + 1
        if not same.size:
            return
        if not ids_are_hashes:
            place = same[self._order[same].argmin()]
            first, again = (int(row) for row in self._order[place - 1 : place + 1])
            at, name = source.describe(again)
            before, _ = source.describe(first)
            where = f"row {before.row}" if before.file == at.file else f"{before}"
            unique = "a unique column"
            if len(source.id_columns) > 1:
                name, unique = f"of {name}", "columns that are unique together"
            raise InputError(
                f"{at}: the id {name} came before, in {where} ({same.size:,} in all; rows count "
                f"from 0). Take repeated rows out, give input.id {unique}, or leave it out: then "
                f"equal prompts are one row."
            )
        self._bits[self._order[same]] = 0  # the sort is stable: the first of equal prompts stays
        self._dropped = int(same.size)

    def mark_done(
        self, ids: pa.Array | pa.ChunkedArray, samples: pa.Array | pa.ChunkedArray
    ) -> int:
        """Take committed (id, sample) pairs out.

        Returns how many were out before: committed twice, or not wanted.
        """
        rows, numbers = self.find(ids), samples.to_numpy().astype(np.int64)
        known = int(self._asked(rows, numbers).sum())
        self._beside += len(numbers) - known
        return known - self._clear(ids, samples)

    def forget_learned(self) -> None:
        """Forget what committed rows told, to learn it again."""
        self._beside = 0
        self._lengths = self._reported = self._right = None

    def learn_lengths(
        self, ids: pa.Array | pa.ChunkedArray, tokens: pa.Array | pa.ChunkedArray
    ) -> None:
        """Learn lengths of done samples, in tokens.

        Other samples of their rows are expected to be like them.

        Eight bytes per input row from the first call on.
        """
        rows, told = self.find(ids), tokens.to_numpy().astype(np.float32)
        known = (rows >= 0) & ~np.isnan(told)  # a server may have told none
        if self._lengths is None or self._reported is None:
            self._lengths, self._reported = np.zeros((2, len(self._bits)), dtype=np.float32)
        np.add.at(self._lengths, rows[known], told[known])
        np.add.at(self._reported, rows[known], 1)

    def learn_right(
        self, ids: pa.Array | pa.ChunkedArray, correct: pa.Array | pa.ChunkedArray
    ) -> None:
        """Which samples that are done are right.

        Eight bytes per input row from the first call on.
        """
        rows = self.find(ids)
        if self._right is None:
            self._right = np.zeros(len(self._bits), dtype=np.int64)
        np.add.at(self._right, rows[(rows >= 0) & _are_right(correct)], 1)

    def spare(self, enough: int) -> None:
        """Rows of which so many samples are right need no more.

        Call last, when all else is known.
        """
        if self._right is not None:
            rows = np.flatnonzero(self._right >= enough)
            self._spared += int(np.bitwise_count(self._bits[rows]).sum())
            self._bits[rows] = 0

    def mark_failed(
        self, ids: pa.Array | pa.ChunkedArray, samples: pa.Array | pa.ChunkedArray
    ) -> None:
        """Take failed (id, sample) pairs out; call after every `mark_done`: done wins."""
        self._failed += self._clear(ids, samples)

    def exclude(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Drop rows whose ids are done elsewhere, as if not there."""
        rows = self.find(ids)
        self.exclude_rows(rows[rows >= 0])

    def exclude_rows(self, rows: Numbers) -> None:
        """The same, by row number."""
        if self._excluded is None:
            self._excluded = np.zeros(len(self._bits), dtype=bool)
        self._excluded[rows] = True
        wanted = np.unique(rows[self._bits[rows].any(axis=1)])
        self._bits[wanted] = 0
        self._dropped += int(wanted.size)

    def has_enough(self, ids: pa.Array | pa.ChunkedArray, enough: int) -> Bools:
        """Tell which rows have so many right samples."""
        rows = self.find(ids)
        right = np.zeros(len(self._bits)) if self._right is None else self._right
        found: Bools = (rows >= 0) & (right[rows] >= enough)
        return found

    def reopen(self, gone: pa.Table) -> None:
        """Take done rows in again that the output lost, each whole."""
        rows, numbers = (
            self.find(gone.column("id")),
            gone.column("sample").to_numpy().astype(np.int64),
        )
        valid = (rows >= 0) & (numbers < self._n)
        np.bitwise_or.at(
            self._bits,
            (rows[valid], numbers[valid] // 8),
            (1 << (numbers[valid] % 8)).astype(np.uint8),
        )
        if self._right is not None:
            np.subtract.at(self._right, rows[_are_right(gone.column("correct")) & (rows >= 0)], 1)

    def begin_with(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Put rows of these ids first, wherever they stand.

        Their samples were begun before.
        """
        rows = self.find(ids)
        self._begun = np.zeros(len(self._bits), dtype=bool)
        self._begun[rows[rows >= 0]] = True

    def done_rows(
        self, source: Source, files: Collection[str]
    ) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
        """Yield rows of these files that have a done sample.

        Their numbers, and the columns of ids and prompts.
        """
        columns = tuple(dict.fromkeys([*source.id_columns, *source.prompt_columns]))
        for start, batch in self._numbered(source, columns, files):
            done = (
                np.bitwise_count(self._bits[start : start + batch.num_rows]).sum(axis=1) < self._n
            )
            if done.any():
                yield np.flatnonzero(done) + start, batch.filter(pa.array(done))

    def rows_at(
        self, source: Source, chosen: Bools, columns: Sequence[str]
    ) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
        """Those rows whose number is chosen: their numbers, and these columns."""
        files = [
            uri
            for (uri, start), count in zip(
                self._starts.items(), self.rows_by_file().values(), strict=True
            )
            if chosen[start : start + count].any()
        ]
        last = len(chosen) - 1 - int(np.argmax(chosen[::-1]))
        for start, batch in self._numbered(source, columns, files):
            if start > last:
                return
            here = chosen[start : start + batch.num_rows]
            if here.any():
                yield np.flatnonzero(here) + start, batch.filter(pa.array(here))

    def rows_of(
        self, source: Source, columns: Sequence[str], files: Collection[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of these files and columns, with first rows' numbers."""
        return self._numbered(source, columns, files)

    def _numbered(
        self, source: Source, columns: Sequence[str], files: Collection[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of these files, each with the number of its first row."""
        ends = dict(
            zip(self._starts, [*list(self._starts.values())[1:], len(self._bits)], strict=True)
        )
        next_row = dict(self._starts)
        for position, batch in source.batches(columns, only=files):
            start = next_row.get(position.file)
            if start is None:  # beyond the limit
                continue
            batch = batch.slice(0, max(0, ends[position.file] - start))
            next_row[position.file] = start + batch.num_rows
            yield start, batch

    def _clear(self, ids: pa.Array | pa.ChunkedArray, samples: pa.Array | pa.ChunkedArray) -> int:
        rows = self.find(ids)
        numbers = samples.to_numpy().astype(np.int64)
        valid = (rows >= 0) & (numbers < self._n)
        rows, numbers = rows[valid], numbers[valid]
        touched = np.unique(rows)
        before = np.bitwise_count(self._bits[touched]).sum()
        np.bitwise_and.at(self._bits, (rows, numbers // 8), ~(1 << (numbers % 8)).astype(np.uint8))
        return int(before - np.bitwise_count(self._bits[touched]).sum())

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Numbers:
        """Find the row number of each id; -1 where none is.

        Equal ids find their first row.
        """
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        if len(ids) == 0 or not len(self._order):
            return np.full(len(ids), -1, dtype=np.int64)
        keys = key_hashes(ids)
        ascending = np.argsort(
            keys[:, 0]
        )  # probes in order stay in the cache: four times as quick at 10 M rows
        keys = keys[ascending]
        place = np.minimum(np.searchsorted(self._high, keys[:, 0]), len(self._order) - 1)
        match = (self._high[place] == keys[:, 0]) & (self._low[place] == keys[:, 1])
        found: Numbers = np.empty(len(keys), dtype=np.int64)
        found[ascending] = np.where(match, self._order[place], -1)
        return found

    def states(
        self, ids: pa.Array | pa.ChunkedArray, samples: pa.Array | pa.ChunkedArray
    ) -> tuple[Bools, Bools]:
        """Tell which samples are asked for, and which are done.

        Not asked for is what the input (within `where` and `limit`) does not name, `n` leaves out,
        or was excluded.
        """
        rows, numbers = self.find(ids), samples.to_numpy().astype(np.int64)
        asked = self._asked(rows, numbers)
        if not len(self._bits):
            return asked, asked
        rows, numbers = np.where(asked, rows, 0), np.where(asked, numbers, 0)
        pending = (self._bits[rows, numbers // 8] >> (numbers % 8).astype(np.uint8)) & 1
        return asked, asked & (pending == 0)

    def _asked(self, rows: Numbers, numbers: Numbers) -> Bools:
        """Tell which samples are of the input, within `n`, and not excluded."""
        asked: Bools = (rows >= 0) & (numbers < self._n)
        if self._excluded is not None and len(self._bits):
            asked &= ~self._excluded[np.maximum(rows, 0)]
        return asked

    def rows_by_file(self) -> dict[str, int]:
        """Count the rows of each file within `where` and `limit`.

        By URI; a file without any is left out.
        """
        ends = [*list(self._starts.values())[1:], len(self._bits)][: len(self._starts)]
        return {
            uri: end - start for (uri, start), end in zip(self._starts.items(), ends, strict=True)
        }

    @property
    def num_rows(self) -> int:
        """Count the rows of the input, dropped ones included."""
        return len(self._bits)

    def counts(self) -> Counts:
        rows = len(self._bits) - self._dropped
        pending = int(np.bitwise_count(self._bits).sum())
        done = rows * self._n - pending - self._failed - self._spared
        return Counts(rows, self._n, done, self._failed, self._dropped, self._spared, self._beside)

    def free(self) -> None:
        """Drop what only matching needs, before the run begins."""
        self._high = self._low = self._order = np.empty(0, dtype=np.uint64)

    def rows(self, source: Source) -> Iterator[tuple[pa.RecordBatch, list[tuple[int, ...]]]]:
        """Yield batches with work left, and the pending samples by row.

        A row without any has an empty list.
        """
        for found in self.rows_and_more(source):
            yield found.batch, found.samples

    def rows_and_more(self, source: Source) -> Iterator[PendingRows]:
        """Yield batches like `rows`, with reports on done samples.

        Rows that were begun come before all others.
        """
        wanted: Bools = np.asarray(self._bits.any(axis=1))
        if self._begun is not None and (begun := wanted & self._begun).any():
            for numbers, batch in self.rows_at(source, begun, source.row_columns):
                yield self._with_more(numbers, batch)
            wanted &= ~begun
        row = 0
        for _, batch in source.batches(source.row_columns):
            here = wanted[row : row + batch.num_rows]
            if here.any():
                yield self._with_more(np.flatnonzero(here) + row, batch.filter(pa.array(here)))
            row += batch.num_rows

    def _with_more(self, numbers: Numbers, batch: pa.RecordBatch) -> PendingRows:
        """Give these rows' pending samples, and what done ones told."""
        bits = self._bits[numbers]
        samples = [
            tuple(np.flatnonzero(np.unpackbits(b, bitorder="little")).tolist()) for b in bits
        ]
        lengths = np.full(len(samples), np.nan)
        if self._lengths is not None and self._reported is not None:
            told = self._reported[numbers]
            np.divide(self._lengths[numbers], told, out=lengths, where=told > 0)
        right = (
            self._right[numbers]
            if self._right is not None
            else np.zeros(len(samples), dtype=np.int64)
        )
        return PendingRows(batch, samples, lengths, right)


def _are_right(correct: pa.Array | pa.ChunkedArray) -> Bools:
    right: Bools = pc.fill_null(correct, False).to_numpy(zero_copy_only=False)
    return right


def _order(keys: np.ndarray[Any, Any]) -> Numbers:
    """Sort order of 128-bit keys, stable for equal ones.

    By their first half alone, unless that leaves a tie open.
    """
    order: Numbers = np.argsort(keys[:, 0], kind="stable")
    high, low = keys[order, 0], keys[order, 1]
    if ((high[1:] == high[:-1]) & (low[1:] != low[:-1])).any():
        order = np.lexsort((keys[:, 1], keys[:, 0]))
    return order
