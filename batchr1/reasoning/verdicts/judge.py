"""Stages of a verdict, in their order; each says whether it decided.

    text      the same signs, but for looks
    number    numbers with a base
    choice    a letter, where the right answer is one
    number, set, interval, math, text   values, by the right answer's form
    math      Math-Verify, where a text is not understood (only `deep`)

Where readings of a text disagree, or nothing understands it, there is no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchr1.reasoning.verdicts.bases import same_in_base
from batchr1.reasoning.verdicts.choices import choice_of, choice_text, truth_of
from batchr1.reasoning.verdicts.compare import Comparison
from batchr1.reasoning.verdicts.exact import rational
from batchr1.reasoning.verdicts.grammar.forms import (
    Interval,
    Quantity,
    Ratio,
    Relation,
    Sequence_,
    Union,
    Value,
    Words,
)
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, Token, scan
from batchr1.reasoning.verdicts.grammar.units import is_symbol
from batchr1.reasoning.verdicts.grammar.values import readings
from batchr1.reasoning.verdicts.wording import same_formula


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an answer is right, and by which stage; None: not known.

    `wants_more`: a library may decide what is not known here.
    """

    correct: bool | None
    by: str | None
    wants_more: bool = False


def judge(final: str, gold: str, *, deep: bool = False, with_choices: bool = True) -> Judgement:
    """Judge a final answer.

    `deep` loads libraries, which may take long; else time is bounded.
    """
    try:
        right = scan(gold)
    except GiveUpError:
        return _as_texts(final, gold)
    try:
        mine = scan(final)
    except GiveUpError:
        return _as_texts(final, gold)
    if _signs(mine) == _signs(right) or _signs(mine, fold=False) == _signs(right, fold=False):
        return Judgement(True, "text") if right else Judgement(None, None)
    is_based, same = same_in_base(final, gold)
    if is_based:
        return Judgement(same, None if same is None else "number")
    if with_choices and (chosen := choice_of(gold)) is not None:
        return _choice(final, gold, chosen, deep=deep)
    if with_choices and (truth := truth_of(gold, beside=final)) is not None:
        said = truth_of(final, beside=gold)
        if said is not None:
            return Judgement(said == truth, "choice")
    formula = same_formula(final, gold)
    if formula is not None:
        return Judgement(formula, "text")
    return _values(final, gold, mine, right, deep=deep)


def _as_texts(final: str, gold: str) -> Judgement:
    """Compare texts that are too long to read."""
    return Judgement("".join(final.split()) == "".join(gold.split()), "text")


def _choice(final: str, gold: str, right: str, *, deep: bool) -> Judgement:
    """Compare letters.

    A text behind the letter must not contradict; alone, it must be the right one's.
    """
    mine, text = choice_of(final), choice_text(gold)
    if (
        right == "F"
        and "F" in gold
        and not text
        and mine is None
        and (said := truth_of(final, beside=gold))
    ):
        return Judgement(said == "no", "choice")  # false
    if mine is not None:
        if mine == right and _contradict(choice_text(final), text):
            return Judgement(None, None)
        return Judgement(mine == right, "choice")
    if text:
        return judge(final, text, deep=deep, with_choices=False)
    if gold.strip() in ("e", "i"):
        return judge(final, gold, deep=deep, with_choices=False)  # or the number
    return Judgement(False, "choice")


def _contradict(said: str, text: str) -> bool:
    """Whether the texts behind one letter are known to differ."""
    if not said or not text:
        return False
    return judge(said, text, deep=False, with_choices=False).correct is False


def _values(
    final: str, gold: str, mine: Sequence[Token], right: Sequence[Token], *, deep: bool
) -> Judgement:
    try:
        golds = readings(right)
    except GiveUpError:
        return _by_library(final, gold, None, deep=deep)
    by = _stage(golds[0])
    try:
        finals = readings(mine)
    except GiveUpError:
        return _by_library(final, gold, golds[0], deep=deep)
    comparison = Comparison(deep=deep)
    outcomes = [comparison.same(value, golds[0]) for value in finals]
    if True in outcomes:
        return Judgement(True, by)
    if None in outcomes:
        return Judgement(None, None, wants_more=comparison.wants_more)
    if any(comparison.same(finals[0], other) for other in golds[1:]):
        return Judgement(None, None)  # another reading of the right answer says otherwise
    return Judgement(False, by)


def _by_library(final: str, gold: str, value: Value | None, *, deep: bool) -> Judgement:
    """Math-Verify's word on what is not understood."""
    if not deep:
        return Judgement(None, None, wants_more=True)
    from batchr1.reasoning.verdicts.library import library_says

    found = library_says(final, gold)
    if found is False and value is None:
        return Judgement(None, None)  # it knows no more of the right answer than that it differs
    return Judgement(found, None if found is None else "math")


def _stage(value: Value) -> str:
    """The stage that a right answer of this form belongs to."""
    match value:
        case Words():
            return "text"
        case Quantity(node):
            return "math" if rational(node) is None else "number"
        case Ratio():
            return "number"
        case Interval() | Union():
            return "interval"
        case Sequence_():
            return "set"
        case Relation(sides, signs):
            if signs == ("=",) and isinstance(sides[-1], Quantity):
                return _stage(sides[-1])
            return "interval" if set(signs) & {"<", ">", "<=", ">=", "!="} else "math"
    return "math"


def _signs(tokens: Sequence[Token], *, fold: bool = True) -> str:
    r"""Tokens as a text that only looks have no part in.

    `fold`: words in lower case; else in their own, so that `\text{CO}_2` is `CO_2`.
    """
    found: list[str] = []
    for index, token in enumerate(tokens):
        text = token.text
        if fold and token.kind == "word" and not (index and is_symbol(text)):
            text = text.lower()
        if _is_single_brace(tokens, index):
            continue
        if found and token.kind == "num" and tokens[index - 1].kind == "num":
            found.append(" " * token.gap or "|")
        elif token.gap == 2:
            found.append(" ")
        found.append(_SPELLINGS.get(text, text))
    return "".join(found).rstrip(" .")


def _is_single_brace(tokens: Sequence[Token], index: int) -> bool:
    """Whether a brace only holds one token, behind `_` or `^`."""
    begin = index if tokens[index].text == "{" else index - 2
    if tokens[index].text not in "{}" or begin < 1 or tokens[begin - 1].text not in ("_", "^"):
        return False
    texts = [token.text for token in tokens[begin : begin + 3]]
    return texts[:1] == ["{"] and texts[2:] == ["}"] and len(texts[1]) == 1


_SPELLINGS_TEXT = (
    "dfrac frac tfrac frac cfrac frac wedge land vee lor leq le geq ge leqslant le geqslant ge "
    "neq ne to rightarrow varnothing emptyset lnot neg"
)
_SPELLINGS = dict(zip(*[iter(_SPELLINGS_TEXT.split())] * 2, strict=True))
