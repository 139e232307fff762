"""What happens to a question after the template is filled: text around it, typos, unknown words,
odd symbols.
"""

from __future__ import annotations

import re
from random import Random

from recipes.r1_tiny.lexicon import MADE_UP, read_words
from recipes.r1_tiny.questions import Bank

# words that decide what is asked: never replaced by made-up ones (also every word of up to three
# letters)
_KEYWORDS = frozenset(read_words("keywords.txt"))
_AFTER = re.compile(
    r"\b(the|a|an|of|his|her|their|our|my|some|this|in|at|for|to|new) ([a-z]{4,})\b"
)
_WORD = re.compile(r"[A-Za-z]{4,}")
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_DROP = re.compile(r"\b(?:the|a|an|of|please|that|some|will|is|are|does|do|has) ", re.I)


def typo(rng: Random, word: str) -> str:
    """A word with two letters swapped, one dropped, doubled or changed; the first letter mostly
    stays.
    """
    i = rng.randrange(1, len(word) - 1)
    kind = rng.random()
    if kind < 0.35:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind < 0.7:
        return word[:i] + word[i + 1 :]
    if kind < 0.85:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[i + 1 :]


_NUMBER_WORD = re.compile(
    r"(?i)four|five|nine|seven|eight|three|eleven|twelve|twice|thrice|double|triple|hundred|\w+(teen|ty)"
)


def _typo_or_not(rng: Random, word: str) -> str:
    keep = rng.random() >= 0.1 or _NUMBER_WORD.fullmatch(word)
    return word if keep else typo(rng, word)


def strange_words(rng: Random, text: str) -> str:
    """Replaces words that don't decide what is asked by made-up ones."""
    chosen = {
        word: rng.choice(MADE_UP) + ("s" if word.endswith("s") else "")
        for _, word in _AFTER.findall(text)
        if word not in _KEYWORDS and rng.random() < 0.5
    }
    if not chosen:
        return text
    return re.sub(r"\b(?:" + "|".join(chosen) + r")\b", lambda m: chosen[m.group(0)], text)


def wrap(rng: Random, bank: Bank, question: str) -> str:
    """Sometimes a lead-in, an aside without numbers, a closing phrase."""
    kind = rng.random()
    if kind < 0.09:
        aside = bank.phrase(rng, "aside" if kind < 0.07 else "aside_number")
        cuts = [m.start() for m in _SENTENCE_END.finditer(question)]
        spot = rng.random()
        if cuts and spot < 0.5:
            cut = rng.choice(cuts)
            question = f"{question[:cut]} {aside}{question[cut:]}"
        else:
            question = f"{aside} {question}" if spot < 0.85 else f"{question} {aside}"
    if rng.random() < 0.14:
        lead = bank.phrase(rng, "lead")
        body = question if rng.random() < 0.7 else question[0].lower() + question[1:]
        question = lead + rng.choice((" ", " ", " ", "\n")) + body
    if rng.random() < 0.1:
        question = question + rng.choice((" ", " ", "\n")) + bank.phrase(rng, "tail")
    return question


def disturb(rng: Random, question: str, upper: bool) -> str:
    """Sometimes typos, unknown or missing words, other case, missing end."""
    kind = rng.random()
    if kind < 0.13:
        question = strange_words(rng, question)
    elif kind < 0.24:
        question = _WORD.sub(lambda m: _typo_or_not(rng, m.group(0)), question)
    elif kind < 0.29:
        question = _DROP.sub(lambda m: "" if rng.random() < 0.4 else m.group(0), question)
    kind = rng.random()
    if kind < 0.07:
        question = question.lower()
    elif kind < 0.075 and upper:
        question = question.upper()
    elif kind < 0.13:
        question = question.rstrip(".?!:")
    elif kind < 0.15:
        question = question.replace("'", "’")
    elif kind < 0.165:
        question = question.replace(". ", ".\n")
    return question
