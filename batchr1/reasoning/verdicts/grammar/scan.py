"""Tokens of an answer in LaTeX or plain text.

Numbers are whole, and white space is kept where it matters. A space between two digits separates
them, unless it groups thousands. `3, 500` is two numbers, `3,500` is one (and may be read as two
where the other answer is a list).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from batchr1.reasoning.verdicts.grammar.notations import respelled

MAX_CHARS = 2000  # longer answers are compared as text only
MAX_DIGITS = 1200  # of a number; int() refuses more than 4,300
MAX_EXPONENT = 3000  # of ten, in a number's e notation

Kind = Literal["num", "letters", "word", "cmd", "op", "begin", "end"]


class GiveUpError(Exception):
    """A text that this grammar does not cover. Says which part."""


@dataclass(frozen=True, slots=True)
class Token:
    """Token of an answer.

    `gap` is the space before it: 0 none, 1 a space, 2 a wide one (quad, line). Of a number: its
    exact `value`; the digits behind the point (`decimals`, None without a point); its significant
    `digits`; `parts`, the numbers of the reading as a list, where there is one.
    """

    kind: Kind
    text: str
    gap: int = 0
    value: Fraction | None = None
    decimals: int | None = None
    digits: int = 0
    parts: tuple[str, ...] = ()


_SUPERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS_TEXT = r"""
−-|﹣-|–-|—-|‐-|‑-|×\times |✕\times |·\cdot |⋅\cdot |∙\cdot |÷\div |√\sqrt |∞\infty |≤\le |⩽\le
≥\ge |⩾\ge |≠\ne |≈\approx |≡\equiv |∪\cup |∩\cap |∈\in |∖\setminus |∅\emptyset |Ø\emptyset
±\pm |∓\mp |⟨\langle |⟩\rangle |〈\langle |〉\rangle |°^\circ |º^\circ |→\to |∠\angle |△\triangle
ℝ\mathbb{R}|ℤ\mathbb{Z}|ℕ\mathbb{N}|ℚ\mathbb{Q}|′'|’'|‘'|“"|”"
…\ldots |⋯\ldots |、,|。.|【(|】)|⁄/|∕/|∶:
"""
_SIGNS = {one[0]: one[1:] + " " for one in re.split(r"[|\n]", _SIGNS_TEXT.strip())}
_SIGNS = {sign: text.strip() + " " * text.startswith("\\") for sign, text in _SIGNS.items()}
_SIGNS |= dict.fromkeys("\u2009\u202f\u2008\u200a", r"\,") | dict.fromkeys("\u00a0\u3000", " ")
_SIGNS |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u2062\u2061", "")
_GREEK_TEXT = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho . "
    "sigma tau upsilon phi chi psi omega"
)
_GREEK = _GREEK_TEXT.split()
_SIGNS |= {chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK) if name != "."}
_SIGNS |= {"Δ": r"\Delta ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "Π": r"\Pi ", "Γ": r"\Gamma "}
_SIGN_TABLE = str.maketrans(_SIGNS)

_FONTS = (
    "text|textrm|textbf|textit|textnormal|textsf|texttt|textsc|mathrm|mathbf|mathit|mathsf|mathtt"
    "|mathcal"
    "|mathbb|mbox|hbox|operatorname|boldsymbol|bm|emph|boxed|fbox|framebox|underline|displaylines"
    "|rm|bf|it"
)
_QUOTES = (("'", "'"), ('"', '"'), ("`", "`"))
_SIZING = re.compile(
    r"\\(?:left|right|middle|displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut"
    r"|bigl?|bigr|Bigl?"
    r"|Bigr|biggl?|biggr|Biggl?|Biggr|rm|bf|it|cal|scriptsize|large|Large|normalsize)(?![A-Za-z])"
)
_DROPPED = re.compile(r"\\(?:phantom|hphantom|vphantom|color|label|tag\*?)\s*\{[^{}]*\}")
_COLOURED = re.compile(r"\\textcolor\s*\{[^{}]*\}")
_VULGAR = re.compile(r"[¼-¾⅐-⅞↉]")
_ROOT_SIGN = re.compile(r"√\s?(\d+(?:\.\d+)?|[A-Za-z])")
_SUPER_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUB_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")

_OPERATORS = frozenset(
    ["cis", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln"]
)
_FONT = re.compile(rf"\\(?P<font>{_FONTS})(?![A-Za-z])\s*\{{")
_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([a-z]+\*?)\}(?:\{[clr|]*\})?")
_WIDE = re.compile(r"\\q?quad(?![A-Za-z])|\\h(?:space|skip)\*?\s*\{[^{}]*\}|\n\s*\n")
_THIN = re.compile(r"\\[,;:> ]|~|\\(?:thinspace|enspace|space|medspace)(?![A-Za-z])|\s")
_NOTHING = re.compile(r"\\!|\\negthinspace(?![A-Za-z])")

_GAP = r"(?:\\[,;: >]|~| ){1,3}"
_GROUPED = re.compile(
    rf"(?P<hard>\d{{1,3}}(?:(?:\{{,\}}|,\s*\\!\s*)\d{{3}})+)(?![\d])(?P<hard_rest>\.\d+)?"
    rf"|(?P<comma>[1-9]\d{{0,2}}(?:,\d{{3}})+)(?![\d])(?!,\d)(?P<comma_rest>\.\d+)?"
    rf"|(?P<thin>\d{{1,3}}(?:{_GAP}\d{{3}})+)(?!\d)(?!{_GAP}?/)(?P<thin_rest>\.\d+)?"
    rf"|(?P<point>\d{{1,3}}(?:\.\d{{3}})+)(?P<point_rest>,\d{{1,2}})(?!\d)"
    rf"|(?P<points>\d{{1,3}}(?:\.\d{{3}}){{2,}})(?!\d)"
)
_DECIMAL_COMMA = re.compile(r"(\d+)(?:\{,\})(\d+)")
_REPEATING = re.compile(
    r"(?P<whole>\d*)\.(?P<fixed>\d*)(?:"
    r"\\(?:overline|bar)\s*(?:\{\s*(?P<bar>\d+)\s*\}|(?P<bar1>\d))"
    r"|\\dot\s*(?:\{(?P<dot>\d)\}|(?P<dot1>\d))"
    r"(?:(?P<mid>\d*)\\dot\s*(?:\{(?P<dot2>\d)\}|(?P<dot3>\d)))?"
    r"|\((?P<round>\d+)\)(?!\d))"
    r"|(?P<whole2>\d*)\.(?P<fixed2>\d{0,6}?)(?P<again>\d{1,6}?)(?P=again){2,}"
    r"(?:\.{3}|\\(?:l|c)?dots(?![A-Za-z]))"
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_ORDINAL = re.compile(
    r"(?:(?:st|nd|rd|th)(?![A-Za-z])|\^\s*\{\s*(?:st|nd|rd|th)\s*\}"
    r"|\^\s*\{\s*\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}"
    r"|\^?\\(?:text|mathrm|textrm)\s*\{\s*(?:st|nd|rd|th)\s*\})"
    r"(?!\s*(?:\\text\s*\{)?\s*(?:root|power|degree))"  # the operation, no place
)
_E = re.compile(r"[eE]([+-]?\d{1,4})(?![\d.])")
_DIGITS = re.compile(r"\d")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LETTERS = re.compile(r"[A-Za-z]+")


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def clean(text: str) -> str:
    """Take delimiters, sizes and colours out of LaTeX, with ASCII signs.

    No meaning is lost.
    """
    text = respelled(text)
    text = _SUPER_RUN.sub(lambda m: "^{" + m[0].translate(_SUPERS) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + m[0].translate(_SUBS) + "}", text)
    text = _ROOT_SIGN.sub(r"\\sqrt{\1}", text)
    text = _VULGAR.sub(_vulgar, text.translate(_SIGN_TABLE))
    text = unicodedata.normalize("NFKC", text) if not text.isascii() else text
    text = _COLOURED.sub("", _DROPPED.sub("", text)).strip()
    for begin, end in (
        (r"\(", r"\)"),
        (r"\[", r"\]"),
        ("$$", "$$"),
        ("$", "$"),
        ("**", "**"),
        *_QUOTES,
    ):
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end):
            text = text[len(begin) : -len(end)].strip()
    text = text.replace(r"\(", " ").replace(r"\)", " ") if r"\(" in text else text
    return _SIZING.sub(" ", text.replace(r"\$", r"\USD "))


def _vulgar(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKD", match[0]).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def scan(text: str) -> tuple[Token, ...]:
    """Split an answer into tokens.

    Raises `GiveUpError` for one that is too long.
    """
    if len(text) > MAX_CHARS:
        raise GiveUpError("too long")
    cleaned = clean(text)
    dollars = cleaned.count("$")
    if dollars % 2:
        cleaned = re.sub(r"\$(?=\s*[-\d.])", r"\\USD ", cleaned, count=1)
    return tuple(_Scanner(cleaned.replace("$", " ")).run(in_text=False, depth=0))


class _Scanner:
    """One pass over a cleaned text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, *, in_text: bool, depth: int) -> list[Token]:
        text, at, gap = self._text, 0, 0
        found: list[Token] = []
        if depth > 8:
            raise GiveUpError("text in text")
        while at < len(text):
            if match := _NOTHING.match(text, at):
                at = match.end()
                continue
            if match := _WIDE.match(text, at):
                gap, at = 2, match.end()
                continue
            if match := _THIN.match(text, at):
                gap, at = max(gap, 1), match.end()
                continue
            begin = at
            new, at = self._next(at, in_text, depth)
            if not new and text[begin:at].endswith(" }"):
                gap = max(gap, 1)  # \text{ }
            if new:
                found.append(replace(new[0], gap=max(gap, new[0].gap)))
                found.extend(new[1:])
                gap = 0
        return found

    def _next(self, at: int, in_text: bool, depth: int) -> tuple[list[Token], int]:
        """The tokens that begin here, and where they end."""
        text = self._text
        if match := _FONT.match(text, at):
            end = _closing(text, match.end())
            inner = text[match.end() : end]
            is_text = match["font"] not in (
                "mathrm",
                "mathbf",
                "boldsymbol",
                "bm",
                "mathit",
                "boxed",
            )
            is_text = is_text or len(inner.strip()) > 1
            if match["font"] in ("boxed", "fbox", "framebox", "underline"):
                is_text = in_text
            if match["font"] in ("mathbb", "mathcal") or match["font"] == "operatorname":
                return [Token("cmd", inner.strip() or "?")], end + 1
            if inner.strip() in _OPERATORS:
                return [Token("cmd", inner.strip())], end + 1
            return _Scanner(inner).run(in_text=is_text, depth=depth + 1), end + 1
        if match := _ENVIRONMENT.match(text, at):
            return [Token("begin" if match[1] == "begin" else "end", match[2])], match.end()
        if match := _COMMAND.match(text, at):
            return [Token("cmd", match[1])], match.end()
        char = text[at]
        if char == "\\":
            return [Token("op", text[at : at + 2])], at + 2
        if char.isdecimal() or (char == "." and _DIGITS.match(text, at + 1)):
            return _number(text, at)
        if match := (_WORD if in_text or not char.isascii() else _LETTERS).match(text, at):
            return [
                Token("word" if in_text or not char.isascii() else "letters", match[0])
            ], match.end()
        return [Token("op", char)], at + 1


def _closing(text: str, at: int) -> int:
    """Find where the group that begins at `at` is closed.

    The text's end where it never is.
    """
    depth = 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
        at += 1
    return len(text)


def _number(text: str, at: int) -> tuple[list[Token], int]:
    """A number with its groups of digits, its period, its exponent."""
    if match := _REPEATING.match(text, at):
        return [_repeating(match)], match.end()
    if match := _GROUPED.match(text, at):
        name = str(match.lastgroup).removesuffix("_rest")
        digits = re.sub(r"\D", "", match[name])
        rest = (match.groupdict().get(f"{name}_rest") or "").replace(",", ".")
        parts = tuple(match["comma"].split(",")) if name == "comma" and not rest else ()
        token = replace(number_token(digits + rest), parts=parts)
        return [replace(token, text=f"{token.text}")], match.end()
    if match := _DECIMAL_COMMA.match(text, at):
        return [number_token(f"{match[1]}.{match[2]}")], match.end()
    match = _NUMBER.match(text, at)
    if match is None:
        raise GiveUpError("digits of another script")
    literal, end = match[0], match.end()
    if literal.isdigit() and (ordinal := _ORDINAL.match(text, end)):
        return [number_token(literal)], ordinal.end()
    if exponent := _E.match(text, end):
        literal, end = f"{literal}e{exponent[1]}", exponent.end()
    return [number_token(literal)], end


def number_token(literal: str) -> Token:
    """Read a number as Python writes it, exactly.

    Raises `GiveUpError` for one beyond all bounds.
    """
    digits, _, exponent = literal.partition("e")
    if len(digits) > MAX_DIGITS or abs(int(exponent or 0)) > MAX_EXPONENT:
        raise GiveUpError("a very long number")
    decimals = len(digits.partition(".")[2]) if "." in digits else None
    significant = len(digits.replace(".", "").lstrip("0"))
    return Token("num", literal, 0, Fraction(literal), decimals, significant)


def _repeating(match: re.Match[str]) -> Token:
    whole, fixed = match["whole"] or match["whole2"] or "0", match["fixed"] or match["fixed2"] or ""
    period = match["bar"] or match["bar1"] or match["round"] or match["again"]
    if period is None:
        period = match["dot"] or match["dot1"] or ""
        last = match["dot2"] or match["dot3"]
        if last is not None:
            period += (match["mid"] or "") + last
    if len(whole + fixed + period) > MAX_DIGITS:
        raise GiveUpError("a very long number")
    nines = 10 ** len(fixed) * (10 ** len(period) - 1)
    value = Fraction(int(whole + fixed), 10 ** len(fixed)) + Fraction(int(period), nines)
    return Token("num", f"{whole}.{fixed}({period})", 0, value)
