"""Tasks with decimals and units."""

from __future__ import annotations

from random import Random

from recipes.r1_tiny import decimals, steps
from recipes.r1_tiny.decimals import Num
from recipes.r1_tiny.problems import Core, Task, whole

# unit: the name used in the reasoning, then the names a question may use
UNIT_NAMES: dict[str, tuple[str, ...]] = {
    "km": ("km", "kilometers", "kilometres", "kms"),
    "m": ("m", "meters", "metres"),
    "cm": ("cm", "centimeters", "centimetres", "cms"),
    "mm": ("mm", "millimeters", "millimetres"),
    "kg": ("kg", "kilograms", "kilos", "kilogrammes", "kgs"),
    "g": ("g", "grams", "grammes"),
    "L": ("L", "liters", "litres", "l"),
    "mL": ("mL", "milliliters", "millilitres", "ml"),
    "hours": ("hours", "h", "hrs", "hr"),
    "minutes": ("minutes", "min", "mins"),
    "seconds": ("seconds", "s", "sec", "secs"),
    "days": ("days",),
    "weeks": ("weeks", "wks"),
}
# big unit, small unit, how many small ones make a big one
CONVERSIONS = (
    ("km", "m", 1000),
    ("m", "cm", 100),
    ("cm", "mm", 10),
    ("m", "mm", 1000),
    ("kg", "g", 1000),
    ("L", "mL", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("hours", "seconds", 3600),
    ("days", "hours", 24),
    ("weeks", "days", 7),
)


def _decimal(rng: Random, digits: int) -> Num:
    places = rng.randint(1, 2)
    value = whole(rng, 1, digits) * int(10**places) + rng.randint(1, int(10**places) - 1)
    if rng.random() < 0.1:
        value %= int(10**places)
    value = value or 5
    return Num(value, places) if value % 10 else Num(value + rng.randint(1, 9), places)


def _pair(rng: Random, level: int) -> tuple[Num, Num]:
    digits = (1, 1, 2, 3, 4)[level - 1]
    a, b = _decimal(rng, digits), _decimal(rng, digits)
    if rng.random() < 0.12:
        whole_number = Num(whole(rng, 1, digits))
        return (whole_number, b) if rng.random() < 0.5 else (a, whole_number)
    return a, b


def dec_add(rng: Random, level: int) -> Core:
    a, b = _pair(rng, level)
    out = [f"We need {a} + {b}."]
    return Core({"a": a, "b": b}, out, str(decimals.add(out, a, b)))


def dec_sub(rng: Random, level: int) -> Core:
    a, b = _pair(rng, level)
    if (a.scaled(2) < b.scaled(2)) != (rng.random() < 0.06):
        a, b = b, a
    out = [f"We need {a} - {b}."]
    return Core({"a": a, "b": b}, out, str(decimals.sub(out, a, b)))


def dec_mul(rng: Random, level: int) -> Core:
    a = _decimal(rng, (1, 1, 2, 3, 3)[level - 1])
    k = rng.randint(2, (6, 12, 12, 60, 150)[level - 1])
    out = [f"We need {a} × {k}."]
    return Core({"a": a, "k": k}, out, str(decimals.mul(out, a, k)))


def unit(rng: Random, level: int) -> Core:
    big, small, factor = rng.choice(CONVERSIONS)
    metric = steps.is_power_of_ten(factor)
    while True:
        if rng.random() < 0.5 or factor == 7:
            x: int | Num = whole(rng, 1, (1, 2, 2, 3, 3)[level - 1])
            if metric and rng.random() < 0.55:
                x = _decimal(rng, 2)
            elif factor in (60, 24, 3600) and rng.random() < 0.3:
                x = Num(rng.randint(0, 30) * 100 + rng.choice((25, 50, 75)), 2).trimmed()
            if factor == 7 and rng.random() < 0.5 and isinstance(x, int):
                return _divide(rng, x * 7, big, small, factor)
            return _multiply(rng, x, big, small, factor)
        y = whole(rng, 2, (3, 3, 4, 4, 5)[level - 1])
        if not metric:
            y = rng.randint(1, 40 if level > 2 else 12) * factor
            if rng.random() < 0.35:
                y += factor // rng.choice((2, 4))
        return _divide(rng, y, big, small, factor)


def _names(rng: Random, one: str, other: str) -> tuple[str, str]:
    """Full names or abbreviations for both units, mostly of the same kind."""
    a, b = UNIT_NAMES[one], UNIT_NAMES[other]
    style = rng.random()
    if style < 0.35:
        return a[0], b[0]
    if style < 0.7:
        return a[1 % len(a)], b[1 % len(b)]
    return rng.choice(a), rng.choice(b)


def _multiply(rng: Random, x: int | Num, big: str, small: str, factor: int) -> Core:
    out = [f"From {big} to {small}: 1 {big} = {factor} {small}, so {x} × {factor}."]
    value = decimals.mul(out, x, factor)
    name, to = _names(rng, big, small)
    return Core({"x": x, "from": name, "to": to}, out, str(value))


def _divide(rng: Random, y: int, big: str, small: str, factor: int) -> Core:
    out = [f"From {small} to {big}: {factor} {small} = 1 {big}, so {y} ÷ {factor}."]
    value = decimals.divide(out, y, factor)
    name, to = _names(rng, small, big)
    return Core({"x": y, "from": name, "to": to}, out, str(value))


def time_mix(rng: Random, level: int) -> Core:
    h, m = rng.randint(1, (4, 9, 12, 24, 48)[level - 1]), rng.randint(1, 59)
    out = [f"Minutes = {h} × 60 + {m}."]
    return Core({"h": h, "m": m}, out, str(steps.add(out, steps.mul(out, h, 60), m)))


TASKS = (
    Task("dec_add", "decimal_units", 1.8, dec_add),
    Task("dec_sub", "decimal_units", 1.8, dec_sub),
    Task("dec_mul", "decimal_units", 2.0, dec_mul),
    Task("unit", "decimal_units", 4.0, unit),
    Task("time_mix", "decimal_units", 1.2, time_mix),
)
