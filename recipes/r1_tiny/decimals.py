"""Decimal numbers as scaled whole numbers, with the worked steps that go through ``steps``."""

from __future__ import annotations

from typing import NamedTuple

from recipes.r1_tiny import steps


class Num(NamedTuple):
    """``value / 10**places``; ``str()`` keeps trailing zeros as written (prices)."""

    value: int
    places: int = 0

    def __str__(self) -> str:
        if not self.places:
            return str(self.value)
        text = str(abs(self.value)).rjust(self.places + 1, "0")
        sign = "-" if self.value < 0 else ""
        return f"{sign}{text[: -self.places]}.{text[-self.places :]}"

    def trimmed(self) -> Num:
        """The same number without trailing zeros after the point."""
        value, places = self.value, self.places
        while places and value % 10 == 0:
            value //= 10
            places -= 1
        return Num(value, places)

    def scaled(self, places: int) -> int:
        """The whole number of units of 10**-places (places >= self.places)."""
        return self.value * int(10 ** (places - self.places))


def as_num(x: int | Num) -> Num:
    """Whole numbers are numbers with no decimal places."""
    return x if isinstance(x, Num) else Num(x)


def _point(out: list[str], value: int, places: int) -> Num:
    """Puts the decimal point back."""
    raw = Num(value, places)
    result = raw.trimmed()
    step = f"Put the point back, {places} places: {raw}"
    out.append(step + (f" = {result}." if str(result) != str(raw) else "."))
    return result


def add(out: list[str], x: int | Num, y: int | Num) -> Num:
    """Sum of two non-negative decimal numbers."""
    a, b = as_num(x), as_num(y)
    places = max(a.places, b.places)
    if not places:
        return Num(steps.add(out, a.value, b.value))
    u, v = a.scaled(places), b.scaled(places)
    out.append(f"{a} + {b} = {Num(u, places)} + {Num(v, places)}, without the point {u} + {v}.")
    return _point(out, steps.add(out, u, v), places)


def sub(out: list[str], x: int | Num, y: int | Num) -> Num:
    """Difference of two non-negative decimal numbers; may be negative."""
    a, b = as_num(x), as_num(y)
    places = max(a.places, b.places)
    if not places:
        return Num(steps.sub(out, a.value, b.value))
    u, v = a.scaled(places), b.scaled(places)
    out.append(f"{a} - {b} = {Num(u, places)} - {Num(v, places)}, without the point {u} - {v}.")
    return _point(out, steps.sub(out, u, v), places)


def mul(out: list[str], x: int | Num, y: int | Num) -> Num:
    """Product of two non-negative decimal numbers."""
    a, b = as_num(x), as_num(y)
    places = a.places + b.places
    if not places:
        return Num(steps.mul(out, a.value, b.value))
    out.append(f"{a} × {b}: without the point {a.value} × {b.value}, {places} decimal places.")
    return _point(out, steps.mul(out, a.value, b.value), places)


def shift(out: list[str], x: int | Num, by: int) -> Num:
    """``x`` divided by ten ``by`` times: the point moves to the left."""
    a = as_num(x)
    raw = Num(a.value, a.places + by)
    result = raw.trimmed()
    tail = f" = {result}." if str(result) != str(raw) else "."
    out.append(f"{a} ÷ {10**by}: move the point {by} places left: {raw}{tail}")
    return result


def divide(out: list[str], x: int | Num, y: int | Num) -> Num:
    """Quotient that ends after a few decimal places; a divisor with places is scaled away first."""
    a, b = as_num(x), as_num(y)
    if a.places or b.places:
        places = max(a.places, b.places)
        u, v = a.scaled(places), b.scaled(places)
        out.append(f"{a} ÷ {b} = {u} ÷ {v}.")
        a, b = Num(u), Num(v)
    if steps.is_power_of_ten(b.value):
        return shift(out, a, len(str(b.value)) - 1)
    if a.value % b.value == 0:
        return Num(steps.divide(out, a.value, b.value)[0])
    return _divide_on(out, a.value, b.value)


def _divide_on(out: list[str], a: int, b: int) -> Num:
    """Long division that goes on behind the point until nothing is left."""
    out.append(f"Divide {a} by {b} step by step.")
    steps.list_multiples(out, b)
    rest = 0
    found = ""
    for digit in reversed(steps.digits(a)):
        q, rest = steps.bring_down(out, rest, digit, b)
        found += str(q)
    places = 0
    while rest:
        if not places:
            out.append(f"There is {rest} left, so go on behind the point.")
        q, rest = steps.bring_down(out, rest, 0, b)
        found += str(q)
        places += 1
        if places > 9:
            raise ValueError(f"decimals.divide: {a} ÷ {b} does not end within 9 places")
    result = Num(int(found), places)
    shown = " ".join(found[:-places]) + " . " + " ".join(found[-places:])
    out.append(f"Quotient digits: {shown}.")
    out.append(f"So {a} ÷ {b} = {result}.")
    return result
