"""Values in another shape: a relation as interval, a matrix as vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor, log10

from batchr1.reasoning.verdicts.exact import exactly_equal, linear, rational
from batchr1.reasoning.verdicts.grammar.forms import (
    Interval,
    Matrix,
    Quantity,
    Ratio,
    Relation,
    Residue,
    Sequence_,
    Union,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import Node, renamed, symbols_of
from batchr1.reasoning.verdicts.renaming import holds

TURNED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def in_radians(node: Node) -> Node:
    return ("mul", node, ("div", ("const", "pi"), ("num", Fraction(180))))


def in_celsius(node: Node, scale: str) -> Node:
    """Give a temperature in degrees Celsius."""
    if scale == "kelvin":
        return ("add", node, ("num", Fraction("-273.15")))
    if scale == "fahrenheit":
        return ("mul", ("add", node, ("num", Fraction(-32))), ("num", Fraction(5, 9)))
    return node


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
        is_call = is_call and not {node[1][1], node[2][1]} <= set("xyz")  # a product
        if is_call and name is left:
            return "y" if node[1][1] in ("f", "g", "h") else str(node[1][1]), other
    return None


def _is_point(value: Value) -> bool:
    """Whether a side is `(x, y)`."""
    if not isinstance(value, Sequence_) or value.kind != "tuple":
        return False
    return all(node_of(item)[:1] == ("sym",) for item in value.items)


def _is_measure(value: Value) -> bool:
    """Whether a side measures things with capital letters."""
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


def name_of(item: Value) -> tuple[str, Value] | None:
    """Split an item of a list into name and value."""
    return named(item) if isinstance(item, Relation) else None


def names_of(items: Sequence[Value]) -> dict[str, Value] | None:
    """Values by name, where each item has a name of its own."""
    found = [pair for item in items if (pair := name_of(item)) is not None]
    names = dict(found)
    return names if len(names) == len(items) else None


def things_of(items: Sequence[Value]) -> dict[str, Value] | None:
    """Quantities by the things that they count: 3 apples, 4 pears."""
    found = {item.said: item for item in items if isinstance(item, Quantity) and item.said}
    return dict(found) if len(found) == len(items) else None


def are_labels(items: Sequence[Value]) -> bool:
    """Whether a list is of capital letters whose order may count.

    Two letters in their order are a choice of several.
    """
    names = [str(node[1]) for item in items if (node := node_of(item))[:1] == ("sym",)]
    if len(names) < len(items) or not all(len(n) == 1 and n.isupper() for n in names):
        return False
    return len(names) > 2 or names != sorted(names)


def letters_of(value: Sequence_) -> str | None:
    """Join the letters of `D, C, B, A`, in lower case."""
    nodes = [_letter(item) for item in value.items]
    if value.kind == "set" or len(nodes) < 2:
        return None
    if not all(node[:1] in (("sym",), ("const",)) and len(node[1]) == 1 for node in nodes):
        return None
    return "".join(node[1] for node in nodes).lower()


def _letter(item: Value) -> Node:
    if isinstance(item, Words) and len(item.words) == 1:
        return ("sym", item.words[0])
    return node_of(item)


def parts_of_vector(node: Node, size: int) -> tuple[Value, ...]:
    r"""Components of `3\mathbf{i} - \mathbf{j}`; else none."""
    if not 1 < size < 4:
        return ()
    names = ("i", "j", "k")[:size]
    leaves = [_unit_vector(node, name) for name in names]
    is_vector = any(holds(node, leaf) for leaf in leaves if leaf != ("const", "i"))
    if not is_vector:
        return ()
    zero: Node = ("num", Fraction(0))
    parts = []
    for leaf in leaves:
        part = renamed(node, leaf, ("num", Fraction(1)))
        for other in leaves:
            part = renamed(part, other, zero)
        parts.append(part)
    total: Node = zero
    for part, leaf in zip(parts, leaves, strict=True):
        total = ("add", total, ("mul", part, leaf))
    try:
        is_sum = exactly_equal(total, node)
    except GiveUpError:
        return ()
    return tuple(Quantity(part) for part in parts) if is_sum else ()


def _unit_vector(node: Node, name: str) -> Node:
    """Find how a tree writes a unit vector."""
    forms: list[Node] = [("sym", f"{over} {name}") for over in ("hat", "vec", "widehat")]
    forms += [("const", "i")] if name == "i" else []
    return next((form for form in forms if holds(node, form)), ("sym", name))


def vector_of(matrix: Matrix) -> tuple[Value, ...]:
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return tuple(row[0] for row in matrix.rows) if all(len(r) == 1 for r in matrix.rows) else ()


def rows_of(value: Sequence_) -> tuple[tuple[Value, ...], ...] | None:
    """Rows of `[[1, 2], [3, 4]]`, in round or square brackets."""
    rows = [item.items for item in value.items if isinstance(item, Sequence_)]
    kinds = {value.kind, *(item.kind for item in value.items if isinstance(item, Sequence_))}
    is_nested = value.kind in ("tuple", "square") and len(rows) == len(value.items) > 1
    if not is_nested or not kinds <= {"tuple", "square"} or len({len(row) for row in rows}) > 1:
        return None
    return tuple(rows)


def same_residue(final: Value, gold: Value) -> bool | None:
    """Compare classes of whole numbers.

    A number alone is one only as it is written.
    """
    if isinstance(final, Residue) and isinstance(gold, Residue):
        is_same = final.modulus == gold.modulus
        return is_same and (final.value - gold.value) % gold.modulus == 0
    residue, other = (gold, final) if isinstance(gold, Residue) else (final, gold)
    assert isinstance(residue, Residue)
    if isinstance(other, Relation) and other.signs == ("=",):
        other = other.sides[1]
    if isinstance(other, Words):
        return False
    if not isinstance(other, Quantity):
        return None
    number = rational(other.node)
    if number is None and (line := linear(other.node)) is not None:
        _, slope, number = line
        return abs(slope) == residue.modulus and (number - residue.value) % residue.modulus == 0
    if number is None:
        return None
    if number == residue.value:
        return True
    return None if (number - residue.value) % residue.modulus == 0 else False


def same_named_sets(final: Union, gold: Union) -> bool | None:
    """Compare sets that are made of letters.

    They are equal where they agree on every member. None where they hold anything else.
    """
    names = sorted(_set_names(final) | _set_names(gold))
    if "" in names or len(names) > 6:
        return None
    for bits in range(2 ** len(names)):
        within = {name for place, name in enumerate(names) if bits >> place & 1}
        if _is_member(final, within) != _is_member(gold, within):
            return False
    return True


def _set_names(value: Value) -> set[str]:
    if isinstance(value, Union):
        return {name for part in value.parts for name in _set_names(part)}
    node = node_of(value)
    return {str(node[1]) if node[:1] == ("sym",) else ""}


def _is_member(value: Value, within: set[str]) -> bool:
    if not isinstance(value, Union):
        return node_of(value)[1] in within
    flags = [_is_member(part, within) for part in value.parts]
    if value.operation == "setminus":
        return flags[0] and not any(flags[1:])
    return any(flags) if value.operation == "cup" else all(flags)


def are_of_other_arguments(final: Relation, gold: Relation) -> bool:
    """Whether both define one function or sequence, at different arguments."""
    mine, right = _argument(final), _argument(gold)
    return mine is not None and right is not None and mine[0] == right[0] and mine[1] != right[1]


def are_other_names(mine: str, right: str) -> bool:
    """Whether names are of different things: x and y, a_1 and a_2."""
    if mine == right:
        return False
    if mine.count("'") != right.count("'"):
        return True
    if {mine, right} <= set("xyzt"):
        return True
    return "_" in mine and "_" in right and mine[0] == right[0]


def are_solved(*pairs: tuple[str, Value]) -> bool:
    """Whether names stand alone: none is in its own value."""
    nodes = [(name, node_of(value)) for name, value in pairs]
    return all(node and name not in symbols_of(node) for name, node in nodes)


def with_argument_of(gold: Relation, final: Relation) -> Relation:
    """Rename the argument of f(t) where the right answer has f(x)."""
    mine, right = _argument(final), _argument(gold)
    if mine is None or right is None or mine[0] != right[0] or mine[1] == right[1]:
        return final
    if right[1] in symbols_of(node_of(final.sides[1])):
        return final
    named_so: Node = ("sym", f"{mine[0]}_{mine[1]}")
    sides = [
        replace(side, node=renamed(side.node, ("sym", mine[1]), ("sym", right[1])))
        if side.node != named_so
        else replace(side, node=("sym", f"{right[0]}_{right[1]}"))
        for side in final.sides
        if isinstance(side, Quantity)
    ]
    return replace(final, sides=tuple(sides)) if len(sides) == len(final.sides) else final


def _argument(value: Relation) -> tuple[str, str] | None:
    """Names of the function that a relation defines, and its argument."""
    node = node_of(value.sides[0])
    if value.signs == ("=",) and node[:1] == ("sym",) and node[1][1:2] == "_":
        name, _, index = str(node[1]).partition("_")  # a_n, of a sequence
        return (name, index) if len(index) == 1 and index.isalpha() else None
    if value.signs != ("=",) or node[:1] != ("mul",) or not node[1][0] == node[2][0] == "sym":
        return None
    return str(node[1][1]), str(node[2][1])


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


def is_whole_hour(value: Ratio) -> bool:
    """Whether a time is a whole hour, am or pm."""
    return bool(value.suffix) and len(value.parts) == 2 and rational(value.parts[1].node) == 0


def _minutes(value: Ratio) -> Fraction | None:
    hours, minutes = (rational(part.node) for part in value.parts)
    if hours is None or minutes is None:
        return None
    if value.suffix:
        hours = hours % 12 + (12 if value.suffix == "pm" else 0)
    return hours * 60 + minutes


def turned(sign: str) -> str:
    return TURNED.get(sign, sign)
