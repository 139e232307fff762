"""Overlap of prompts with benchmarks, by n-grams of normalised words.

A prompt is a hit of a benchmark's row where more than half of the row's words lie in n-grams of
eight that the prompt has too, near each other; numbers do not matter. Rows of up to sixteen words
have shorter n-grams (see `matcher`). They are hits where more than half of their words agree with
numbers as they are, or more than three quarters without numbers. A row with fewer than five words
that count must stand in the prompt as a whole, with its numbers.

Eight words and half of the row: Tülu 3 (arXiv:2411.15124, section 3.2) compares as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from batchr1.dataset.guess import PROMPTS
from batchr1.dataset.readers import open_file
from batchr1.dataset.types import is_text
from batchr1.dataset.values import to_plain
from batchr1.errors import InputError, UsageError
from batchr1.export.matcher import LONGEST, SHARE, Matcher, beginnings, find
from batchr1.export.prompts import Prompts
from batchr1.export.words import Words, words_of
from batchr1.storage.inputs import InputFile, expand_inputs

REPORT = "contamination.jsonl"
SHARE_WITHOUT_NUMBERS = 0.75
MOST_HITS = 4_000_000
"""Hits of some prompts that are held at once; of one prompt there may be more."""
_HITS = {
    "prompt": pl.Int64,
    "benchmark": pl.String,
    "benchmark_row": pl.Int64,
    "overlap": pl.Float64,
    "ngram": pl.String,
}


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
    """Read files of benchmarks: Parquet, JSON lines or CSV.

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
        if not is_text(kind):
            raise UsageError(
                f"{where}: the column {name!r} is not text (got {kind}). Name another with "
                "--benchmark-column."
            )
        batches = [to_plain(batch.column(0)) for _, batch in opened.read([name])]
    except InputError as error:
        raise UsageError(f"--decontaminate: {error}") from error
    texts = pl.Series("text", pa.chunked_array(batches, pa.string()))
    frame = pl.DataFrame({"text": texts}).with_row_index("row").drop_nulls()
    frame = frame.unique("text", keep="first", maintain_order=True)
    if not words_of(frame["text"], numbers=True).hash.size:
        raise UsageError(
            f"{where}: the column {name!r} has no words (got {texts.len():,} rows). Give a file of "
            "prompts."
        )
    return Benchmark(file.uri, name, frame["row"].to_numpy(), frame["text"])


class Index:
    """N-grams of benchmarks, to look prompts up in."""

    def __init__(self, benchmarks: Sequence[Benchmark]) -> None:
        self.benchmarks = benchmarks
        texts = pl.concat([b.texts for b in benchmarks])
        self._file: np.ndarray = np.repeat(
            np.arange(len(benchmarks)), [b.texts.len() for b in benchmarks]
        )
        self._row = np.concatenate([b.rows for b in benchmarks])
        words, exact = (words_of(texts, numbers=numbers) for numbers in (False, True))
        lengths = words.lengths()
        self._matcher = Matcher(
            words, self._file, mine=lengths > 0, short_share=SHARE_WITHOUT_NUMBERS
        )
        self._exact = Matcher(exact, self._file, mine=lengths <= 2 * LONGEST, short_share=SHARE)
        self._beginnings = beginnings(exact, self._exact.is_short)
        self._joined = _joined(exact)

    def look_up(self, texts: pl.Series) -> pl.DataFrame:
        """Find the rows that each prompt overlaps with.

        Columns: prompt (its number in `texts`), benchmark, benchmark_row, overlap (share of the
        row's words), ngram (the longest one that both have).
        """
        words, exact = (words_of(texts, numbers=numbers) for numbers in (False, True))
        found, found_exact = self._matcher.find(words), self._exact.find(exact)
        if sum(one.total for one in (*found, *found_exact)) > MOST_HITS and len(texts) > 1:
            half = len(texts) // 2
            rest = self.look_up(texts[half:]).with_columns(pl.col("prompt") + half)
            return pl.concat([self.look_up(texts[:half]), rest])
        every = [
            self._matcher.overlaps(words, found),
            self._exact.overlaps(exact, found_exact),
            self._whole(exact),
        ]
        best = pl.concat(every).sort("overlap", descending=True, maintain_order=True)
        best = best.unique(["prompt", "row"], keep="first").sort("prompt", "row")
        files = [benchmark.uri for benchmark in self.benchmarks]
        row = best["row"].to_numpy()
        return pl.DataFrame(
            {
                "prompt": best["prompt"],
                "benchmark": [files[number] for number in self._file[row]],
                "benchmark_row": self._row[row],
                "overlap": best["overlap"],
                "ngram": best["ngram"],
            },
            schema=_HITS,
        )

    def _whole(self, words: Words) -> pl.DataFrame:
        """Find short rows that stand in a prompt as they are."""
        found = [find(words, grams).hits(words) for grams in self._beginnings]
        pairs: set[tuple[int, int]] = set()
        for one in found:
            pairs.update(one.select("prompt", "row").rows())
        chosen = np.isin(words.text, [prompt for prompt, _ in pairs])
        text_of = _joined(Words(words.spelled.filter(chosen), words.hash, words.text[chosen], 0))
        whole = [pair for pair in sorted(pairs) if self._joined[pair[1]] in text_of[pair[0]]]
        return pl.DataFrame(
            {
                "prompt": [prompt for prompt, _ in whole],
                "row": [row for _, row in whole],
                "overlap": [1.0] * len(whole),
                "ngram": [self._joined[row].strip() for _, row in whole],
            },
            schema={"prompt": pl.Int64, "row": pl.Int64, "overlap": pl.Float64, "ngram": pl.String},
        )


def _joined(words: Words) -> dict[int, str]:
    """Join the words of each text, a space at both ends."""
    frame = pl.DataFrame({"text": words.text, "word": words.spelled})
    joined = frame.group_by("text").agg(pl.col("word").str.join(" "))
    return {number: f" {text} " for number, text in joined.rows()}


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
