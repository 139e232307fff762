"""Parts of a measure: currency, multiplier, digits, possible unit."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.grammar.forms import Quantity, Value
from batchr1.reasoning.verdicts.grammar.grouping import CURRENCIES
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token
from batchr1.reasoning.verdicts.grammar.syntax import FUNCTIONS, ExpressionParser
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of
from batchr1.reasoning.verdicts.grammar.units import MULTIPLIERS, Unit, unit_of


def currency_of(tokens: list[Token]) -> tuple[bool, Unit | None, list[Token]]:
    """Read sign and currency before a number; returns the rest too."""
    at = 1 if tokens[0].text == "-" and len(tokens) > 1 else 0
    if tokens[at].text in CURRENCIES and len(tokens) > at + 1:
        end = at + 1
        if tokens[at].text in ("US", "HK") and tokens[end].text == "USD":
            end += 1
        if tokens[end : end + 1] and tokens[end].text == "." and len(tokens) > end + 1:
            end += 1
        unit = unit_of(
            [Token("word", "USD" if tokens[at].text in ("US", "HK") else tokens[at].text)]
        )
        return at == 1, unit, tokens[end:]
    return False, None, tokens


def without_degrees(tokens: Sequence[Token]) -> list[Token] | None:
    r"""Drop the signs of degrees within a sum: `30^\circ + 360^\circ k`.

    None without one that something follows, or beside functions, which take angles.
    """
    texts = [token.text for token in tokens]
    behind = texts[::-1].index("circ") if "circ" in texts else 0
    if not any(text != "}" for text in texts[len(texts) - behind :]) or not FUNCTIONS.isdisjoint(
        texts
    ):
        return None
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        length = 2 if texts[at : at + 2] == ["^", "circ"] else 0
        length = 4 if texts[at : at + 4] == ["^", "{", "circ", "}"] else length
        if not length:
            found.append(tokens[at])
        at += length or 1
    is_sum = any(t.text in ("+", "-") or t.kind == "letters" for t in found[1:])
    has_units = any(t.kind == "word" or t.text in "CFKNSEW'" for t in found)
    return found if is_sum and not has_units and "circ" not in (t.text for t in found) else None


def words_behind(tokens: Sequence[Token]) -> str:
    """Join words, in lower case and without a plural's s."""
    return " ".join(
        token.text.lower().rstrip("s") for token in tokens if token.kind in ("word", "letters")
    )


def multiplied(node: Node, rest: list[Token]) -> tuple[Node, list[Token]]:
    """`3 million`: the number and what is left."""
    while rest and rest[0].kind in ("word", "letters") and rest[0].text.lower() in MULTIPLIERS:
        node = ("mul", node, ("num", Fraction(MULTIPLIERS[rest[0].text.lower()])))
        rest = rest[1:]
    return node, rest


def decimals_of(tokens: Sequence[Token]) -> tuple[int | None, int]:
    r"""Count digits behind the point, and significant ones.

    Also of `1.6\times10^{-19}`.
    """
    one = [t for t in tokens if t.text not in ("-", "+", "(", ")", "{", "}")]
    if one and one[0].kind == "num" and one[0].decimals is not None:
        texts = [t.text for t in one[1:3]]
        if len(one) == 1 or (texts[0] in ("times", "cdot", "*") and texts[1:] == ["10"]):
            return one[0].decimals, one[0].digits
    return None, 0


def loose_of(tokens: list[Token]) -> tuple[Node, Unit | None] | None:
    """A number, and the letters behind it read as a unit."""
    for index, token in enumerate(tokens):
        begins = token.kind in ("letters", "word") or token.text in ("frac", "dfrac", "Omega", "mu")
        if index and begins:
            try:
                parser = ExpressionParser(tokens[:index])
                node = parser.expression()
                unit = unit_of(tokens[index:])
            except GiveUpError:
                continue
            if unit is not None and not parser.rest and not symbols_of(node):
                return node, unit
    return None


def is_infinite(value: Value) -> bool:
    node = value.node if isinstance(value, Quantity) else ()
    return bool(node) and (node == ("const", "inf") or node == ("neg", ("const", "inf")))
