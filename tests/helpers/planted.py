"""Copies of a benchmark's prompts, edited as copies in the wild are."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

NUMERALS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
DRAW = random.Random(0)


def spaced(text: str) -> str:
    return re.sub(r"\s+", lambda _: DRAW.choice(["\n\n", "  ", " \t"]), text).upper()


def one_word_changed(text: str) -> str:
    """Replace a word of letters that is no LaTeX command."""
    words = list(re.finditer(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z])", text))
    if not words:
        return text
    word = DRAW.choice(words)
    return text[: word.start()] + "marmalade" + text[word.end() :]


def numbers_changed(text: str) -> str:
    return re.sub(r"\d+", lambda m: str(int(m[0]) + DRAW.randrange(1, 90)), text)


def numbers_in_words(text: str) -> str:
    return re.sub(r"\b(\d|10)\b", lambda m: NUMERALS[int(m[0])], text)


EDITS: dict[str, tuple[Callable[[str], str], float]] = {
    "exact": (lambda text: text, 1.0),
    "instructed": (lambda text: f"Solve this.\n{text}{INSTRUCTION}", 1.0),
    "white space and case": (spaced, 1.0),
    "one word": (one_word_changed, 0.95),
    "numbers": (numbers_changed, 0.95),
    "numbers in words": (numbers_in_words, 0.95),
}
"""Each edit, and the share of edited rows that must be found."""
