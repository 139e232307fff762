"""Normalised words of texts, and hashes of their n-grams.

Text is NFKC, in lower case. LaTeX's layout commands, punctuation and white space fall away; other
commands are words, without their backslash. A word is a run of letters or of digits; of scripts
that are written without spaces, each character. Where numbers do not matter, each run of numbers,
in digits or in English words, is one word: #.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

NUMBER = "#"
_LAYOUT = (
    r"\\(?:left|right|displaystyle|textstyle|text(?:bf|it|rm)?|math(?:rm|bf|it)|operatorname|"
    r"bigg?[lr]?|q?quad|[,!;: ])"
)
_SIZED = r"\\[dtc](frac|binom)"
_WORD = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\p{L}\p{M}]+|\p{N}+"
_NUMBER = (
    r"^(?:\p{N}|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|"
    r"fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|"
    r"eighty|ninety|hundred|thousand|million|billion)$)"
)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word is lost in a product
_SHIFT = np.uint64(29)


@dataclass(frozen=True, slots=True)
class Words:
    """Words of several texts in a row.

    `text` is each word's number of a text, ascending; `hash` its hash, the same for equal words
    within a process. `count` texts.
    """

    spelled: pl.Series
    hash: np.ndarray
    text: np.ndarray
    count: int

    def lengths(self) -> np.ndarray:
        """Words of each text."""
        lengths: np.ndarray = np.bincount(self.text, minlength=self.count)
        return lengths

    def without_numbers(self) -> np.ndarray:
        """Hashes of the words, the same for all numbers."""
        found: np.ndarray = self.hash.copy()
        found[self.spelled.str.contains(_NUMBER).to_numpy()] = 0
        return found

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hash every n words that follow each other in a text.

        Returns (hashes, places of their first words).
        """
        last = len(self.hash) - n + 1
        if last <= 0:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        hashed: np.ndarray = np.zeros(last, np.uint64)
        for step in range(n):
            hashed = hashed * _FACTOR + self.hash[step : step + last]
        hashed ^= hashed >> _SHIFT
        places = np.flatnonzero(self.text[:last] == self.text[n - 1 :])
        return hashed[places] * _FACTOR, places


def words_of(texts: pl.Series, *, numbers: bool) -> Words:
    """Take texts apart.

    `numbers`: as they are written, else each run is `NUMBER`. Null has no words.
    """
    plain = (
        pl.col("text")
        .str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all(_LAYOUT, " ")
        .str.replace_all(_SIZED, r"\$1")
        .str.extract_all(_WORD)
    )
    frame = (
        pl.DataFrame({"text": texts})
        .lazy()
        .select(pl.int_range(pl.len()).alias("row"), plain.alias("word"))
        .explode("word")
        .drop_nulls("word")
    )
    if not numbers:
        is_number = pl.col("word").str.contains(_NUMBER)
        repeats = pl.col("is_number") & pl.col("is_number").shift(1) & (pl.col("row").diff() == 0)
        word = pl.when("is_number").then(pl.lit(NUMBER)).otherwise("word")
        frame = (
            frame.with_columns(is_number.alias("is_number"))
            .filter(~repeats.fill_null(False))
            .select("row", word.alias("word"))
        )
    found = frame.with_columns(pl.col("word").hash(1).alias("hash")).collect()
    return Words(found["word"], found["hash"].to_numpy(), found["row"].to_numpy(), texts.len())
