r"""Families over the whole numbers, and sets that have a name.

`\frac{\pi}{4} + k\pi, k \in \mathbb{Z}` is one value with a parameter. Its symbol gets a name of
its own, `INTEGER`, so that every letter for it is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.forms import (
    Interval,
    Kind,
    Quantity,
    Relation,
    Sequence_,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token, word_set
from batchr1.reasoning.verdicts.grammar.trees import Node

INTEGER = "integer"
PARAMETERS = frozenset("klmnp")
_ZERO: Node = ("num", Fraction(0))
_INFINITE: Node = ("const", "inf")
_NAMES = {
    "Z": ("integers",),
    "N": ("natural", "numbers"),
    "Q": ("rational", "numbers"),
    "C": ("complex", "numbers"),
}
_POSITIVE = ("^+", "_+", "_>0", "^*_+", "_+^*", "^+_*")
_NOT_NEGATIVE = ("_ge0", "_geq0", "_geqslant0", "_0^+", "^+_0")
_BEFORE = word_set("where with for all any every some an integer integers k n m l p is in are")


def named_set(tokens: Sequence[Token]) -> Value | None:
    r"""Read `\mathbb{Z}`, `\mathbb{R}^+`; None of anything else."""
    if not tokens or tokens[0].kind != "cmd" or tokens[0].text not in (*_NAMES, "R"):
        return None
    marks = "".join(t.text for t in tokens[1:] if t.text not in "{}")
    if tokens[0].text == "R":
        return _half_of_reals(marks)
    if not marks:
        return Words(_NAMES[tokens[0].text])
    if tokens[0].text == "Z" and marks in _POSITIVE:
        return Words(("positive", "integers"))
    return None


def exception_in(tokens: Sequence[Token]) -> list[Token] | None:
    """Read what `all real numbers except 2` leaves out."""
    words = [token.text.lower() for token in tokens]
    at = next((n for n, word in enumerate(words) if word in ("except", "but", "excluding")), 0)
    reals = [word for word in words[:at] if word not in ("all", "the", "set", "of", "any")]
    if reals not in (["real", "numbers"], ["reals"], ["real", "x"], ["real"]):
        return None
    skipped = ("for", "x", "=", "zero") if words[-1] != "zero" else ("for",)
    while at + 1 < len(words) and words[at + 1] in skipped:
        at += 1
    return list(tokens[at + 1 :]) or None


def with_signs(kind: Kind, items: tuple[Value, ...], tokens: Sequence[Token]) -> Sequence_:
    r"""Read `(\pm 2, 0)` as two points.

    With several such items it is left as it is.
    """
    whole = Sequence_(kind, items)
    if not any(token.kind == "cmd" and token.text in ("pm", "mp") for token in tokens):
        return whole
    pairs = [(n, one.items) for n, one in enumerate(items) if isinstance(one, Sequence_)]
    if len(pairs) != 1:
        return whole
    at, values = pairs[0]
    points = (Sequence_(kind, (*items[:at], one, *items[at + 1 :])) for one in values)
    return Sequence_("list", tuple(points))


def expect_name(tokens: Sequence[Token]) -> None:
    r"""Expect a name before `\in`. Raises `GiveUpError` for an expression."""
    signs = ("^", "+", "-", "/", "frac", "sqrt", "|")
    if any(token.text in signs for token in tokens) or (tokens and tokens[0].kind == "num"):
        raise GiveUpError("membership of an expression")


def relation_of(
    sides: tuple[Value, ...], signs: tuple[str, ...], tokens: Sequence[Token]
) -> Relation:
    r"""Join the sides of a relation.

    `x \mapsto 2x` is f(x) = 2x.
    """
    left = sides[0]
    is_mapping = signs == ("->",) and any(token.text == "mapsto" for token in tokens)
    if is_mapping and isinstance(left, Quantity) and left.node[0] == "sym":
        return Relation((Quantity(("mul", ("sym", "f"), left.node)), *sides[1:]), ("=",))
    return Relation(sides, signs)


def _half_of_reals(marks: str) -> Value | None:
    if not marks:
        return Interval(("neg", _INFINITE), _INFINITE, False, False)
    if marks in _POSITIVE:
        return Interval(_ZERO, _INFINITE, False, False)
    if marks in _NOT_NEGATIVE:
        return Interval(_ZERO, _INFINITE, True, False)
    if marks in ("^-", "_-", "_<0"):
        return Interval(("neg", _INFINITE), _ZERO, False, False)
    return None


def family_of(tokens: Sequence[Token]) -> tuple[list[Token], str] | None:
    r"""Split off a final `, k \in \mathbb{Z}`.

    Gives the tokens before it, and the letter. It may stand in brackets, or say
    `where k is an integer`.
    """
    rest = [t for t in tokens if t.text not in ("{", "}")]
    if len(rest) < 5:
        return None
    is_said = rest[-1].text in ("integer", "integers")
    end = len(tokens)
    while end and tokens[end - 1].text in (")", "}", "."):
        end -= 1
    if not is_said and not (end and tokens[end - 1].kind == "cmd" and tokens[end - 1].text == "Z"):
        return None
    at = end - 2
    while at > 0 and (tokens[at].text in ("in", "{", "}") or tokens[at].text in _BEFORE):
        at -= 1
    names = {t.text for t in tokens[at + 1 : end] if t.text in PARAMETERS}
    if tokens[at].text not in (",", "(", ";") or len(names) != 1:
        return None
    return list(tokens[:at]), names.pop()


def with_parameter(tokens: Sequence[Token], letter: str) -> list[Token]:
    """Mark a letter as the parameter of a family."""
    found: list[Token] = []
    for token in tokens:
        if token.kind == "letters" and letter in token.text:
            found.extend(_cut(token, letter))
        else:
            found.append(token)
    return found


def _cut(token: Token, letter: str) -> list[Token]:
    """Cut letters so that the parameter stands by itself."""
    pieces: list[Token] = []
    for number, char in enumerate(token.text):
        gap = token.gap if number == 0 else 0
        is_it = char == letter
        pieces.append(Token("cmd", INTEGER, gap) if is_it else Token("letters", char, gap))
    return pieces
