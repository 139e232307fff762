r"""Final answer of a text, and whether it is the right one.

Everything is linear in the length of the text and accepts any text, because the text comes from a
model. `is_correct` compares numbers exactly and everything else as normalised LaTeX; it knows no
algebra.
"""

from __future__ import annotations

import re
from fractions import Fraction

# A box without braces is taken for an answer only if it reads like one: `\boxed 5`,
# `\boxed\frac12`, `\boxed A`.
_BARE = (
    r"[-+\u2212]?(?:[0-9][0-9.,/]*|\.[0-9]+|\\[dt]?frac(?:\{[^{}]*\}\{[^{}]*\}|[0-9]{2})"
    r"|\\pi\b|[A-E]\b)"
)
_BOX = rf"\\(?:boxed|fbox)(?![A-Za-z])[ \t\n]*(?:(?P<open>\{{)|(?P<bare>{_BARE}))?"
_BOX_TOKEN = re.compile(rf"{_BOX}|\\.|[{{}}]", re.DOTALL)

_MAX_NUMBER_CHARS = 1000  # a longer one is compared as text; int() refuses more than 4,300 digits
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+")
_RATIO = re.compile(
    rf"(?P<whole>{_DIGITS})?\\frac\{{(?P<a>[-+]?[0-9.,]+)\}}\{{(?P<b>[-+]?[0-9.,]+)\}}"
)
_SLASH = re.compile(r"(?P<a>[0-9.,]+)/(?P<b>[-+]?[0-9.,]+)")

_TEXT = (
    r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|mbox|hbox|operatorname)[ "
    r"]?\{([^{}]*)\}"
)
_TEXT_GROUP = re.compile(_TEXT)
_UNITS = re.compile(rf"(?: ?{_TEXT}(?:\^\{{?[-+]?[0-9]\}}?)?)+$")
_SPACING = re.compile(r"\\(?:[,;:!> ]|q?quad(?![A-Za-z])) ?|~")
_SPACE = re.compile(
    r"(?<![0-9]) | (?![0-9])"
)  # white space means something between two numbers only
_SIZING = re.compile(r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_PART = r" ?(?:\{([^{}]*)\}|([0-9]))"
_PLAIN_FRAC = re.compile(rf"\\frac{_PART}{_PART}")
_SHORT_ROOT = re.compile(r"\\sqrt ?([0-9])")
_CHOICE = re.compile(r"\(([A-Z])\)")
_DEGREES = re.compile(r"\^(?:\\circ|\{\\circ\})(?![A-Za-z])|\u00b0")
_DEFINITION = re.compile(r"[A-Za-z](?:_\{?[A-Za-z0-9]{1,8}\}?)?(?:\([A-Za-z]\))?=")
_MINUS = str.maketrans(
    {"\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " "}
)
MAX_BOXES = 20  # that are one answer
_NAME = r"(?:\s?[A-Za-z](?:_\{?\w{1,4}\}?)?\s?(?:=|\\approx)\s?)?"
_JOINT = re.compile(  # what may stand between two boxes of one answer, at the end of a text
    r"\}\s?(?:\$|\\\)|\\\])?[ \t\n]{0,3}"
    r"(?:,|;|(?:,\s?)?\\?(?:and|or|text\{ ?(?:and|or) ?\}|quad)\b|&|和|或)"
    rf"[ \t\n]{{0,3}}(?:\$|\\\(|\\\[)?{_NAME}\s?$"
)
_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"))


def boxed_answer(text: str) -> str | None:
    r"""The content of the last complete box in `text`, or None.

    Knows `\boxed{…}` and `\fbox{…}` with nested and escaped braces, and `\boxed 5`. Of nested boxes
    the inner one counts; boxes that are empty or never closed do not.
    """
    best: tuple[int, str] | None = None
    open_braces: list[
        tuple[int, int] | None
    ] = []  # for a box: where its command and its content begin
    for token in _BOX_TOKEN.finditer(text):
        start, content = -1, ""
        if token["open"]:
            open_braces.append((token.start(), token.end()))
        elif token["bare"]:
            start, content = token.start(), token["bare"].rstrip(".,/")
        elif token[0] == "{":
            open_braces.append(None)
        elif (
            token[0] == "}"
            and open_braces
            and (box := open_braces.pop())
            and (best is None or box[0] > best[0])
        ):
            start, content = box[0], text[box[1] : token.start()].strip()
        if content:
            best = start, content
    return best[1] if best else None


def final_answer(answer: str | None) -> str | None:
    """Find the final answer in a text: its last box, else None."""
    return None if answer is None else last_answer(answer)


def last_answer(text: str) -> str | None:
    r"""Read the last box, with earlier boxes of the same answer.

    Of `\boxed{1} and \boxed{-2}` that is `1, -2`: only a sign, a word or a name stands between.
    """
    last = boxed_answer(text)
    if last is None:
        return None
    found = [last]
    before = text[: _last_box(text)]
    while len(found) < MAX_BOXES and (joint := _JOINT.search(before)) is not None:
        start = _last_box(before)
        content = boxed_answer(before[start:]) if start >= 0 else None
        if content is None or not before[: joint.start() + 1].endswith("}"):
            break
        found.append(content)
        before = before[:start]
    if len(set(found)) == 1:
        return last
    return ", ".join(reversed(found))


def _last_box(text: str) -> int:
    return max(text.rfind("\\boxed"), text.rfind("\\fbox"))


def is_correct(final: str | None, gold: str | None) -> bool | None:
    r"""Tell whether a final answer is right.

    None without a right answer, False without a final one. Answers are equal as exact numbers, or
    else as normalised LaTeX. A number may have thousands separators, a currency or per cent sign, a
    unit in `\text{}`, a name (`x = 5`), and be a fraction. `gold` may be boxed or follow `####`.
    """
    if gold is None:
        return None
    if final is None:
        return False
    as_numbers = same_number(final, gold)
    return (
        _compact(_clean(final)) == _compact(_clean(right_answer(gold)))
        if as_numbers is None
        else as_numbers
    )


def same_number(final: str, gold: str) -> bool | None:
    """Tell whether two answers are the same number, exactly.

    None when one of them is no number.
    """
    a, b = _number(_clean(final)), _number(_clean(right_answer(gold)))
    return None if a is None or b is None else a == b


def right_answer(gold: str) -> str:
    """Take a right answer out of its box or its solution.

    A solution ends with `#### answer`.
    """
    right = gold.rpartition("####")[2]
    return boxed_answer(right) or right


def answer_key(final: str) -> str:
    """Make a text that equal final answers share, by `is_correct`."""
    text = _clean(final)
    number = _number(text)
    return _compact(text) if number is None else str(number)


def _clean(text: str) -> str:
    """LaTeX without what only concerns its looks, on one line."""
    text = text.translate(_MINUS).replace("\\$", "").replace("$", "").strip()
    for begin, end in _DELIMITERS:
        if len(text) >= 4 and text.startswith(begin) and text.endswith(end):
            text = text[2:-2]
    text = text.replace("\\%", "").replace("%", "").replace("{,}", ",")
    text = _FRAC.sub(r"\\frac", _SIZING.sub("", _SPACING.sub("", text)))
    text = _PLAIN_FRAC.sub(r"\\frac{\1\2}{\3\4}", _SHORT_ROOT.sub(r"\\sqrt{\1}", text))
    return _DEGREES.sub("", " ".join(text.split())).strip().rstrip(".").rstrip()


def _compact(text: str) -> str:
    """Normalise cleaned LaTeX for comparison.

    White space without meaning, text groups and a leading name are dropped; `(A)` becomes `A`.
    """
    text = _SPACE.sub("", _TEXT_GROUP.sub(r"\1", text).strip())
    name = _DEFINITION.match(text)
    if name and "=" not in text[name.end() :]:
        text = text[name.end() :]
    text = text.rstrip(".").removeprefix("+")
    choice = _CHOICE.fullmatch(text)
    return choice[1] if choice else text


def _number(text: str) -> Fraction | None:
    """Read cleaned text as a number, with or without a unit."""
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    number = _fraction(_compact(text))
    return _fraction(_compact(_UNITS.sub("", text))) if number is None else number


def _fraction(text: str) -> Fraction | None:
    sign = -1 if text.startswith("-") else 1
    text = text[1:] if text[:1] in ("-", "+") else text
    if _DECIMAL.fullmatch(text):
        return sign * _decimal(text)
    match = _RATIO.fullmatch(text) or _SLASH.fullmatch(text)
    if match is None:
        return None
    parts = []
    for part in (match["a"], match["b"]):
        factor = -1 if part.startswith("-") else 1
        if not _DECIMAL.fullmatch(part.lstrip("+-")):
            return None
        parts.append(factor * _decimal(part.lstrip("+-")))
    if parts[1] == 0:
        return None
    whole = match.groupdict().get("whole")
    return sign * ((_decimal(whole) if whole else 0) + parts[0] / parts[1])


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))
