"""Words against words: the same, others, or more than is asked."""

from __future__ import annotations

from collections.abc import Sequence

from batchr1.reasoning.verdicts.grammar.forms import NOTHING_WORDS
from batchr1.reasoning.verdicts.grammar.scan import word_set

_ARTICLES = word_set("the a an")
_YES = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_NOT = word_set("not no never neither nor cannot isn't false")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def same_words(mine: tuple[str, ...], right: tuple[str, ...]) -> bool | None:
    a = [word for word in mine if word not in _ARTICLES] or list(mine)
    b = [word for word in right if word not in _ARTICLES] or list(right)
    if a == b or "".join(a).replace("-", "") == "".join(b).replace("-", ""):
        return True
    if len(b) == 1 and b[0] in _YES:
        said = {_YES[word] for word in a if word in _YES}
        if len(said) == 1 and not _NOT & set(a[1:]) and a[0] in _YES:
            return said == {_YES[b[0]]}
        return None if said else False
    if " ".join(a) in NOTHING_WORDS and " ".join(b) in NOTHING_WORDS:
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
