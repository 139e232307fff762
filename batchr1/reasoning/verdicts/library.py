r"""Math-Verify, where this package's own grammar gives up: sums, integrals, systems, mods.

It is not trusted with what it is known to get wrong (version 0.9.0): numbers below 1e-8, which it
rounds to one; digits with white space between them, which it joins; words, which it takes for
products of letters; sets and points, which are one thing to it; commands that it drops, as it does
with `\partial`, and primes: f' is f to it.
"""

from __future__ import annotations

import re
from typing import Any

from batchr1.reasoning.verdicts.grammar.scan import word_set

SMALLEST = 1e-8  # it compares to an absolute precision

_APART = re.compile(
    r"\d\s*\\(?:text|mathrm|mbox|hbox)\s*\{[^{}]*\}\s*\d|"
    r"\d(?:\\[,;: >]|~|\s|\\q?quad(?![A-Za-z]))+\d|\d,\s+\d"
)
_MEMBER = re.compile(r"^ *[A-Za-z](?:_\{?\w{1,8}\}?)? *\\in(?![A-Za-z])")
_DOTS = re.compile(r"\\[lc]?dots|\.\.\.")
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_DROPPED = re.compile(r"['\u2032]|\d\s*\}?\s*_|\\text(?:rm|bf|it)?\s*\{[^{}]*[A-Za-z]{2}[^{}]*\}")
_READ_TEXT = (
    "frac dfrac tfrac cfrac sqrt sum prod int lim infty to sin cos tan cot sec csc arcsin arccos "
    "arctan sinh cosh tanh log ln exp cdot times div left right big Big bigl bigr le leq ge geq ne "
    "neq lt gt pm mp in cup cap setminus mathbb text mathrm pi binom choose begin end mid vert "
    "lvert rvert lfloor rfloor lceil rceil max min gcd lcm quad qquad displaystyle limits overline "
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma "
    "tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega pmod bmod mod equiv "
    "circ degree emptyset varnothing det lbrace rbrace langle rangle dots"
)
_READ = word_set(_READ_TEXT)  # commands whose meaning it knows; it drops others silently
_KNOWN = word_set(
    "sin cos tan cot sec csc log exp sqrt frac mod lim max min gcd lcm pmatrix bmatrix cases"
)


def library_says(final: str, gold: str) -> bool | None:
    """Ask Math-Verify whether two answers are equal.

    None where it is not to be trusted, or parsed nothing.
    """
    if any(_is_beyond(text) for text in (final, gold)):
        return None
    if (r"\{" in final) != (r"\{" in gold):
        return None
    a, b = _parsed(final), _parsed(gold)
    if not a or not b or any(isinstance(one, str) for one in (a[0], b[0])):
        return None
    if any(_is_small(one) for one in (a[0], b[0])):
        return None
    from math_verify import verify

    return bool(verify(b, a, allow_set_relation_comp=True, timeout_seconds=None))


def _is_beyond(text: str) -> bool:
    words = [word for word in _WORDS.findall(text) if word not in _KNOWN]
    if re.search(r"\\in(?![A-Za-z])", _MEMBER.sub("", text)):  # of an expression
        return True
    if words or not set(_COMMAND.findall(text)) <= _READ:
        return True
    return any(one.search(text) is not None for one in (_APART, _DOTS, _DROPPED))


def _parsed(text: str) -> list[Any]:
    """Parse without Math-Verify's own time limits.

    They need the main thread's signals, and a process has limits of its own.
    """
    from math_verify import LatexExtractionConfig, parse

    text = _MEMBER.sub("", text.replace("\\$", "").strip(" $"))
    config = LatexExtractionConfig(boxed_match_priority=0)
    found: list[Any] = parse(f"\\boxed{{{text}}}", extraction_config=[config], parsing_timeout=None)
    return found


def _is_small(expression: Any) -> bool:
    """Tell whether a number would be taken for zero."""
    if not getattr(expression, "is_number", False):
        return False
    try:
        size = abs(complex(expression.evalf(30)))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
    return 0 < size < SMALLEST
