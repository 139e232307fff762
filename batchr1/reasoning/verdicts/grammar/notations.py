r"""Notations that are another's spelling: `_{10}C_3` is `\binom{10}{3}`."""

from __future__ import annotations

import re

_ESCAPED = re.compile(
    r"\\\\(?=(?:[dtc]?frac|sqrt|text|textbf|mathrm|mathbf|mathbb|pi|cdot|times|left|right|circ|pm"
    r"|infty|leq?|geq?|in|cup|cap|ldots|binom|overline|boxed|sin|cos|tan|log|ln)(?![A-Za-z]))"
)
_CURRENCIES = {
    "pounds": "£",
    "textsterling": "£",
    "mathsterling": "£",
    "euro": "€",
    "texteuro": "€",
    "yen": "¥",
    "textyen": "¥",
    "rupee": "₹",
}
_CURRENCY = re.compile(rf"\\({'|'.join(_CURRENCIES)})(?![A-Za-z])\s?")
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_STARS = re.compile(r"(?<=[\w)}])\s?\*\*\s?(?=[\w({-])")
_SWISS = re.compile(r"(?<=\d)['’](?=\d{3}(?!\d))")
_LEAD = re.compile(r"^\s*\\(?:therefore|implies|Rightarrow|because|Longrightarrow)(?![A-Za-z])")
_FONT_OF_ONE = re.compile(r"\\(math(?:bb|bf|rm|it)|boldsymbol)\s*([A-Za-z0-9])(?![A-Za-z0-9])")
_N = r"(?:\{\s*(\w{1,4})\s*\}|(\w))"
_BEFORE = re.compile(  # _{10}C_3, {}^{10}P_{3}
    rf"(?:\{{\s*\}})?\s*[_^]{_N}\s*(?:\\(?:mathrm|text|mathbf)\{{([CP])\}}|([CP]))\s*_{_N}"
)
_BELOW = re.compile(r"(?<![A-Za-z\\])([CAP])_(?:\{(\d{1,4})\}|(\d))\^(?:\{(\d{1,4})\}|(\d))")


def respelled(text: str) -> str:
    """Write some notations of LaTeX as the grammar knows them."""
    if r"\\begin" in text:
        text = text.replace("\\\\", "\\")
    elif "\\\\" in text and r"\begin" not in text:
        text = _ESCAPED.sub(r"\\", text)
    text = _CURRENCY.sub(lambda m: _CURRENCIES[m[1]], text.replace("{:}", ":"))
    text = _TIMES_TEN.sub(r"\\times ", _SWISS.sub("", text))
    text = _STARS.sub("^", text) if "**" in text else text
    text = _LEAD.sub("", text)
    text = _FONT_OF_ONE.sub(r"\\\1{\2}", text)
    if "C" in text or "P" in text or "A" in text:
        text = _BELOW.sub(_below, _BEFORE.sub(_before, text))
    return text


def _before(match: re.Match[str]) -> str:
    n, k = match[1] or match[2], match[5] or match[6]
    return _chosen(match[3] or match[4], n, k)


def _below(match: re.Match[str]) -> str:
    """Read `C_{10}^3`; a lower number below is a constant to a power."""
    n, k = match[2] or match[3], match[4] or match[5]
    return _chosen(match[1], n, k) if int(n) > int(k) else match[0]


def _chosen(name: str, n: str, k: str) -> str:
    if name == "C":
        return rf"\binom{{{n}}}{{{k}}}"
    return rf"\frac{{({n})!}}{{({n}-{k})!}}"
