"""Names, nouns, places, made-up words and the table of synonyms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

_FOLDER = Path(__file__).parent / "phrasings"


def _bars(name: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            w.strip() for w in (_FOLDER / name).read_text(encoding="utf-8").strip().split("|")
        )
    )


def _lines(name: str) -> list[str]:
    return (_FOLDER / name).read_text(encoding="utf-8").splitlines()


def read_words(name: str) -> tuple[str, ...]:
    """Words of a file, separated by white space, without doubles; ``_`` stands for a space."""
    words = (_FOLDER / name).read_text(encoding="utf-8").split()
    return tuple(word.replace("_", " ") for word in dict.fromkeys(words))


def singular(noun: str) -> str:
    """Singular of a regular plural."""
    for end, replacement in (
        ("ies", "y"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("xes", "x"),
        ("s", ""),
    ):
        if noun.endswith(end):
            return noun[: -len(end)] + replacement
    return noun


def _items() -> tuple[tuple[str, str], ...]:
    pairs = {}
    for entry in (_FOLDER / "items.txt").read_text(encoding="utf-8").split():
        many, _, one = entry.replace("_", " ").partition("/")
        pairs[many] = one or singular(many)
    return tuple(pairs.items())


NAMES = read_words("names.txt")
ITEMS = _items()
PLACES = _bars("places.txt")
INGREDIENTS = _bars("ingredients.txt")
LENGTHS = ("meters", "m", "cm", "feet", "metres", "inches")

# beginnings, middles and ends of made-up syllables
_ONSETS, _VOWELS, _CODAS = (
    [part.strip("-") for part in line.split()] for line in _lines("syllables.txt")
)


def _made_up() -> tuple[str, ...]:
    rng = Random(20_25)
    words: set[str] = set()
    while len(words) < 6000:
        word = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            for _ in range(rng.choice((1, 2, 2, 2, 3)))
        )
        if 3 <= len(word) <= 11:
            words.add(word)
    return tuple(sorted(words))


MADE_UP = _made_up()


_NUMBERS = {
    "clock": (1, 12),
    "room": (2, 400),
    "year": (1950, 2040),
}  # numbers that don't matter to the question


def pick_name(rng: Random) -> str:
    """A first name, now and then a made-up one."""
    return rng.choice(NAMES) if rng.random() < 0.92 else rng.choice(MADE_UP).capitalize()


def pick_noun(rng: Random) -> tuple[str, str]:
    """Plural and singular of a noun, sometimes with an adjective, sometimes made up."""
    if rng.random() < 0.12:
        one = rng.choice(MADE_UP)
        return one + "s", one
    many, one = rng.choice(ITEMS)
    if rng.random() < 0.12:
        adjective = rng.choice(ADJECTIVES)
        return f"{adjective} {many}", f"{adjective} {one}"
    return many, one


def pick_text(rng: Random, slot: str) -> str:
    """A place, an ingredient or a unit."""
    if slot == "place":
        return rng.choice(PLACES) if rng.random() < 0.9 else "the " + rng.choice(MADE_UP)
    if slot == "ingredient":
        return rng.choice(INGREDIENTS) if rng.random() < 0.85 else rng.choice(MADE_UP)
    if slot == "lu":
        return rng.choice(LENGTHS)
    if slot in _NUMBERS:
        return str(rng.randint(*_NUMBERS[slot]))
    if slot in ("su", "du"):
        return {"su": "km/h", "du": "km"}[slot]
    raise KeyError(
        f"questions: slot {slot!r} has no value. Give it in the task or correct the template."
    )


ADJECTIVES = read_words("adjectives.txt")


class Synonyms:
    """One pattern over all phrases, longest first."""

    def __init__(self, name: str) -> None:
        entries = (
            line.split(": ", 1) for line in _lines(name) if line and not line.startswith("#")
        )
        self.table = {phrase: tuple(others.split("|")) for phrase, others in entries}
        longest_first = sorted(self.table, key=len, reverse=True)
        self._pattern = re.compile(
            r"(?<![\w{])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w}])", re.I
        )

    def sub(self, replace: Callable[[re.Match[str]], str], text: str) -> str:
        """Replaces each phrase that occurs."""
        return self._pattern.sub(replace, text)


SYNONYMS = Synonyms("synonyms.txt")
