"""Word problems: the first line of the reasoning names the quantity and writes the formula, without
any nouns.
"""

from __future__ import annotations

from random import Random

from recipes.r1_tiny import decimals, steps
from recipes.r1_tiny.decimals import Num
from recipes.r1_tiny.problems import Core, Slot, Task, price, whole
from recipes.r1_tiny.tasks_algebra import part_of

_COUNT = (9, 12, 30, 80, 400)  # largest count by level
_PRICE = (9, 15, 40, 120, 900)
_SPEED_UNITS = (
    ("km/h", "km"),
    ("km/h", "kilometers"),
    ("mph", "miles"),
    ("kilometers per hour", "kilometers"),
    ("miles per hour", "miles"),
    ("kilometres per hour", "kilometres"),
    ("km per hour", "km"),
)
_LENGTH_UNITS = (
    "meters",
    "metres",
    "m",
    "cm",
    "centimeters",
    "feet",
    "inches",
    "yards",
    "km",
    "ft",
    "centimetres",
)


def total_cost(rng: Random, level: int) -> Core:
    n, p = rng.randint(2, _COUNT[level - 1]), price(rng, _PRICE[level - 1])
    out = [f"Total cost = number × price = {n} × {p}."]
    return Core({"n": n, "price": p}, out, str(decimals.mul(out, n, p).trimmed()))


def two_items(rng: Random, level: int) -> Core:
    top = max(6, _COUNT[level - 1] // 2)
    n, n2 = rng.randint(2, top), rng.randint(2, top)
    p, p2 = price(rng, _PRICE[level - 1]), price(rng, _PRICE[level - 1])
    out = [f"Total of two purchases = {n} × {p} + {n2} × {p2}."]
    first, second = decimals.mul(out, n, p), decimals.mul(out, n2, p2)
    out.append(f"Add them: {first} + {second}.")
    return Core(
        {"n": n, "price": p, "n2": n2, "price2": p2}, out, str(decimals.add(out, first, second))
    )


def change(rng: Random, level: int) -> Core:
    n, p = rng.randint(2, max(6, _COUNT[level - 1] // 2)), price(rng, _PRICE[level - 1])
    cents = n * decimals.as_num(p).scaled(2)
    notes = [d for d in (5, 10, 20, 50, 100, 200, 500, 1000, 2000) if d * 100 > cents]
    paid = (
        rng.choice(notes[:2])
        if notes and rng.random() < 0.75
        else cents // 100 + rng.randint(1, 60)
    )
    out = [f"Change = paid - number × price = {paid} - {n} × {p}."]
    cost = decimals.mul(out, n, p)
    out.append(f"Change: {paid} - {cost}.")
    return Core({"n": n, "price": p, "paid": paid}, out, str(decimals.sub(out, paid, cost)))


def share(rng: Random, level: int) -> Core:
    k = rng.randint(2, (6, 10, 14, 30, 60)[level - 1])
    each = rng.randint(2, (9, 15, 40, 150, 900)[level - 1])
    out = [f"Each share = total ÷ parts = {k * each} ÷ {k}."]
    steps.divide(out, k * each, k)
    return Core({"total": k * each, "k": k}, out, str(each))


def leftover(rng: Random, level: int) -> Core:
    k = rng.randint(3, (8, 12, 15, 30, 60)[level - 1])
    total = k * rng.randint(1, (6, 12, 40, 120, 500)[level - 1]) + (
        rng.randrange(k) if rng.random() < 0.85 else rng.choice((1, k - 1, 0))
    )
    out = [f"Left over = remainder of {total} ÷ {k}."]
    _, rest = steps.divide(out, total, k)
    out.append(f"The remainder is {rest}.")
    return Core({"total": total, "k": k}, out, str(rest))


def _hours(rng: Random, level: int) -> int | Num:
    if rng.random() < 0.22:
        return Num(rng.randint(0, 9) * 100 + rng.choice((50, 50, 25, 75)), 2).trimmed()
    return rng.randint(2, (5, 8, 12, 15, 48)[level - 1])


def _speed(rng: Random, level: int) -> int:
    return rng.randint(2, 18) * 5 if level < 3 else rng.randint(4, (0, 0, 99, 140, 950)[level - 1])


def distance(rng: Random, level: int) -> Core:
    speed, hours = _speed(rng, level), _hours(rng, level)
    su, du = rng.choice(_SPEED_UNITS)
    out = [f"Distance = speed × time = {speed} × {hours}."]
    slots: dict[str, Slot] = {"speed": speed, "hours": hours, "su": su, "du": du}
    return Core(slots, out, str(decimals.mul(out, speed, hours)))


def travel_time(rng: Random, level: int) -> Core:
    while True:
        speed, hours = _speed(rng, level), _hours(rng, level)
        dist = Num(speed * decimals.as_num(hours).scaled(2), 2).trimmed()
        if dist.places == 0:
            break
    su, du = rng.choice(_SPEED_UNITS)
    out = [f"Time = distance ÷ speed = {dist} ÷ {speed}."]
    slots: dict[str, Slot] = {"dist": dist.value, "speed": speed, "su": su, "du": du}
    return Core(slots, out, str(decimals.divide(out, dist, speed)))


def _sides(rng: Random, level: int) -> tuple[int | Num, int | Num]:
    top = (12, 20, 60, 250, 900)[level - 1]
    a: int | Num = rng.randint(2, top)
    b: int | Num = rng.randint(2, top)
    if rng.random() < 0.12:
        a = Num(rng.randint(1, min(top, 99)) * 10 + rng.choice((5, 5, rng.randint(1, 9))), 1)
    return (a, b) if rng.random() < 0.7 else (b, a)


def area(rng: Random, level: int) -> Core:
    length, width = _sides(rng, level)
    out = [f"Area = length × width = {length} × {width}."]
    slots: dict[str, Slot] = {"l": length, "w": width, "lu": rng.choice(_LENGTH_UNITS)}
    return Core(slots, out, str(decimals.mul(out, length, width)))


def perimeter(rng: Random, level: int) -> Core:
    length, width = _sides(rng, level)
    out = [f"Perimeter = 2 × (length + width) = 2 × ({length} + {width})."]
    half = decimals.add(out, length, width)
    out.append(f"Twice that: {half} × 2.")
    slots: dict[str, Slot] = {"l": length, "w": width, "lu": rng.choice(_LENGTH_UNITS)}
    return Core(slots, out, str(decimals.mul(out, half, 2)))


def average(rng: Random, level: int) -> Core:
    n = rng.randint(3, (3, 4, 5, 6, 6)[level - 1])
    top = (10, 30, 100, 500, 3000)[level - 1]
    while True:
        values = [rng.randint(1, top) for _ in range(n)]
        values[rng.randrange(n)] += -sum(values) % n
        if max(values) <= top * 2:
            break
    out = ["The numbers are " + ", ".join(map(str, values)) + f": {n} numbers.", "Add them."]
    total = values[0]
    for v in values[1:]:
        total = steps.add(out, total, v)
    out.append(f"Average = sum ÷ count = {total} ÷ {n}.")
    steps.divide(out, total, n)
    joiner = rng.choice((" and ", " and ", ", and ", ", "))
    return Core(
        {"list": ", ".join(map(str, values[:-1])) + joiner + str(values[-1])}, out, str(total // n)
    )


def savings(rng: Random, level: int) -> Core:
    top = (20, 60, 200, 900, 5000)[level - 1]
    start, weekly = price(rng, top), price(rng, max(5, top // 4))
    weeks = rng.randint(2, (6, 10, 20, 52, 52)[level - 1])
    out = [f"Money = start + weekly × weeks = {start} + {weekly} × {weeks}."]
    saved = decimals.mul(out, weekly, weeks)
    out.append(f"Add the start: {start} + {saved}.")
    slots: dict[str, Slot] = {"start": start, "weekly": weekly, "weeks": weeks}
    return Core(slots, out, str(decimals.add(out, start, saved).trimmed()))


def discount(rng: Random, level: int) -> Core:
    p: int | Num = (
        rng.choice((5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 75))
        if rng.random() < 0.7
        else rng.randint(2, 90)
    )
    cost: int | Num = rng.randint(1, (10, 20, 40, 60, 200)[level - 1]) * rng.choice((5, 10))
    if level > 2 and rng.random() < 0.5:
        cost = price(rng, (0, 0, 99, 400, 3000)[level - 1])
    out = [f"Price after discount = {cost} - {p}% of {cost}."]
    off = part_of(out, p, cost)
    out.append(f"Take it off: {cost} - {off}.")
    return Core({"price": cost, "p": p}, out, str(decimals.sub(out, cost, off).trimmed()))


def gains_losses(rng: Random, level: int) -> Core:
    top = (2, 2, 3, 4, 5)[level - 1]
    start, gain = whole(rng, 1, top), whole(rng, 1, top)
    loss = rng.randint(1, start + gain - 1)
    out = [f"Now = start + gain - loss = {start} + {gain} - {loss}."]
    return Core(
        {"start": start, "gain": gain, "loss": loss},
        out,
        str(steps.sub(out, steps.add(out, start, gain), loss)),
    )


def times_as_many(rng: Random, level: int) -> Core:
    a = whole(rng, 1, (1, 2, 2, 3, 4)[level - 1])
    k = (
        rng.choice((2, 2, 3, 3, 4, 5))
        if rng.random() < 0.6
        else rng.randint(2, (5, 8, 12, 15, 20)[level - 1])
    )
    out = [f"Together = {a} + {k} × {a}."]
    other = steps.mul(out, a, k)
    out.append(f"Add both: {a} + {other}.")
    return Core({"a": a, "k": k}, out, str(steps.add(out, a, other)))


def recipe(rng: Random, level: int) -> Core:
    while True:
        s, t = (
            rng.randint(2, (4, 6, 8, 12, 20)[level - 1]),
            rng.randint(2, (8, 12, 20, 40, 90)[level - 1]),
        )
        amount = rng.randint(1, (10, 20, 40, 80, 200)[level - 1]) * rng.choice((5, 10, 25, s))
        if s != t and amount * t % s == 0:
            break
    out = [f"Amount = amount × new ÷ old = {amount} × {t} ÷ {s}."]
    product = steps.mul(out, amount, t)
    out.append(f"Divide: {product} ÷ {s}.")
    q, _ = steps.divide(out, product, s)
    return Core({"amount": amount, "s": s, "t": t}, out, str(q))


def days_needed(rng: Random, level: int) -> Core:
    per, days = (
        rng.randint(2, (9, 15, 40, 80, 99)[level - 1]),
        rng.randint(2, (9, 15, 40, 120, 365)[level - 1]),
    )
    out = [f"Days = total ÷ per day = {per * days} ÷ {per}."]
    steps.divide(out, per * days, per)
    return Core({"total": per * days, "per": per}, out, str(days))


def age(rng: Random, level: int) -> Core:
    top = (12, 20, 50, 60, 70)[level - 1]
    a, d, y = (
        rng.randint(2, top),
        rng.randint(2, max(4, top // 2)),
        rng.randint(2, max(5, top // 2)),
    )
    out = [f"Age = {a} + {d} + {y}."]
    return Core({"a": a, "d": d, "y": y}, out, str(steps.add(out, steps.add(out, a, d), y)))


TASKS = tuple(
    Task(make.__name__, "word_problem", weight, make)
    for make, weight in (
        (total_cost, 1.6),
        (two_items, 2.0),
        (change, 2.0),
        (share, 1.6),
        (leftover, 1.8),
        (distance, 1.6),
        (travel_time, 1.6),
        (area, 1.6),
        (perimeter, 1.6),
        (average, 1.6),
        (savings, 1.8),
        (discount, 1.8),
        (gains_losses, 2.0),
        (times_as_many, 1.8),
        (recipe, 1.8),
        (days_needed, 1.6),
        (age, 1.8),
    )
)
