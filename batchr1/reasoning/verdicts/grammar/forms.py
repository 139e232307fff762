"""Forms of an answer: quantity, words, list, set, interval, relation, matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from batchr1.reasoning.verdicts.grammar.trees import Node
from batchr1.reasoning.verdicts.grammar.units import Unit

Kind = Literal["list", "set", "tuple", "square", "angle"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """Expression, perhaps with a unit.

    `decimals` and `digits` where it is a decimal as written. `is_loose`: its last letters may be a
    unit instead (`5 m`). `said`: the words behind it that are no unit.
    """

    node: Node
    unit: Unit | None = None
    decimals: int | None = None
    digits: int = 0
    loose: tuple[Node, Unit | None] | None = None
    said: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Words:
    """Words in lower case, without signs."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sequence_:
    """Several values, by their brackets.

    A `list` has none; a `tuple` round ones, a `square` and an `angle` theirs. `joint` is the word
    between the items of a list: and, or.
    """

    kind: Kind
    items: tuple[Value, ...]
    joint: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval; infinite ends are ("const", "inf"), negated below."""

    low: Node
    high: Node
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class Union:
    """Union of sets, or the first without the second."""

    parts: tuple[Value, ...]
    operation: Literal["cup", "cap", "setminus"] = "cup"


@dataclass(frozen=True, slots=True)
class Relation:
    """Expressions with signs between them: `a < x`, `y = 2x`.

    `joined`: by and or or, in a list.
    """

    sides: tuple[Value, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers with colons between them: 3:4, or a time of day."""

    parts: tuple[Quantity, ...]
    suffix: str = ""
    is_time: bool = False


@dataclass(frozen=True, slots=True)
class Residue:
    """Class of whole numbers: 3 mod 7."""

    value: int
    modulus: int


Value = Quantity | Words | Sequence_ | Interval | Union | Relation | Matrix | Ratio | Residue
EMPTY = Sequence_("set", ())
REALS = Interval(("neg", ("const", "inf")), ("const", "inf"), False, False)
_NOTHING = (
    "no solution|no solutions|no real solution|no real solutions|empty set|the empty set|null set"
    "|none|there is no solution|there are no solutions|no solutions exist|no solution exists"
    "|has no solution|there are none|no such numbers|no such integers|no such number"
)
NOTHING_WORDS = frozenset(_NOTHING.split("|"))
_RELATIONS_TEXT = """
= = < < > > le <= leq <= leqslant <= ge >= geq >= geqslant >= lt < gt > ne != neq !=
approx ~ sim ~ simeq ~
equiv == to -> rightarrow -> mapsto -> implies -> Rightarrow -> iff -> perp perp parallel
par subset sub
subseteq sub in in notin notin
"""
RELATION_SIGNS = dict(zip(*[iter(_RELATIONS_TEXT.split())] * 2, strict=True))
