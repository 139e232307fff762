"""Tokens ahead of the parser: what stands there, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token
from batchr1.reasoning.verdicts.grammar.trees import Node

FRACTIONS = {"frac", "dfrac", "tfrac", "cfrac", "sfrac"}


def plain_fraction(tokens: Sequence[Token]) -> tuple[int, int, int] | None:
    r"""Read `\frac{3}{4}` or `\frac34` in whole numbers.

    Returns numerator, denominator and length in tokens.
    """
    texts = [t.text for t in tokens]
    if (
        len(texts) >= 7
        and texts[1] == "{"
        and texts[3] == "}"
        and texts[4] == "{"
        and texts[6] == "}"
    ):
        above, below, length = texts[2], texts[5], 7
    elif len(texts) >= 2 and texts[1].isdigit() and len(texts[1]) == 2:
        above, below, length = texts[1][0], texts[1][1], 2
    elif len(texts) >= 3 and texts[1].isdigit() and len(texts[1]) == 1 and texts[2].isdigit():
        above, below, length = texts[1], texts[2][0], 3
        if len(texts[2]) > 1:
            return None
    else:
        return None
    if not (above.isdigit() and below.isdigit()):
        return None
    return int(above), int(below), length


def derivative_in(tokens: Sequence[Token]) -> Node | None:
    r"""Read the rest of `\frac{dy}{dx}` as a name; `\frac{d}{dx}` is an operator."""
    texts = [token.text for token in tokens]
    if texts[::3] != ["{", "{"] or texts[2::3] != ["}", "}"]:
        return None
    above, below = texts[1], texts[4]
    if above[:1] != "d" or below[:1] != "d" or len(below) != 2 or len(above) > 2:
        return None
    if len(above) < 2:
        raise GiveUpError("a derivative")
    return ("sym", f"{above}/{below}")


def mixed_at(tokens: Sequence[Token], at: int, whole: Token) -> tuple[Fraction | None, int]:
    """Read the proper fraction right behind a whole number, and its length.

    Both make a mixed number.
    """
    if whole.decimals is not None or not whole.text.isdigit():
        return None, 0
    texts = [t.text for t in tokens[at : at + 7]]
    kinds = [t.kind for t in tokens[at : at + 3]]
    if kinds[:1] == ["cmd"] and texts[0] in FRACTIONS:
        found = plain_fraction(tokens[at : at + 7])
        if found is None:
            return None, 0
        above, below, length = found
    elif kinds == ["num", "op", "num"] and texts[1] == "/":
        if not (texts[0].isdigit() and texts[2].isdigit() and tokens[at].gap == 1):
            return None, 0
        above, below, length = int(texts[0]), int(texts[2]), 3
    else:
        return None, 0
    return (Fraction(above, below), length) if 0 < above < below else (None, 0)


def subscript_at(tokens: Sequence[Token], at: int) -> tuple[str, int]:
    """Read a subscript's text with its sign, and its end.

    Empty without one.
    """
    if at >= len(tokens) or tokens[at].kind != "op" or tokens[at].text != "_":
        return "", at
    if at + 1 >= len(tokens):
        raise GiveUpError("a subscript that is not there")
    end = _end_of_group(tokens, at + 1) if tokens[at + 1].text == "{" else at + 2
    inside = "".join(t.text for t in tokens[at + 1 : end] if t.text not in "{}")
    return f"_{inside}", end


def name_at(tokens: Sequence[Token], at: int) -> tuple[str, int]:
    """Read letters that name one thing, and their end."""
    if at >= len(tokens):
        raise GiveUpError("a name that is not there")
    end = _end_of_group(tokens, at) if tokens[at].text == "{" else at + 1
    texts = [t.text for t in tokens[at:end] if t.text not in "{}"]
    if not all(text.isalpha() for text in texts):
        raise GiveUpError("a name with signs in it")
    return "".join(texts), end


def _end_of_group(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for index in range(at, len(tokens)):
        depth += (tokens[index].text == "{") - (tokens[index].text == "}")
        if depth == 0:
            return index + 1
    raise GiveUpError("a group that is not closed")
