"""Quantities beside each other: expressions, their units, their digits.

Units are compared where both have one, by value. One alone is dropped. Percent may be a fraction
and degrees may be radians.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

from batchr1.reasoning.verdicts.exact import exactly_equal, rational
from batchr1.reasoning.verdicts.grammar.forms import Quantity
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of
from batchr1.reasoning.verdicts.grammar.units import DEGREE, PERCENT, Unit
from batchr1.reasoning.verdicts.renaming import in_one_name, natural, other_namings, same_family
from batchr1.reasoning.verdicts.shapes import in_celsius, in_radians, magnitude

SURE_DIGITS = 4  # significant digits to which two decimals of different length must agree,
DOUBTFUL_DIGITS = 3  # and with so many it is not known
SURE_EXACT_DIGITS = 3  # the same for a number that is not written as a decimal
DOUBTFUL_EXACT_DIGITS = 2
_SAME_SYMBOL = (  # C and F
    {(("celsius", 1),), (("ampere", 1), ("s", 1))},
    {(("fahrenheit", 1),), (("farad", 1),)},
)


class Quantities:
    """Compares two quantities under one budget."""

    def __init__(self, *, deep: bool = False) -> None:
        self._deep = deep
        self.wants_more = False

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

    def quantity(self, final: Quantity, gold: Quantity) -> bool | None:
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
            return self.quantity(*loose)
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
        if names in _SAME_SYMBOL:
            return self.node(
                ("mul", final.node, ("num", mine.factor)),
                ("mul", gold.node, ("num", right.factor)),
            )
        if (("pound", 1),) in names:  # a currency, or a mass
            return self._number(final, gold)
        if names == {DEGREE.powers, (("radian", 1),)}:
            a = in_radians(final.node) if mine == DEGREE else final.node
            return self.node(a, in_radians(gold.node) if right == DEGREE else gold.node)
        scales = {"celsius", "fahrenheit", "kelvin"}
        mine_scale, right_scale = (scales & set(dict(one.powers)) for one in (mine, right))
        if len(mine_scale) == len(right_scale) == 1 and mine_scale != right_scale:
            return self.node(
                in_celsius(final.node, *mine_scale), in_celsius(gold.node, *right_scale)
            )
        if "degree" in dict(mine.powers) or "degree" in dict(right.powers):
            return None  # of temperature, perhaps
        return False

    def _number(self, final: Quantity, gold: Quantity) -> bool | None:
        mine = in_one_name(final.node, gold.node)
        if mine is None:
            return None
        found = self.node(mine, gold.node)
        if found is False and same_family(mine, gold.node):
            return True
        if found is False and any(
            self.node(one, gold.node) for one in other_namings(mine, gold.node)
        ):
            return True
        if found is False and gold.decimals is None:
            return self._in_natural_logarithms(mine, gold.node)
        return found if found or gold.decimals is None else self._rounded(final, gold)

    def _in_natural_logarithms(self, final: Node, gold: Node) -> bool | None:
        """Compare once more, `log` without a base read as `ln`.

        It is one beside `ln` of a variable. Numbers say nothing of the base that was meant.
        """
        mine, right = natural(final), natural(gold)
        if (mine is None) == (right is None):
            return False
        if not self.node(mine or final, right or gold):
            return False
        return True if mine is not None and symbols_of(gold) else None

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
