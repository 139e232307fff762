"""Expressions as ratios of polynomials over the rationals: equality without floats.

The variables of the polynomials are symbols and constants: square roots of primes, i, pi, e.
Reduced by s² = p and i² = -1 the form is unique, so that two numbers or two rational functions are
equal exactly when a/b = c/d cross-multiplied is zero. Everything else (other roots, functions of
an argument) is a variable named by its argument: then equal forms are equal, and different ones
prove nothing (`Quotient.is_settled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial, isqrt, prod

from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import Node

MAX_BITS = 70_000  # of a number: 5,000! has 54,000
MAX_NAME_BITS = 4000  # of one in a variable's name; Python writes no more than 4,300 digits
MAX_TERMS = 400  # of a polynomial
MAX_STEPS = 40_000  # products of terms in a comparison
MAX_FACTOR = 2000  # primes that are looked for below a root; a square beyond is found whole

Monomial = tuple[tuple[str, int], ...]
Poly = Mapping[Monomial, Fraction]

_ONE: Poly = {(): Fraction(1)}
_ROOT, _I = "√", "i"  # variables that are reduced: √2, √3, …, i


class DivisionByZeroError(GiveUpError):
    """An expression without a value."""


@dataclass(frozen=True, slots=True)
class Quotient:
    """Ratio of polynomials.

    `is_settled`: its form is unique, so that different means unequal.
    """

    above: Poly
    below: Poly
    is_settled: bool = True

    @property
    def number(self) -> Fraction | None:
        """Its value, where it is a rational number."""
        if set(self.above) <= {()} and set(self.below) <= {()}:
            return self.above.get((), Fraction(0)) / self.below[()]
        return None


class ExactArithmetic:
    """Evaluation of trees under one budget of steps.

    So no text takes long.
    """

    def __init__(self) -> None:
        self._steps = 0

    def ratio(self, node: Node) -> Quotient:
        """Evaluate a tree as a ratio.

        Raises `GiveUpError` beyond the bounds, or where it has no value.
        """
        match node[0]:
            case "num":
                return _of_number(node[1])
            case "sym":
                return _variable(f"x {node[1]}")
            case "const":
                if node[1] == "inf":
                    raise GiveUpError("infinity")
                return _variable(_I if node[1] == "i" else f"const {node[1]}")
            case "add":
                return self._sum(self.ratio(node[1]), self.ratio(node[2]))
            case "neg":
                return _negated(self.ratio(node[1]))
            case "mul":
                return self._product(self.ratio(node[1]), self.ratio(node[2]))
            case "div":
                return self._quotient(self.ratio(node[1]), self.ratio(node[2]))
            case "pow":
                return self._power(node[1], node[2])
            case "root":
                return self._root(node[1], node[2])
            case "fact":
                return self._factorial(node[1])
            case "abs":
                return self._absolute(node[1])
            case "binom":
                return self._binomial(node[1], node[2])
            case "fn" if node[1] == "fac2":
                return self._double_factorial(node[2])
            case "fn" if node[1] in ("floor", "ceil"):
                return self._rounded(node[1], node[2])
            case "fn" | "log":
                return self._opaque(node)
        raise GiveUpError(f"no arithmetic for {node[0]}")

    def difference(self, a: Quotient, b: Quotient) -> Poly:
        """The numerator of a - b: empty exactly where both are equal."""
        return self._plus(
            self._times(a.above, b.below), self._scaled(self._times(b.above, a.below), -1)
        )

    def quotient(self, a: Quotient, b: Quotient) -> Quotient:
        """a / b."""
        return self._quotient(a, b)

    def _sum(self, a: Quotient, b: Quotient) -> Quotient:
        settled = a.is_settled and b.is_settled
        if a.below == b.below:
            return Quotient(self._plus(a.above, b.above), a.below, settled)
        above = self._plus(self._times(a.above, b.below), self._times(b.above, a.below))
        return Quotient(above, self._times(a.below, b.below), settled)

    def _product(self, a: Quotient, b: Quotient) -> Quotient:
        settled = a.is_settled and b.is_settled
        return Quotient(self._times(a.above, b.above), self._times(a.below, b.below), settled)

    def _quotient(self, a: Quotient, b: Quotient) -> Quotient:
        if not b.above:
            raise DivisionByZeroError("a division by zero")
        return self._product(a, Quotient(b.below, b.above, b.is_settled))

    def _times(self, a: Poly, b: Poly) -> Poly:
        self._steps += len(a) * len(b) + 1
        if self._steps > MAX_STEPS:
            raise GiveUpError("a long calculation")
        found: dict[Monomial, Fraction] = {}
        for left, x in a.items():
            for right, y in b.items():
                monomial, factor = _multiplied(left, right)
                value = _bounded(found.get(monomial, Fraction(0)) + x * y * factor)
                if value:
                    found[monomial] = value
                else:
                    found.pop(monomial, None)
        if len(found) > MAX_TERMS:
            raise GiveUpError("a long polynomial")
        return found

    def _plus(self, a: Poly, b: Poly) -> Poly:
        found = dict(a)
        for monomial, value in b.items():
            total = _bounded(found.get(monomial, Fraction(0)) + value)
            if total:
                found[monomial] = total
            else:
                found.pop(monomial, None)
        if len(found) > MAX_TERMS:
            raise GiveUpError("a long polynomial")
        return found

    def _scaled(self, a: Poly, by: int) -> Poly:
        return {monomial: value * by for monomial, value in a.items()}

    def _power(self, base: Node, exponent: Node) -> Quotient:
        power = self.ratio(exponent).number
        if power is None:
            return self._opaque(("pow", base, exponent))
        value = self.ratio(base)
        if power.denominator == 1:
            return self._whole_power(value, int(power))
        number = value.number
        if number is None or power.denominator > 6 or abs(power.numerator) > 60:
            return self._opaque(("pow", base, ("num", power)))
        root = self._root(("num", Fraction(power.denominator)), ("num", number))
        return self._whole_power(root, power.numerator)

    def _whole_power(self, value: Quotient, power: int) -> Quotient:
        if power < 0:
            if not value.above:
                raise DivisionByZeroError("a division by zero")
            return self._whole_power(Quotient(value.below, value.above, value.is_settled), -power)
        if power == 0 and not value.above:
            raise DivisionByZeroError("zero to the power of zero")
        number = value.number
        if number is not None:
            if power * max(_bits(number) - 2, 1) > MAX_BITS and abs(number) != 1 and number:
                raise GiveUpError("a very large power")
            return _of_number(number**power if abs(number) != 1 else number ** (power % 2))
        if power > 200:
            raise GiveUpError("a large power of a polynomial")
        result = Quotient(_ONE, _ONE, value.is_settled)
        while power:
            if power & 1:
                result = self._product(result, value)
            power >>= 1
            value = self._product(value, value) if power else value
        return result

    def _root(self, index: Node, node: Node) -> Quotient:
        order = self.ratio(index).number
        value = self.ratio(node)
        number = value.number
        if order is None or order.denominator != 1 or not 1 < order < 60 or number is None:
            if order == 2:
                return Quotient(*_opaque_root(value), False)
            return self._opaque(("root", index, node))
        n = int(order)
        above, below = _whole_root(number.numerator, n), _whole_root(number.denominator, n)
        if above is not None and below is not None:
            return _of_number(Fraction(above, below))
        if n != 2:
            return self._opaque(("root", index, ("num", number)))
        return _square_root(number)

    def _factorial(self, node: Node) -> Quotient:
        number = self.ratio(node).number
        if number is None:
            return self._opaque(("fact", node))
        if number.denominator != 1 or not 0 <= number <= 5000:
            raise GiveUpError("a factorial without a value, or a very large one")
        self._steps += int(number)
        return _of_number(Fraction(factorial(int(number))))

    def _double_factorial(self, node: Node) -> Quotient:
        number = self.ratio(node).number
        if number is None:
            return self._opaque(("fn", "fac2", node))
        if number.denominator != 1 or not 0 <= number <= 5000:
            raise GiveUpError("a factorial without a value, or a very large one")
        self._steps += int(number)
        return _of_number(Fraction(prod(range(int(number), 0, -2))))

    def _binomial(self, n: Node, k: Node) -> Quotient:
        a, b = self.ratio(n).number, self.ratio(k).number
        if a is None or b is None:
            return self._opaque(("binom", n, k))
        if a.denominator != 1 or b.denominator != 1 or not (b >= 0 and 0 <= a <= 5000):
            raise GiveUpError("a binomial coefficient without a value")
        return _of_number(Fraction(comb(int(a), int(b))))

    def _absolute(self, node: Node) -> Quotient:
        number = self.ratio(node).number
        return self._opaque(("abs", node)) if number is None else _of_number(abs(number))

    def _rounded(self, name: str, node: Node) -> Quotient:
        number = self.ratio(node).number
        if number is None:
            return self._opaque(("fn", name, node))
        return _of_number(Fraction(number.__floor__() if name == "floor" else number.__ceil__()))

    def _opaque(self, node: Node) -> Quotient:
        """A variable that is named by its operands."""
        names = [one if isinstance(one, str) else _key(self.ratio(one)) for one in node[1:]]
        return Quotient({((f"{node[0]} {' ; '.join(names)}", 1),): Fraction(1)}, _ONE, False)


def exactly_equal(a: Node, b: Node) -> bool | None:
    """Tell whether two trees are equal for certain.

    None where exact arithmetic does not decide. Raises `GiveUpError` where one of them has no value
    or is beyond the bounds.
    """
    arithmetic = ExactArithmetic()
    left, right = arithmetic.ratio(a), arithmetic.ratio(b)
    if not arithmetic.difference(left, right):
        return True
    return False if left.is_settled and right.is_settled else None


def rational(node: Node) -> Fraction | None:
    """The value of a tree that is a rational number, else None."""
    try:
        return ExactArithmetic().ratio(node).number
    except GiveUpError:
        return None


def linear(node: Node) -> tuple[str, Fraction, Fraction] | None:
    """Read a tree that is linear: its symbol, slope and shift.

    None where it is not linear in one symbol.
    """
    try:
        found = ExactArithmetic().ratio(node)
    except GiveUpError:
        return None
    below = found.below.get((), Fraction(0))
    terms = [monomial for monomial in found.above if monomial]
    if set(found.below) != {()} or len(terms) != 1 or len(terms[0]) != 1:
        return None
    name, power = terms[0][0]
    if power != 1 or not name.startswith("x ") or not found.is_settled:
        return None
    return name[2:], found.above[terms[0]] / below, found.above.get((), Fraction(0)) / below


def proportion(a: Node, b: Node) -> Fraction | None:
    """Find the rational factor from a to b; None if unknown."""
    arithmetic = ExactArithmetic()
    found = arithmetic.quotient(arithmetic.ratio(b), arithmetic.ratio(a))
    if not found.above:
        return None
    monomial, value = next(iter(found.below.items()))
    if monomial not in found.above:
        return None
    factor = found.above[monomial] / value
    scaled = {m: v * factor for m, v in found.below.items()}
    return factor if scaled == dict(found.above) else None


def same_zeros(a: Node, b: Node) -> bool | None:
    """Whether two trees are zero at the same places.

    Then their numerators differ by a factor. None where exact arithmetic does not decide.
    """
    arithmetic = ExactArithmetic()
    left, right = arithmetic.ratio(a), arithmetic.ratio(b)
    if not left.above or not right.above:
        return left.above == right.above
    monomial, value = next(iter(left.above.items()))
    if monomial in right.above:
        factor = right.above[monomial] / value
        if {m: v * factor for m, v in left.above.items()} == dict(right.above):
            return True
    return False if left.is_settled and right.is_settled else None


def _of_number(number: Fraction) -> Quotient:
    _bounded(number)
    return Quotient({(): number} if number else {}, _ONE)


def _variable(name: str) -> Quotient:
    return Quotient({((name, 1),): Fraction(1)}, _ONE)


def _negated(a: Quotient) -> Quotient:
    return Quotient(
        {monomial: -value for monomial, value in a.above.items()}, a.below, a.is_settled
    )


def _bits(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()


def _bounded(number: Fraction) -> Fraction:
    if _bits(number) > 2 * MAX_BITS:
        raise GiveUpError("a very large number")
    return number


def _multiplied(a: Monomial, b: Monomial) -> tuple[Monomial, Fraction]:
    """Multiply two monomials, reduced by s² = p and i² = -1."""
    if not a or not b:
        return a or b, Fraction(1)
    powers = dict(a)
    for name, power in b:
        powers[name] = powers.get(name, 0) + power
    factor = Fraction(1)
    for name, power in list(powers.items()):
        if power > 1 and (name == _I or name[0] == _ROOT):
            factor *= Fraction(-1 if name == _I else int(name[1:])) ** (power // 2)
            powers[name] = power % 2
    return tuple(sorted((name, power) for name, power in powers.items() if power)), factor


def _square_root(number: Fraction) -> Quotient:
    """Compute √(a/b) as √(ab)/b, with a variable for each prime left.

    Squares are taken out.
    """
    product, below = abs(number.numerator) * number.denominator, number.denominator
    outside, left, primes = 1, product, []
    prime = 2
    while prime < MAX_FACTOR and prime * prime <= left:
        count = 0
        while left % prime == 0:
            left //= prime
            count += 1
        outside *= prime ** (count // 2)
        if count % 2:
            primes.append(prime)
        prime += 1 if prime == 2 else 2
    is_settled = True
    if left > 1:
        whole = isqrt(left)
        if whole * whole == left:
            outside *= whole
        else:
            primes.append(left)
            is_settled = left < MAX_FACTOR * MAX_FACTOR  # then it is a prime
    names = [(f"{_ROOT}{p}", 1) for p in primes] + ([(_I, 1)] if number < 0 else [])
    return Quotient({tuple(sorted(names)): Fraction(outside, below)}, _ONE, is_settled)


def _opaque_root(value: Quotient) -> tuple[Poly, Poly]:
    return {((f"sqrt {_key(value)}", 1),): Fraction(1)}, _ONE


def _whole_root(number: int, n: int) -> int | None:
    """The whole n-th root of a whole number, where there is one."""
    if number < 0:
        found = _whole_root(-number, n) if n % 2 else None
        return None if found is None else -found
    if number.bit_length() > 4000:
        return None
    low, high = 0, 1 << (number.bit_length() // n + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**n <= number:
            low = middle
        else:
            high = middle - 1
    return low if low**n == number else None


def _key(value: Quotient) -> str:
    """Name a ratio, scaled so that its denominator begins with one."""
    first = value.below[min(value.below)]
    return f"{_written(value.above, first)}/{_written(value.below, first)}"


def _written(poly: Poly, by: Fraction) -> str:
    if any(_bits(value) > MAX_NAME_BITS for value in (by, *poly.values())):
        raise GiveUpError("a very large number within a root or a function")
    return "+".join(f"{value / by}*{monomial}" for monomial, value in sorted(poly.items()))
