"""Numbers, days and dates in words: twenty-five, third, May 12th."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.scan import Token, word_set

_SMALL_TEXT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_SMALL = _SMALL_TEXT.split()
_TENS_TEXT = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = _TENS_TEXT.split()
_VALUES = {word: number for number, word in enumerate(_SMALL)}
_VALUES |= {word: 10 * number for number, word in enumerate(_TENS, 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9}
_ORDINALS |= {"twelfth": 12}
_ORDINALS |= {f"{w}th": n for w, n in _VALUES.items() if n not in (1, 2, 3, 5, 8, 9, 12)}
_ORDINALS |= {f"{word[:-1]}ieth": number for word, number in _VALUES.items() if word in _TENS}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
_MONTHS_TEXT = (
    "january february march april may june july august september october november december"
)
_MONTHS = _MONTHS_TEXT.split()
_DAYS_TEXT = "monday tuesday wednesday thursday friday saturday sunday"
_DAYS = _DAYS_TEXT.split()
_SHORT = {name[:3]: name for name in [*_MONTHS, *_DAYS]}
_SHORT |= {"sept": "september", "tues": "tuesday", "thur": "thursday", "thurs": "thursday"}
_FILLING = word_set("on the of")
_DAY = re.compile(r"[1-9]|[12]\d|3[01]")
_YEAR = re.compile(r"[12]\d{3}")


def number_in_words(words: Sequence[str]) -> Fraction | None:
    """Read a number in words; None of other words."""
    said = [part for word in words for part in word.lower().split("-") if part != "and"]
    if not said or len(said) > 20:
        return None
    if said in (["dozen"], ["a", "dozen"], ["one", "dozen"]):
        return Fraction(12)
    below = _PARTS.get(said[-1]) or _parts_named(said[-1])
    if below is not None:
        above = 1 if said[:-1] in ([], ["a"], ["one"]) else _whole(said[:-1])
        is_part = said[-1] in _PARTS or len(said) > 1
        return None if above is None or not is_part else Fraction(above, below)
    found = _whole(said)
    return None if found is None else Fraction(found)


def ordinal_in_words(words: Sequence[str]) -> int | None:
    """Read an ordinal: third, twenty-first."""
    said = [part for word in words for part in word.lower().split("-")]
    if not said or said[-1] not in _ORDINALS:
        return None
    tens = _VALUES.get(said[0], 0) if len(said) == 2 else 0
    if len(said) > 2 or (len(said) == 2 and (said[0] not in _TENS or _ORDINALS[said[1]] > 9)):
        return None
    return tens + _ORDINALS[said[-1]]


def _parts_named(word: str) -> int | None:
    """Read the denominator of two thirds, one fifth."""
    single = word.removesuffix("s")
    number = _ORDINALS.get(single)
    return number if number is not None and number > 2 else None


def _whole(said: Sequence[str]) -> int | None:
    total, group, last = 0, 0, 1000
    for word in said:
        if word == "a" and not group and not total:
            group = 1
        elif word == "hundred" and 0 < group < 10:
            group, last = 100 * group, 100
        elif word in _SCALES and group:
            total, group, last = total + group * _SCALES[word], 0, 1000
        elif word in _VALUES:
            value = _VALUES[word]
            is_next = last >= 100 or (last == 20 and 0 < value < 10)
            if not is_next:
                return None
            group += value
            last = 20 if word in _TENS else 10
        else:
            return None
    return total + group if total + group or said[:1] == ["zero"] else None


def said_as_one(tokens: Sequence[Token]) -> tuple[str, ...] | None:
    """Read numbers and dates, whose commas and `and` make no list."""
    if all(token.kind in ("word", "letters") for token in tokens):
        words = tuple(token.text.lower() for token in tokens)
        if len(words) > 2 and "and" in words and number_in_words(words) is not None:
            return words
    return calendar_words(tokens)


def _year_first(tokens: Sequence[Token]) -> tuple[str, ...] | None:
    """Read 2020-01-31, which is no subtraction."""
    texts = [token.text for token in tokens]
    if len(texts) != 5 or texts[1] != "-" or texts[3] != "-" or any(t.gap for t in tokens[1:]):
        return None
    year, month, day = texts[::2]
    is_date = _YEAR.fullmatch(year) and len(month) == len(day) == 2
    if not is_date or not (month.isdigit() and 1 <= int(month) <= 12):
        return None
    return (_MONTHS[int(month) - 1], day.lstrip("0"), year) if day.isdigit() else None


def calendar_words(tokens: Sequence[Token]) -> tuple[str, ...] | None:
    """Read a day of the week or a date.

    A date is month, day and year, where given. None of other tokens.
    """
    if (dated := _year_first(tokens)) is not None:
        return dated
    if not any(token.kind in ("word", "letters") for token in tokens) or len(tokens) > 9:
        return None
    month = day = year = weekday = None
    for token in tokens:
        text = token.text.lower().rstrip(".")
        name = _SHORT.get(text, text)
        if name in _MONTHS and month is None and (name != "may" or token.text[0] == "M"):
            month = name
        elif name in _DAYS and weekday is None:
            weekday = name
        elif token.kind == "num" and _DAY.fullmatch(text) and day is None:
            day = text
        elif token.kind == "num" and _YEAR.fullmatch(text) and year is None:
            year = text
        elif text not in _FILLING and text not in (",", ".", ""):
            return None
    if month is not None and (day or year):
        return tuple(one for one in (weekday, month, day, year) if one is not None)
    if weekday is not None and month is day is year is None:
        return (weekday,)
    return (month,) if month is not None and weekday is None else None
