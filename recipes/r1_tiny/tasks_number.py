"""Tasks on whole numbers: the four operations, chained sums, gcd and lcm, remainders."""

from __future__ import annotations

from math import gcd
from random import Random

from recipes.r1_tiny import steps
from recipes.r1_tiny.problems import Core, Task, whole


def add(rng: Random, level: int) -> Core:
    top = min(6, level + 1)
    a, b = whole(rng, max(1, top - 1), top), whole(rng, 1, top)
    if rng.random() < 0.5:
        a, b = b, a
    out = [f"We need {a} + {b}."]
    total = steps.add(out, a, b)
    if rng.random() < 0.08:
        out.append("Check with the other order.")
        steps.add(out, b, a)
    return Core({"a": a, "b": b}, out, str(total))


def sub(rng: Random, level: int) -> Core:
    top = min(6, level + 1)
    a, b = whole(rng, max(1, top - 1), top), whole(rng, 1, top)
    if (a < b) != (rng.random() < 0.1):
        a, b = b, a
    out = [f"We need {a} - {b}."]
    result = steps.sub(out, a, b)
    if result > 0 and rng.random() < 0.15:
        out.append(f"Check: {result} + {b} must be {a}.")
        steps.add(out, result, b)
    return Core({"a": a, "b": b}, out, str(result))


def mul(rng: Random, level: int) -> Core:
    if level == 1:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
    else:
        da, db = rng.choice(
            {
                2: ((2, 1), (2, 1), (3, 1)),
                3: ((2, 2), (3, 1)),
                4: ((3, 2), (4, 1), (2, 2), (4, 2)),
                5: ((4, 2), (3, 3), (4, 3), (4, 3)),
            }[level]
        )
        a, b = whole(rng, da, da), whole(rng, db, db)
    if rng.random() < 0.4:
        a, b = b, a
    out = [f"We need {a} × {b}."]
    product = steps.mul(out, a, b)
    small = min(a, b)
    if level > 1 and rng.random() < (0.4 if level == 5 else 0.15):
        out.append(f"Check: {product} ÷ {small} must be {max(a, b)}.")
        steps.divide(out, product, small)
    return Core({"a": a, "b": b}, out, str(product))


def div(rng: Random, level: int) -> Core:
    dq, db = rng.choice(
        {
            1: ((1, 1),),
            2: ((2, 1), (2, 1), (1, 2)),
            3: ((3, 1), (2, 1), (2, 2)),
            4: ((2, 2), (3, 2), (4, 1)),
            5: ((3, 2), (4, 2), (4, 2), (5, 1)),
        }[level]
    )
    q, b = whole(rng, dq, dq), whole(rng, db, db)
    if rng.random() < 0.1:
        q = q // 10 * 10 or 10
    a = q * b
    out = [f"We need {a} ÷ {b}."]
    steps.divide(out, a, b)
    if level > 1 and rng.random() < 0.25:
        out.append(f"Check: {q} × {b} must be {a}.")
        steps.mul(out, q, b)
    return Core({"a": a, "b": b}, out, str(q))


def run_chain(out: list[str], first: int, rest: list[tuple[str, int]]) -> int:
    """Works a sum from left to right."""
    total = first
    for sign, n in rest:
        total = steps.add_signed(out, total, n) if sign == "+" else steps.sub_signed(out, total, n)
    return total


def chain(rng: Random, level: int) -> Core:
    count = rng.randint(3, 4) if level == 1 else rng.randint(3, min(8, level + 3))
    top = (1, 2, 3, 3, 4)[level - 1]
    low = 1 if level < 4 else 2
    terms: list[tuple[str, int, int]] = []  # sign, number, factor (1: none)
    value = 0
    product_at = rng.randrange(count) if rng.random() < 0.25 else -1
    for i in range(count):
        n, factor = whole(rng, low, max(2, top)), 1
        if i == product_at:
            n, factor = whole(rng, 1, 2), rng.randint(2, 12)
        sign = "+" if i == 0 or rng.random() < 0.5 else "-"
        if sign == "-" and value < n * factor and rng.random() < 0.85:
            sign = "+"
        value += n * factor if sign == "+" else -n * factor
        terms.append((sign, n, factor))
    shown = " ".join(
        ("" if i == 0 else f"{s} ") + (f"{n} × {f}" if f > 1 else str(n))
        for i, (s, n, f) in enumerate(terms)
    )
    out = [f"We need {shown}."]
    plain = []
    for sign, n, factor in terms:
        if factor > 1:
            out.append("First the product.")
            n = steps.mul(out, n, factor)
        plain.append((sign, n))
    if product_at >= 0:
        out.append(
            "Now "
            + " ".join(("" if i == 0 else f"{s} ") + str(n) for i, (s, n) in enumerate(plain))
            + "."
        )
    total = run_chain(out, plain[0][1], plain[1:])
    return Core({"expr": shown}, out, str(total))


def chain_words(rng: Random, level: int) -> Core:
    top = (1, 2, 3, 4, 4)[level - 1]
    a, b, c, d = (whole(rng, 1, max(2, top)) for _ in range(4))
    if a + b < c and rng.random() < 0.85:
        a, c = c, a
    out = [f"We need {a} + {b} - {c} + {d}."]
    return Core(
        {"a": a, "b": b, "c": c, "d": d},
        out,
        str(run_chain(out, a, [("+", b), ("-", c), ("+", d)])),
    )


def euclid(out: list[str], a: int, b: int) -> int:
    """Greatest common divisor, by Euclid's algorithm with every remainder worked."""
    big, small = max(a, b), min(a, b)
    out.append(f"gcd({big}, {small}): divide and keep the remainder.")
    while small:
        rest = steps.remainder_by_multiples(out, big, small)
        out.append(f"gcd({big}, {small}) = gcd({small}, {rest}).")
        big, small = small, rest
    out.append(f"The remainder is 0, so the gcd is {big}.")
    return big


def _pair(rng: Random, limit: int) -> tuple[int, int]:
    kind = rng.random()
    if kind < 0.15:
        a, b = rng.randint(2, limit), rng.randint(2, limit)
    elif kind < 0.25:  # close to a multiple
        b = rng.randint(2, max(3, limit // rng.choice((2, 3, 5, 9))))
        a = max(2, b * rng.randint(1, max(1, limit // b)) + rng.randint(-3, 3))
    elif kind < 0.32:  # digits alike
        a = rng.randint(2, limit)
        b = max(
            2,
            min(
                limit,
                a + rng.choice((-1, 1)) * rng.choice((1, 2, 4, 10, 90, 100, 900, 996, 1000, 1004)),
            ),
        )
    else:
        g = rng.randint(2, max(2, limit // rng.choice((3, 5, 8, 15))))
        a, b = g * rng.randint(1, limit // g), g * rng.randint(1, limit // g)
    return (a, b) if a != b else (a, a * 2)


def gcd_task(rng: Random, level: int) -> Core:
    a, b = _pair(rng, (40, 100, 500, 2000, 9999)[level - 1])
    a, b = min(a, 9999), min(b, 9999)
    out = [f"We need gcd({a}, {b})."]
    return Core({"a": a, "b": b}, out, str(euclid(out, a, b)))


def lcm_task(rng: Random, level: int) -> Core:
    a, b = _pair(rng, (12, 30, 75, 200, 600)[level - 1])
    out = [f"We need lcm({a}, {b}) = {a} × {b} ÷ gcd({a}, {b})."]
    g = euclid(out, a, b)
    part = a
    if g > 1:
        part, _ = steps.divide(out, a, g)
    out.append(f"lcm = {part} × {b}.")
    value = steps.mul(out, part, b)
    if value != a * b // gcd(a, b):
        raise AssertionError("lcm: wrong steps")
    return Core({"a": a, "b": b}, out, str(value))


def rem(rng: Random, level: int) -> Core:
    da, db = rng.choice(
        {
            1: ((2, 1),),
            2: ((2, 1), (3, 1), (2, 2)),
            3: ((3, 1), (3, 2), (4, 1)),
            4: ((4, 1), (4, 2), (3, 2)),
            5: ((4, 2), (5, 2), (5, 2)),
        }[level]
    )
    a, b = whole(rng, da, da), max(3, whole(rng, db, db))
    if a < b and rng.random() < 0.8:
        a, b = b, a
    if rng.random() < 0.08:
        a = max(b, a // b * b)
    elif rng.random() < 0.12:
        a = a // b * b + rng.choice((1, 2, b - 1, b - 2))
    out = [f"We need the remainder of {a} ÷ {b}."]
    _, r = steps.divide(out, a, b)
    if rng.random() < 0.15:
        out.append(f"Check: {b} × {a // b} + {r} must be {a}.")
        steps.add(out, steps.mul(out, b, a // b), r)
    out.append(f"The remainder is {r}.")
    return Core({"a": a, "b": b}, out, str(r))


TASKS = (
    Task("add", "arithmetic", 2.2, add),
    Task("sub", "arithmetic", 2.2, sub),
    Task("mul", "arithmetic", 3.5, mul),
    Task("div", "arithmetic", 3.0, div),
    Task("chain", "chain", 4.0, chain),
    Task("chain_words", "chain", 3.0, chain_words),
    Task("gcd", "gcd_lcm", 5.5, gcd_task),
    Task("lcm", "gcd_lcm", 5.0, lcm_task),
    Task("rem", "remainder", 4.0, rem),
)
