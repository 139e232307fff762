r"""Values of several parts: `1 hour 30 minutes`, `3 \pmod 7`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.exact import rational
from batchr1.reasoning.verdicts.grammar.forms import (
    Quantity,
    Ratio,
    Relation,
    Residue,
    Sequence_,
    Value,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token
from batchr1.reasoning.verdicts.grammar.trees import symbols_of
from batchr1.reasoning.verdicts.grammar.units import DEGREE, Unit, unit_of

_HALVES = {"am": "am", "pm": "pm", "noon": "pm", "midnight": "am"}
_MODS = ("pmod", "bmod", "mod", "pod")
_ARC = {"'": Fraction(1, 60), "''": Fraction(1, 3600), '"': Fraction(1, 3600)}


def half_of_day(tokens: Sequence[Token]) -> tuple[str, list[Token]]:
    """Split off am or pm: which it is, and the other tokens."""
    said = "".join(t.text.lower() for t in tokens if t.kind in ("word", "letters"))
    half = _HALVES.get(said.replace(".", ""), "")
    if not half:
        return "", list(tokens)
    return half, [t for t in tokens if t.kind not in ("word", "letters") and t.text != "."]


def clock_of(tokens: Sequence[Token]) -> Ratio | None:
    """Read an hour of the day: `3 p.m.`.

    Letters right behind a number are a product.
    """
    half, rest = half_of_day(tokens)
    if not half or len(rest) != 1 or tokens[0].kind != "num":
        return None
    hour, behind = tokens[0].value, tokens[1]
    if hour not in range(1, 13) or (behind.kind == "letters" and not behind.gap):
        return None
    zero = Quantity(("num", Fraction(0)))
    return Ratio((Quantity(("num", hour)), zero), half, is_time=True)


def compound_of(tokens: Sequence[Token]) -> Quantity | None:
    """Read a measure in several units of one kind.

    The larger unit stands first. None of anything else.
    """
    pieces = _pieces(tokens)
    if pieces is None or len(pieces) < 2:
        return None
    total, smallest = Fraction(0), pieces[-1][1]
    for number, (value, unit) in enumerate(pieces):
        if unit.powers != smallest.powers:
            return None
        if number and unit.factor >= pieces[number - 1][1].factor:
            return None
        total += value * unit.factor
    return Quantity(("num", total / smallest.factor), smallest)


def _pieces(tokens: Sequence[Token]) -> list[tuple[Fraction, Unit]] | None:
    """Numbers, each with the unit behind it."""
    found: list[tuple[Fraction, Unit]] = []
    at = 0
    while at < len(tokens):
        if tokens[at].text == "and" and found:
            at += 1
        end = at + 1
        while end < len(tokens) and tokens[end].kind != "num" and tokens[end].text != "and":
            end += 1
        if at >= len(tokens) or tokens[at].kind != "num" or len(found) > 3:
            return None
        unit = _unit(tokens[at + 1 : end], found)
        if unit is None:
            return None
        found.append((tokens[at].value or Fraction(0), unit))
        at = end
    return found


def _unit(tokens: Sequence[Token], before: Sequence[tuple[Fraction, Unit]]) -> Unit | None:
    texts = "".join(token.text for token in tokens)
    if before and before[0][1].powers == DEGREE.powers and texts.strip("{}^") in (*_ARC, "prime"):
        return Unit(DEGREE.powers, _ARC.get(texts, _ARC["'"]))
    feet = (("m", 1),)
    if texts == "'" and not before:
        return Unit(feet, Fraction(381, 1250))
    if texts in ("''", '"') and before and before[0][1].powers == feet:
        return Unit(feet, Fraction(127, 5000))
    if not tokens or any(t.kind == "op" and t.text not in "^{}." for t in tokens):
        return None
    try:
        return unit_of(tokens)
    except GiveUpError:
        return None


def modulus_at(tokens: Sequence[Token]) -> tuple[int, int] | None:
    """Find where a final `(mod n)` begins, and its n."""
    for index, token in enumerate(tokens):
        if token.text in _MODS and token.kind in ("cmd", "letters", "word"):
            rest = [one for one in tokens[index + 1 :] if one.text not in "(){}."]
            begin = index - 1 if index and tokens[index - 1].text == "(" else index
            if len(rest) == 1 and rest[0].text.isdigit() and begin:
                return begin, int(rest[0].text)
            return None
    return None


def residue_of(value: Value, modulus: int) -> Value:
    """Put a value, or each of a list, under a modulus.

    Raises `GiveUpError` where one is no whole number.
    """
    if isinstance(value, Residue):
        return value
    if isinstance(value, Sequence_) and value.kind == "list":
        return Sequence_("list", tuple(residue_of(item, modulus) for item in value.items))
    if isinstance(value, Relation) and set(value.signs) <= {"==", "="}:
        left = value.sides[0]
        if isinstance(left, Quantity) and left.node[0] != "sym" and symbols_of(left.node):
            raise GiveUpError("a residue of an expression")
        value = value.sides[-1]
    number = rational(value.node) if isinstance(value, Quantity) else None
    if number is None or number.denominator != 1 or not modulus:
        raise GiveUpError("a residue that is no whole number")
    return Residue(int(number), modulus)
