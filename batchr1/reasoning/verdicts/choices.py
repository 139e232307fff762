"""Answers of a closed form: letter, yes or no, integer, short text.

Each has a way to find it in an answer without a box, and a way to read it where it stands.
"""

from __future__ import annotations

import re
import unicodedata

from batchr1.reasoning.verdicts.exact import rational
from batchr1.reasoning.verdicts.grammar.forms import Quantity, Relation
from batchr1.reasoning.verdicts.grammar.scan import GiveUpError, clean, scan, word_set
from batchr1.reasoning.verdicts.grammar.values import parse

MAX_CHOICE_CHARS = 300
MAX_SHORT_CHARS = 200  # of a short text that is a whole answer

_FONT = re.compile(
    r"\\(?:text\w{0,9}|math\w{2,3}|mbox|hbox|boxed|fbox|framebox|underline|emph|bf|rm|it"
    r"|operatorname)(?![a-z])\s?"
)
_SPACING = re.compile(r"\\[,;:!> ]|~|\\q?quad(?![A-Za-z])")
_LEAD = re.compile(
    r"(?:the )?(?:correct |final |right )?(?:answer|option|choice)(?: is)?\s?[:：]?\s*"
    r"|答案(?:是|为)?\s?[:：]?\s*|(?:故|应|應)?[选選](?:择|擇|项|項)?\s?[:：]?\s*",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"(?P<open>[(\[<])?\s?(?P<letter>[A-J]|[a-j])(?![A-Za-z'’])\s?(?P<close>[)\]>])?"
)
_SEVERAL = re.compile(
    r"\s*(?:,|;|and\b|or\b|und\b|oder\b|et\b|ou\b|&|/|\+|和|或|与|及)"
    r"\s*(?:and |or |option )?[(\[]?[A-Ja-j](?![A-Za-z])"
)
_OTHER = re.compile(r"[(\[][A-J][)\]]")
_OPERATOR = r"\\(?:cdot|times|div|in|le|leq|ge|geq|ne|neq|cup|cap|pm)(?![A-Za-z])"
_OPERATED = re.compile(  # behind a letter that is a symbol: (a)^2, (i) + x
    rf"(?<! )(?:[-+*/^=<>_(!|]|{_OPERATOR})|\s?(?:[+*/^=<>]|-\s|{_OPERATOR})"
)
_TAIL = re.compile(r"\s*[.:)\]]|(?<= )\([A-Za-z]{2,}|(?<= )\((?=[^()]{3,}\))")

_STYLE = r"(?:\\(?:text|textbf|textit|mathrm|mathbf|mathsf|boxed|bf|rm) *\{?|[*_`\"'$({\[ ]){0,9}"
_CHOICE_IN_TEXT = re.compile(
    r"(?:\b(?i:answer|option|choice)(?i:\s(?:is|must be|should be|would be|has to be|will be)"
    r"(?:\s(?:therefore|thus|hence|then|clearly|simply))?)?\s?:?"
    r"|答案(?:是|为|選|选)?\s?[:：]?|[选選](?:择|擇)?\s?[:：]?)"
    rf"\s{{0,4}}{_STYLE}([A-HJ]|(?<=[(*])I)(?![A-Za-z'’])"
)

_SAID_RIGHT = re.compile(  # B is the correct answer
    r"(?<![A-Za-z'’])([A-HJ])[)\].*]{0,3} (?:is|must be) (?:the )?(?:correct|right|best)(?![a-z])"
)

_YES = word_set("yes true y t correct right oui si sí ja sim da 是 对 對 正确 是的 对的 はい 예 네")
_NO = word_set(
    "no false n f incorrect wrong non nein não nao nee nie 否 不是 错 錯 错误 不 不对 いいえ 아니요"
)
_YES_NO = (
    r"(not (?:true|correct|possible)|yes|no|true|false|oui|non|ja|nein|sí|是的?|否|不是|正确|错误)"
)
_YES_NO_IN_TEXT = re.compile(
    rf"(?:\b(?:answer|conclusion|statement|claim)(?:\s(?:is|must be|would be))?\s?:?"
    rf"|答案(?:是|为)?\s?[:：]?)"
    rf"\s{{0,4}}[*_`\"'$({{\[ ]{{0,6}}{_YES_NO}(?![\w])",
    re.IGNORECASE,
)
_FIRST_WORD = re.compile(
    rf"(?:(?:so|therefore|thus|hence|then|well)\b)?\W{{0,6}}{_YES_NO}(?![\w])", re.IGNORECASE
)
_SAID = re.compile(
    r"(?:\b(?:final )?answer(?:\s(?:is|would be))?\s?[:：]?|答案(?:是|为)?\s?[:：]?)"
    r"\s{0,4}([^\n]{1,200})",
    re.IGNORECASE,
)
_NOT_WORD = re.compile(r"[^\w%$€£./:,+-]+")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_EDGE = re.compile(r"(?<!\d)[.,:/+-]+|[.,:/+-]+(?!\d)")


def flat(text: str) -> str:
    """Text without LaTeX's fonts, spacing and emphasis."""
    text = clean(text.replace("、", ". ").replace("．", ". "))
    text = _SPACING.sub(" ", _FONT.sub("", text))
    return " ".join(re.sub(r"[{}$*_`\"“”]|\\(?![A-Za-z])", " ", text).split())


def choice_of(text: str) -> str | None:
    r"""Read the one letter that an answer chooses, as a capital.

    It is that of `C`, `(c)`, `\textbf{(C)}\ 12`, `C. 5 cm`, `（C）`; None of `(B) and (C)`, `B, C`,
    `a dog`.
    """
    found = _chosen(text)
    return None if found is None else found[0]


def choice_text(text: str) -> str:
    """Read the text behind the letter of a choice."""
    found = _chosen(text)
    return "" if found is None else found[1]


def _chosen(text: str) -> tuple[str, str] | None:
    if len(text) > MAX_CHOICE_CHARS:
        return None
    said = flat(text).rstrip(" .")
    lead = _LEAD.match(said)
    at = lead.end() if lead else 0
    match = _LETTER.match(said, at)
    if match is None:
        return None
    letter, tail = match["letter"], said[match.end() :]
    if _SEVERAL.match(tail) or _OTHER.search(tail) or _OPERATED.match(said, match.end()):
        return None
    is_marked = bool(match["open"] and match["close"]) or bool(match["close"])
    if tail and not is_marked and not _TAIL.match(said, match.end()):
        return None
    if match["open"] and not match["close"]:
        return None
    if letter.islower() and tail and not (match["open"] and match["close"]):
        return None
    return letter.upper(), tail.lstrip(" .:)]")


def choices_of(text: str) -> frozenset[str] | None:
    """Read the letters of an answer that chooses one or several.

    None where it holds more than letters.
    """
    if len(text) > MAX_CHOICE_CHARS:
        return None
    said = re.sub(r"\b(?:and|or)\b|和|与", " ", flat(text))
    letters = re.findall(r"[A-J]", said)
    rest = re.sub(r"[A-J(),;&\[\]./ ]", "", said)
    return frozenset(letters) if letters and not rest else None


def same_choice(final: str, gold: str) -> bool | None:
    """Tell whether two texts choose the same.

    None where the right one is no choice.
    """
    right = choice_of(gold)
    if right is not None:
        return choice_of(final) == right
    several = choices_of(gold)
    return None if several is None else choices_of(final) == several


def choice_in(answer: str) -> str | None:
    """Find the choice in an answer without a box.

    That is the last announced one, else the only one called correct, or a last line that is nothing
    else. Where `A or B` is announced, it is both.
    """
    found = list(_CHOICE_IN_TEXT.finditer(answer))
    if found:
        more = _SEVERAL.match(answer, found[-1].end())
        if more is None or more[0].lstrip().startswith((",", ";")):  # A, B being wrong
            return found[-1][1]
        return answer[found[-1].start(1) : more.end()]
    right = set(_SAID_RIGHT.findall(answer))
    if len(right) == 1:
        return str(right.pop())
    line = _last_line(answer)
    return choice_of(line) if len(line) < 60 else None


def yes_no_of(text: str) -> str | None:
    """Read `yes` or `no` from a word, or from a sentence's start.

    None of anything else.
    """
    said = flat(text[:MAX_CHOICE_CHARS]).lower().strip(" .,!。！")
    if said in _YES:
        return "yes"
    if said in _NO or re.fullmatch(r"not (?:true|correct|possible)", said):
        return "no"
    word = re.split(r"[\s,.;:!。，]+", said, maxsplit=1)[0]
    if word in ("yes", "true", "no", "false") and not re.search(
        r"\b(?:yes|no|true|false)\b", said[len(word) :]
    ):
        return "yes" if word in _YES else "no"
    return None


def truth_of(text: str, *, beside: str) -> str | None:
    """Read `yes` or `no`.

    A letter is one as a capital, and only beside a word.
    """
    said = flat(text[:MAX_CHOICE_CHARS]).strip(" .,!。！")
    if len(said) == 1 and said.isascii():
        other = flat(beside[:MAX_CHOICE_CHARS]).strip(" .,!。！")
        if said.islower() or len(other) < 2:
            return None
    return yes_no_of(text)


def yes_no_in(answer: str) -> str | None:
    """Find yes or no in an answer without a box.

    The last that is announced, else the last line, else the first word.
    """
    found = _YES_NO_IN_TEXT.findall(answer)
    if found:
        return str(found[-1])
    line = _last_line(answer)
    if len(line) < 60 and yes_no_of(line) is not None:
        return line.strip()
    match = _FIRST_WORD.match(answer)
    return match[1] if match else None


def same_yes_no(final: str, gold: str) -> bool | None:
    """Tell whether both say the same.

    None where the right answer is neither yes nor no.
    """
    right = yes_no_of(gold)
    return None if right is None else yes_no_of(final) == right


def aime_of(text: str) -> int | None:
    """Read the integer from 0 to 999 that answers an AIME problem.

    It may stand as `073` or `m + n = 73`.
    """
    try:
        value = parse(scan(text))
    except GiveUpError:
        return None
    if isinstance(value, Relation) and set(value.signs) == {"="}:
        value = value.sides[-1]
    if not isinstance(value, Quantity):
        return None
    number = rational(value.node)
    if number is None or number.denominator != 1 or not 0 <= number <= 999:
        return None
    return int(number)


def same_aime(final: str, gold: str) -> bool | None:
    """Tell whether both are the same integer.

    None where the right one is none from 0 to 999.
    """
    right = aime_of(gold)
    return None if right is None else aime_of(final) == right


def short_text(text: str) -> str:
    """Normalise a short text: lower case, no articles, signs and fonts."""
    said = unicodedata.normalize("NFKC", flat(text)).casefold()
    said = _EDGE.sub(" ", _NOT_WORD.sub(" ", said))
    said = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", said)
    kept = " ".join(_ARTICLE.sub(" ", said).split())
    return kept or " ".join(said.split())


def same_short_text(final: str, gold: str) -> bool:
    """Whether two short texts are the same words."""
    return short_text(final) == short_text(gold)


def short_text_in(answer: str) -> str | None:
    """Find the short text of an answer without a box.

    What is announced, else all of it where it is short, else its last line.
    """
    found = _SAID.findall(answer)
    if found:
        return str(found[-1]).strip()
    whole = answer.strip()
    if whole and "\n" not in whole and len(whole) <= MAX_SHORT_CHARS:
        return whole
    return _last_line(answer).strip() or None


def _last_line(answer: str) -> str:
    lines = [line for line in answer[-4000:].splitlines() if line.strip()]
    return lines[-1] if lines else ""
