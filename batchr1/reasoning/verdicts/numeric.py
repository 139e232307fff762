"""Expressions at points, to 50 digits: where exact arithmetic does not decide.

Two numbers that agree to 40 digits are equal, and two that differ are not: nothing rounds here as
floats do. Expressions with symbols are compared at several points (Schwartz 1980, doi
10.1145/322217.322225: a rational identity that holds at random points holds). Loads mpmath.
"""

from __future__ import annotations

import hashlib
from typing import Any

from batchr1.reasoning.verdicts.grammar.scan import GiveUpError
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of

DIGITS = 50
AGREED_DIGITS = 40
POINTS = 4
MAX_SYMBOLS = 8
MAX_VALUE_BITS = 10**7  # exponents of values beyond are not looked at

_FUNCTIONS = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arccot": "acot",
}


def numerically_equal(a: Node, b: Node) -> bool | None:
    """Tell whether two trees have the same value wherever both have one.

    None where none was found. Symbols are positive first. Where values agree, negative ones are
    tried too: expressions that stay real there and differ (|x| and x) are not equal; where one
    leaves the reals (ln x² and 2 ln x), positive ones decide.
    """
    names = sorted(symbols_of(a) | symbols_of(b))
    if len(names) > MAX_SYMBOLS:
        raise GiveUpError("many symbols")
    seen = 0
    for point in range(POINTS if names else 1):
        same = _same_at(a, b, names, point, sign=1)
        if same is False:
            return False
        seen += same is True
    if not seen:
        return None
    for point in range(2 if names else 0):
        if _same_at(a, b, names, point, sign=-1, only_real=True) is False:
            return False
    return True


def value_of(node: Node) -> Any:
    """The value of a tree without symbols, as an mpmath number.

    Raises `GiveUpError` where there is none.
    """
    import mpmath

    with mpmath.workdps(DIGITS):
        return _Evaluation({}).value(node)


def _same_at(
    a: Node, b: Node, names: list[str], point: int, *, sign: int, only_real: bool = False
) -> bool | None:
    import mpmath

    with mpmath.workdps(DIGITS):
        where = {name: sign * _coordinate(name, point) for name in names}
        try:
            left = _Evaluation(where, only_real).value(a)
            right = _Evaluation(where, only_real).value(b)
        except GiveUpError:
            return None
        if not (mpmath.isfinite(left) and mpmath.isfinite(right)):
            return None if only_real else bool(left == right)
        if only_real and (abs(mpmath.im(left)) > 1e-30 or abs(mpmath.im(right)) > 1e-30):
            return None
        size = max(abs(left), abs(right))
        if size == 0:
            return True
        return bool(abs(left - right) <= size * mpmath.mpf(10) ** -AGREED_DIGITS)


def _coordinate(name: str, point: int) -> Any:
    """Choose a value between 0.3 and 2.3, the same in every run."""
    import mpmath

    digest = hashlib.blake2b(f"{name} {point}".encode(), digest_size=12).digest()
    return mpmath.mpf(int.from_bytes(digest)) / 2**95 + mpmath.mpf("0.3")


class _Evaluation:
    """Evaluates trees.

    `only_real` gives up where a root or logarithm leaves the reals.
    """

    def __init__(self, where: dict[str, Any], only_real: bool = False) -> None:
        import mpmath

        self._mp: Any = mpmath
        self._where = where
        self._only_real = only_real

    def value(self, node: Node) -> Any:
        try:
            found = self._value(node)
        except (ArithmeticError, ValueError, TypeError, OverflowError, MemoryError) as exc:
            raise GiveUpError(f"no value ({type(exc).__name__})") from exc
        except self._mp.libmp.NoConvergence as exc:
            raise GiveUpError("no value found") from exc
        return found

    def _value(self, node: Node) -> Any:
        mp = self._mp
        match node[0]:
            case "num":
                return mp.mpf(node[1].numerator) / node[1].denominator
            case "sym":
                return self._where[node[1]]
            case "const":
                return {"pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1), "inf": mp.inf}[node[1]] * 1
            case "add":
                return self._value(node[1]) + self._value(node[2])
            case "neg":
                return -self._value(node[1])
            case "mul":
                return self._value(node[1]) * self._value(node[2])
            case "div":
                return self._value(node[1]) / self._value(node[2])
            case "pow":
                return self._power(self._value(node[1]), self._value(node[2]))
            case "root":
                return self._root(self._value(node[1]), self._value(node[2]))
            case "abs":
                return abs(self._value(node[1]))
            case "log":
                return self._logarithm(self._value(node[1]), self._value(node[2]))
            case "fact":
                return self._factorial(self._value(node[1]))
            case "binom":
                return mp.binomial(self._value(node[1]), self._value(node[2]))
            case "fn":
                return self._function(node[1], self._value(node[2]))
        raise GiveUpError(f"no value of {node[0]}")

    def _power(self, base: Any, exponent: Any) -> Any:
        mp = self._mp
        size = abs(exponent) * (abs(mp.log(abs(base))) if base else 0)
        if size > MAX_VALUE_BITS:
            raise GiveUpError("a very large power")
        return base**exponent

    def _root(self, index: Any, value: Any) -> Any:
        """Compute the real root of a negative number, for odd indices."""
        mp = self._mp
        if mp.im(value) == 0 and mp.re(value) < 0 and index == int(index) and int(index) % 2:
            return -((-value) ** (1 / index))
        self._expect_real(value)
        return mp.sqrt(value) if index == 2 else value ** (1 / index)

    def _logarithm(self, base: Any, value: Any) -> Any:
        self._expect_real(value)
        return self._mp.log(value) / self._mp.log(base)

    def _expect_real(self, value: Any) -> None:
        if self._only_real and self._mp.im(value) == 0 and self._mp.re(value) < 0:
            raise GiveUpError("a value that is not real")

    def _factorial(self, value: Any) -> Any:
        if abs(value) > 10**6:
            raise GiveUpError("a very large factorial")
        return self._mp.factorial(value)

    def _function(self, name: str, value: Any) -> Any:
        if abs(value) > 10**6 and name.endswith("h"):
            raise GiveUpError("a very large value")
        return getattr(self._mp, _FUNCTIONS.get(name, name))(value)
