"""Value against value: True, False, or None where it is not known.

The right answer's form says what counts: a set neither order nor multiplicity, a list no order, a
tuple both. `Comparison.deep` allows mpmath; without it, `wants_more` says that it would decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from batchr1.reasoning.verdicts.exact import proportion, rational, same_zeros
from batchr1.reasoning.verdicts.grammar.forms import (
    EMPTY,
    REALS,
    Interval,
    Matrix,
    Quantity,
    Ratio,
    Relation,
    Residue,
    Sequence_,
    Union,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.numerals import (
    calendar_words,
    number_in_words,
    ordinal_in_words,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token
from batchr1.reasoning.verdicts.grammar.trees import Node, symbols_of
from batchr1.reasoning.verdicts.logic import all_of, any_of
from batchr1.reasoning.verdicts.quantities import Quantities
from batchr1.reasoning.verdicts.ranges import pieces_of
from batchr1.reasoning.verdicts.shapes import (
    TURNED,
    are_labels,
    are_of_other_arguments,
    are_other_names,
    are_solved,
    as_interval,
    has_ranges,
    is_condition,
    is_whole_hour,
    letters_of,
    name_of,
    named,
    names_of,
    node_of,
    parts_of_vector,
    rows_of,
    same_named_sets,
    same_residue,
    same_time,
    things_of,
    turned,
    vector_of,
    with_argument_of,
)
from batchr1.reasoning.verdicts.wording import infinite_sign, is_nothing, named_set_of, same_words

_ORDERED = ("tuple", "angle", "square")


class Comparison(Quantities):
    """Compares two values under one budget."""

    def same(self, final: Value, gold: Value) -> bool | None:
        """Whether an answer is the right one."""
        if isinstance(gold, Residue) or isinstance(final, Residue):
            return same_residue(final, gold)
        if isinstance(gold, Relation) or isinstance(final, Relation):
            return self._relations(final, gold)
        match gold:
            case Words():
                return self._word(final, gold)
            case Quantity():
                return self._quantity_value(final, gold)
            case Sequence_():
                return self._sequence(final, gold)
            case Interval() | Union():
                return self._range(final, gold)
            case Matrix():
                return self._matrix(final, gold)
            case Ratio():
                return self._ratio(final, gold)

    def _quantity_value(self, final: Value, gold: Quantity) -> bool | None:
        match final:
            case Quantity():
                return self.quantity(final, gold)
            case Words():
                return self._word(gold, final)
            case Ratio(parts) if is_whole_hour(final):
                return self.node(parts[0].node, gold.node)
            case Ratio(parts) if len(parts) == 2:
                return self.node(("div", parts[0].node, parts[1].node), gold.node)
            case Sequence_("set", items) if len(items) == 1:
                return self.same(items[0], gold)
            case Sequence_("tuple" | "angle", items):
                vector = parts_of_vector(gold.node, len(items))
                return self._ordered(items, vector) if vector else False
            case Matrix() if column := vector_of(final):
                vector = parts_of_vector(gold.node, len(column))
                return self._ordered(column, vector) if vector else False
            case Sequence_("list", items) if any(isinstance(one, Words) for one in items):
                return None
        return False

    def _word(self, final: Value, gold: Words) -> bool | None:
        if final == EMPTY and is_nothing(gold.words):
            return True
        if named_set_of(gold.words) == "real number" and not isinstance(final, Words):
            return final == REALS
        if isinstance(final, Words):
            return same_words(final.words, gold.words)
        if isinstance(final, Quantity):
            return self._said_number(final, gold.words)
        if isinstance(final, Sequence_) and len(gold.words) == 1:
            letters = letters_of(final)
            if letters is not None and len(letters) == len(gold.words[0]):
                return letters == gold.words[0]
        if isinstance(final, Sequence_) and any(self._word(i, gold) for i in final.items):
            return None
        return False

    def _said_number(self, final: Quantity, words: tuple[str, ...]) -> bool | None:
        """Compare a number, or a name, with words."""
        if any("infin" in word for word in words):
            sign = infinite_sign(words)
            bound: Node = ("const", "inf")
            return None if sign is None else final.node == (bound if sign > 0 else ("neg", bound))
        if final.node[0] in ("sym", "const") and len(words) == 1:
            return str(final.node[1]).lower() == words[0]
        if words == ("none",) and rational(final.node) == 0:
            return None  # of how many? or no answer?
        number, ordinal = number_in_words(words), ordinal_in_words(words)
        if number is not None and self.node(final.node, ("num", number)) is not False:
            return self.node(final.node, ("num", number))
        if ordinal is not None:
            return self.node(final.node, ("num", Fraction(ordinal)))
        is_date = calendar_words([Token("word", word.capitalize()) for word in words[:1]])
        return None if is_date and len(words) > 1 else False

    def _sequence(self, final: Value, gold: Sequence_) -> bool | None:
        if gold.kind == "list" or (gold.kind in ("tuple", "square") and len(gold.items) == 2):
            ranges = self._as_ranges(final, gold)
            if ranges is not None:
                return ranges
        if isinstance(final, Matrix):
            if (rows := rows_of(gold)) is not None:
                return self._matrix(final, Matrix(rows))
            vector = vector_of(final)
            return self._ordered(vector, gold.items) if vector and gold.kind != "set" else False
        if isinstance(final, Words):
            if (letters := letters_of(gold)) is not None:
                return letters == final.words[0] if len(final.words) == 1 else None
            return self._word(gold, final) if gold != EMPTY else self._word(EMPTY, final)
        if isinstance(final, Quantity) and (parts := parts_of_vector(final.node, len(gold.items))):
            return self._ordered(parts, gold.items)
        if not isinstance(final, Sequence_):
            if len(gold.items) == 1:
                return self.same(final, gold.items[0])
            return False
        if gold.kind == "set" and final.kind != "set" and len(gold.items) == 1:
            return self.same(final, gold.items[0])
        if final.kind == "set" and gold.kind in ("tuple", "angle") and len(final.items) == 1:
            return self.same(final.items[0], gold)
        match gold.kind:
            case "set":
                return self._as_set(final, gold)
            case "list":
                return self._as_list(final, gold)
        return self._as_tuple(final, gold)

    def _as_ranges(self, final: Value, gold: Sequence_) -> bool | None:
        """Compare a point or list that may be an interval; else None."""
        is_range = isinstance(final, Interval | Union) or has_ranges(final)
        if not is_range and (gold.kind != "list" or not has_ranges(gold)):
            return None
        return self._range(final, gold)

    def _as_set(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if final.kind in ("tuple", "angle"):
            return False
        if final.kind == "square":
            return None if self._contained(final.items, gold.items) else False
        forth = self._contained(final.items, gold.items)
        back = self._contained(gold.items, final.items)
        return all_of([forth, back])

    def _contained(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        return all_of([any_of([self.same(item, other) for other in others]) for item in items])

    def _as_list(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if len(final.items) != len(gold.items):
            return False
        right, mine = names_of(gold.items), names_of(final.items)
        if right is not None and not any(map(name_of, final.items)):
            return self._ordered(final.items, gold.items)  # `x = 1, y = 2` and a list without names
        if right is not None and mine is not None and set(right) == set(mine):
            return all_of([self.same(mine[name], value) for name, value in right.items()])
        counted, wanted = things_of(final.items), things_of(gold.items)
        if counted is not None and wanted is not None and set(counted) == set(wanted):
            return all_of([self.same(counted[thing], one) for thing, one in wanted.items()])
        if final.kind in _ORDERED:
            found = self._ordered(final.items, gold.items)
            if found is False and self._matched(final.items, gold.items) is not False:
                return None
            return found
        found = self._matched(final.items, gold.items)
        is_order = any(isinstance(item, Words) for item in gold.items) or are_labels(gold.items)
        if found and is_order:
            return True if self._ordered(final.items, gold.items) else None
        return found

    def _as_tuple(self, final: Sequence_, gold: Sequence_) -> bool | None:
        if final.kind == "set" or len(final.items) != len(gold.items):
            return False
        found = self._ordered(final.items, gold.items)
        if len(gold.items) == 2 and {final.kind, gold.kind} == {"square", "tuple"}:
            return False
        if gold.kind == "square" and len(gold.items) == 2 and final.kind == "list" and found:
            return None
        return found

    def _ordered(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        if len(items) != len(others):
            return False
        return all_of([self.same(a, b) for a, b in zip(items, others, strict=True)])

    def _matched(self, items: Sequence[Value], others: Sequence[Value]) -> bool | None:
        """Whether each item has one of the others to itself."""
        if len(items) != len(others):
            return False
        left, doubt = list(others), False
        for item in items:
            outcomes = [self.same(item, other) for other in left]
            if True in outcomes:
                del left[outcomes.index(True)]
            elif None in outcomes:
                doubt = True
                del left[outcomes.index(None)]
            else:
                return False
        return None if doubt else True

    def _range(self, final: Value, gold: Value) -> bool | None:
        if isinstance(final, Words):
            return self._word(gold, final)
        mine, right = pieces_of(final), pieces_of(gold)
        if mine is not None and right is not None and (mine, right) != (([],), ([],)):
            return any(one == other for one in mine for other in right)
        if isinstance(final, Interval) or isinstance(gold, Interval):
            a, b = as_interval(final), as_interval(gold)
            if a is None or b is None:
                return False if a is not None or isinstance(final, Quantity | Words) else None
            if (a.has_low, a.has_high) != (b.has_low, b.has_high):
                return False
            return all_of([self.node(a.low, b.low), self.node(a.high, b.high)])
        if isinstance(final, Union) and isinstance(gold, Union):
            if (named := same_named_sets(final, gold)) is not None:
                return named
            if final.operation != gold.operation:
                return None
            if final.operation == "setminus":
                return self._ordered(final.parts, gold.parts) or None
            return self._matched(final.parts, gold.parts)
        return False if isinstance(final, Quantity | Words | Matrix) else None

    def _matrix(self, final: Value, gold: Matrix) -> bool | None:
        if isinstance(final, Sequence_) and (rows := rows_of(final)) is not None:
            final = Matrix(rows)
        if isinstance(final, Sequence_):
            vector = vector_of(gold)
            if not vector or final.kind == "set":
                return False
            return self._ordered(final.items, vector)
        if isinstance(final, Quantity) and (vector := vector_of(gold)):
            parts = parts_of_vector(final.node, len(vector))
            return self._ordered(parts, vector) if parts else False
        if not isinstance(final, Matrix) or len(final.rows) != len(gold.rows):
            return False
        return all_of([self._ordered(a, b) for a, b in zip(final.rows, gold.rows, strict=True)])

    def _ratio(self, final: Value, gold: Ratio) -> bool | None:
        if isinstance(final, Quantity) and is_whole_hour(gold):
            return self.node(final.node, gold.parts[0].node)
        if isinstance(final, Quantity) and len(gold.parts) == 2 and not gold.suffix:
            return self.node(final.node, ("div", gold.parts[0].node, gold.parts[1].node))
        if not isinstance(final, Ratio) or len(final.parts) != len(gold.parts):
            return False
        if final.suffix and gold.suffix and final.suffix != gold.suffix:
            return False
        mine = [part.node for part in final.parts]
        right = [part.node for part in gold.parts]
        if final.suffix or gold.suffix or final.is_time or gold.is_time:
            return same_time(final, gold) if len(mine) == 2 else mine == right
        return all_of(
            [
                self.node(("mul", a, right[0]), ("mul", b, mine[0]))
                for a, b in zip(mine[1:], right[1:], strict=True)
            ]
        )

    def _relations(self, final: Value, gold: Value) -> bool | None:
        if is_condition(gold) or is_condition(final):
            mine, right = pieces_of(final), pieces_of(gold)
            if mine is not None and right is not None:
                return any(one == other for one in mine for other in right)
            a, b = as_interval(final), as_interval(gold)
            if a is not None and b is not None:
                return self._range(a, b)
            if is_condition(gold) and mine is not None and right is None:
                return None  # a condition that is not solved here
        if not isinstance(gold, Relation):
            assert isinstance(final, Relation)
            return self._claimed(final, gold)
        if not isinstance(final, Relation):
            right_name = named(gold)
            return self.same(final, right_name[1]) if right_name is not None else False
        return self._both_relations(final, gold)

    def _claimed(self, final: Relation, gold: Value) -> bool | None:
        """Compare a chain (`x = 1/3 \\approx 0.33`) with a value.

        Its exact last side counts, or what it is near.
        """
        if not set(final.signs) <= {"=", "~", "->"}:
            return False
        last = len(final.sides) - 1
        values = [final.sides[last]]
        while last > 1 and final.signs[last - 1] == "~":
            last -= 1
            values.append(final.sides[last])
        if last == 1 and final.signs[0] == "~" and not isinstance(final.sides[0], Words):
            values.append(final.sides[0])
        return any_of([self.same(value, gold) for value in values])

    def _both_relations(self, final: Relation, gold: Relation) -> bool | None:
        final = with_argument_of(gold, final)
        if are_of_other_arguments(final, gold):
            return None
        mine, right = named(final), named(gold)
        if mine is not None and right is not None:
            is_other = are_other_names(mine[0], right[0])
            same = self.same(mine[1], right[1])
            if same is None and not is_other and self.wants_more:
                return None
            if same and not is_other:
                return True
            if same is False and mine[0] == right[0] and are_solved(mine, right):
                return False
            if isinstance(mine[1], Sequence_) or not symbols_of(node_of(mine[1])):
                return False if same is not None else None
        if gold.signs == final.signs and self._ordered(final.sides, gold.sides):
            return True
        if len(final.signs) == len(gold.signs) == 1:
            return self._sides_moved(final, gold)
        if len(final.signs) == len(gold.signs):
            reversed_signs = tuple(turned(sign) for sign in final.signs[::-1])
            if reversed_signs == gold.signs:
                return self._ordered(final.sides[::-1], gold.sides)
            return False
        if right is not None:
            return self._claimed(final, right[1])
        return None

    def _open_without_library(self, found: bool | None) -> bool | None:
        """Pass an outcome on; where there is none, a library may know."""
        self.wants_more = self.wants_more or (found is None and not self._deep)
        return found

    def _sides_moved(self, final: Relation, gold: Relation) -> bool | None:
        """Equations and inequalities whose sides differ by a constant factor."""
        sides = [*final.sides, *gold.sides]
        nodes = [side.node for side in sides if isinstance(side, Quantity)]
        if len(nodes) < 4 or final.signs[0] not in TURNED or gold.signs[0] not in TURNED:
            return (
                False if final.signs[0] != gold.signs[0] else self._ordered(final.sides, gold.sides)
            )
        a: Node = ("add", nodes[0], ("neg", nodes[1]))
        b: Node = ("add", nodes[2], ("neg", nodes[3]))
        try:
            if gold.signs == final.signs == ("=",):
                return self._open_without_library(same_zeros(a, b))
            factor = proportion(a, b)
        except GiveUpError:
            return None
        if factor is None:
            return False
        sign = final.signs[0] if factor > 0 else turned(final.signs[0])
        return sign == gold.signs[0]
