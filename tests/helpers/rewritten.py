r"""Right answers of MATH-500, rewritten and nearly missed, by rules on their text.

`equal_forms` keeps the meaning: delimiters, spacing, fonts, `\dfrac`, sizes, names, units, order of
sums and sets, unreduced fractions, decimals. `near_miss` changes it by little: a digit, a sign, a
bracket, a letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

NUMBER = re.compile(r"-?\d+")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
SHORT_FRACTION = re.compile(r"\\frac ?(\d) ?(\d)")
WORD = re.compile(r"\\text\{([A-Za-z]{2,})\}")
CHOICE = re.compile(r"\\text\{\(([A-E])\)\}")
ROOT = re.compile(r"(\d+) ?\\sqrt\{?(\d+)\}?")
TUPLE = re.compile(
    r"(?P<open>(?:\\left ?)?[(\[]) *(?P<inside>[^()\[\]]+?) *(?P<close>(?:\\right ?)?[)\]])"
)


def equal_forms(gold: str) -> list[str]:
    """Five different texts that mean the same as `gold`, none of them `gold` itself."""
    forms = list(dict.fromkeys(form for form in _forms(gold) if form != gold))
    return forms[:5]


def _forms(gold: str) -> Iterator[str]:
    if NUMBER.fullmatch(gold):
        n = int(gold)
        yield rf"\frac{{{3 * n}}}{{3}}"
        yield f"x = {n}"
        yield rf"{n}\text{{ units}}"
        yield f"{n}.0"
        yield f"{n:,}".replace(",", "{,}") if abs(n) >= 1000 else rf"{n - 7} + 7"
        return
    if match := CHOICE.fullmatch(gold):
        yield from (
            match[1],
            f"({match[1]})",
            rf"\textbf{{({match[1]})}}",
            f"{match[1]}.",
            rf"\mathrm{{{match[1]}}}",
        )
        return
    if match := WORD.fullmatch(gold):
        word = match[1]
        yield from (
            word,
            rf"\textbf{{{word}}}",
            rf"\mathrm{{{word}}}",
            rf"\text{{ {word} }}",
            rf"\mbox{{{word}}}.",
        )
        return
    if match := FRACTION.fullmatch(gold):
        a, b = int(match[1] + match[2]), int(match[3])
        yield f"{a}/{b}"
        yield rf"\frac{{{5 * a}}}{{{5 * b}}}"
        yield rf"{a} \div {b}"
        if 10**6 % b == 0:
            yield str(float(Fraction(a, b)))
    if match := SHORT_FRACTION.fullmatch(gold):
        yield f"{match[1]}/{match[2]}"
        yield rf"\dfrac{{{match[1]}}}{{{match[2]}}}"
    if match := ROOT.fullmatch(gold):
        yield rf"\sqrt{{{int(match[1]) ** 2 * int(match[2])}}}"
        yield rf"\sqrt{{{match[2]}}} \cdot {match[1]}"
        yield rf"{match[1]} \times {match[2]}^{{1/2}}"
    if re.fullmatch(r"-?\d+^\\circ", gold) or gold.endswith(r"^\circ"):
        number = gold.removesuffix(r"^\circ")
        yield from (number, rf"{number}\text{{ degrees}}", rf"{number}^{{\circ}}", rf"{number}°")
    if re.fullmatch(
        r"-?[\d ]*(?:\\?\w+|\(.*\)|\^\{?\d\}?| )*(?: ?[-+] ?(?:[\d ]*\\?\w*(?:\^\{?\d\}?)?))+", gold
    ):
        yield _reordered(gold)
    if re.fullmatch(r"-?[\w ]+(?:, ?-?[\w ]+)+", gold):  # a set, written as a list
        parts = [part.strip() for part in gold.split(",")]
        if not all(re.fullmatch(r"\d{3}", part) for part in parts[1:]):
            yield ", ".join(reversed(parts))
            yield r"\{" + ", ".join(parts) + r"\}"
    if r"\pm" in gold and gold.count(r"\pm") == 1 and "{1" not in gold:
        yield f"{gold.replace(chr(92) + 'pm', '+')}, {gold.replace(chr(92) + 'pm', '-')}"
    if r"\cup" in gold:
        yield r" \cup ".join(reversed([part.strip() for part in gold.split(r"\cup")]))
    if "pmatrix" in gold:
        yield gold.replace("pmatrix", "bmatrix")
        yield re.sub(r"(-?\d+)/(\d+)", r"\\frac{\1}{\2}", gold)
    if re.fullmatch(r"[xy] ?=.*", gold) and gold.count("=") == 1:
        yield gold.partition("=")[2].strip()
    yield from _dressed(gold)


def _dressed(gold: str) -> Iterator[str]:
    """The same LaTeX in other clothes."""
    yield f"${gold}$"
    yield rf"\({gold}\)"
    yield re.sub(r"\\frac(?![a-z])", r"\\dfrac", gold)
    yield re.sub(r"\\(left|right)", "", gold)
    yield gold.replace("(", r"\left(").replace(")", r"\right)") if r"\left" not in gold else gold
    yield rf"\displaystyle {gold}"
    yield (
        gold.replace(" ", "")
        if not re.search(r"\\[a-z]+ [A-Za-z]", gold)
        else gold.replace(" ", "  ")
    )
    yield (
        gold.replace("+", " + ").replace(",", r",\,")
        if not re.search(r"\d,", gold)
        else f" {gold} "
    )
    yield rf"\boxed{{{gold}}}"
    yield f"{gold}."
    yield f" {gold}\n"
    yield rf"{gold} \,"


def _reordered(gold: str) -> str:
    """A sum with its terms in the other order."""
    terms = re.findall(
        r"[-+]?[^-+]+", gold.replace(" ", "") if not re.search(r"\\[a-z]+ [a-z]", gold) else gold
    )
    return "+".join(term.strip().lstrip("+") for term in reversed(terms)).replace("+-", "-")


def near_miss(gold: str) -> str:
    """A text that looks much like `gold` and means something else."""
    if match := CHOICE.fullmatch(gold):
        return rf"\text{{({'ABCDE'[('ABCDE'.index(match[1]) + 1) % 5]})}}"
    if WORD.fullmatch(gold):
        return {r"\text{even}": r"\text{odd}", r"\text{east}": r"\text{west}"}.get(
            gold, gold.replace("}", "ly}")
        )
    for change in _CHANGES[len(gold) % 3 :] + _CHANGES[: len(gold) % 3]:
        changed = change(gold)
        if changed != gold:
            return changed
    return f"2{gold}" if "=" not in gold else gold.replace("=", "= 1 +")


def _last_digit(gold: str) -> str:
    return re.sub(r"(\d)(?=\D*$)", lambda m: str((int(m[1]) + 1) % 10), gold, count=1)


def _first_number(gold: str) -> str:
    return re.sub(r"\d+", lambda m: str(int(m[0]) + 1), gold, count=1)


def _sign(gold: str) -> str:
    if "," in gold and re.search(r"\d,(\\!)? ?\d{3}", gold):
        return gold
    if "-" in gold:
        return (
            gold.replace("-", "+", 1)
            if not gold.lstrip("({[ ").startswith("-")
            else gold.replace("-", "", 1)
        )
    return gold.replace("+", "-", 1)


def _bracket(gold: str) -> str:
    if r"\infty" in gold or "]" in gold:
        return gold.replace("]", ")") if "]" in gold else gold
    return gold


_CHANGES: list[Callable[[str], str]] = [_last_digit, _bracket, _sign, _first_number]
