"""What a task makes: numbers for the slots of a question, the worked steps, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from recipes.r1_tiny.decimals import Num

Slot = int | Num | str

FAMILIES = (
    "arithmetic",
    "chain",
    "gcd_lcm",
    "remainder",
    "linear_equation",
    "percentage",
    "sequence",
    "decimal_units",
    "word_problem",
)


class Core(NamedTuple):
    """A problem without its wording: slots of the question, lines of reasoning, the answer as a
    plain number.
    """

    slots: dict[str, Slot]
    lines: list[str]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of problem; ``make(rng, level)`` draws one, level 1 (easy) to 5 (hard)."""

    name: str
    family: str
    weight: float
    make: Callable[[Random, int], Core]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as asked; ``reasoning`` goes inside the think block, ``answer`` into the box."""

    question: str
    reasoning: str
    answer: str
    family: str
    task: str
    level: int


def whole(rng: Random, low_digits: int, high_digits: int) -> int:
    """A whole number >= 2 whose number of digits is drawn evenly from the range."""
    n = rng.randint(low_digits, high_digits)
    return rng.randint(2 if n == 1 else int(10 ** (n - 1)), int(10**n) - 1)


def price(rng: Random, high: int) -> int | Num:
    """A price: mostly whole dollars, sometimes with cents (two places)."""
    kind = rng.random()
    if kind < 0.72:
        return rng.randint(1, high)
    cents = rng.randint(0, high) * 100 + (
        rng.choice((25, 50, 75)) if kind < 0.86 else rng.randint(1, 99)
    )
    if cents % 100 == 0:
        return max(1, cents // 100)
    return Num(cents, 2)
