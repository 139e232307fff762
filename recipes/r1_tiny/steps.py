"""Worked whole-number arithmetic: functions append steps to lines and return results.

The steps are spelt out digit by digit (columns with carries, partial products, long division), so
that each next token follows from a few earlier ones and a model of 6 M parameters can be exact.
"""

from __future__ import annotations

PLACES = (
    "ones",
    "tens",
    "hundreds",
    "thousands",
    "ten-thousands",
    "hundred-thousands",
    "millions",
    "ten-millions",
    "hundred-millions",
    "billions",
    "ten-billions",
)
_DIRECT_SUM = 100  # both numbers below this are added or subtracted in one go
_DIRECT_FACTOR = 13  # both factors below this: the times table


def digits(n: int) -> list[int]:
    """Decimal digits of ``n`` >= 0, ones first."""
    return [ord(c) - 48 for c in reversed(str(n))]


def add(out: list[str], a: int, b: int) -> int:
    """Sum of two non-negative whole numbers, by columns when one has three digits or more."""
    total = a + b
    if (a < _DIRECT_SUM and b < _DIRECT_SUM) or a == 0 or b == 0:
        out.append(f"{a} + {b} = {total}.")
        return total
    out.append(f"Add {a} + {b} by columns.")
    da, db = digits(a), digits(b)
    carry = 0
    for place in range(max(len(da), len(db))):
        x = da[place] if place < len(da) else 0
        y = db[place] if place < len(db) else 0
        s = x + y + carry
        out.append(f"{PLACES[place]}: {x} + {y} + {carry} = {s}, write {s % 10}, carry {s // 10}")
        carry = s // 10
    if carry:
        out.append(f"{PLACES[place + 1]}: write {carry}")
    out.append(f"So {a} + {b} = {total}.")
    return total


def sub(out: list[str], a: int, b: int) -> int:
    """Difference of two non-negative whole numbers (may be negative), by columns when one has three
    digits or more.
    """
    result = a - b
    if result < 0:
        out.append(f"{b} is larger than {a}, so {a} - {b} is negative.")
        sub(out, b, a)
        out.append(f"So {a} - {b} = {result}.")
        return result
    if (a < _DIRECT_SUM and b < _DIRECT_SUM) or b == 0:
        out.append(f"{a} - {b} = {result}.")
        return result
    out.append(f"Subtract {a} - {b} by columns.")
    da, db = digits(a), digits(b)
    borrow = 0
    for place, x in enumerate(da):
        y = db[place] if place < len(db) else 0
        d = x - y - borrow
        if d < 0:
            out.append(
                f"{PLACES[place]}: {x} - {y} - {borrow} is below 0, "
                f"{x + 10} - {y} - {borrow} = {d + 10}, write {d + 10}, borrow 1"
            )
            borrow = 1
        else:
            out.append(f"{PLACES[place]}: {x} - {y} - {borrow} = {d}, write {d}, borrow 0")
            borrow = 0
    out.append(f"So {a} - {b} = {result}.")
    return result


def add_signed(out: list[str], a: int, b: int) -> int:
    """``a + b`` for numbers of any sign."""
    if a >= 0 and b >= 0:
        return add(out, a, b)
    if a < 0 and b < 0:
        out.append(f"Both are negative: {-a} + {-b} with a minus sign.")
        total = -add(out, -a, -b)
    elif a < 0:
        out.append(f"{a} + {b} = {b} - {-a}.")
        return sub(out, b, -a)
    else:
        out.append(f"{a} + ({b}) = {a} - {-b}.")
        return sub(out, a, -b)
    out.append(f"So {a} + ({b}) = {total}.")
    return total


def sub_signed(out: list[str], a: int, b: int) -> int:
    """``a - b`` for numbers of any sign."""
    if a >= 0 and b >= 0:
        return sub(out, a, b)
    if b < 0:
        out.append(f"{a} - ({b}) = {a} + {-b}.")
        return add_signed(out, a, -b)
    out.append(f"{a} - {b} = -({-a} + {b}).")
    total = -add(out, -a, b)
    out.append(f"So {a} - {b} = {total}.")
    return total


def is_power_of_ten(n: int) -> bool:
    """Whether ``n`` is 10, 100, 1000 …"""
    return n >= 10 and str(n).strip("0") == "1"


def mul_digit(out: list[str], a: int, d: int) -> int:
    """``a`` times one digit ``d``, by columns with carries."""
    product = a * d
    if a < _DIRECT_FACTOR or d <= 1:
        out.append(f"{a} × {d} = {product}.")
        return product
    out.append(f"Multiply {a} × {d} by columns.")
    carry = 0
    da = digits(a)
    for place, x in enumerate(da):
        s = x * d + carry
        if place == 0:
            out.append(f"{PLACES[place]}: {x} × {d} = {s}, write {s % 10}, carry {s // 10}")
        else:
            out.append(
                f"{PLACES[place]}: {x} × {d} = {x * d}, {x * d} + {carry} = {s}, write "
                f"{s % 10}, "
                f"carry {s // 10}"
            )
        carry = s // 10
    if carry:
        out.append(f"{PLACES[len(da)]}: write {carry}")
    out.append(f"So {a} × {d} = {product}.")
    return product


def mul(out: list[str], a: int, b: int) -> int:
    """Product of two non-negative whole numbers, by partial products."""
    product = a * b
    if (
        (a < _DIRECT_FACTOR and b < _DIRECT_FACTOR)
        or min(a, b) <= 1
        or is_power_of_ten(a)
        or is_power_of_ten(b)
    ):
        out.append(f"{a} × {b} = {product}.")
        return product
    if len(str(b)) > len(str(a)):
        out.append(f"{a} × {b} = {b} × {a}.")
        mul(out, b, a)
        out.append(f"So {a} × {b} = {product}.")
        return product
    if b < 10:
        return mul_digit(out, a, b)
    parts = [(d, place) for place, d in enumerate(digits(b)) if d]
    if len(parts) > 1:
        split = " + ".join(str(d * 10**place) for d, place in reversed(parts))
        out.append(f"Split {b} = {split}.")
    total = 0
    for d, place in parts:
        value = mul_digit(out, a, d)
        if place:
            value *= 10**place
            out.append(f"So {a} × {d * 10**place} = {value}.")
        total = add(out, total, value) if total else value
    if len(parts) > 1:
        out.append(f"So {a} × {b} = {product}.")
    return product


def divide(out: list[str], a: int, b: int) -> tuple[int, int]:
    """Divide ``a`` by ``b`` > 0: quotient and remainder, by long division or multiples."""
    quotient, remainder = divmod(a, b)
    if a < b:
        out.append(f"{a} is smaller than {b}, so the quotient is 0 and the remainder is {a}.")
        return quotient, remainder
    if remainder == 0 and b < _DIRECT_FACTOR and quotient < _DIRECT_FACTOR:
        out.append(f"{a} ÷ {b} = {quotient}.")
        return quotient, remainder
    _long_division(out, a, b)
    tail = f" remainder {remainder}" if remainder else ""
    out.append(f"So {a} ÷ {b} = {quotient}{tail}.")
    return quotient, remainder


def list_multiples(out: list[str], b: int) -> None:
    """List multiples of ``b`` for long division; none for divisors of the times table."""
    if b >= _DIRECT_FACTOR:
        out.append(
            f"Multiples of {b}: " + ", ".join(f"{k} × {b} = {k * b}" for k in range(1, 10)) + "."
        )


def bring_down(out: list[str], rest: int, digit: int, b: int) -> tuple[int, int]:
    """One step of long division; returns the quotient's digit and what is left."""
    current = rest * 10 + digit
    q, left = divmod(current, b)
    if q == 0:
        out.append(f"bring down {digit}: {current}, {b} goes 0 times, left {left}")
    else:
        out.append(
            f"bring down {digit}: {current}, {b} goes {q} times, {q * b}, {current} - {q * b} "
            f"= "
            f"{left}, left {left}"
        )
    return q, left


def _long_division(out: list[str], a: int, b: int) -> None:
    out.append(f"Divide {a} by {b} step by step.")
    list_multiples(out, b)
    rest = 0
    found = []
    for digit in reversed(digits(a)):
        q, rest = bring_down(out, rest, digit, b)
        found.append(str(q))
    out.append(f"Quotient digits: {' '.join(found)}.")


def remainder_by_multiples(out: list[str], a: int, b: int) -> int:
    """``a`` modulo ``b`` for a small quotient: count multiples up until they pass ``a``."""
    if a // b > 9:
        return divide(out, a, b)[1]
    if a < _DIRECT_SUM:
        q, r = divmod(a, b)
        out.append(f"{a} = {q} × {b} + {r}, remainder {r}.")
        return r
    multiple, k = b, 1
    listed = [f"1 × {b} = {b}"]
    while multiple + b <= a:
        multiple += b
        k += 1
        listed.append(f"{k} × {b} = {multiple}")
    if multiple == a:
        out.append(", ".join(listed) + ", exactly, remainder 0.")
        return 0
    out.append(", ".join(listed) + f", next {multiple + b} is more than {a}.")
    return sub(out, a, multiple)
