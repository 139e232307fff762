"""Token soup: tails of signs, scraps and scripts that say nothing.

A model that was pushed off its path may go on to its limit like that, without a period. Four forms
of it, looked for in the last `TAIL_CHARS` characters, outside formulas and closed code fences:

- signs: scraps of code whose brackets never match;
- scripts: letters of three scripts or more, changing from word to word;
- glue: letters that run together without white space;
- words: words without any of those that hold a sentence together, after a text that had them.
"""

from __future__ import annotations

import re
from itertools import pairwise

from batchr1.reasoning.languages import function_word_share

TAIL_CHARS = 1200
SHORT_TAIL_CHARS = 320  # looked at too, so that a shorter soup is all of it
MIN_TAIL_CHARS = 300
MIN_CLASHES = 0.014  # signs that do not follow each other in prose or formulas, per character
MIN_UNMATCHED = 0.34  # of brackets
MIN_MARKS = 8
MIN_DENSE_CLASHES = 0.006  # so many are enough where brackets are dense and mostly unmatched
MIN_DENSE_MARKS = 0.12  # brackets per character
MIN_DENSE_UNMATCHED = 0.42
MAX_GLUED_SPACES = 0.01  # white space per character, in letters run together
MIN_GLUED_LETTERS = 0.7  # lower-case letters per character,
MIN_MIXED_LETTERS = 0.97  # or letters of both cases: base64 has digits
MIN_MIXED_LOWER = 0.5
MIN_GLUED_KINDS = 15  # different letters: less is a sequence of bases, or digits
MIN_SCRIPTS = 3
MIN_CHANGES = 0.25  # of words that follow one in another script
MIN_WORDS = 30
MIN_WORD_KINDS = 8  # less is a loop
MAX_FUNCTION_WORDS = 0.02
MIN_FUNCTION_WORDS_BEFORE = 0.12
MAX_STOPS = 300  # characters for a sign of punctuation: words without any need no text before,
MAX_FUNCTION_WORDS_UNSTOPPED = 0.06  # and may be pieces of words that look like some

_LEFT_OUT = re.compile(
    r"```.*?```|\$\$.{1,999}?\$\$|\$[^$\n]{1,300}\$|\\\[.{1,999}?\\\]|\\\(.{1,500}?\\\)"
    r"|\\begin\{\w{1,12}\*?\}.{1,999}?\\end\{\w{1,12}\*?\}|\[asy\].*?(?:\[/asy\]|\Z)",
    re.DOTALL,
)
_CLASH = re.compile(
    r"[=<>]{2}\s?[\"'({]|[\"'][(.=][\"'\w]|[({\[][\"']\w+[.=(]"
    r"|[,;][\"'`]\s?[\"'`(=]|[\"'`]{2}[=(.]|\w[(\[{][\"']\w+[\[({.]"
    r"|[)\]}][\w\"'][\w.]*[({\[]|[;:,.]{2}[({\[\"']|[|&^~@#][=<>(){}\[\]\"'|&^~@#]"
)
_SCRIPTS = re.compile(
    r"(?P<latin>[A-Za-z\u00c0-\u024f]+)|(?P<han>[\u3400-\u9fff]+)|(?P<kana>[\u3041-\u30ff]+)"
    r"|(?P<hangul>[\uac00-\ud7a3]+)|(?P<cyrillic>[\u0400-\u052f]+)|(?P<arabic>[\u0600-\u06ff]+)"
    r"|(?P<hebrew>[\u05d0-\u05ea]+)|(?P<indic>[\u0900-\u0dff]+)|(?P<thai>[\u0e01-\u0eff]+)"
    r"|(?P<greek>[\u0370-\u03ff]{3,})|(?P<other>[\u0530-\u058f\u10a0-\u10ff\u1200-\u137f]+)"
)
_OPENING = {")": "(", "]": "[", "}": "{"}


def ends_in_soup(text: str) -> bool:
    """Tell whether a text ends in token soup.

    Linear in the tail that is looked at.
    """
    tail = text[-2 * TAIL_CHARS :]
    if "```" in tail and text.count("```", 0, -2 * TAIL_CHARS) % 2:
        tail = f"```{tail}"  # it begins within code
    tail = _LEFT_OUT.sub(" ", tail)[-TAIL_CHARS:]
    if len(tail) < MIN_TAIL_CHARS or tail.count("\\") > len(tail) // 50:
        return False
    before = text[: -2 * TAIL_CHARS]
    return _is_soup(tail, before) or (
        len(tail) > SHORT_TAIL_CHARS and _is_soup(tail[-SHORT_TAIL_CHARS:], before)
    )


def _is_soup(tail: str, before: str) -> bool:
    return _signs(tail) or _glued(tail) or _scripts(tail) or _words(tail, before)


def _signs(tail: str) -> bool:
    """Signs that clash, all the way: in both halves of the tail."""
    middle = len(tail) // 2
    halves = (tail[:middle], tail[middle:])
    clashes = min(len(_CLASH.findall(half)) / len(half) for half in halves)
    if clashes < MIN_DENSE_CLASHES:
        return False
    marks, unmatched = _unmatched(tail)
    is_dense = marks >= MIN_DENSE_MARKS * len(tail)
    if is_dense and unmatched >= MIN_DENSE_UNMATCHED * marks:
        return True
    return clashes >= MIN_CLASHES and marks >= MIN_MARKS and unmatched >= MIN_UNMATCHED * marks


def _glued(tail: str) -> bool:
    """Tell whether Latin letters of many words run together."""
    if sum(map(str.isspace, tail)) > MAX_GLUED_SPACES * len(tail):
        return False
    letters = [char for char in tail if "a" <= char <= "z"]
    if len(set(letters)) < MIN_GLUED_KINDS:
        return False
    if len(letters) >= MIN_GLUED_LETTERS * len(tail):
        return True
    is_mixed = sum(map(str.isalpha, tail)) >= MIN_MIXED_LETTERS * len(tail)
    return is_mixed and len(letters) >= MIN_MIXED_LOWER * len(tail)


def _unmatched(tail: str) -> tuple[int, int]:
    """Count brackets, and those without a partner on their line."""
    marks = unmatched = 0
    for line in tail.splitlines():
        open_: list[str] = []
        for char in line:
            if char in "([{":
                open_.append(char)
                marks += 1
            elif char in _OPENING:
                marks += 1
                if open_ and open_[-1] == _OPENING[char]:
                    open_.pop()
                else:
                    unmatched += 1
        unmatched += len(open_)
    return marks, unmatched


def _scripts(tail: str) -> bool:
    """Scripts that change from word to word."""
    if tail.isascii():
        return False
    names = [str(match.lastgroup) for match in _SCRIPTS.finditer(tail)]
    if len(names) < 20:
        return False
    japanese = {"kana": "han"}
    names = [japanese.get(name, name) for name in names]
    often = {name for name in set(names) if names.count(name) >= max(2, len(names) // 33)}
    changes = sum(a != b for a, b in pairwise(names))
    return len(often) >= MIN_SCRIPTS and changes >= MIN_CHANGES * len(names)


def _words(tail: str, before: str) -> bool:
    """Find words between spaces, none of which holds a sentence together."""
    stops = sum(tail.count(sign) for sign in ",;|.:*-")
    if tail.count("\n") > 3 or stops > len(tail) // 60:
        return False
    words = tail.split()
    if len(words) < MIN_WORDS or len(set(words)) < MIN_WORD_KINDS:
        return False
    share = function_word_share(tail)
    if stops <= len(tail) // MAX_STOPS and not any(map(str.isdigit, tail)):
        return share <= MAX_FUNCTION_WORDS_UNSTOPPED
    if share > MAX_FUNCTION_WORDS:
        return False
    return function_word_share(before[-4000:]) >= MIN_FUNCTION_WORDS_BEFORE
