"""Expression trees: tuples of an operator and its operands.

("num", Fraction) ("sym", name) ("const", pi|e|i|inf)
("add", a, b) ("neg", a) ("mul", a, b) ("div", a, b) ("pow", a, b) ("fact", a) ("abs", a)
("root", n, a) ("fn", name, a) ("log", base, a) ("binom", n, k) ("pm", a) ("mp", a) ("opaque", name)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from batchr1.reasoning.verdicts.grammar.scan import Token

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


def plain_fraction(tokens: Sequence[Token]) -> tuple[int, int, int] | None:
    r"""Read `\frac{3}{4}` or `\frac34` in whole numbers.

    Returns numerator, denominator and length in tokens.
    """
    texts = [t.text for t in tokens]
    if (
        len(texts) >= 7
        and texts[1] == "{"
        and texts[3] == "}"
        and texts[4] == "{"
        and texts[6] == "}"
    ):
        above, below, length = texts[2], texts[5], 7
    elif len(texts) >= 2 and texts[1].isdigit() and len(texts[1]) == 2:
        above, below, length = texts[1][0], texts[1][1], 2
    elif len(texts) >= 3 and texts[1].isdigit() and len(texts[1]) == 1 and texts[2].isdigit():
        above, below, length = texts[1], texts[2][0], 3
        if len(texts[2]) > 1:
            return None
    else:
        return None
    if not (above.isdigit() and below.isdigit()):
        return None
    return int(above), int(below), length


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
    return node[0] in ("pm", "mp") or any(has_signs(n) for n in node[1:] if isinstance(n, tuple))
