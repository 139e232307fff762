"""Values of an answer, from its tokens.

They are a quantity, words, a list, a set, an interval, a relation or a matrix. Whatever stands
between separating signs (commas, `and`, `or`, wide spaces) is an element of a list. Brackets make
the kind of a sequence: `(1,2)` a tuple or an open interval, `\\{1,2\\}` a set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from batchr1.reasoning.verdicts.grammar.compounds import (
    clock_of,
    compound_of,
    half_of_day,
    modulus_at,
    residue_of,
)
from batchr1.reasoning.verdicts.grammar.families import (
    exception_in,
    expect_name,
    family_of,
    named_set,
    relation_of,
    with_parameter,
    with_signs,
)
from batchr1.reasoning.verdicts.grammar.forms import (
    EMPTY,
    REALS,
    RELATION_SIGNS,
    Interval,
    Matrix,
    Quantity,
    Ratio,
    Relation,
    Sequence_,
    Union,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.grouping import (
    OPENING,
    closes,
    depth_at,
    indian_number,
    is_not,
    joint_of,
    match_of,
    name_end,
    opens,
    split,
    trimmed,
    with_and_of_mixed,
    with_decimal_commas,
    with_number_of_words,
    without_note,
    words_of,
)
from batchr1.reasoning.verdicts.grammar.matrices import (
    MATRICES,
    cells_of,
    determinant,
    scaled,
    scaled_begin,
    transposed,
    transposed_end,
)
from batchr1.reasoning.verdicts.grammar.measures import (
    currency_of,
    decimals_of,
    is_infinite,
    loose_of,
    multiplied,
    without_degrees,
    words_behind,
)
from batchr1.reasoning.verdicts.grammar.numerals import said_as_one
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token, number_token
from batchr1.reasoning.verdicts.grammar.syntax import ExpressionParser
from batchr1.reasoning.verdicts.grammar.trees import has_signs, signs_of, symbols_of
from batchr1.reasoning.verdicts.grammar.units import DEGREE, is_lead, unit_of

MAX_ITEMS = 60
MAX_NESTING = 6


_TO = [["num", kind, "num"] for kind in ("word", "letters")]
_TO += [[*one, *one[1:]] for one in _TO]
_JOINTS = {"land": "and", "lor": "or", "and": "and", "or": "or"}
_NOTHING = {"emptyset", "varnothing"}


def parse(tokens: Sequence[Token]) -> Value:
    """The value that tokens are. Raises `GiveUpError` for what is not understood."""
    return _Values(0).whole(trimmed(tokens))


def readings(tokens: Sequence[Token]) -> list[Value]:
    """Give the value, then others that the same tokens may mean.

    `1,234` may be a list.
    """
    found = [_with_or_without_note(tokens)]
    if any(one.parts for one in tokens):
        listed: list[Token] = []
        for token in tokens:
            for number, part in enumerate(token.parts):
                if number:
                    listed.append(Token("op", ",", 0))
                listed.append(number_token(part))
            if not token.parts:
                listed.append(token)
        _add_reading(found, listed)
    indian = indian_number(tokens)
    if indian is not None:
        found.insert(0, parse(indian))
    for other in (without_note(tokens), with_number_of_words(tokens), with_and_of_mixed(tokens)):
        if other is not None:
            _add_reading(found, other)
    decimal = with_decimal_commas(tokens)
    if decimal is not None:
        _add_reading(found, decimal)
    return found


def _with_or_without_note(tokens: Sequence[Token]) -> Value:
    """Parse, if need be without a last note in brackets."""
    try:
        return parse(tokens)
    except GiveUpError:
        shorter = without_note(tokens)
        if shorter is None:
            raise
    return parse(shorter)


def _add_reading(found: list[Value], tokens: Sequence[Token]) -> None:
    with contextlib.suppress(GiveUpError):
        found.append(parse(tokens))


class _Values:
    """Parses values, nested to a bounded depth."""

    def __init__(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise GiveUpError("nested too deeply")
        self._depth = depth

    def whole(self, tokens: list[Token]) -> Value:
        """A list, or a single value."""
        tokens = trimmed(tokens)
        if not tokens:
            raise GiveUpError("nothing")
        french = self._french(tokens)
        if french is not None:
            return french
        said = said_as_one(tokens) if self._depth == 0 else None
        if said is not None:
            return Words(said)
        family = family_of(tokens) if self._depth == 0 else None
        if family is not None:
            return _Values(self._depth + 1).whole(with_parameter(*family))
        compound = clock_of(tokens) or compound_of(tokens)
        if compound is not None:
            return compound
        modulus = modulus_at(tokens)
        if modulus is not None:
            return residue_of(_Values(self._depth + 1).whole(tokens[: modulus[0]]), modulus[1])
        parts = split(tokens)
        if len(parts) == 1:
            return self._signed(self.single(parts[0]))
        if len(parts) > MAX_ITEMS:
            raise GiveUpError("many items")
        items = [_Values(self._depth + 1).whole(part) for part in parts]
        joint = joint_of(tokens)
        if joint in ("land", "lor") and not any(isinstance(one, Relation) for one in items):
            raise GiveUpError("a proposition")
        flat: list[Value] = []
        if any(token.text == ";" for token in tokens):
            return Sequence_("list", tuple(items))
        for item in items:
            is_list = isinstance(item, Sequence_) and item.kind == "list"
            flat.extend(item.items if is_list and isinstance(item, Sequence_) else [item])
        return Sequence_("list", tuple(flat), _JOINTS.get(joint, ""))

    def _signed(self, value: Value) -> Value:
        r"""A quantity with `\pm` is two."""
        if isinstance(value, Quantity) and has_signs(value.node):
            return Sequence_(
                "list",
                tuple(Quantity(signs_of(value.node, plus), value.unit) for plus in (True, False)),
            )
        if isinstance(value, Relation) and value.signs in (("=",), ("!=",)):
            left, right = value.sides
            if isinstance(right, Sequence_) and right.kind == "list" and value.signs == ("!=",):
                both = tuple(Relation((left, one), ("!=",)) for one in right.items)
                return Sequence_("list", both, "and")
            if isinstance(right, Quantity) and has_signs(right.node):
                return self._signed(right)
        return value

    def _french(self, tokens: list[Token]) -> Value | None:
        """Read an interval such as `]0,1[`, open where a bracket looks outwards."""
        first, last = tokens[0].text, tokens[-1].text
        if len(tokens) < 5 or not (first == "]" or last == "["):
            return None
        if first not in ("[", "]") or last not in ("[", "]"):
            return None
        sides = split(tokens[1:-1])
        return self._interval(sides, first == "[", last == "]") if len(sides) == 2 else None

    def single(self, tokens: list[Token]) -> Value:
        """Read what is no list, at least not without brackets."""
        tokens = trimmed(tokens)
        if not tokens:
            raise GiveUpError("nothing")
        lead = next((n for n, t in enumerate(tokens) if t.kind not in ("word", "letters")), 0)
        if lead and len(tokens[0].text) + lead > 2 and is_lead([t.text for t in tokens[:lead]]):
            return self.single([t for n, t in enumerate(tokens[lead:]) if n or t.text != ":"])
        first = tokens[0]
        if first.kind == "begin" and match_of(tokens, 0) == len(tokens) - 1:
            return self._matrix(tokens)
        if opens(first) and match_of(tokens, 0) == len(tokens) - 1:
            return self._bracketed(tokens)
        if len(tokens) == 1 and first.kind == "cmd" and first.text in _NOTHING:
            return EMPTY
        left_out = exception_in(tokens)
        if left_out is not None:
            return Union((REALS, self.set_of(left_out)), "setminus")
        special = named_set(tokens) or self._of_matrix(tokens)
        if special is not None:
            return special
        sets = self._sets(tokens)
        if sets is not None:
            return sets
        relation = self._relation(tokens)
        if relation is not None:
            return relation
        words = words_of(tokens)
        if words is not None:
            return words
        ratio = self._ratio(tokens)
        return ratio if ratio is not None else self._quantity(tokens)

    def _bracketed(self, tokens: list[Token]) -> Value:
        opening, closing, inner = tokens[0].text, tokens[-1].text, tokens[1:-1]
        nested = _Values(self._depth + 1)
        if opening == r"\{":
            return nested.set_of(inner)
        if opening in ("lfloor", "lceil"):
            return self._quantity(tokens)
        parts = split(inner) if inner else []
        if len(parts) == 1 and closing == OPENING[opening]:
            return nested.whole(inner)
        if closing != OPENING[opening]:
            if len(parts) != 2 or opening not in "([" or closing not in ")]":
                raise GiveUpError("brackets that do not match")
            return self._interval(parts, opening == "[", closing == "]")
        kinds: dict[str, Literal["tuple", "square", "angle"]]
        kinds = {"(": "tuple", "[": "square", "langle": "angle"}
        if opening not in kinds or not parts:
            raise GiveUpError("a group of several things")
        if len(parts) > MAX_ITEMS:
            raise GiveUpError("many items")
        items = tuple(nested.whole(part) for part in parts)
        ends = [is_infinite(item) for item in items]
        if len(items) == 2 and any(ends) and opening in "([":
            return self._interval(parts, opening == "[", closing == "]")
        return with_signs(kinds[opening], items, inner)

    def set_of(self, inner: list[Token]) -> Value:
        """Read the inside of curly brackets: elements, or a condition."""
        if not inner:
            return EMPTY
        for index, token in enumerate(inner):
            if token.text in ("mid", "|", ":", "vert") and index and depth_at(inner, index) == 0:
                if index > 1 and inner[1].text not in ("in", "_"):
                    raise GiveUpError("a set of values of an expression")
                return self.whole(inner[index + 1 :])
        value = self.whole(inner)
        if not isinstance(value, Sequence_) or value.kind != "list":
            value = Sequence_("list", (value,))
        return Sequence_("set", value.items)

    def _interval(self, parts: list[list[Token]], has_low: bool, has_high: bool) -> Interval:
        ends = []
        for part in parts:
            value = _Values(self._depth + 1).whole(part)
            if not isinstance(value, Quantity):
                raise GiveUpError("an interval without ends")
            ends.append(value.node)
        return Interval(ends[0], ends[1], has_low, has_high)

    def _matrix(self, tokens: list[Token]) -> Value:
        name = tokens[0].text.rstrip("*")
        inner = tokens[1:-1]
        if name not in (*MATRICES, "vmatrix"):
            if name in ("align", "aligned", "gathered", "equation", "math"):
                return _Values(self._depth + 1).whole([t for t in inner if t.text != "&"])
            raise GiveUpError(f"the environment {name}")
        nested = _Values(self._depth + 1)
        found = Matrix(tuple(tuple(map(nested.single, row)) for row in cells_of(inner)))
        return determinant(found) if name == "vmatrix" else found

    def _of_matrix(self, tokens: list[Token]) -> Value | None:
        """Read a matrix with a factor or a power T."""
        end = transposed_end(tokens)
        if end is not None and (tokens[end - 1].kind == "end" or tokens[0].text in "(["):
            value = self.single(tokens[:end])
            if isinstance(value, Sequence_) and value.kind in ("tuple", "square"):
                return Matrix(tuple((item,) for item in value.items))
            return transposed(value)
        begin = scaled_begin(tokens)
        if begin is None:
            return None
        signs = ("cdot", "times", "*")
        before = tokens[:begin] if tokens[begin - 1].text not in signs else tokens[: begin - 1]
        if [t.text for t in before] == ["-"]:
            before = [Token("op", "-"), number_token("1")]
        return scaled(self._quantity(before).node, self.single(tokens[begin:]))

    def _sets(self, tokens: list[Token]) -> Value | None:
        """Unions, intersections and differences of sets."""
        cuts: list[tuple[int, str]] = []
        for index, token in enumerate(tokens):
            name = token.text if token.kind in ("cmd", "letters") else ""
            if token.kind == "letters" and name != "U":
                continue
            if name == "U" and token.kind == "letters" and 0 < index < len(tokens) - 1:
                is_union = closes(tokens[index - 1]) and opens(tokens[index + 1])
                name = "cup" if is_union else name
            if name in ("cup", "cap", "setminus", "backslash") and depth_at(tokens, index) == 0:
                cuts.append((index, "setminus" if name == "backslash" else name))
        if not cuts:
            return None
        first = name_end(tokens, {"in"})
        start = first if first is not None else 0
        expect_name(tokens[:start])
        operations = {name for _, name in cuts}
        if len(operations) > 1:
            raise GiveUpError("several operations on sets")
        ends = [index for index, _ in cuts]
        nested = _Values(self._depth + 1)
        parts = []
        for begin, end in zip([start, *(i + 1 for i in ends)], [*ends, len(tokens)], strict=True):
            parts.append(nested.single(tokens[begin:end]))
        operation = cuts[0][1]
        if operation == "cup":
            return Union(tuple(parts))
        return Union(tuple(parts), "cap" if operation == "cap" else "setminus")

    def _relation(self, tokens: list[Token]) -> Value | None:
        sides: list[list[Token]] = [[]]
        signs: list[str] = []
        for index, token in enumerate(tokens):
            sign = RELATION_SIGNS.get(token.text) if token.kind in ("op", "cmd") else None
            if sign is None or depth_at(tokens, index):
                sides[-1].append(token)
            elif not sides[-1] and signs and signs[-1] in ("<", ">") and sign == "=":
                signs[-1] += "="
            elif sign == "=" and token.gap == 0 and is_not(sides[-1]):
                sides[-1].pop()
                signs.append("!=")
                sides.append([])
            else:
                signs.append(sign)
                sides.append([])
        if not signs:
            return None
        if not sides[0] and signs[0] in ("=", "~", "in", "->"):
            sides, signs = sides[1:], signs[1:]
            if not signs:
                return self.single(sides[0])
        if not sides[0]:
            sides[0] = [Token("letters", "x")]  # `> 12` says it of something
        if len(signs) > 8:
            raise GiveUpError("a long chain of relations")
        nested = _Values(self._depth + 1)
        if signs in (["in"], ["notin"]):
            expect_name(sides[0])
            members = nested.single(sides[1])
            return members if signs == ["in"] else Union((REALS, members), "setminus")
        values = tuple(nested.side(one, n) for n, one in enumerate(sides))
        return relation_of(values, tuple(signs), tokens)

    def side(self, tokens: list[Token], number: int) -> Value:
        """One side; what cannot be understood of the first is a name."""
        try:
            return self._signed(self.single(tokens))
        except GiveUpError:
            if number:
                raise
        return Words(tuple(token.text.lower() for token in tokens))

    def _ratio(self, tokens: list[Token]) -> Value | None:
        if [t.kind for t in tokens] in _TO and {t.text for t in tokens[1::2]} == {"to"}:
            tokens = [Token("op", ":") if n % 2 else t for n, t in enumerate(tokens)]
        colons = [n for n, t in enumerate(tokens) if t.text == ":" and t.kind == "op"]
        if not colons:
            return None
        suffix, tokens = half_of_day(tokens)
        parts: list[list[Token]] = [[]]
        for token in tokens:
            if token.text == ":":
                parts.append([])
            else:
                parts[-1].append(token)
        values = [self._quantity(part) for part in parts]
        minutes = parts[1][0].text if len(parts) == 2 and len(parts[1]) == 1 else ""
        return Ratio(tuple(values), suffix, len(minutes) == 2 and minutes[0] == "0")

    def _quantity(self, tokens: list[Token]) -> Quantity:
        """An expression with its currency before and its unit behind."""
        if not tokens:
            raise GiveUpError("nothing")
        if (plain := without_degrees(tokens)) is not None:
            return replace(self._quantity(plain), unit=DEGREE)
        sign, currency, tokens = currency_of(tokens)
        parser = ExpressionParser(tokens)
        try:
            node, rest = parser.expression(), parser.rest
            node, rest = multiplied(node, rest)
            unit = unit_of(rest) if rest else None
        except GiveUpError:
            parser = ExpressionParser(tokens, stop_at_units=False)
            node, rest, unit = parser.expression(), parser.rest, None
            if rest:
                raise
        decimals, digits = decimals_of(tokens[: len(tokens) - len(parser.rest)])
        if currency is not None:
            unit = currency if unit is None or unit == currency else unit
        if sign:
            node = ("neg", node)
        loose = loose_of(tokens) if unit is None and symbols_of(node) else None
        is_product = all(t.kind == "letters" or len(t.text) == 1 for t in rest)
        if rest and unit is None and is_product and (rest[0].kind == "letters" or symbols_of(node)):
            with contextlib.suppress(GiveUpError):  # `3 ways`, or a product after all
                parser = ExpressionParser(tokens, stop_at_units=False)
                product = parser.expression()
                if not parser.rest:
                    loose = (node, None) if rest[0].kind == "letters" else None
                    node = ("neg", product) if sign else product
        said = words_behind(rest) if unit is None else ""
        return Quantity(node, unit, decimals, digits, loose, said)
