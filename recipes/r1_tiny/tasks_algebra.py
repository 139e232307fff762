"""Tasks with an unknown or a rule: linear equations, percentages, sequences."""

from __future__ import annotations

from random import Random

from recipes.r1_tiny import decimals, steps
from recipes.r1_tiny.decimals import Num
from recipes.r1_tiny.problems import Core, Task, whole

_LETTERS = "xxxxxxyyzznmabcdhkpqrstuvw"


def _quotient(out: list[str], a: int, b: int) -> int:
    """Exact quotient of a number of any sign by ``b`` != 0."""
    if a >= 0 and b > 0:
        return steps.divide(out, a, b)[0] if a else _zero(out, b)
    sign = "" if (a < 0) == (b < 0) else "-"
    out.append(f"{a} ÷ {f'({b})' if b < 0 else b} = {sign}({abs(a)} ÷ {abs(b)}).")
    q = steps.divide(out, abs(a), abs(b))[0] if a else _zero(out, abs(b))
    return q if not sign else -q


def _zero(out: list[str], b: int) -> int:
    out.append(f"0 ÷ {b} = 0.")
    return 0


def _solution(rng: Random, level: int) -> int:
    x = rng.randint(1, (10, 12, 30, 100, 400)[level - 1])
    return -x if rng.random() < 0.12 else x


def _term(k: int, v: str) -> str:
    return v if k == 1 else f"{k}{v}"


def lin1(rng: Random, level: int) -> Core:
    v, x = rng.choice(_LETTERS), _solution(rng, level)
    k = rng.randint(2, (5, 9, 12, 20, 60)[level - 1])
    b = rng.randint(1, (10, 30, 60, 200, 900)[level - 1])
    form = rng.random()
    if form < 0.4:
        c = k * x + b
        left, moved = f"{k}{v} + {b}", ("+", b)
    elif form < 0.68:
        c = k * x - b
        left, moved = f"{k}{v} - {b}", ("-", b)
    elif form < 0.76:
        c = k * x + b
        left, moved = f"{b} + {k}{v}", ("+", b)
    elif form < 0.82:
        return _times_bracket(rng, v, k, b, x)
    elif form < 0.87:
        return _fraction(rng, v, k, b)
    elif form < 0.92:
        k, c, left = 1, x + b, f"{v} + {b}"
        moved = ("+", b)
    elif form < 0.96:
        c, left, moved = k * x, f"{k}{v}", ("", 0)
    else:
        return _taken_from(rng, v, k, b, x)
    eq = f"{left} = {c}" if rng.random() < 0.85 else f"{c} = {left}"
    out = [f"Solve {left} = {c} for {v}."]
    if moved[0] == "+":
        out.append(f"Subtract {b}: {_term(k, v)} = {c} - {b}.")
        c = steps.sub_signed(out, c, b)
    elif moved[0] == "-":
        out.append(f"Add {b}: {_term(k, v)} = {c} + {b}.")
        c = steps.add_signed(out, c, b)
    return _finish(rng, out, v, k, c, eq)


def _finish(rng: Random, out: list[str], v: str, k: int, c: int, eq: str) -> Core:
    """Ends with ``k v = c``."""
    x = c
    if k != 1:
        out.append(f"{k}{v} = {c}, divide by {k}: {v} = {c} ÷ {k}.")
        x = _quotient(out, c, k)
    out.append(f"{v} = {x}.")
    if k != 1 and rng.random() < 0.2:
        out.append("Check by putting it back.")
        if x >= 0 and k > 0:
            steps.mul(out, k, x)
        else:
            out.append(f"{k} × ({x}) = {k * x}.")
    return Core({"eq": eq, "v": v}, out, str(x))


def _times_bracket(rng: Random, v: str, k: int, b: int, x: int) -> Core:
    sign = "+" if rng.random() < 0.6 else "-"
    inner = x + b if sign == "+" else x - b
    c = k * inner
    eq = f"{k}({v} {sign} {b}) = {c}"
    out = [f"Solve {eq} for {v}.", f"Divide by {k}: {v} {sign} {b} = {c} ÷ {k}."]
    inner = _quotient(out, c, k)
    out.append(f"{v} = {inner} {'-' if sign == '+' else '+'} {b}.")
    x = steps.sub_signed(out, inner, b) if sign == "+" else steps.add_signed(out, inner, b)
    out.append(f"{v} = {x}.")
    return Core({"eq": eq, "v": v}, out, str(x))


def _fraction(rng: Random, v: str, k: int, b: int) -> Core:
    q = rng.randint(1, 60)
    plus = rng.random() < 0.6
    c = q + b if plus else q - b
    eq = f"{v}/{k} {'+' if plus else '-'} {b} = {c}"
    out = [f"Solve {eq} for {v}.", f"{v}/{k} = {c} {'-' if plus else '+'} {b}."]
    q = steps.sub_signed(out, c, b) if plus else steps.add_signed(out, c, b)
    out.append(f"{v} = {q} × {k}.")
    x = steps.mul(out, q, k)
    out.append(f"{v} = {x}.")
    return Core({"eq": eq, "v": v}, out, str(x))


def _taken_from(rng: Random, v: str, k: int, b: int, x: int) -> Core:
    x = abs(x)
    b = k * x + b
    c = b - k * x
    eq = f"{b} - {k}{v} = {c}"
    out = [f"Solve {eq} for {v}.", f"{k}{v} = {b} - {c}."]
    c = steps.sub(out, b, c)
    return _finish(rng, out, v, k, c, eq)


def lin2(rng: Random, level: int) -> Core:
    v, x = rng.choice(_LETTERS), _solution(rng, level)
    top = (6, 9, 12, 20, 40)[level - 1]
    c = rng.randint(1, top)
    a = c + rng.randint(1, top)
    limit = (10, 30, 60, 200, 500)[level - 1]
    b = rng.choice((-1, 1)) * rng.randint(1, limit)
    d = a * x + b - c * x
    if rng.random() < 0.3:
        a, b, c, d = c, d, a, b
    left, right = _side(a, v, b), _side(c, v, d)
    eq = f"{left} = {right}"
    out = [f"Solve {eq} for {v}."]
    if a < c:
        out.append(f"Swap the sides: {right} = {left}.")
        a, b, c, d = c, d, a, b
    out.append(f"{a}{v} - {_term(c, v)} = {_term(a - c, v)}.")
    out.append(f"{_term(a - c, v)} = {d} {'-' if b >= 0 else '+'} {abs(b)}.")
    value = steps.sub_signed(out, d, b) if b >= 0 else steps.add_signed(out, d, -b)
    return _finish(rng, out, v, a - c, value, eq)


def _side(k: int, v: str, b: int) -> str:
    if b == 0:
        return _term(k, v)
    return f"{_term(k, v)} {'+' if b > 0 else '-'} {abs(b)}"


def lin_words(rng: Random, level: int) -> Core:
    x = rng.randint(1, (10, 12, 30, 100, 400)[level - 1])
    k = rng.randint(2, (5, 9, 12, 20, 60)[level - 1])
    b = rng.randint(1, (10, 30, 60, 200, 900)[level - 1])
    c = k * x + b
    out = [f"The equation is {k}x + {b} = {c}.", f"Subtract {b}: {k}x = {c} - {b}."]
    c2 = steps.sub(out, c, b)
    core = _finish(rng, out, "x", k, c2, "")
    return Core({"k": k, "b": b, "c": c}, core.lines, core.answer)


def _percent(rng: Random, level: int, high: int) -> int | Num:
    if level <= 2 and rng.random() < 0.7:
        return rng.choice(
            [p for p in (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90) if p <= high]
        )
    if level >= 3 and rng.random() < 0.06:
        return Num(rng.randint(1, high - 1) * 10 + 5, 1)
    return rng.randint(1, high)


def part_of(out: list[str], p: int | Num, a: int | Num) -> Num:
    """``p`` percent of ``a``."""
    out.append(f"{p}% of {a} = {p} × {a} ÷ 100.")
    return decimals.shift(out, decimals.mul(out, p, a), 2)


def _base(rng: Random, level: int) -> int:
    a = whole(rng, 2 if level < 4 else 3, (2, 3, 3, 4, 5)[level - 1])
    return max(10, a // 10 * 10) if rng.random() < 0.45 else a


def pct_of(rng: Random, level: int) -> Core:
    p, a = _percent(rng, level, 99), _base(rng, level)
    if level == 5 and rng.random() < 0.2:
        p = rng.randint(101, 250)
    out = [f"We need {p}% of {a}."]
    return Core({"p": p, "a": a}, out, str(part_of(out, p, a)))


def pct_up(rng: Random, level: int) -> Core:
    p, a = _percent(rng, level, 99), _base(rng, level)
    out = [f"We need {a} + {p}% of {a}."]
    return Core({"p": p, "a": a}, out, str(decimals.add(out, a, part_of(out, p, a))))


def pct_down(rng: Random, level: int) -> Core:
    p, a = _percent(rng, level, 95), _base(rng, level)
    out = [f"We need {a} - {p}% of {a}."]
    return Core({"p": p, "a": a}, out, str(decimals.sub(out, a, part_of(out, p, a))))


def pct_what(rng: Random, level: int) -> Core:
    while True:
        b = (
            rng.choice((10, 20, 25, 40, 50, 80, 100, 125, 160, 200, 250, 400, 500))
            if level < 3 or rng.random() < 0.3
            else rng.randint(5, (0, 0, 100, 400, 999)[level - 1])
        )
        p4 = rng.randint(1, 150 if rng.random() < 0.1 else 99) * (
            4 if rng.random() < 0.85 else 1
        )  # quarters of %
        if b * p4 % 400 == 0:
            break
    a = b * p4 // 400
    out = [f"We need {a} as a percent of {b} = {a} × 100 ÷ {b}.", f"{a} × 100 = {a * 100}."]
    return Core({"a": a, "b": b}, out, str(decimals.divide(out, a * 100, b)))


def seq_next(rng: Random, level: int) -> Core:
    limit = (10, 25, 100, 500, 3000)[level - 1]
    d, a = rng.randint(1, max(5, limit // 3)), rng.randint(1, limit)
    n = rng.randint(3, 6)
    if rng.random() < 0.25:
        d = -d
        a = a - n * d if rng.random() < 0.85 else a
    terms = [a + i * d for i in range(n)]
    out = ["The terms are " + ", ".join(map(str, terms)) + "."]
    out.append("Look at the difference of the first two terms.")
    step = steps.sub_signed(out, terms[1], terms[0])
    if rng.random() < 0.3:
        out.append("Check with the last two terms.")
        steps.sub_signed(out, terms[-1], terms[-2])
    out.append(
        f"Each term changes by {step}. Next: {terms[-1]} {'+' if step >= 0 else '-'} {abs(step)}."
    )
    value = (
        steps.add_signed(out, terms[-1], step)
        if step >= 0
        else steps.sub_signed(out, terms[-1], -step)
    )
    return Core({"terms": ", ".join(map(str, terms))}, out, str(value))


def geo_next(rng: Random, level: int) -> Core:
    r = rng.randint(2, (3, 4, 5, 7, 12)[level - 1])
    n = rng.randint(3, 4 if r > 5 else 5)
    a = rng.randint(1, (4, 6, 9, 15, 40)[level - 1])
    terms = [a * r**i for i in range(n + 1)]
    down = rng.random() < 0.2
    if down:
        terms.reverse()
    value, terms = terms[-1], terms[:-1]
    out = ["The terms are " + ", ".join(map(str, terms)) + "."]
    if down:
        out.append(f"The terms get smaller: {terms[0]} ÷ {terms[1]}.")
        steps.divide(out, terms[0], terms[1])
        out.append(f"Each term is divided by {r}. Next: {terms[-1]} ÷ {r}.")
        steps.divide(out, terms[-1], r)
    else:
        out.append(f"The terms are multiplied: {terms[1]} ÷ {terms[0]}.")
        steps.divide(out, terms[1], terms[0])
        out.append(f"Each term is multiplied by {r}. Next: {terms[-1]} × {r}.")
        steps.mul(out, terms[-1], r)
    return Core({"terms": ", ".join(map(str, terms))}, out, str(value))


def seq_nth(rng: Random, level: int) -> Core:
    n = rng.randint(3, (10, 20, 50, 100, 400)[level - 1])
    a = rng.randint(1, (10, 20, 60, 200, 900)[level - 1])
    d = rng.randint(2, (5, 9, 15, 40, 120)[level - 1])
    out = [f"The {n}-th term is {a} + ({n} - 1) × {d} = {a} + {n - 1} × {d}."]
    return Core({"a": a, "d": d, "n": n}, out, str(steps.add(out, a, steps.mul(out, n - 1, d))))


TASKS = (
    Task("lin1", "linear_equation", 4.5, lin1),
    Task("lin2", "linear_equation", 4.0, lin2),
    Task("lin_words", "linear_equation", 2.5, lin_words),
    Task("pct_of", "percentage", 2.3, pct_of),
    Task("pct_up", "percentage", 2.3, pct_up),
    Task("pct_down", "percentage", 2.3, pct_down),
    Task("pct_what", "percentage", 2.5, pct_what),
    Task("seq_next", "sequence", 2.2, seq_next),
    Task("geo_next", "sequence", 2.5, geo_next),
    Task("seq_nth", "sequence", 2.8, seq_nth),
)
