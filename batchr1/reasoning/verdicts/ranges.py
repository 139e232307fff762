"""Sets of real numbers with rational ends: intervals and unions.

A bound is (value, side): side -1 just below the value, 0 at it, +1 just above. So an open interval
(a, b) reaches from (a, +1) to (b, -1), and sets of intervals are compared in a unique form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from batchr1.reasoning.verdicts.exact import linear, rational
from batchr1.reasoning.verdicts.grammar.forms import (
    Interval,
    Quantity,
    Relation,
    Sequence_,
    Union,
    Value,
)
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of

Bound = tuple[Fraction | float, int]
Piece = tuple[Bound, Bound]


@dataclass(frozen=True, slots=True)
class Subject:
    """Symbol of a condition, as slope * x + shift.

    `is_absolute`: the absolute value of that.
    """

    name: str
    slope: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)
    is_absolute: bool = False

    def solved(self, piece: Piece) -> Piece:
        """Give a piece of the whole as one of the symbol."""
        if self.slope == 1 and self.shift == 0:
            return piece
        low, high = ((self._inverse(value), side) for value, side in piece)
        return (low, high) if self.slope > 0 else ((high[0], -high[1]), (low[0], -low[1]))

    def _inverse(self, value: Fraction | float) -> Fraction | float:
        if isinstance(value, float):
            return value if self.slope > 0 else -value
        return (value - self.shift) / self.slope


_BELOW: Bound = (-math.inf, 1)
_ABOVE: Bound = (math.inf, -1)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}


def pieces_of(value: Value) -> tuple[list[Piece], ...] | None:
    """Find the sets that a value may be, in their unique form.

    None for what is no set of reals. A list of inequalities may be meant with `or` or with `and`:
    then there are two.
    """
    if isinstance(value, Sequence_) and value.kind == "list":
        found = [_pieces(item) for item in value.items]
        if any(one is None for one in found) or not any(_is_range(item) for item in value.items):
            return None
        if len({name for item in value.items for name in _names(item)}) > 1:
            return None  # they are about different things
        sets = [one for one in found if one is not None]
        both = sets[0]
        for one in sets[1:]:
            both = _intersection(both, one)
        either = _normal([piece for one in sets for piece in one])
        if value.joint == "or" or not both:
            return (either,)
        if value.joint == "and" or either == [(_BELOW, _ABOVE)]:
            return (both,)
        return either, both
    single = _pieces(value)
    return None if single is None else (single,)


def _names(value: Value) -> frozenset[str]:
    """Symbols that a condition is about."""
    sides = value.sides if isinstance(value, Relation) else ()
    return frozenset().union(*(symbols_of(one.node) for one in sides if isinstance(one, Quantity)))


def _is_range(value: Value) -> bool:
    return isinstance(value, Interval | Union | Relation)


def _pieces(value: Value) -> list[Piece] | None:
    match value:
        case Interval():
            return _interval(value.low, value.high, value.has_low, value.has_high)
        case Sequence_("tuple" | "square" as kind, items) if len(items) == 2:
            ends = [item.node for item in items if isinstance(item, Quantity)]
            has_ends = kind == "square"
            return _interval(ends[0], ends[1], has_ends, has_ends) if len(ends) == 2 else None
        case Sequence_("set", items):
            points = [rational(i.node) for i in items if isinstance(i, Quantity)]
            if len(points) < len(items) or None in points:
                return None
            return _normal([((p, 0), (p, 0)) for p in points if p is not None])
        case Union():
            return _combined(value)
        case Relation():
            return _condition(value)
    return None


def _interval(low: Node, high: Node, has_low: bool, has_high: bool) -> list[Piece] | None:
    a, b = _end(low), _end(high)
    if a is None or b is None:
        return None
    begin = (a, 0 if has_low and is_finite(a) else 1)
    end = (b, 0 if has_high and is_finite(b) else -1)
    return _normal([(begin, end)])


def is_finite(end: Fraction | float) -> bool:
    """Whether an end is a number; fractions may be beyond all floats."""
    return not isinstance(end, float) or math.isfinite(end)


def _end(node: Node) -> Fraction | float | None:
    if node == ("const", "inf"):
        return math.inf
    if node == ("neg", ("const", "inf")):
        return -math.inf
    return rational(node)


def _combined(value: Union) -> list[Piece] | None:
    found = [_pieces(part) for part in value.parts]
    sets = [one for one in found if one is not None]
    if len(sets) < len(found):
        return None
    if value.operation == "cup":
        return _normal([piece for one in sets for piece in one])
    result = sets[0]
    for one in sets[1:]:
        result = _intersection(result, one if value.operation == "cap" else _complement(one))
    return result


def _condition(value: Relation) -> list[Piece] | None:
    """Solve a chain (`-2 < x \\le 7`) for its symbol."""
    result: list[Piece] = [(_BELOW, _ABOVE)]
    names: set[str] = set()
    for left, sign, right in zip(value.sides, value.signs, value.sides[1:], strict=False):
        if sign not in _FLIPPED or not (isinstance(left, Quantity) and isinstance(right, Quantity)):
            return None
        subject = subject_of(left.node)
        if subject is not None:
            end = _end(right.node)
        else:
            subject, end, sign = subject_of(right.node), _end(left.node), _FLIPPED[sign]
        if subject is None or end is None:
            return None
        names.add(subject.name)
        half = _half(sign, end)
        if subject.is_absolute:
            half = _mirrored(sign, half)
        half = [subject.solved(piece) for piece in half]
        result = _intersection(result, half)
    return result if len(names) == 1 else None


def subject_of(node: Node) -> Subject | None:
    """Find the symbol of a condition.

    None where it is not linear in one.
    """
    if node[0] == "abs":
        inner = subject_of(node[1])
        return None if inner is None else replace(inner, is_absolute=True)
    if node[0] == "sym":
        return Subject(str(node[1]))
    if node[0] == "mul" and node[1][0] == node[2][0] == "sym" and node[1][1] in "fgh":
        return Subject(f"{node[1][1]}({node[2][1]})")
    line = linear(node)
    return None if line is None else Subject(*line)


def _mirrored(sign: str, half: list[Piece]) -> list[Piece]:
    """Mirror at zero what is said of an absolute value."""
    mirrored = _normal([((-high[0], -high[1]), (-low[0], -low[1])) for low, high in half])
    if sign in ("<", "<=", "!="):
        return _intersection(half, mirrored)
    return _normal([*half, *mirrored])


def _half(sign: str, end: Fraction | float) -> list[Piece]:
    match sign:
        case "<":
            return [(_BELOW, (end, -1))]
        case "<=":
            return [(_BELOW, (end, 0) if is_finite(end) else _ABOVE)]
        case ">":
            return [((end, 1), _ABOVE)]
        case ">=":
            return [((end, 0) if is_finite(end) else _BELOW, _ABOVE)]
        case "!=":
            return [(_BELOW, (end, -1)), ((end, 1), _ABOVE)]
    return [((end, 0), (end, 0))]


def _normal(pieces: Sequence[Piece]) -> list[Piece]:
    """Sorted, without empty pieces, and with those that touch made one."""
    found: list[Piece] = []
    for low, high in sorted(piece for piece in pieces if piece[0] <= piece[1]):
        if found and low <= (found[-1][1][0], found[-1][1][1] + 1):
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _intersection(a: Sequence[Piece], b: Sequence[Piece]) -> list[Piece]:
    return _normal([(max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b])


def _complement(pieces: Sequence[Piece]) -> list[Piece]:
    found: list[Piece] = []
    begin = _BELOW
    for low, high in pieces:
        found.append((begin, (low[0], low[1] - 1)))
        begin = (high[0], high[1] + 1)
    return _normal([*found, (begin, _ABOVE)])
