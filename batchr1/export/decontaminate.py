"""Overlap of prompts with benchmarks, by n-grams of normalised words.

A prompt is a hit of a benchmark's row where more than half of the row's words lie in n-grams that
the prompt has too, near each other. n is 8, and less for short rows: (words - 1) / 2, at least 3.
Numbers do not matter. N-grams that tell no row from others count for nothing, nor do words that
stand in no other: those that more than 1 % of a benchmark's rows share (more than ten), and those
of fewer than three different words. A row with fewer than five words that count must stand in the
prompt as a whole, with its numbers.

Eight words and half of the row: Tülu 3 (arXiv:2411.15124, section 3.2) compares as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from batchr1.dataset.guess import PROMPTS
from batchr1.dataset.readers import open_file
from batchr1.errors import InputError, UsageError
from batchr1.export.prompts import Prompts
from batchr1.export.words import Words, words_of
from batchr1.storage.inputs import InputFile, expand_inputs

REPORT = "contamination.jsonl"
LONGEST = 8
SHORT_WORDS = 5
SHARE = 0.5
LEAST_WORDS = 3
NEAR = 4
"""Words by which an insertion may shift what follows, for both sides to count together."""
COMMON_SHARE = 0.01
COMMON_ROWS = 10
MOST_HITS = 4_000_000
"""Hits of some prompts that are held at once; of one prompt there may be more."""
_TABLE_BITS = 24
_HITS = {
    "prompt": pl.Int64,
    "benchmark": pl.String,
    "benchmark_row": pl.Int64,
    "overlap": pl.Float64,
    "ngram": pl.String,
}


_NO_HITS = pl.DataFrame(schema=dict.fromkeys(("prompt", "row", "place", "shift", "n"), pl.Int64))


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Prompts of a benchmark's file, each once.

    `rows`: their numbers in the file, from 0.
    """

    uri: str
    column: str
    rows: np.ndarray
    texts: pl.Series


def read_benchmarks(paths: Sequence[str], column: str | None) -> list[Benchmark]:
    """Read files of benchmarks: Parquet or JSON lines.

    `column` None: the first of `PROMPTS` that a file has. Raises `InputError` or `UsageError` for
    what cannot be compared.
    """
    files = [file for path in paths for file in _expanded(path)]
    return [_read(file, column) for file in {file.uri: file for file in files}.values()]


def _expanded(path: str) -> list[InputFile]:
    try:
        return expand_inputs(path)
    except InputError as error:
        raise UsageError(f"--decontaminate: {error}") from error


def _read(file: InputFile, column: str | None) -> Benchmark:
    where = f"--decontaminate: {file.uri}"
    try:
        opened = open_file(file, None)
        names = opened.schema.names
        name = column or next((name for name in PROMPTS if name in names), None)
        if name is None or name not in names:
            need = repr(column) if column else "one of " + ", ".join(PROMPTS)
            raise UsageError(
                f"{where}: no column of prompts (got {', '.join(names)}; need {need}). Name it "
                "with --benchmark-column."
            )
        kind = opened.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UsageError(
                f"{where}: the column {name!r} is not text (got {kind}). Name another with "
                "--benchmark-column."
            )
        batches = [batch.column(0) for _, batch in opened.read([name])]
    except InputError as error:
        raise UsageError(f"--decontaminate: {error}") from error
    texts = pl.Series("text", pa.chunked_array(batches, kind)).cast(pl.String)
    frame = pl.DataFrame({"text": texts}).with_row_index("row").drop_nulls()
    frame = frame.unique("text", keep="first", maintain_order=True)
    if not words_of(frame["text"], numbers=True).hash.size:
        raise UsageError(
            f"{where}: the column {name!r} has no words (got {texts.len():,} rows). Give a file of "
            "prompts."
        )
    return Benchmark(file.uri, name, frame["row"].to_numpy(), frame["text"])


@dataclass(frozen=True, slots=True)
class _Grams:
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


class Index:
    """N-grams of benchmarks, to look prompts up in."""

    def __init__(self, benchmarks: Sequence[Benchmark]) -> None:
        self.benchmarks = benchmarks
        texts = pl.concat([b.texts for b in benchmarks])
        self._words = words_of(texts, numbers=False)
        self._file: np.ndarray = np.repeat(
            np.arange(len(benchmarks)), [b.texts.len() for b in benchmarks]
        )
        self._row = np.concatenate([b.rows for b in benchmarks])
        self._lengths = self._words.lengths()
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        n_of_row = np.clip((self._lengths - 1) // 2, LEAST_WORDS, LONGEST)
        telling = {int(n): self._telling(int(n), n_of_row) for n in np.unique(n_of_row)}
        self._counted = self._count(telling)
        is_short = self._counted < SHORT_WORDS
        self._grams = []
        for n, found in telling.items():
            long = found.filter(~pl.Series(is_short[found["row"].to_numpy()], dtype=pl.Boolean))
            if long.height:
                self._grams.append(_grams(n, long))
        exact = words_of(texts, numbers=True)
        self._exact = _joined(exact)
        self._beginnings = _beginnings(exact, is_short)

    def _telling(self, n: int, n_of_row: np.ndarray) -> pl.DataFrame:
        """List n-grams that tell a row from others.

        Of the rows whose n this is: hash, row, place.
        """
        hashes, at = self._words.ngrams(n)
        rows = self._words.text[at]
        files = self._file[rows]
        frame = pl.DataFrame({"hash": hashes, "row": rows, "file": files})
        shared = frame.select(pl.col("row").n_unique().over("hash", "file")).to_series().to_numpy()
        most = np.maximum(COMMON_ROWS, COMMON_SHARE * np.bincount(self._file))
        different = _different(self._words.hash, at, n)
        keep = (shared <= most[files]) & (different >= LEAST_WORDS) & (n_of_row[rows] == n)
        place = at - self._starts[rows]
        return pl.DataFrame({"hash": hashes, "row": rows, "place": place}).filter(pl.Series(keep))

    def _count(self, telling: dict[int, pl.DataFrame]) -> np.ndarray:
        """Count the words of each row that lie in n-grams which tell."""
        is_covered: np.ndarray = np.zeros(len(self._words.hash), np.bool_)
        for n, found in telling.items():
            at = self._starts[found["row"].to_numpy()] + found["place"].to_numpy()
            for step in range(n):
                is_covered[at + step] = True
        count: np.ndarray = np.bincount(self._words.text[is_covered], minlength=len(self._lengths))
        return count

    def look_up(self, texts: pl.Series) -> pl.DataFrame:
        """Find the rows that each prompt overlaps with.

        Columns: prompt (its number in `texts`), benchmark, benchmark_row, overlap (share of the
        row's words), ngram (the longest one that both have).
        """
        words = words_of(texts, numbers=False)
        found = [_found(words, grams) for grams in self._grams]
        if sum(one.total for one in found) > MOST_HITS and len(texts) > 1:
            half = len(texts) // 2
            rest = self.look_up(texts[half:]).with_columns(pl.col("prompt") + half)
            return pl.concat([self.look_up(texts[:half]), rest])
        hits = pl.concat([_NO_HITS, *(one.hits(words) for one in found)])
        best = pl.concat([_overlaps(hits, self._counted), self._whole(texts)])
        best = best.sort("prompt", "row")
        files = [benchmark.uri for benchmark in self.benchmarks]
        row = best["row"].to_numpy()
        return pl.DataFrame(
            {
                "prompt": best["prompt"],
                "benchmark": [files[number] for number in self._file[row]],
                "benchmark_row": self._row[row],
                "overlap": best["overlap"],
                "ngram": [self._spelled(*run) for run in best.select("row", "at", "run").rows()],
            },
            schema=_HITS,
        )

    def _whole(self, texts: pl.Series) -> pl.DataFrame:
        """Find short rows that stand in a prompt as they are."""
        pairs = _NO_HITS.select("prompt", "row")
        if self._beginnings:
            words = words_of(texts, numbers=True)
            found = [_found(words, grams).hits(words) for grams in self._beginnings]
            pairs = pl.concat([pairs, *(one.select("prompt", "row") for one in found)]).unique()
        prompts = pairs["prompt"].unique().sort()
        inside = _joined(words_of(texts.gather(prompts), numbers=True))
        text_of = dict(zip(prompts, inside, strict=True))
        keep = [self._exact[row] in text_of[prompt] for prompt, row in pairs.rows()]
        whole = pairs.filter(pl.Series(keep, dtype=pl.Boolean))
        lengths = pl.Series("run", self._lengths[whole["row"].to_numpy()], pl.Int64)
        return whole.with_columns(
            pl.lit(1.0).alias("overlap"), pl.lit(0, pl.Int64).alias("at"), lengths
        )

    def _spelled(self, row: int, at: int, run: int) -> str:
        start = int(self._starts[row]) + at
        return " ".join(self._words.spelled[start : start + run])


def _grams(n: int, found: pl.DataFrame) -> _Grams:
    """Sort n-grams by their hashes."""
    found = found.sort("hash", "row", "place")
    unique, starts = np.unique(found["hash"].to_numpy(), return_index=True)
    table: np.ndarray = np.zeros(1 << _TABLE_BITS, np.bool_)
    table[unique >> np.uint64(64 - _TABLE_BITS)] = True
    ends = np.append(starts, found.height)
    return _Grams(n, unique, ends, found["row"].to_numpy(), found["place"].to_numpy(), table)


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
class _Found:
    """N-grams of texts that rows have too.

    `number` of each in `grams`, and the place `at` of its first word.
    """

    grams: _Grams
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


def _found(words: Words, grams: _Grams) -> _Found:
    """Look the n-grams of texts up."""
    hashes, at = words.ngrams(grams.n)
    may = grams.table[hashes >> np.uint64(64 - _TABLE_BITS)]
    hashes, at = hashes[may], at[may]
    number: Any = np.searchsorted(grams.hashes, hashes)
    number[number == len(grams.hashes)] = 0
    is_there = grams.hashes[number] == hashes
    return _Found(grams, number[is_there], at[is_there])


def _beginnings(words: Words, is_short: np.ndarray) -> list[_Grams]:
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
            found.append(_grams(n, frame))
    return found


def _joined(words: Words) -> list[str]:
    """Join the words of each text, a space at both ends."""
    texts = [" "] * words.count
    frame = pl.DataFrame({"text": words.text, "word": words.spelled})
    joined = frame.group_by("text").agg(pl.col("word").str.join(" "))
    for number, text in joined.rows():
        texts[number] = f" {text} "
    return texts


def _overlaps(hits: pl.DataFrame, counted: np.ndarray) -> pl.DataFrame:
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
    total = pl.Series("total", counted[covered["row"].to_numpy()])
    return (
        covered.with_columns(total)
        .filter(pl.col("words") > SHARE * pl.col("total"))
        .with_columns(pl.min_horizontal(1.0, pl.col("words") / pl.col("total")).alias("overlap"))
        .join(longest, on=pair)
        .select(*pair, "overlap", "at", "run")
    )


def find_hits(prompts: Prompts, places: pl.DataFrame, index: Index) -> pl.DataFrame:
    """Look distinct prompts up.

    Returns the columns of `Index.look_up`, with prompt_key and id for the prompt's number.
    """
    found = [pl.DataFrame(schema=_HITS | {"prompt_key": pl.Binary, "id": pl.String})]
    for wanted, texts in prompts.texts(places):
        hits = index.look_up(texts)
        keys = wanted.select("prompt_key", "id").with_row_index("prompt")
        found.append(hits.join(keys.cast({"prompt": pl.Int64}), on="prompt"))
    hits = pl.concat(found).drop("prompt")
    return hits.sort("id", "benchmark", "benchmark_row")


def write_report(path: Path, hits: pl.DataFrame) -> None:
    """Write a JSON line for each hit: id, benchmark, benchmark_row, overlap, ngram."""
    columns = ("id", "benchmark", "benchmark_row", pl.col("overlap").round(4), "ngram")
    hits.select(*columns).write_ndjson(path)
