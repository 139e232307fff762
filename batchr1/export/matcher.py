"""N-grams of rows of benchmarks, and what prompts share with them.

n is 8, and less for short rows: (words - 1) / 2, at least 3. So a row of seven words or more keeps
more than half of them whatever one word is replaced by. N-grams that tell no row from others count
for nothing, nor do words that stand in no other: those that more than 1 % of a benchmark's rows
share (more than ten), and those of fewer than three different words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from batchr1.export.words import Words

LONGEST = 8
LEAST_WORDS = 3
SHARE = 0.5
NEAR = 4
"""Words by which an insertion may shift what follows, for both sides to count together."""
COUNTED_WORDS = 5
"""Words of a row, at least, that count, for n-grams to say anything."""
COMMON_SHARE = 0.01
COMMON_ROWS = 10
_TABLE_BITS = 24
_NO_HITS = pl.DataFrame(schema=dict.fromkeys(("prompt", "row", "place", "shift", "n"), pl.Int64))


@dataclass(frozen=True, slots=True)
class Grams:
    """N-grams of one length: of each, where it stands in which rows.

    `hashes` ascend; those of number i stand at `starts[i]` to `starts[i + 1]` of `rows` (numbers in
    the index) and `places` (words before it in the row). `table` says which hashes may be there.
    """

    n: int
    hashes: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    table: np.ndarray


class Matcher:
    """N-grams of rows, to look prompts up in.

    `file`: the number of each row's benchmark; `mine`: rows that are compared here. `short_share`:
    the share of words above which a row is a hit, where its n is less than `LONGEST`.
    """

    def __init__(
        self, words: Words, file: np.ndarray, *, mine: np.ndarray, short_share: float
    ) -> None:
        self.words = words
        self.lengths = words.lengths()
        self._file = file
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        n_of_row = np.clip((self.lengths - 1) // 2, LEAST_WORDS, LONGEST)
        self._bar = np.where(n_of_row == LONGEST, SHARE, short_share)
        telling = {int(n): self._telling(int(n), n_of_row) for n in np.unique(n_of_row)}
        self._counted = self._count(telling)
        self.is_short = mine & (self._counted < COUNTED_WORDS)
        is_compared = mine & ~self.is_short
        self._grams = []
        for n, found in telling.items():
            chosen = found.filter(pl.Series(is_compared[found["row"].to_numpy()], dtype=pl.Boolean))
            if chosen.height:
                self._grams.append(grams_of(n, chosen))

    def _telling(self, n: int, n_of_row: np.ndarray) -> pl.DataFrame:
        """List n-grams that tell a row from others.

        Of the rows whose n this is: hash, row, place.
        """
        hashes, at = self.words.ngrams(n)
        rows = self.words.text[at]
        files = self._file[rows]
        frame = pl.DataFrame({"hash": hashes, "row": rows, "file": files})
        shared = frame.select(pl.col("row").n_unique().over("hash", "file")).to_series().to_numpy()
        most = np.maximum(COMMON_ROWS, COMMON_SHARE * np.bincount(self._file))
        different = _different(self.words.without_numbers(), at, n)
        keep = (shared <= most[files]) & (different >= LEAST_WORDS) & (n_of_row[rows] == n)
        place = at - self._starts[rows]
        return pl.DataFrame({"hash": hashes, "row": rows, "place": place}).filter(pl.Series(keep))

    def _count(self, telling: dict[int, pl.DataFrame]) -> np.ndarray:
        """Count the words of each row that lie in n-grams which tell."""
        is_covered: np.ndarray = np.zeros(len(self.words.hash), np.bool_)
        for n, found in telling.items():
            at = self._starts[found["row"].to_numpy()] + found["place"].to_numpy()
            for step in range(n):
                is_covered[at + step] = True
        count: np.ndarray = np.bincount(self.words.text[is_covered], minlength=len(self.lengths))
        return count

    def find(self, words: Words) -> list[Found]:
        """Look the n-grams of prompts up."""
        return [find(words, grams) for grams in self._grams]

    def overlaps(self, words: Words, found: list[Found]) -> pl.DataFrame:
        """List the rows that are hits of each prompt.

        Columns: prompt, row, overlap (share of words), ngram (the longest that both have).
        """
        hits = pl.concat([_NO_HITS, *(one.hits(words) for one in found)])
        best = _overlaps(hits, self._counted, self._bar)
        runs = best.select("row", "at", "run").rows()
        spelled = pl.Series("ngram", [self._spelled(*run) for run in runs], pl.String)
        return best.select("prompt", "row", "overlap", spelled)

    def _spelled(self, row: int, at: int, run: int) -> str:
        start = int(self._starts[row]) + at
        return " ".join(self.words.spelled[start : start + run])


def grams_of(n: int, found: pl.DataFrame) -> Grams:
    """Sort n-grams by their hashes."""
    found = found.sort("hash", "row", "place")
    unique, starts = np.unique(found["hash"].to_numpy(), return_index=True)
    table: np.ndarray = np.zeros(1 << _TABLE_BITS, np.bool_)
    table[unique >> np.uint64(64 - _TABLE_BITS)] = True
    ends = np.append(starts, found.height)
    return Grams(n, unique, ends, found["row"].to_numpy(), found["place"].to_numpy(), table)


def _different(words: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """Count the different words of each n-gram."""
    count: np.ndarray = np.ones(len(at), np.int64)
    for step in range(1, n):
        is_new: np.ndarray = np.ones(len(at), np.bool_)
        for earlier in range(step):
            is_new &= words[at + step] != words[at + earlier]
        count += is_new
    return count


@dataclass(frozen=True, slots=True)
class Found:
    """N-grams of texts that rows have too.

    `number` of each in `grams`, and the place `at` of its first word.
    """

    grams: Grams
    number: np.ndarray
    at: np.ndarray

    @property
    def total(self) -> int:
        """Hits that these are: one for each place in a row."""
        return int((self.grams.starts[self.number + 1] - self.grams.starts[self.number]).sum())

    def hits(self, words: Words) -> pl.DataFrame:
        """List the hits.

        Columns: prompt, row, place in the row, shift (place in the prompt less that), n.
        """
        starts = self.grams.starts[self.number]
        counts = self.grams.starts[self.number + 1] - starts
        first: np.ndarray = np.repeat(starts - np.cumsum(counts) + counts, counts)
        one = first + np.arange(counts.sum())
        at: np.ndarray = np.repeat(self.at, counts)
        prompt = words.text[at]
        place = self.grams.places[one]
        begins = np.concatenate([[0], np.cumsum(words.lengths())])
        columns = {
            "prompt": prompt,
            "row": self.grams.rows[one],
            "place": place,
            "shift": at - begins[prompt] - place,
            "n": np.full(len(one), self.grams.n),
        }
        return pl.DataFrame(columns, schema=_NO_HITS.schema)


def find(words: Words, grams: Grams) -> Found:
    """Look the n-grams of texts up."""
    hashes, at = words.ngrams(grams.n)
    may = grams.table[hashes >> np.uint64(64 - _TABLE_BITS)]
    hashes, at = hashes[may], at[may]
    number: Any = np.searchsorted(grams.hashes, hashes)
    number[number == len(grams.hashes)] = 0
    is_there = grams.hashes[number] == hashes
    return Found(grams, number[is_there], at[is_there])


def beginnings(words: Words, is_short: np.ndarray) -> list[Grams]:
    """Index the first words of short rows, numbers as they are."""
    lengths = words.lengths()
    starts = np.cumsum(lengths) - lengths
    found = []
    for n in range(1, LONGEST + 1):
        hashes, at = words.ngrams(n)
        rows = words.text[at]
        mine = is_short[rows] & (np.minimum(lengths[rows], LONGEST) == n) & (at == starts[rows])
        if mine.any():
            place: np.ndarray = np.zeros(int(mine.sum()), np.int64)
            frame = pl.DataFrame({"hash": hashes[mine], "row": rows[mine], "place": place})
            found.append(grams_of(n, frame))
    return found


def _overlaps(hits: pl.DataFrame, counted: np.ndarray, bar: np.ndarray) -> pl.DataFrame:
    """Sum up hits of each prompt and row.

    Columns: prompt, row, overlap (share of words), at and run (place and words of the longest
    n-gram).
    Hits count together while their shifts differ by at most `NEAR`.
    """
    pair = ["prompt", "row"]
    hits = hits.unique([*pair, "shift", "place"]).sort(*pair, "shift", "place")
    is_new = pl.col("prompt").diff().ne(0) | pl.col("row").diff().ne(0)
    apart = is_new | pl.col("shift").diff().gt(NEAR)
    breaks = is_new | pl.col("shift").diff().ne(0) | pl.col("place").diff().ne(1)
    hits = hits.with_columns(
        apart.fill_null(True).cum_sum().alias("group"),
        breaks.fill_null(True).cum_sum().alias("run"),
    )
    longest = (
        hits.group_by("run", *pair)
        .agg(pl.col("place").min().alias("at"), (pl.len() + pl.col("n").first() - 1).alias("size"))
        .sort("size", "at", descending=[True, False])
        .group_by(pair)
        .first()
        .select(*pair, "at", pl.col("size").alias("run"))
    )
    gap = (pl.col("place").shift(-1) - pl.col("place")).over("group")
    covered = (
        hits.unique(["group", "place"])
        .sort("group", "place")
        .with_columns(pl.min_horizontal(gap.fill_null(pl.col("n")), "n").alias("words"))
        .group_by("group", *pair)
        .agg(pl.col("words").sum())
        .group_by(pair)
        .agg(pl.col("words").max())
    )
    rows = covered["row"].to_numpy()
    total = pl.Series("total", counted[rows])
    least = pl.Series("least", bar[rows])
    return (
        covered.with_columns(total, least)
        .filter(pl.col("words") > pl.col("least") * pl.col("total"))
        .with_columns(pl.min_horizontal(1.0, pl.col("words") / pl.col("total")).alias("overlap"))
        .join(longest, on=pair)
        .select(*pair, "overlap", "at", "run")
    )
