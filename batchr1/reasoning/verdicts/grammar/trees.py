"""Expression trees: tuples of an operator and its operands.

("num", Fraction) ("sym", name) ("const", pi|e|i|inf)
("add", a, b) ("neg", a) ("mul", a, b) ("div", a, b) ("pow", a, b) ("fact", a) ("abs", a)
("root", n, a) ("fn", name, a) ("log", base, a) ("binom", n, k) ("pm", a) ("mp", a) ("opaque", name)
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from batchr1.reasoning.verdicts.grammar.scan import GiveUpError

MAX_SUMMANDS = 60
MAX_SUM_NODES = 1500
Node = tuple[Any, ...]
UNSAID_TEN: Node = ("num", Fraction(10), "unsaid")  # the base of `log` without one


def call(name: str, base: Node | None, argument: Node) -> Node:
    match name:
        case "log":
            return ("log", base or UNSAID_TEN, argument)
        case "lg":
            return ("log", ("num", Fraction(10)), argument)
        case "ln":
            return ("log", ("const", "e"), argument)
        case "exp":
            return ("pow", ("const", "e"), argument)
        case "cis":
            return ("pow", ("const", "e"), ("mul", ("const", "i"), argument))
        case "sqrt":
            return ("root", ("num", Fraction(2)), argument)
        case "abs":
            return ("abs", argument)
    return ("fn", name, argument)


def symbol(name: str) -> Node:
    return ("const", name) if name in ("e", "i") else ("sym", name)


def renamed(node: Node, old: Node, new: Node) -> Node:
    """Put one leaf for another in a tree."""
    if node == old:
        return new
    return tuple(renamed(one, old, new) if isinstance(one, tuple) else one for one in node)


def sum_of(name: str, index: Node, low: Node, high: Node, term: Node) -> Node:
    """Write out a sum or product of at most `MAX_SUMMANDS` terms.

    Raises `GiveUpError` for others, and for bounds that are no whole numbers.
    """
    bounds = [node[1] for node in (low, high) if node[0] == "num" and node[1].denominator == 1]
    if len(bounds) < 2 or index[0] not in ("sym", "const"):
        raise GiveUpError("a sum between symbols")
    first, last = map(int, bounds)
    count = last - first + 1
    if not 0 < count <= MAX_SUMMANDS or count * size_of(term) > MAX_SUM_NODES:
        raise GiveUpError("a long sum, or an empty one")
    terms = [renamed(term, index, ("num", Fraction(n))) for n in range(first, last + 1)]
    sign = "add" if name == "sum" else "mul"
    while len(terms) > 1:  # in pairs, so that the tree stays flat
        pairs = [terms[n : n + 2] for n in range(0, len(terms), 2)]
        terms = [(sign, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return terms[0]


def size_of(node: Node) -> int:
    """Count the nodes of a tree."""
    count, stack = 0, [node]
    while stack:
        one = stack.pop()
        count += 1
        stack.extend(part for part in one[1:] if isinstance(part, tuple))
    return count


def symbols_of(node: Node) -> frozenset[str]:
    """Names of the symbols in a tree."""
    found: set[str] = set()
    stack: list[Any] = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, tuple) and one:
            if one[0] == "sym":
                found.add(one[1])
            else:
                stack.extend(one[1:])
    return frozenset(found)


def signs_of(node: Node, plus: bool) -> Node:
    r"""Read `\pm` of a tree as plus, `\mp` as minus, or reversed."""
    if node[0] in ("pm", "mp"):
        inner = signs_of(node[1], plus)
        return inner if (node[0] == "pm") == plus else ("neg", inner)
    return (node[0], *(signs_of(n, plus) if isinstance(n, tuple) else n for n in node[1:]))


def has_signs(node: Node) -> bool:
    r"""Whether a tree holds a `\pm`."""
    stack = [node]
    while stack:
        one = stack.pop()
        if one[0] in ("pm", "mp"):
            return True
        stack.extend(part for part in one[1:] if isinstance(part, tuple))
    return False
