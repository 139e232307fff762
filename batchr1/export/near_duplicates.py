"""Near duplicates among prompts, by MinHash.

Two prompts are near duplicates where `SIMILAR` of the shingles of both are common to both, which is
Jaccard's index. A shingle is three normalised words, numbers as they are. Those of more than half
of the prompts, such as an instruction's, do not count. MinHash in bands proposes pairs, exact sets
decide: 64 hash functions in 16 bands of 4 miss one pair in 4,000 at the threshold. Sources: Broder
1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import polars as pl

from batchr1.export.prompts import Prompts
from batchr1.export.words import words_of

SIMILAR = 0.8
SHINGLE_WORDS = 3
BANDS = 16
BAND_ROWS = 4
COMPARED = 100
"""Kept prompts of a bucket, at most, that a prompt is compared with."""
FORM_PROMPTS = 10_000
FORM_AT_LEAST = 20
_DRAWN = np.random.Generator(np.random.PCG64(1)).integers(
    0, 2**64, (2, BANDS * BAND_ROWS), dtype=np.uint64
)


def near_duplicates(prompts: Prompts, places: pl.DataFrame) -> pl.DataFrame:
    """Find prompts that nearly equal an earlier one.

    `places`: distinct prompts in the order in which they are preferred, with prompt_key and id.
    Returns prompt_key of those that are not kept, and near_duplicate_of, the kept one's id.
    """
    numbered = places.with_row_index("number")
    form = _form(prompts, numbered)
    bands: np.ndarray = np.empty((places.height, BANDS), np.uint64)
    has_any: np.ndarray = np.zeros(places.height, np.bool_)
    for wanted, texts in prompts.texts(numbered):
        hashes, text = _shingles(texts, form)
        there, starts = np.unique(text, return_index=True)
        numbers = wanted["number"].to_numpy()[there]
        has_any[numbers] = True
        if len(there):
            bands[numbers] = _bands(hashes, starts)
    candidates = np.flatnonzero(_shared(bands, has_any))
    sets: dict[int, set[int]] = {}
    chosen = numbered.filter(pl.col("number").is_in(candidates))
    for wanted, texts in prompts.texts(chosen):
        hashes, text = _shingles(texts, form)
        ends = np.cumsum(np.bincount(text, minlength=len(texts)))
        pieces = np.split(hashes, ends[:-1])
        sets |= {n: set(one.tolist()) for n, one in zip(wanted["number"], pieces, strict=True)}
    kept_of = _greedy(candidates, bands, sets)
    found = pl.DataFrame(
        {"number": list(kept_of), "kept": list(kept_of.values())},
        schema={"number": pl.UInt32, "kept": pl.UInt32},
    )
    ids = numbered.select(pl.col("number").alias("kept"), pl.col("id").alias("near_duplicate_of"))
    found = found.join(ids, on="kept").join(numbered, on="number")
    return found.sort("number").select("prompt_key", "near_duplicate_of")


def _greedy(candidates: np.ndarray, bands: np.ndarray, sets: dict[int, set[int]]) -> dict[int, int]:
    """Compare each prompt with earlier ones that share a band."""
    buckets: dict[tuple[int, int], list[int]] = {}
    kept_of: dict[int, int] = {}
    for number in candidates.tolist():
        keys = list(enumerate(bands[number].tolist()))
        mine, seen = sets[number], set[int]()
        for key in keys:
            seen.update(islice(buckets.get(key, ()), COMPARED))
        alike = (kept for kept in sorted(seen) if _jaccard(mine, sets[kept]) >= SIMILAR)
        kept = next(alike, None)
        if kept is not None:
            kept_of[number] = kept
            continue
        for key in keys:
            buckets.setdefault(key, []).append(number)
    return kept_of


def _jaccard(one: set[int], other: set[int]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def _shared(bands: np.ndarray, has_any: np.ndarray) -> np.ndarray:
    """Say which prompts share a band with another."""
    found: np.ndarray = np.zeros(len(bands), np.bool_)
    for band in range(BANDS):
        _, which, counts = np.unique(bands[has_any, band], return_inverse=True, return_counts=True)
        found[has_any] |= counts[which] > 1
    return found


def _bands(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Hash the least values of each text, band by band.

    The result is texts x `BANDS`.
    """
    least: np.ndarray = np.empty((len(starts), BANDS * BAND_ROWS), np.uint64)
    for column, (factor, offset) in enumerate(_DRAWN.T):
        least[:, column] = np.minimum.reduceat(hashes * (factor | np.uint64(1)) + offset, starts)
    found: np.ndarray = np.zeros((len(starts), BANDS), np.uint64)
    for row in range(BAND_ROWS):
        found = found * np.uint64(0x9E3779B97F4A7C15) + least[:, row::BAND_ROWS]
    return found


def _shingles(texts: pl.Series, form: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash the different shingles of each text; a shorter text is one.

    Returns (hashes, numbers of texts), by text.
    """
    words = words_of(texts, numbers=True)
    lengths = words.lengths()
    hashes, text = [], []
    for n in range(1, SHINGLE_WORDS + 1):
        found, at = words.ngrams(n)
        mine = np.minimum(lengths[words.text[at]], SHINGLE_WORDS) == n
        hashes.append(found[mine])
        text.append(words.text[at][mine])
    frame = pl.DataFrame({"hash": np.concatenate(hashes), "text": np.concatenate(text)})
    frame = frame.unique().sort("text", "hash")
    keep = ~np.isin(frame["hash"].to_numpy(), form)
    return frame["hash"].to_numpy()[keep], frame["text"].to_numpy()[keep]


def _form(prompts: Prompts, places: pl.DataFrame) -> np.ndarray:
    """Collect the shingles of more than half of the first prompts."""
    nothing: np.ndarray = np.empty(0, np.uint64)
    if places.height < FORM_AT_LEAST:
        return nothing
    some = places.head(FORM_PROMPTS)
    found = [_shingles(texts, nothing)[0] for _, texts in prompts.texts(some)]
    hashes, counts = np.unique(np.concatenate(found), return_counts=True)
    common: np.ndarray = hashes[counts > some.height / 2]
    return common
