"""Phrasing banks: loading, checking, compiling and filling of question templates.

A bank is a text file: a ``[task]`` header, then one template a line. ``{slot}`` stands for a value,
``(a|b|c)`` for a choice (may nest; an empty choice is allowed). At load time known words become
choices among their synonyms.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

from recipes.r1_tiny.decimals import Num
from recipes.r1_tiny.lexicon import ITEMS, SYNONYMS, pick_name, pick_noun, pick_text, read_words
from recipes.r1_tiny.problems import Slot

FOLDER = Path(__file__).parent / "phrasings"
OPEN, BAR, CLOSE = "\ue000", "\ue001", "\ue002"
Node = str | tuple[str] | list[list["Node"]]  # literal | (slot,) | choices

# slots a template must hold, each once
REQUIRED: dict[str, tuple[str, ...]] = {
    "add": ("a", "b"),
    "sub": ("a", "b"),
    "mul": ("a", "b"),
    "div": ("a", "b"),
    "chain": ("expr",),
    "chain_words": ("a", "b", "c", "d"),
    "gcd": ("a", "b"),
    "lcm": ("a", "b"),
    "rem": ("a", "b"),
    "lin1": ("eq",),
    "lin2": ("eq",),
    "lin_words": ("k", "b", "c"),
    "pct_of": ("p", "a"),
    "pct_up": ("p", "a"),
    "pct_down": ("p", "a"),
    "pct_what": ("a", "b"),
    "seq_next": ("terms",),
    "geo_next": ("terms",),
    "seq_nth": ("a", "d", "n"),
    "dec_add": ("a", "b"),
    "dec_sub": ("a", "b"),
    "dec_mul": ("a", "k"),
    "unit": ("x", "from", "to"),
    "time_mix": ("h", "m"),
    "total_cost": ("n", "price"),
    "two_items": ("n", "price", "n2", "price2"),
    "change": ("n", "price", "paid"),
    "share": ("total", "k"),
    "leftover": ("total", "k"),
    "distance": ("speed", "hours"),
    "travel_time": ("dist", "speed"),
    "area": ("l", "w"),
    "perimeter": ("l", "w"),
    "average": ("list",),
    "savings": ("start", "weekly", "weeks"),
    "discount": ("price", "p"),
    "gains_losses": ("start", "gain", "loss"),
    "times_as_many": ("a", "k"),
    "recipe": ("amount", "s", "t"),
    "days_needed": ("total", "per"),
    "age": ("a", "d", "y"),
}
OPTIONAL = frozenset(
    (
        "item",
        "item2",
        "one_item",
        "one_item2",
        "name",
        "name2",
        "place",
        "ingredient",
        "su",
        "du",
        "lu",
        "v",
        "thing",
    )
)
_REPEATABLE = OPTIONAL | {"from", "to"}
_SLOT = re.compile(r"\{(\w+)\}")
_INNERMOST = re.compile(r"\(([^()]*)\)")
_PLAIN = str.maketrans({"\ue003": "(", "\ue004": ")"})  # parentheses that are text
_MARKUP = (
    (re.compile(r" [×*] "), " (×|×|×|*|x|·|times|multiplied by) "),
    (re.compile(r" [÷/] "), " (÷|÷|/|/|divided by|:) "),
    (re.compile(r"(?<=\}) [-−–] (?=\{)"), " (-|-|-|−|–|minus) "),
    (re.compile(r"(?<=\}) \+ (?=\{)"), " (+|+|+|plus) "),
    (re.compile(r"(?<=\})%"), "(%|%|%| %| percent| per cent)"),
    (re.compile(r"(?<=\}) percent\b"), "(%|%| percent| percent| per cent)"),
    (
        re.compile(r"\$\{(\w+)\}"),
        (
            r"(${\1}|${\1}|${\1}|${\1}|€{\1}|£{\1}|{\1} dollars|{\1} dollars|USD {\1}|{\1} "
            r"bucks|{\1} "
            r"euros)"
        ),
    ),
    (
        re.compile(r"(?<=\}) dollars\b"),
        "( dollars| dollars| dollars| bucks| USD|$|€| euros| pounds)",
    ),
)


def read_sections(path: Path) -> dict[str, list[str]]:
    """``[name]`` sections of a text file, without blank lines and ``#`` comments."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if re.fullmatch(r"\[@?\w+\]", line):
            lines = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


def expand_parts(lines: list[str], parts: dict[str, str]) -> list[str]:
    """Lines without doubles, each ``@name@`` replaced by the choice of section ``[@name]``."""
    expanded = []
    for line in dict.fromkeys(lines):
        while found := re.search(r"(@\w+)@", line):
            line = line[: found.start()] + parts[found.group(1)] + line[found.end() :]
        expanded.append(line)
    return expanded


def template_fault(task: str, template: str) -> str | None:
    """Why a template can't be used, or None."""
    plain = resolve_first(template)
    slots = _SLOT.findall(plain)
    need = REQUIRED[task]
    for slot in need:
        if slots.count(slot) == 0 or (slots.count(slot) > 1 and slot not in _REPEATABLE):
            return f"slot {slot} occurs {slots.count(slot)} times"
    extra = set(slots) - set(need) - OPTIONAL
    if extra:
        return f"unknown slots {sorted(extra)}"
    if re.search(r"\d", re.sub(r"\b1(st)?\b", "", _SLOT.sub("", plain))) or "\\boxed" in plain:
        return "digits or an instruction in the text"
    return None


def _rewrite(template: str, choice: Callable[[str], str]) -> str:
    """Replaces every ``(a|b)`` by ``choice("a|b")``, innermost first; parentheses without a bar
    stay.
    """

    def replace(match: re.Match[str]) -> str:
        inside = match.group(1)
        return choice(inside) if "|" in inside else f"\ue003{inside}\ue004"

    while (changed := _INNERMOST.sub(replace, template)) != template:
        template = changed
    return template.translate(_PLAIN)


def resolve_first(template: str) -> str:
    """The template with the first of each choice."""
    return _rewrite(template, lambda inside: inside.split("|")[0])


def compile_template(template: str, synonyms: bool = True) -> list[Node]:
    """A template as a tree of literals, slots and choices."""
    for pattern, replacement in _MARKUP:
        template = pattern.sub(replacement, template)
    template = _rewrite(template, lambda inside: OPEN + inside.replace("|", BAR) + CLOSE)
    if synonyms:
        template = SYNONYMS.sub(_choices_for, template)
    return _parse(template, 0)[0][0]


def _choices_for(match: re.Match[str]) -> str:
    word = match.group(0)
    others = SYNONYMS.table[word.lower()]
    if word[0].isupper():
        others = tuple(o[:1].upper() + o[1:] for o in others)
    same = max(1, (len(others) + 1) // 2)
    return OPEN + BAR.join((word,) * same + others) + CLOSE


def _parse(text: str, at: int) -> tuple[list[list[Node]], int]:
    choices: list[list[Node]] = [[]]
    literal = ""
    while at < len(text):
        c = text[at]
        if c in "{" + OPEN + BAR + CLOSE and literal and not text.startswith("{}", at):
            choices[-1].append(literal)
            literal = ""
        if text.startswith("{}", at):
            literal += "{}"
            at += 1
        elif c == "{":
            end = text.index("}", at)
            choices[-1].append((text[at + 1 : end],))
            at = end
        elif c == OPEN:
            inner, at = _parse(text, at + 1)
            choices[-1].append(inner)
        elif c == BAR:
            choices.append([])
        elif c == CLOSE:
            return choices, at
        else:
            literal += c
        at += 1
    if literal:
        choices[-1].append(literal)
    return choices, at


class Bank:
    """All templates by task, compiled; ``own`` lines (with many choices) are drawn more often."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.templates: dict[str, list[list[Node]]] = {}
        self.sources: dict[str, list[int]] = {}  # how many templates each file gives
        self.faults: list[str] = []
        files = {path: read_sections(path) for path in sorted(folder.glob("phrasings_*.txt"))}
        parts = {
            name: f"({'|'.join(lines)})"
            for sections in files.values()
            for name, lines in sections.items()
            if name[0] == "@"
        }
        for path, sections in files.items():
            for task, lines in sections.items():
                if task in parts:
                    continue
                for line in expand_parts(lines, parts):
                    fault = (
                        template_fault(task, line) if task in REQUIRED else f"unknown task {task}"
                    )
                    if fault:
                        self.faults.append(f"{path.name} [{task}] {line!r}: {fault}")
                        continue
                    weight = 4 if "|" in line else 1
                    compiled = compile_template(line)
                    self.templates.setdefault(task, []).extend([compiled] * weight)
        around = read_sections(folder / "around.txt")
        self.around = {
            name: [compile_template(t, False) for t in lines] for name, lines in around.items()
        }

    def question(self, rng: Random, task: str, slots: dict[str, str]) -> str:
        """A question for ``task`` with the slots filled."""
        return fill(rng, rng.choice(self.templates[task]), dict(slots))

    def phrase(self, rng: Random, section: str) -> str:
        """A text from around.txt."""
        return fill(rng, rng.choice(self.around[section]), {})


def fill(rng: Random, nodes: list[Node], slots: dict[str, str]) -> str:
    """The text of a compiled template; missing people, things and places are drawn and kept in
    ``slots``.
    """
    parts: list[str] = []
    _emit(rng, nodes, slots, parts)
    text = "".join(parts)
    return text[0].upper() + text[1:] if text and text[0].islower() and rng.random() < 0.8 else text


def _emit(rng: Random, nodes: list[Node], slots: dict[str, str], parts: list[str]) -> None:
    for node in nodes:
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, tuple):
            name = node[0]
            value = slots.get(name)
            parts.append(draw(rng, name, slots) if value is None else value)
        else:
            _emit(rng, node[int(rng.random() * len(node))], slots, parts)


def draw(rng: Random, name: str, slots: dict[str, str]) -> str:
    """Draws a free slot."""
    if name in ("name", "name2"):
        value = pick_name(rng)
        while value == slots.get("name"):
            value = pick_name(rng)
    elif name in ("item", "item2", "one_item", "one_item2"):
        suffix = "2" if name.endswith("2") else ""
        many, one = pick_noun(rng)
        slots["item" + suffix], slots["one_item" + suffix] = many, one
        value = slots[name]
    elif name == "thing":
        value = rng.choice(ITEMS)[1]
    else:
        value = pick_text(rng, name)
    slots[name] = value
    return value


_WORDS: dict[
    int, tuple[str, float]
] = {  # the word for a number and how often it is used when words are wanted
    n: (word, 1.0 if n <= 12 else 0.4)
    for n, word in zip((*range(2, 21), *range(30, 101, 10)), read_words("numbers.txt"), strict=True)
}


def slot_text(rng: Random, value: Slot, separators: bool, words: bool) -> str:
    """How a number is written in a question."""
    if isinstance(value, str):
        return value
    if isinstance(value, Num):
        return str(value)
    if words and value in _WORDS and rng.random() < _WORDS[value][1]:
        return _WORDS[value][0]
    if separators and value >= 1000:
        return f"{value:,}"
    return str(value)
