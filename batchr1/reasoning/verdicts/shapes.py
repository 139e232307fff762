"""Values in another shape: a relation as interval, a matrix as vector."""

from __future__ import annotations

from fractions import Fraction
from math import floor, log10

from batchr1.reasoning.verdicts.exact import rational
from batchr1.reasoning.verdicts.grammar.forms import (
    Interval,
    Matrix,
    Quantity,
    Ratio,
    Relation,
    Sequence_,
    Union,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of

TURNED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def in_radians(node: Node) -> Node:
    return ("mul", node, ("div", ("const", "pi"), ("num", Fraction(180))))


def node_of(value: Value) -> Node:
    return value.node if isinstance(value, Quantity) else ()


def magnitude(value: Fraction) -> int:
    """The power of ten of the first digit."""
    size = abs(value)
    guess = floor(log10(size.numerator) - log10(size.denominator))
    while Fraction(10) ** (guess + 1) <= size:
        guess += 1
    while Fraction(10) ** guess > size:
        guess -= 1
    return guess


def named(value: Relation) -> tuple[str, Value] | None:
    """Split `x = 5` or `f(x) = 2x` into name and value."""
    if value.signs != ("=",):
        return None
    left, right = value.sides
    for name, other in ((left, right), (right, left)):
        if isinstance(name, Words):
            return " ".join(name.words), other
        if name is left and _is_point(name):
            return "tuple", other
        node = node_of(name)
        if node and node[0] == "sym":
            return str(node[1]), other
        if name is left and _is_measure(name):
            return "measure", other
        is_call = node and node[0] == "mul" and node[1][0] == node[2][0] == "sym"
        if is_call and name is left:
            return "y" if node[1][1] in ("f", "g", "h") else str(node[1][1]), other
    return None


def _is_point(value: Value) -> bool:
    """Whether a side is `(x, y)`."""
    if not isinstance(value, Sequence_) or value.kind != "tuple":
        return False
    return all(node_of(item)[:1] == ("sym",) for item in value.items)


def _is_measure(value: Value) -> bool:
    """Whether a side is a length, a ratio or a fraction of things with capital letters."""
    if isinstance(value, Ratio):
        nodes = [part.node for part in value.parts]
    else:
        node = node_of(value)
        nodes = [node] if node and node[0] in ("abs", "div") else []
    names = [name for node in nodes for name in symbols_of(node)]
    return bool(names) and all(name[0].isupper() for name in names)


def is_condition(value: Value) -> bool:
    if isinstance(value, Relation):
        return any(sign in ("<", ">", "<=", ">=", "!=") for sign in value.signs)
    return has_ranges(value)


def has_ranges(value: Value) -> bool:
    return isinstance(value, Sequence_) and any(
        isinstance(item, Interval | Union) or (isinstance(item, Relation) and is_condition(item))
        for item in value.items
    )


def as_interval(value: Value) -> Interval | None:
    if isinstance(value, Interval):
        return value
    if isinstance(value, Relation):
        return _chain_as_interval(value)
    if isinstance(value, Sequence_) and value.kind in ("tuple", "square") and len(value.items) == 2:
        low, high = (node_of(item) for item in value.items)
        is_closed = value.kind == "square"
        return Interval(low, high, is_closed, is_closed) if low and high else None
    return None


def _chain_as_interval(value: Relation) -> Interval | None:
    """`a < x \\le b`, or one end alone, as an interval."""
    nodes = [node_of(side) for side in value.sides]
    signs = [sign for sign in value.signs if sign in ("<", "<=")]
    if () in nodes or len(nodes) not in (2, 3):
        return None
    if len(signs) < len(value.signs):
        if not all(sign in (">", ">=") for sign in value.signs):
            return None
        nodes, signs = nodes[::-1], [turned(sign) for sign in value.signs[::-1]]
    infinite: Node = ("const", "inf")
    if len(nodes) == 2:
        if nodes[0][0] == "sym":
            nodes, signs = [("neg", infinite), *nodes], ["<", *signs]
        else:
            nodes, signs = [*nodes, infinite], [*signs, "<"]
    if nodes[1][0] != "sym" or symbols_of(nodes[0]) | symbols_of(nodes[2]):
        return None
    return Interval(nodes[0], nodes[2], signs[0] == "<=", signs[1] == "<=")


def vector_of(matrix: Matrix) -> tuple[Value, ...]:
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(r) == 1 for r in matrix.rows) else ()


def same_time(final: Ratio, gold: Ratio) -> bool:
    """Compare two times of day.

    Without am or pm, one up to 12 may be either.
    """
    mine, right = _minutes(final), _minutes(gold)
    if mine is None or right is None:
        return False
    if mine == right:
        return True
    is_open = (not final.suffix and mine <= 720) or (not gold.suffix and right <= 720)
    return bool(final.suffix) != bool(gold.suffix) and is_open and (mine - right) % 720 == 0


def _minutes(value: Ratio) -> Fraction | None:
    hours, minutes = (rational(part.node) for part in value.parts)
    if hours is None or minutes is None:
        return None
    if value.suffix:
        hours = hours % 12 + (12 if value.suffix == "pm" else 0)
    return hours * 60 + minutes


def turned(sign: str) -> str:
    return TURNED.get(sign, sign)
