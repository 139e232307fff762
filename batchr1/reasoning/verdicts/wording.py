"""Words against words: the same, others, or more than is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence

from batchr1.reasoning.verdicts.grammar.forms import NOTHING_WORDS
from batchr1.reasoning.verdicts.grammar.numerals import number_in_words, ordinal_in_words
from batchr1.reasoning.verdicts.grammar.scan import word_set

_ARTICLES = word_set("the a an")
_YES = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_NOT = word_set("not no never neither nor cannot isn't false")
_ELEMENTS = (
    "He|Li|Be|Ne|Na|Mg|Al|Si|Cl|Ar|Ca|Cr|Mn|Fe|Co|Ni|Cu|Zn|Ga|As|Se|Br|Kr|Ag|Cd|Sn|Sb|Xe|Ba|Pt"
    "|Au|Hg|Pb|[HBCNOFPSKIU]"
)
_GROUP = rf"(?:(?:{_ELEMENTS})\d{{0,2}})"
_FORMULA = re.compile(rf"(?:{_GROUP}|\({_GROUP}{{1,6}}\)\d?){{1,12}}(?:\d?[+-])?")
_PLAIN_OF_FORMULA = re.compile(r"\\(?:text|mathrm|ce)(?![A-Za-z])|[{}_$ ]")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


_NOTHING_OF = re.compile(
    r"(?:there (?:is|are|exists?) )?no (?:such )?(?:real |integer |positive |valid |possible )?"
    r"(?:solutions?|numbers?|integers?|values?|roots?|pairs?|triples?|polynomials?|functions?)"
    r"(?: \w)?(?: exists?)?|(?:it |this )?(?:is )?impossible|it has no solutions?"
)
_UNDEFINED_TEXT = (
    "dne|d.n.e|d n e|does not exist|doesn't exist|undefined|not defined|is undefined"
    "|limit does not exist|is not defined"
)
_UNDEFINED = frozenset(_UNDEFINED_TEXT.split("|"))
_INFINITE = {"infinity": 1, "+ infinity": 1, "positive infinity": 1, "plus infinity": 1}
_INFINITE |= {"negative infinity": -1, "minus infinity": -1}
_SET_WORDS = word_set("the set of all any every x n is are an a element elements in belongs to")
_SETS_TEXT = (
    "integer|real number|real|rational number|rational|complex number|natural number"
    "|positive integer|nonnegative integer|whole number"
)
_SETS = frozenset(_SETS_TEXT.split("|"))
_OPEN_SETS = frozenset(["natural number", "positive integer", "whole number"])  # with zero?
_MANY = frozenset(["infinite", "infinitely many", "infinity", "an infinite number"])
_ADDED = word_set(
    "function functions number numbers solution solutions value values series sequence triangle "
    "set one ones it they is are that integers roots times"
)


def same_formula(mine: str, right: str) -> bool | None:
    r"""Compare chemical formulas: `\text{CO}_2`, `Fe^{3+}`; None of other texts."""
    a, b = (_PLAIN_OF_FORMULA.sub("", text).replace("^", "") for text in (mine, right))
    if _FORMULA.fullmatch(b) is None or not re.search(r"\d|[+-]$", b):
        return None
    has_text = any(sign in right for sign in (r"\text", r"\mathrm", r"\ce"))
    return a == b if has_text and _FORMULA.fullmatch(a) else None


def is_nothing(words: Sequence[str]) -> bool:
    """Whether words say that there is no solution."""
    said = " ".join(words)
    return said in NOTHING_WORDS or _NOTHING_OF.fullmatch(said) is not None


def infinite_sign(words: Sequence[str]) -> int | None:
    """The sign of an infinity in words; None of other words."""
    said = " ".join(words)
    return 1 if said in _MANY else _INFINITE.get(said)


def named_set_of(words: Sequence[str]) -> str | None:
    """Name the set of numbers that words are; None of other words."""
    said = " ".join(word for word in words if word not in _SET_WORDS).rstrip("s")
    if said not in _SETS or (said in ("real", "rational") and not words[-1].endswith("s")):
        return None
    return {"real": "real number", "rational": "rational number"}.get(said, said)


def _meaning(words: Sequence[str]) -> str | None:
    """Name what words say in one of several usual ways."""
    if is_nothing(words):
        return "nothing"
    said = " ".join(word for word in words if word not in _ARTICLES)
    if said in _UNDEFINED:
        return "undefined"
    if "infin" in said and said not in _INFINITE:
        left = [word for word in words if word not in _ADDED | _ARTICLES]
        return "many" if left in (["infinitely", "many"], ["infinite"]) else None
    if (number := number_in_words(words)) is not None:
        return f"number {number}"
    ordinal = ordinal_in_words(words)
    return None if ordinal is None else f"ordinal {ordinal}"


def _without_articles(words: Sequence[str]) -> list[str]:
    """Drop articles; a last `a` is a label: team A."""
    return [word for word in words[:-1] if word not in _ARTICLES] + list(words[-1:])


def same_words(mine: tuple[str, ...], right: tuple[str, ...]) -> bool | None:
    one_set, other_set = named_set_of(mine), named_set_of(right)
    if one_set is not None and other_set is not None:
        if one_set != other_set and {one_set, other_set} <= _OPEN_SETS:
            return None
        return one_set == other_set
    a, b = _without_articles(mine), _without_articles(right)
    if a == b or "".join(a).replace("-", "") == "".join(b).replace("-", ""):
        return True
    if a == ["none"] and b[:2] == ["none", "of"]:
        return True
    one_meaning = _meaning(mine)
    if one_meaning is not None and one_meaning == _meaning(right):
        return True
    if len(b) == 1 and b[0] in _YES:
        said = {_YES[word] for word in a if word in _YES}
        if len(said) == 1 and not _NOT & set(a[1:]) and a[0] in _YES:
            return said == {_YES[b[0]]}
        return None if said else False
    if len(a) > len(b) and a[: len(b)] == b and set(a[len(b) :]) <= _ADDED:
        return True
    if len(a) > len(b) and _contains(a, b):
        return False if _NOT & set(a) else None
    one, other = "".join(a), "".join(b)
    if len(a) == len(b) == 1 and len(one) == 3 and sorted(one) == sorted(other):
        return None if "".join(sorted(one)) in _ALPHABET else False  # abc and bca: a product?
    return False


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    length = len(wanted)
    return any(list(words[n : n + length]) == list(wanted) for n in range(len(words) - length + 1))
