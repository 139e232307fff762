"""Names that an answer may choose: j, K and log, for example."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import permutations
from typing import Any

from batchr1.reasoning.verdicts.exact import exactly_equal, proportion
from batchr1.reasoning.verdicts.grammar.families import INTEGER, PARAMETERS
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import UNSAID_TEN, Node, renamed, symbols_of

_CONSTANTS = frozenset(
    f"{letter}{index}" for letter in ("C", "c", "K", "k") for index in ("", "_0", "_1")
)
_CAPITALS = ("C", "K")
_VARIABLES = frozenset(["x", "y", "z", "t", "u", "v", "w", "s", "r", "\\theta", "\\phi"])
_NUMBERED = re.compile(r"[CcKk]_\d")
_I: Node = ("const", "i")


def holds(node: Node, leaf: Node) -> bool:
    """Whether a tree holds a leaf."""
    if node == leaf:
        return True
    return any(isinstance(one, tuple) and holds(one, leaf) for one in node)


def in_one_name(final: Node, gold: Node) -> Node | None:
    """Give an answer's tree with the names of the right one.

    None where one of both has a constant of integration and the other has none: what that means,
    only the question says.
    """
    mine, right = symbols_of(final), symbols_of(gold)
    own, other = mine - right, right - mine
    if len(own) == len(other) == 1 and _are_parameters(own | other, gold):
        return renamed(final, ("sym", *own), ("sym", *other))
    if "j" in mine and "j" not in right and holds(gold, _I) and not holds(final, _I):
        final = renamed(final, ("sym", "j"), _I)
    elif "j" in right and "j" not in mine and holds(final, _I) and not holds(gold, _I):
        final = renamed(final, _I, ("sym", "j"))
    if not (mine | right) & _CONSTANTS or not right & _VARIABLES:
        return final
    added, wanted = _added_constant(final), _added_constant(gold)
    if added is not None and wanted is not None:
        is_free = wanted.startswith(_CAPITALS) and (added == wanted or wanted not in mine)
        return _with_constant(final, added, wanted) if is_free else final
    lonely, tree = (added, gold) if added else (wanted, final)
    if lonely is None or not lonely.startswith(_CAPITALS) or not symbols_of(tree):
        return final
    return final if lonely in symbols_of(tree) else None


def _are_parameters(letters: frozenset[str], gold: Node) -> bool:
    """Whether letters stand for any whole number.

    One is said to, or they stand beside pi.
    """
    if INTEGER in letters:
        return letters <= PARAMETERS | {INTEGER}
    return letters <= PARAMETERS and holds(gold, ("const", "pi")) and gold[0] == "add"


def same_family(a: Node, b: Node) -> bool:
    """Whether two families over the whole numbers have the same members.

    Both are linear in the parameter; other ones are not known to be.
    """
    name: Node = ("sym", INTEGER)
    if not (holds(a, name) and holds(b, name)):
        return False
    steps, starts = [], []
    for node in (a, b):
        zero, one, two = (renamed(node, name, ("num", Fraction(n))) for n in range(3))
        step = ("add", one, ("neg", zero))
        if not _is_zero(("add", ("add", two, ("neg", one)), ("neg", step))):
            return False
        steps.append(step)
        starts.append(zero)
    try:
        ratio = proportion(*steps)
        shift = ("add", starts[0], ("neg", starts[1]))
        moved = Fraction(0) if _is_zero(shift) else proportion(steps[1], shift)
    except GiveUpError:
        return False
    return ratio in (1, -1) and moved is not None and moved.denominator == 1


def _is_zero(node: Node) -> bool:
    try:
        return exactly_equal(node, ("num", Fraction(0))) is True
    except GiveUpError:
        return False


def _with_constant(node: Node, own: str, other: str) -> Node:
    """Put another name for a constant that is added or taken away."""
    for old in (("neg", ("sym", own)), ("sym", own)):
        if holds(node, old):
            return renamed(node, old, ("sym", other))
    return node


def other_namings(final: Node, gold: Node) -> list[Node]:
    """Name the constants C_1, C_2 of an answer in every way."""
    mine, right = symbols_of(final), symbols_of(gold)
    wanted = sorted(name for name in right if _NUMBERED.fullmatch(name))
    own = sorted((mine - right) | (mine & set(wanted)))
    if not 1 < len(wanted) <= 3 or len(own) != len(wanted):
        return []
    found = []
    for names in permutations(wanted):
        node = final
        for number, name in enumerate(own):
            node = renamed(node, ("sym", name), ("sym", f"constant {number}"))
        for number, name in enumerate(names):
            node = renamed(node, ("sym", f"constant {number}"), ("sym", name))
        found.append(node)
    return found


def natural(node: Node) -> Node | None:
    """Read `log` without a base as `ln`; None without one."""
    found = renamed(node, UNSAID_TEN, ("const", "e"))
    return None if found == node else found


def _added_constant(node: Node) -> str | None:
    """Find the constant that is added, and stands nowhere else."""
    terms: list[Any] = [node]
    names: list[str] = []
    while terms:
        one = terms.pop()
        if one[0] == "add":
            terms.extend(one[1:])
        elif one[0] == "neg" and one[1][0] == "sym":
            terms.append(one[1])
        elif one[0] == "sym" and one[1] in _CONSTANTS:
            names.append(one[1])
    if node[0] != "add" or len(names) != 1:
        return None
    return names[0] if _count(node, names[0]) == 1 else None


def _count(node: Node, name: str) -> int:
    if node == ("sym", name):
        return 1
    return sum(_count(one, name) for one in node if isinstance(one, tuple))
