"""Repetition at the end of a text, in other words or order.

A loop need not be exact: paragraphs return reworded, shuffled, or a little different each time.
Measures of the tail, the cheap one first:

- compression: a text that repeats itself compresses far better than prose, code or tables do;
- counting: sentences that are the same but for their one number, a hundred times, or that say that
  the work begins anew ("wait, let me check 7 again"), twenty-five times;
- shingles: the share of the tail's second half, in stretches of a few words, that stood in the tail
  at least twice before. Numbers are words, so that a list of cases, each with numbers of its own,
  does not repeat itself.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections import Counter
from typing import Any

import numpy as np

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

# of a finished text, in bytes of UTF-8 and in words
TAIL_CHARS = 20_000  # looked at; cycles up to a fifth of it are found
MIN_TAIL_CHARS = 1800
MAX_COMPRESSED = 0.26  # the tail compressed, as a share of its size: prose has 0.38 to 0.50
SHINGLE_WORDS = 3
SHINGLE_CHARS = 6  # of Chinese and Japanese, where a word is not set apart
MIN_BEFORE = 2  # times that a shingle stood there before, for it to be a return
MIN_RETURNING = 0.7  # of the second half's shingles
MIN_LETTERS = 0.45  # of the second half's characters: formulas and tables return without a loop
MIN_KINDS = 14  # different words in the second half: less is a table, or an exact loop

COUNTED_CHARS = 12_000  # looked at for sentences with one number that only count on,
MIN_COUNTED = 100  # so many of which, with so many letters, are no list of cases any more,
MIN_COUNTED_LETTERS = 8
COUNTED_SHARE = 0.6  # and make so much of the tail;
MIN_HESITATIONS = 25  # or so many that hesitate, whatever stands between them

# while generating, in tokens
CHECK_EVERY = 1024
WINDOW_TOKENS = 4096
SHINGLE_TOKENS = 4
MIN_RETURNING_TOKENS = 0.85
MIN_KINDS_TOKENS = 20

_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_BOUND = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_DIGITS = re.compile(r"\d+")
_HESITATION = re.compile(
    r"\b(?:wait|again|mistake|alternatively|let me \w+|once more|noch ?(?:ein)?mal|encore|otra vez"
    r"|di nuovo|de novo)\b|ещё раз|等一?[等下]|重新|もう一度|다시",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[\n.!?。！？]+")
_LETTER_WORD = re.compile(r"[^\W\d_]{2,}")


def is_repetitive(text: str) -> bool:
    """Tell whether a text ends in paragraphs that return, exactly or not.

    Linear in the tail's length.
    """
    tail = text[-TAIL_CHARS:]
    if len(tail) < MIN_TAIL_CHARS or compressed_share(tail) > MAX_COMPRESSED:
        return False
    if len(tail) >= 4 * MIN_TAIL_CHARS and _returns(tail[-len(tail) // 2 :]):
        return True
    return _returns(tail) or _counts_on(tail[-COUNTED_CHARS:])


def compressed_share(text: str) -> float:
    """Compress a text; returns its size as a share of its own."""
    data = text.encode(errors="replace")
    return len(zlib.compress(data, 1)) / len(data)


def _counts_on(tail: str) -> bool:
    """Whether a tail is sentences that count on or begin anew."""
    counts = Counter(" ".join(one.split()) for one in _SENTENCE.split(_DIGITS.sub("0", tail)))
    if any(times >= MIN_HESITATIONS and _HESITATION.search(one) for one, times in counts.items()):
        return True
    covered = sum(
        len(one) * times
        for one, times in counts.items()
        if times >= MIN_COUNTED
        and one.count("0") == 1
        and sum(map(str.isalpha, one)) >= MIN_COUNTED_LETTERS
    )
    return covered >= COUNTED_SHARE * sum(len(one) * times for one, times in counts.items())


def _returns(tail: str) -> bool:
    half = tail[len(tail) // 2 :]
    if len(_BOUND.findall(half)) > len(half) // 3:
        words, size = [c for c in tail if c.isalnum()], SHINGLE_CHARS
        kinds = len(set(words[len(words) // 2 :]))
    else:
        words, size = _WORD.findall(tail.lower()), SHINGLE_WORDS
        letters = _LETTER_WORD.findall(half)
        kinds = len(set(map(str.lower, letters)))
        if sum(map(len, letters)) < MIN_LETTERS * len(half):
            return False
    if kinds < MIN_KINDS or len(words) < 4 * size:
        return False
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(word, len(known)) for word in words], dtype=np.uint64)
    return returning_share(ids, size) >= MIN_RETURNING


def returning_share(ids: Hashes, size: int) -> float:
    """Measure how many stretches of the second half stood there before.

    A stretch has `size` words, and counts if it stood before `MIN_BEFORE` times.
    """
    count = len(ids) - size + 1
    shingles: Hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        shingles = shingles * np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + count]
    half = count // 2
    before, times = np.unique(shingles[:half], return_counts=True)
    often = before[times >= MIN_BEFORE]
    return float(np.isin(shingles[half:], often).mean()) if often.size else 0.0


def tokens_repeat(tokens: array[int]) -> bool:
    """Tell whether the end of token ids repeats earlier ones, for long."""
    tail = tokens[-WINDOW_TOKENS:]
    if len(tail) < WINDOW_TOKENS:
        return False
    ids = np.frombuffer(tail, dtype=f"i{tail.itemsize}").astype(np.uint64)
    if returning_share(ids, SHINGLE_TOKENS) < MIN_RETURNING_TOKENS:
        return False
    return len(np.unique(ids[WINDOW_TOKENS // 2 :])) >= MIN_KINDS_TOKENS
