"""Numbers written with their base: 52_8, 10101 in base two.

The base may be left out where the digits are the right ones. The value alone in another base, or
the digits alone where the right answer has no base, settle nothing: which form is asked for, only
the question says.
"""

from __future__ import annotations

import re

_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen"
)
_BASE_NAMES = {name: str(number) for number, name in enumerate(_COUNTING.split())}
_BASE_NAMES |= {"binary": "2", "octal": "8", "decimal": "10", "hexadecimal": "16", "hex": "16"}
_NAME = "|".join(sorted(_BASE_NAMES, key=len, reverse=True))
_BASED = re.compile(
    r"(?P<sign>-?)(?P<digits>[0-9A-Za-z.]{1,400})_"
    rf"(?:\{{(?P<long>\d{{1,2}}|{_NAME})\}}|(?P<short>\d\d?))",
    re.IGNORECASE,
)
_PREFIXED = re.compile(r"(?P<sign>-?)0(?P<base>[xXbBoO])(?P<digits>[0-9A-Fa-f]{1,400})")
_BASES = {"x": "16", "b": "2", "o": "8"}
_PLAIN = re.compile(r"-?[0-9A-Fa-f]{1,400}")
_TEXT_GROUP = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_LOOKS = re.compile(r"\\[,!;: ]|\$|\s+")
_GROUPING = re.compile(r"(?<=[0-9A-F])(?:,| )(?=[0-9A-F]{3,}\b|[0-9A-F]{3,}_)")
_IN_BASE = re.compile(rf"\(?(?:in\s*)?base\s*-?(\d+|{_NAME})\)?", re.IGNORECASE)


def same_in_base(final: str, gold: str) -> tuple[bool, bool | None]:
    """Compare numbers with a base: whether they are any, and whether equal."""
    mine, right = _read(final), _read(gold)
    if mine is None and right is None:
        return False, None
    if mine is not None and right is not None:
        if mine[1] == right[1]:
            return True, mine[0] == right[0]
        return True, None if _value(*mine) == _value(*right) else False
    based, other = (mine or right), _bare(gold if right is None else final)
    if based is None or not _PLAIN.fullmatch(other):
        return False, None
    if other.upper() == based[0]:
        return True, True if right is not None or based[1] == "10" else None
    return True, None if _value(*based) in (None, _value(other, "10")) else False


def _read(text: str) -> tuple[str, str] | None:
    """Digits with their sign, and the base in digits."""
    bare = _bare(text)
    if prefixed := _PREFIXED.fullmatch(bare):
        base = _BASES[prefixed["base"].lower()]
        if _value(prefixed["digits"], base) is None:
            return None
        return prefixed["sign"] + (prefixed["digits"].upper().lstrip("0") or "0"), base
    match = _BASED.fullmatch(bare)
    if match is None:
        return None
    base = (match["long"] or match["short"]).lower()
    base = _BASE_NAMES.get(base, base)
    digits = match["digits"]
    is_number = digits.replace(".", "").isdigit()
    is_hex = base == "16" and len(digits) > 1 and digits.isupper()
    has_digits = any(map(str.isdigit, digits)) or is_hex
    has_digits = has_digits and _value(digits, base) is not None
    if not is_number and not has_digits:  # letters are digits beside digits only: A3
        return None
    return match["sign"] + digits.upper(), base


def _value(digits: str, base: str) -> int | None:
    """Value of whole digits; None where a digit is beyond the base."""
    try:
        return int(digits, int(base))
    except ValueError:
        return None


def _bare(text: str) -> str:
    """A text without brackets, spaces and fonts, its base as a subscript."""
    text = _TEXT_GROUP.sub(r"\1", text)
    text = _IN_BASE.sub(lambda m: "_{" + m[1] + "}", _LOOKS.sub(" ", text))
    text = _GROUPING.sub("", text).replace("_{_", "_")
    text = re.sub(r"\s*([_{}()])\s*", r"\1", text).strip(" .")
    return re.sub(r"^\(([^(),]*)\)", r"\1", text)
