"""Value against value: True, False, or None where it is not known.

The right answer's form says what counts: a set neither order nor multiplicity, a list no order, a
tuple both. `Comparison.deep` allows mpmath; without it, `wants_more` says that it would decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Any

from batchr1.reasoning.verdicts.exact import exactly_equal, proportion, rational
from batchr1.reasoning.verdicts.grammar.forms import (
    EMPTY,
    NOTHING_WORDS,
    REALS,
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
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of
from batchr1.reasoning.verdicts.grammar.units import DEGREE, PERCENT, Unit
from batchr1.reasoning.verdicts.logic import all_of, any_of
from batchr1.reasoning.verdicts.ranges import pieces_of
from batchr1.reasoning.verdicts.shapes import (
    TURNED,
    as_interval,
    has_ranges,
    in_radians,
    is_condition,
    magnitude,
    named,
    node_of,
    same_time,
    turned,
    vector_of,
)
from batchr1.reasoning.verdicts.wording import same_words

SURE_DIGITS = 4  # significant digits to which two decimals of different length must agree,
DOUBTFUL_DIGITS = 3  # and with so many it is not known
SURE_EXACT_DIGITS = 3  # the same for a number that is not written as a decimal
DOUBTFUL_EXACT_DIGITS = 2

_COUNTING = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTING.split())}
_ALL = frozenset(["all real numbers", "real numbers", "reals", "all reals"])
_ORDERED = ("tuple", "angle", "square")


class Comparison:
    """Compares two values under one budget."""

    def __init__(self, *, deep: bool = False) -> None:
        self._deep = deep
        self.wants_more = False

    def same(self, final: Value, gold: Value) -> bool | None:
        """Whether an answer is the right one."""
        if isinstance(gold, Relation) or isinstance(final, Relation):
            return self._relations(final, gold)
        match gold:
            case Words():
                return self._word(final, gold)
            case Quantity():
                return self._quantity_value(final, gold)
            case Sequence_():
                return self._sequence(final, gold)
            case Interval() | Union():
                return self._range(final, gold)
            case Matrix():
                return self._matrix(final, gold)
            case Ratio():
                return self._ratio(final, gold)

    def node(self, a: Node, b: Node) -> bool | None:
        """Whether two expressions are equal: exactly, or else at points."""
        try:
            found = exactly_equal(a, b)
        except GiveUpError:
            found = True if a == b else None
        if found is not None:
            return found
        if not self._deep:
            self.wants_more = True
            return None
        from batchr1.reasoning.verdicts.numeric import numerically_equal

        try:
            return numerically_equal(a, b)
        except GiveUpError:
            return None

    def _quantity_value(self, final: Value, gold: Quantity) -> bool | None:
        match final:
            case Quantity():
                return self._quantity(final, gold)
            case Words():
                return self._word(gold, final)
            case Ratio(parts) if len(parts) == 2:
                return self.node(("div", parts[0].node, parts[1].node), gold.node)
            case Sequence_("set", items) if len(items) == 1:
                return self.same(items[0], gold)
            case Sequence_("list", items) if any(isinstance(one, Words) for one in items):
                return None
        return False

    def _quantity(self, final: Quantity, gold: Quantity) -> bool | None:
        loose = None
        if final.loose is not None and not symbols_of(gold.node):
            loose = Quantity(*final.loose, final.decimals, final.digits), gold
        elif gold.loose is not None and not symbols_of(final.node):
            loose = final, Quantity(*gold.loose, gold.decimals, gold.digits)
        elif gold.loose is not None and final.loose is not None:
            plain = self._with_units(final, gold)
            if plain:
                return True
            loose = Quantity(*final.loose), Quantity(*gold.loose)
        if loose is not None:
            return self._quantity(*loose)
        return self._with_units(final, gold)

    def _with_units(self, final: Quantity, gold: Quantity) -> bool | None:
        """Compare units where both have one; one alone is dropped."""
        mine, right = final.unit, gold.unit
        if mine is not None and right is not None and mine != right:
            return self._converted(final, mine, gold, right)
        plain = self._number(final, gold)
        if plain is not False or mine == right:
            return plain
        hundredth: Node = ("num", Fraction(1, 100))
        if mine == PERCENT and self.node(("mul", final.node, hundredth), gold.node):
            return True
        if right == PERCENT and self.node(final.node, ("mul", gold.node, hundredth)):
            return True
        if mine == DEGREE and self.node(in_radians(final.node), gold.node):
            return True
        if right == DEGREE and self.node(final.node, in_radians(gold.node)):
            return True
        return plain

    def _converted(self, final: Quantity, mine: Unit, gold: Quantity, right: Unit) -> bool | None:
        if mine.powers == right.powers:
            a: Node = ("mul", final.node, ("num", mine.factor))
            return self.node(a, ("mul", gold.node, ("num", right.factor)))
        names = {mine.powers, right.powers}
        if (("pound", 1),) in names:  # a currency, or a mass
            return self._number(final, gold)
        if names == {DEGREE.powers, (("radian", 1),)}:
            a = in_radians(final.node) if mine == DEGREE else final.node
            return self.node(a, in_radians(gold.node) if right == DEGREE else gold.node)
        if "degree" in dict(mine.powers) or "degree" in dict(right.powers):
            return None  # of temperature, perhaps
        return False

    def _number(self, final: Quantity, gold: Quantity) -> bool | None:
        found = self.node(final.node, gold.node)
        if found or gold.decimals is None:
            return found
        return self._rounded(final, gold)

    def _rounded(self, final: Quantity, gold: Quantity) -> bool | None:
        """Compare an answer with a decimal, to the digits of the coarser."""
        right, value = rational(gold.node), self._value(final.node)
        if right is None or not right:
            return False
        if value is None:
            return None if symbols_of(final.node) == frozenset() else False
        if final.decimals is None:
            if value == floor(value):
                return False
            coarse, digits = right, gold.digits
            sure, doubtful = SURE_EXACT_DIGITS, DOUBTFUL_EXACT_DIGITS
        else:
            if final.digits == gold.digits:
                return False
            coarse = right if gold.digits < final.digits else value
            digits = min(final.digits, gold.digits)
            sure, doubtful = SURE_DIGITS, DOUBTFUL_DIGITS
        if not coarse:
            return False
        last = Fraction(10) ** (magnitude(coarse) - digits + 1)
        if abs(value - right) > last / 2 or digits < doubtful:
            return False
        return True if digits >= sure else None

    def _value(self, node: Node) -> Fraction | None:
        """A real value, exactly or to 50 digits."""
        found = rational(node)
        if found is not None or symbols_of(node):
            return found
        if not self._deep:
            self.wants_more = True
            return None
        import mpmath

        from batchr1.reasoning.verdicts.numeric import value_of

        try:
            value: Any = value_of(node)
        except GiveUpError:
            return None
        if mpmath.im(value) or not mpmath.isfinite(value) or abs(mpmath.log(abs(value))) > 2000:
            return None
        return Fraction(mpmath.nstr(mpmath.re(value), 45))

    def _word(self, final: Value, gold: Words) -> bool | None:
        said = " ".join(gold.words)
        if said in NOTHING_WORDS and final == EMPTY:
            return True
        if said in _ALL:
            return final == REALS or (isinstance(final, Words) and " ".join(final.words) in _ALL)
        if isinstance(final, Words):
            return same_words(final.words, gold.words)
        if isinstance(final, Quantity):
            if final.node[0] in ("sym", "const") and len(gold.words) == 1:
                return str(final.node[1]).lower() == gold.words[0]
            if len(gold.words) == 1 and gold.words[0] in _NUMBER_WORDS:
                return self.node(final.node, ("num", Fraction(_NUMBER_WORDS[gold.words[0]])))
            if gold.words == ("infinity",):
                return final.node == ("const", "inf")
        if isinstance(final, Sequence_) and any(self._word(i, gold) for i in final.items):
            return None
        return False

    def _sequence(self, final: Value, gold: Sequence_) -> bool | None:
        if gold.kind == "list" or (gold.kind in ("tuple", "square") and len(gold.items) == 2):
            ranges = self._as_ranges(final, gold)
            if ranges is not None:
                return ranges
        if isinstance(final, Matrix):
            vector = vector_of(final)
            return self._ordered(vector, gold.items) if vector and gold.kind != "set" else False
        if isinstance(final, Words):
            return self._word(gold, final) if gold != EMPTY else self._word(EMPTY, final)
        if not isinstance(final, Sequence_):
            if len(gold.items) == 1:
                return self.same(final, gold.items[0])
            return False
        if gold.kind == "set" and final.kind != "set" and len(gold.items) == 1:
            return self.same(final, gold.items[0])
        if final.kind == "set" and gold.kind in ("tuple", "angle") and len(final.items) == 1:
            return self.same(final.items[0], gold)
        match gold.kind:
            case "set":
                return self._as_set(final, gold)
            case "list":
                return self._as_list(final, gold)
        return self._as_tuple(final, gold)

    def _as_ranges(self, final: Value, gold: Sequence_) -> bool | None:
        """Compare a point or list that may be an interval; else None."""
        is_range = isinstance(final, Interval | Union) or has_ranges(final)
        if not is_range and (gold.kind != "list" or not has_ranges(gold)):
            return None
        return self._range(final, gold)

    def _as_set(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if final.kind in ("tuple", "angle"):
            return False
        if final.kind == "square":
            return None if self._contained(final.items, gold.items) else False
        forth = self._contained(final.items, gold.items)
        back = self._contained(gold.items, final.items)
        return all_of([forth, back])

    def _contained(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        return all_of([any_of([self.same(item, other) for other in others]) for item in items])

    def _as_list(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if len(final.items) != len(gold.items):
            return False
        names = {right[0] for item in gold.items if (right := _name_of(item)) is not None}
        if len(names) == len(gold.items) and not any(map(_name_of, final.items)):
            return self._ordered(final.items, gold.items)  # `x = 1, y = 2` and a list without names
        if final.kind in _ORDERED:
            found = self._ordered(final.items, gold.items)
            if found is False and self._matched(final.items, gold.items) is not False:
                return None
            return found
        found = self._matched(final.items, gold.items)
        if found and any(isinstance(item, Words) for item in gold.items):
            return True if self._ordered(final.items, gold.items) else None
        return found

    def _as_tuple(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if final.kind == "set" or len(final.items) != len(gold.items):
            return False
        found = self._ordered(final.items, gold.items)
        if len(gold.items) == 2 and {final.kind, gold.kind} == {"square", "tuple"}:
            return False
        if gold.kind == "square" and len(gold.items) == 2 and final.kind == "list" and found:
            return None
        return found

    def _ordered(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        if len(items) != len(others):
            return False
        return all_of([self.same(a, b) for a, b in zip(items, others, strict=True)])

    def _matched(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        """Whether each item has one of the others to itself."""
        if len(items) != len(others):
            return False
        left, doubt = list(others), False
        for item in items:
            outcomes = [self.same(item, other) for other in left]
            if True in outcomes:
                del left[outcomes.index(True)]
            elif None in outcomes:
                doubt = True
                del left[outcomes.index(None)]
            else:
                return False
        return None if doubt else True

    def _range(self, final: Value, gold: Value) -> bool | None:
        if isinstance(final, Words):
            return self._word(gold, final)
        mine, right = pieces_of(final), pieces_of(gold)
        if mine is not None and right is not None:
            return any(one == other for one in mine for other in right)
        if isinstance(final, Interval) or isinstance(gold, Interval):
            a, b = as_interval(final), as_interval(gold)
            if a is None or b is None:
                return False if a is not None or isinstance(final, Quantity | Words) else None
            if (a.has_low, a.has_high) != (b.has_low, b.has_high):
                return False
            return all_of([self.node(a.low, b.low), self.node(a.high, b.high)])
        if isinstance(final, Union) and isinstance(gold, Union):
            if final.operation != gold.operation:
                return None
            if final.operation == "setminus":
                return self._ordered(final.parts, gold.parts) or None
            return self._matched(final.parts, gold.parts)
        return False if isinstance(final, Quantity | Words | Matrix) else None

    def _matrix(self, final: Value, gold: Matrix) -> bool | None:
        if isinstance(final, Sequence_):
            vector = vector_of(gold)
            if not vector or final.kind == "set":
                return False
            return self._ordered(final.items, vector)
        if not isinstance(final, Matrix) or len(final.rows) != len(gold.rows):
            return False
        return all_of([self._ordered(a, b) for a, b in zip(final.rows, gold.rows, strict=True)])

    def _ratio(self, final: Value, gold: Ratio) -> bool | None:
        if isinstance(final, Quantity) and len(gold.parts) == 2 and not gold.suffix:
            return self.node(final.node, ("div", gold.parts[0].node, gold.parts[1].node))
        if not isinstance(final, Ratio) or len(final.parts) != len(gold.parts):
            return False
        if final.suffix and gold.suffix and final.suffix != gold.suffix:
            return False
        mine = [part.node for part in final.parts]
        right = [part.node for part in gold.parts]
        if final.suffix or gold.suffix or final.is_time or gold.is_time:
            return same_time(final, gold) if len(mine) == 2 else mine == right
        return all_of(
            [
                self.node(("mul", a, right[0]), ("mul", b, mine[0]))
                for a, b in zip(mine[1:], right[1:], strict=True)
            ]
        )

    def _relations(self, final: Value, gold: Value) -> bool | None:
        if is_condition(gold) or is_condition(final):
            mine, right = pieces_of(final), pieces_of(gold)
            if mine is not None and right is not None:
                return any(one == other for one in mine for other in right)
            a, b = as_interval(final), as_interval(gold)
            if a is not None and b is not None:
                return self._range(a, b)
        if not isinstance(gold, Relation):
            assert isinstance(final, Relation)
            return self._claimed(final, gold)
        if not isinstance(final, Relation):
            right_name = named(gold)
            return self.same(final, right_name[1]) if right_name is not None else False
        return self._both_relations(final, gold)

    def _claimed(self, final: Relation, gold: Value) -> bool | None:
        """Compare a chain (`x = 1/3 \\approx 0.33`) with a value.

        Its exact last side counts, or what it is near.
        """
        if not set(final.signs) <= {"=", "~", "->"}:
            return False
        last = len(final.sides) - 1
        values = [final.sides[last]]
        while last > 1 and final.signs[last - 1] == "~":
            last -= 1
            values.append(final.sides[last])
        if last == 1 and final.signs[0] == "~" and not isinstance(final.sides[0], Words):
            values.append(final.sides[0])
        return any_of([self.same(value, gold) for value in values])

    def _both_relations(self, final: Relation, gold: Relation) -> bool | None:
        mine, right = named(final), named(gold)
        if mine is not None and right is not None:
            is_other = mine[0] != right[0] and {mine[0], right[0]} <= set("xyzt")
            same = self.same(mine[1], right[1])
            if same and not is_other:
                return True
            if isinstance(mine[1], Sequence_) or not symbols_of(node_of(mine[1])):
                return False if same is not None else None
        if gold.signs == final.signs and self._ordered(final.sides, gold.sides):
            return True
        if len(final.signs) == len(gold.signs) == 1:
            return self._sides_moved(final, gold)
        if len(final.signs) == len(gold.signs):
            reversed_signs = tuple(turned(sign) for sign in final.signs[::-1])
            if reversed_signs == gold.signs:
                return self._ordered(final.sides[::-1], gold.sides)
            return False
        if right is not None:
            return self._claimed(final, right[1])
        return None

    def _sides_moved(self, final: Relation, gold: Relation) -> bool | None:
        """Equations and inequalities whose sides differ by a constant factor."""
        sides = [*final.sides, *gold.sides]
        nodes = [side.node for side in sides if isinstance(side, Quantity)]
        if len(nodes) < 4 or final.signs[0] not in TURNED or gold.signs[0] not in TURNED:
            return (
                False if final.signs[0] != gold.signs[0] else self._ordered(final.sides, gold.sides)
            )
        a: Node = ("add", nodes[0], ("neg", nodes[1]))
        b: Node = ("add", nodes[2], ("neg", nodes[3]))
        try:
            factor = proportion(a, b)
        except GiveUpError:
            return None
        if factor is None:
            return False
        sign = final.signs[0] if factor > 0 else turned(final.signs[0])
        return sign == gold.signs[0]


def _name_of(item: Value) -> tuple[str, Value] | None:
    return named(item) if isinstance(item, Relation) else None
