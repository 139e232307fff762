"""Groups of tokens, by brackets, commas and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchr1.reasoning.verdicts.grammar.forms import Words
from batchr1.reasoning.verdicts.grammar.numerals import number_in_words
from batchr1.reasoning.verdicts.grammar.scan import Token, number_token, word_set
from batchr1.reasoning.verdicts.grammar.units import is_lead, is_unit

OPENING = {
    "(": ")",
    "[": "]",
    "{": "}",
    r"\{": r"\}",
    "langle": "rangle",
    "lfloor": "rfloor",
    "lceil": "rceil",
}
_SEPARATING_WORDS = {"and", "or", "und", "oder", "et", "ou", "和", "或", "及"}
_SEPARATING_COMMANDS = {"vee", "lor", "wedge", "land"}
CURRENCIES = word_set("USD EUR GBP JPY INR CNY RMB KRW CHF RUB Rs € £ ¥ ₹ ₩ ₽ US HK")
_JOINT_WORDS = {"and": "and", "or": "or", "und": "and", "oder": "or", "et": "and", "ou": "or"}
_JOINT_COMMANDS = {"vee": "lor", "lor": "lor", "wedge": "land", "land": "land"}
_NOTE_SAYS_MORE = word_set("or and not mod base plus minus to than")
_PUNCTUATION = frozenset(".,;:!?\"'")
_SHORT_WORDS = word_set("no yes up on in is it if at by of to so do he we or an am")
_NOT_COUNTED = word_set("of as per in or to than less more times th from")
_CLOSING = frozenset(OPENING.values())


def trimmed(tokens: Sequence[Token]) -> list[Token]:
    """Without signs that only end a sentence, and without outer braces."""
    found = list(tokens)
    while (
        found and found[-1].kind == "op" and found[-1].text in (".", ",", ";", ":", '"', "`", r"\\")
    ):
        found.pop()
    while found and found[0].kind == "op" and found[0].text in (",", ";", ":", '"', "`", "&", "*"):
        found.pop(0)
    while len(found) > 1 and found[0].text == "{" and match_of(found, 0) == len(found) - 1:
        found = found[1:-1]
    return found


def match_of(tokens: Sequence[Token], at: int) -> int:
    """Find where the bracket at `at` is closed; -1 where nothing does.

    Any closing bracket counts.
    """
    depth = 0
    for index in range(at, len(tokens)):
        token = tokens[index]
        if opens(token):
            depth += 1
        elif closes(token):
            depth -= 1
            if depth == 0:
                return index
    return -1


def opens(token: Token) -> bool:
    return token.kind == "begin" or (token.kind in ("op", "cmd") and token.text in OPENING)


def closes(token: Token) -> bool:
    closing = token.kind in ("op", "cmd") and token.text in _CLOSING
    return token.kind == "end" or closing


def depth_at(tokens: Sequence[Token], index: int) -> int:
    """Count the brackets open before a token; bars are none."""
    depth = 0
    for token in tokens[:index]:
        depth += opens(token) - (closes(token) and depth > 0)
    return depth


def split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Split a list into its elements.

    Semicolons separate them where there are any, else commas, words and wide spaces.
    """
    depth = 0
    marks: list[tuple[int, str]] = []
    for index, token in enumerate(tokens):
        depth += opens(token) - (closes(token) and depth > 0)
        if depth:
            if token.gap == 2 and index and depth == 1 and opens(token):
                marks.append((index, "gap"))
            continue
        if token.kind == "op" and token.text in (";", ",", r"\\"):
            marks.append((index, token.text))
        elif (token.kind in ("word", "letters") and token.text.lower() in _SEPARATING_WORDS) or (
            token.kind == "cmd" and token.text in _SEPARATING_COMMANDS
        ):
            marks.append((index, "word"))
        elif index and _is_apart(tokens, index):
            marks.append((index, "gap"))
    if any(mark == ";" for _, mark in marks):
        marks = [one for one in marks if one[1] == ";"]
    parts: list[list[Token]] = [[]]
    cuts = dict(marks)
    for index, token in enumerate(tokens):
        if index in cuts:
            parts.append([])
            if cuts[index] != "gap":
                continue
        parts[-1].append(token)
    return [part for part in parts if part] or [[]]


def _is_apart(tokens: Sequence[Token], index: int) -> bool:
    """Tell whether a space alone separates two elements.

    A wide one does, or one between two numbers.
    """
    before, token = tokens[index - 1], tokens[index]
    if token.kind == "num" and before.kind == "num" and token.gap:
        if index > 1 and tokens[index - 2].text in ("_", "^", "sqrt", "frac", "dfrac", "tfrac"):
            return False
        after = [t.text for t in tokens[index + 1 : index + 2]]
        return token.gap == 2 or after != ["/"] or before.decimals is not None
    if token.gap == 2:
        return (token.kind != "op" and before.kind != "op") or token.text in ("(", r"\{")
    return False


def words_of(tokens: Sequence[Token]) -> Words | None:
    """Words, where tokens are nothing else, or words with numbers among them."""
    texts = [t for t in tokens if (t.text not in _PUNCTUATION and t.text != "-") or t.kind == "num"]
    if not texts:
        return None
    if len(texts[0].text) == 1 and len(texts) > 1 and all(is_unit(t.text) for t in texts[1:]):
        return None  # x cm
    if all(t.kind in ("word", "letters") for t in texts):
        if any(_is_word(t, len(texts)) for t in texts):
            return Words(tuple(t.text.lower() for t in texts))
        return None
    first = texts[0]
    begins = first.kind == "word" and len(first.text) > 1
    begins = begins or (first.kind == "letters" and _is_word(first, len(texts)))
    if begins and all(t.kind in ("word", "letters", "num") for t in texts):
        if first.text in CURRENCIES or is_unit(first.text):
            return None
        lead = [t.text for t in texts if t.kind != "num"]
        numbers = [n for n, t in enumerate(texts) if t.kind == "num"]
        if is_lead([t.text for t in texts[: numbers[0]]]):
            return None
        del lead
        return Words(tuple(t.text.lower() for t in texts))
    return None


def _is_word(token: Token, of: int) -> bool:
    """Whether letters are a word and no product of symbols."""
    text = token.text
    if token.kind == "word":
        return len(text) > 1 or (of == 1 and text not in ("e", "i"))
    if text in ("pi", "sin", "cos", "tan", "log", "ln", "exp", "sqrt", "inf", "infinity", "oo"):
        return False
    if len(text) == 2:
        return text.isupper() or text.lower() in _SHORT_WORDS
    return len(text) > 2


def with_decimal_commas(tokens: Sequence[Token]) -> list[Token] | None:
    """Read tokens of `3,14` as 3.14.

    No space stands behind the comma, and no list of more.
    """
    commas = [n for n, token in enumerate(tokens) if token.text == "," and token.kind == "op"]
    if len(commas) != 1 or not 0 < commas[0] < len(tokens) - 1:
        return None
    if any(opens(token) or closes(token) for token in tokens):
        return None
    before, comma, after = tokens[commas[0] - 1 : commas[0] + 2]
    is_plain = before.kind == after.kind == "num" and before.text.isdigit() and after.text.isdigit()
    if not is_plain or comma.gap or after.gap or before.parts or after.parts:
        return None
    merged = number_token(f"{before.text}.{after.text}")
    return [*tokens[: commas[0] - 1], merged, *tokens[commas[0] + 2 :]]


def indian_number(tokens: Sequence[Token]) -> list[Token] | None:
    """Read `12,34,567` as one number.

    Its groups have two digits, the last one three.
    """
    lead = next((n for n, token in enumerate(tokens) if token.kind == "num"), 0)
    if any(token.text not in CURRENCIES and token.text != "." for token in tokens[:lead]):
        return None
    before, tokens = list(tokens[:lead]), tokens[lead:]
    texts = [part for token in tokens for part in (",".join(token.parts) or token.text).split(",")]
    digits = [text for text in texts if text]
    if len(digits) < 3 or any(token.gap for token in tokens[1:]):
        return None
    if any(token.text != "," and token.kind != "num" for token in tokens):
        return None
    if not all(text.isdigit() for text in digits) or len(digits[0]) > 2 or len(digits[-1]) != 3:
        return None
    if {len(one) for one in digits[1:-1]} != {2}:
        return None
    return [*before, number_token("".join(digits))]


def with_number_of_words(tokens: Sequence[Token]) -> list[Token] | None:
    """Read `five apples` as 5 apples."""
    lead = next((n for n, t in enumerate(tokens) if t.kind not in ("word", "letters")), None)
    texts = [token.text.lower() for token in tokens[:lead]]
    if not 1 < len(texts) < 12 or lead is not None or set(texts) & _NOT_COUNTED:
        return None
    for end in range(len(texts) - 1, max(0, len(texts) - 4), -1):
        number = number_in_words(texts[:end])
        if number is not None:
            return [replace(number_token("0"), value=number), *tokens[end:]]
    return None


def joint_of(tokens: Sequence[Token]) -> str:
    """Find what joins the elements of a list: and, or, land, lor.

    Empty where there is none, or where there are several.
    """
    found = set()
    for index, token in enumerate(tokens):
        name = _JOINT_COMMANDS.get(token.text) if token.kind == "cmd" else None
        if token.kind in ("word", "letters"):
            name = _JOINT_WORDS.get(token.text.lower())
        if name is not None and depth_at(tokens, index) == 0:
            found.add(name)
    return found.pop() if len(found) == 1 else ""


def with_and_of_mixed(tokens: Sequence[Token]) -> list[Token] | None:
    """Read `4 and 1/4` as a mixed number."""
    texts = [token.text for token in tokens]
    if len(texts) < 4 or texts[1] != "and" or not texts[0].isdigit():
        return None
    if texts[2:] == ["a", "half"]:
        half = (replace(number_token("1"), gap=1), Token("op", "/"), number_token("2"))
        return [tokens[0], *half]
    if texts[2] not in ("frac", "dfrac", "tfrac") and texts[3] != "/":
        return None
    return [tokens[0], replace(tokens[2], gap=1), *tokens[3:]]


def _closes_all(tokens: Sequence[Token], at: int) -> bool:
    return opens(tokens[at]) and match_of(tokens, at) == len(tokens) - 1


def without_note(tokens: Sequence[Token]) -> list[Token] | None:
    """Drop a last note in brackets: `5 (since it is)`.

    None without one.
    """
    kept = trimmed(tokens)
    if len(kept) < 4 or kept[-1].text != ")":
        return None
    begin = next((n for n in range(1, len(kept)) if _closes_all(kept, n)), None)
    first = kept[begin + 1] if begin is not None else kept[0]
    if begin is not None and first.kind == "num" and begin + 3 == len(kept):
        said = number_in_words([token.text for token in kept[:begin]])
        return [first] if said == first.value else None  # nine (9)
    shortest = {"word": 2, "letters": 4}.get(first.kind)
    if begin is None or shortest is None or len(first.text) < shortest:
        return None
    words = {token.text.lower() for token in kept[begin:] if token.kind in ("word", "letters")}
    return None if words & _NOTE_SAYS_MORE else kept[:begin]


def name_end(tokens: Sequence[Token], signs: set[str]) -> int | None:
    """Find the value's start behind a name and sign (`x \\in`)."""
    for index, token in enumerate(tokens[:8]):
        if token.text in signs and token.kind in ("op", "cmd"):
            return index + 1
    return None


def is_not(tokens: Sequence[Token]) -> bool:
    """Whether a last `!` negates the `=` behind it.

    Behind a number it is a factorial.
    """
    if not tokens or tokens[-1].text != "!":
        return False
    return len(tokens) < 2 or tokens[-2].kind != "num" or tokens[-1].gap > 0
