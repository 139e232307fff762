"""Think-tag families: which texts mark a model's reasoning and its answer.

A family is a value. Prompts, split, budgets, flags, export and the split of servers' text all take
it from here, so that a new family is a new line of `_FAMILIES` and nothing else. `tags` binds a
family to the token ids of one vocabulary.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["open", "close", "answer_open", "answer_close", "turn"]

_PIECE = re.compile(r"<[^<>\s]+>|\[[^\[\]]+\]|◁[^◁▷]+▷")
_ANY = "{}"  # stands for a suffix that each vocabulary chooses


@dataclass(frozen=True, slots=True)
class Format:
    """Think-tag family: the texts that mark reasoning and answer.

    `after_open` follows the opening tag where batchr1 opens the block in a prompt; `before_close`
    and `after_close` stand around the closing tag where batchr1 closes it. `answer_open` and
    `answer_close` are wrappers at the edges of an answer, which are no part of it. `channels`: the
    tags are heads of messages, each may come again, and `turns` are what else parts messages.
    """

    name: str
    open: str
    close: str
    after_open: str = "\n"
    before_close: str = ""
    after_close: str = "\n\n"
    answer_open: tuple[str, ...] = ()
    answer_close: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    channels: bool = False

    @property
    def opening(self) -> str:
        """Text that a prompt ends with to begin inside the block."""
        return self.open + self.after_open

    @property
    def marks(self) -> tuple[tuple[Kind, str], ...]:
        """All texts of the family, each with its meaning."""
        return (
            ("open", self.open),
            ("close", self.close),
            *(("answer_open", text) for text in self.answer_open),
            *(("answer_close", text) for text in self.answer_close),
            *(("turn", text) for text in self.turns),
        )

    @property
    def pieces(self) -> frozenset[str]:
        """Tokens that a vocabulary of this family is expected to have."""
        return frozenset(_PIECE.findall(self.open) + _PIECE.findall(self.close))

    def to_dict(self) -> dict[str, Any]:
        """List name, tags, and what differs from the defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def of_record(cls, document: Mapping[str, Any] | None) -> Format:
        """Read what `to_dict` wrote; R1's where nothing is recorded."""
        if document is None:
            return R1
        names = {field.name for field in dataclasses.fields(cls)}
        found: dict[str, Any] = {}
        for name, value in document.items():
            if name in names:
                found[name] = tuple(value) if isinstance(value, list) else value
        return cls(**found)

    def ends_open(self, text: str) -> bool:
        """Tell whether a text ends at the start of a block."""
        return re.search(rf"{re.escape(self.open)}\s*\Z", text) is not None

    def ends_empty(self, text: str) -> bool:
        """Tell whether a text ends behind an empty block."""
        empty = rf"{re.escape(self.open)}\s*{re.escape(self.close)}\s*\Z"
        return re.search(empty, text) is not None

    def inline(self, reasoning: str, answer: str) -> str:
        """Lay out reasoning and answer as one assistant turn."""
        before, wrapped = self.before_close or "\n", answer
        if self.answer_open and self.answer_close:
            wrapped = f"{self.answer_open[0]}{answer}{self.answer_close[0]}"
        return f"{self.opening}{reasoning}{before}{self.close}{self.after_close}{wrapped}"

    def wraps(self, text: str, like: Format) -> bool:
        """Tell whether a text of `like` has this family's wrapper."""
        if (self.open, self.close) != (like.open, like.close):
            return False
        behind = text.rpartition(self.close)[2].strip()
        return any(behind.startswith(wrapper) for wrapper in self.answer_open)

    def with_suffix(self, suffix: str) -> Format:
        """Fill in the suffix that a vocabulary gives its tags."""

        def fill(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text.replace(_ANY, suffix) for text in texts)

        return dataclasses.replace(
            self,
            open=self.open.replace(_ANY, suffix),
            close=self.close.replace(_ANY, suffix),
            answer_open=fill(self.answer_open),
            answer_close=fill(self.answer_close),
        )


R1 = Format("r1", "<think>", "</think>")

# Sources: the models' public chat templates and cards; docs/models.md lists which model is which.
_FAMILIES = (
    R1,
    Format("mistral", "[THINK]", "[/THINK]", after_open="", after_close=""),
    Format("seed", "<seed:think>", "</seed:think>"),
    Format("minimax", "<mm:think>", "</mm:think>"),
    Format(
        "apriel",
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        before_close="\n",
        after_close="\n",
        answer_close=("[END FINAL RESPONSE]",),
    ),
    Format("thought", "<thought>", "</thought>"),
    Format("thinking", "<thinking>", "</thinking>"),
    Format("reasoning", "<reasoning>", "</reasoning>"),
    Format("kimi_vl", "◁think▷", "◁/think▷", after_open=""),
    Format(
        "openthinker",
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        answer_open=("<|begin_of_solution|>",),
        answer_close=("<|end_of_solution|>",),
    ),
    Format(
        "cohere",
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        after_open="",
        after_close="",
        answer_open=("<|START_RESPONSE|>", "<|START_TEXT|>"),
        answer_close=("<|END_RESPONSE|>", "<|END_TEXT|>"),
    ),
    Format(
        "answer",  # Hunyuan-A13B and others
        "<think>",
        "</think>",
        after_close="\n",
        answer_open=("<answer>",),
        answer_close=("</answer>",),
    ),
    Format(
        "response",  # Granite 3.3
        "<think>",
        "</think>",
        after_close="\n",
        answer_open=("<response>",),
        answer_close=("</response>",),
    ),
    Format(
        "suffixed",  # Hunyuan 3
        f"<think:{_ANY}>",
        f"</think:{_ANY}>",
        after_open="",
        after_close="",
        answer_open=(f"<answer:{_ANY}>",),
        answer_close=(f"</answer:{_ANY}>",),
    ),
    Format("apertus", "<|inner_prefix|>", "<|inner_suffix|>", after_open="", after_close=""),
    Format("gemma", "<|channel>thought", "<channel|>", after_close=""),
    Format(
        "kimi_k3",
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        after_open="",
        after_close="",
        answer_open=("<|open|>response<|sep|>",),
        answer_close=("<|close|>response<|sep|>",),
    ),
    Format(
        "solar",
        "<|think|>",
        "<|content|>",
        after_open="",
        before_close="<|end|><|begin|>assistant",
        after_close="",
        turns=("<|end|>", "<|begin|>assistant"),
        channels=True,
    ),
    Format(
        "harmony",  # gpt-oss; commentary counts as reasoning
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        after_open="",
        before_close="<|end|><|start|>assistant",
        after_close="",
        turns=("<|channel|>commentary<|message|>", "<|end|>", "<|start|>assistant"),
        channels=True,
    ),
    Format(
        "muse",
        " to=self<|message|>",
        "<|start|>assistant to=user<|message|>",
        after_open="",
        before_close="<|eom|>",
        after_close="",
        turns=("<|eom|>", "<|start|>assistant"),
        channels=True,
    ),
)

FORMATS: dict[str, Format] = {format.name: format for format in _FAMILIES}

# Any text that looks like a think tag, in whatever family or spelling.
LIKE_A_TAG = re.compile(
    r"</?think(?:ing)?>|<｜?/?think"
    + "".join(
        f"|{re.escape(text)}"
        for f in _FAMILIES
        for text in (f.open, f.close)
        if _ANY not in text and _PIECE.fullmatch(text)
    ),
    re.IGNORECASE,
)
_LIKE_A_TOKEN = re.compile(r"think|thought|reasoning|inner_(?:prefix|suffix)|scratch_?pad", re.I)
_NOTHING = (0, 0, 0)  # speaks for a family
_SUFFIX = re.compile(r"</?think:([^<>\s]+)>")


def check_name(name: str) -> str:
    """Return a known name. Raises ValueError for any other."""
    if name == "auto" or name in FORMATS:
        return name
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: auto, {', '.join(FORMATS)}"
    raise ValueError(f"unknown format (got {name!r}; {hint}; or give open and close)")


def named(name: str, tokens: Iterable[str] = ()) -> Format:
    """Find a family by its name.

    A suffix is read from the vocabulary's added tokens. Raises ValueError where the vocabulary has
    no such suffix.
    """
    format, tokens = FORMATS[name], list(tokens)
    if _ANY not in format.open:
        return _fitted(format, tokens)
    for filled in _filled(format, tokens):
        return filled
    raise ValueError(f"the vocabulary has no tag such as {format.open.replace(_ANY, 'SUFFIX')}")


def find(*, tail: str, template: str, tokens: Collection[str]) -> Format | None:
    """Find a model's family; None where nothing of any is seen.

    `tail` is what its template ends a prompt with, `tokens` are its added tokens. What the prompt
    ends with tells most, then tags that template and vocabulary share, then either alone.
    """
    best, found = _NOTHING, None
    for family in _FAMILIES:
        for format in _filled(family, tokens):
            signs = _signs(format, tail, template, tokens)
            if signs > best:
                best, found = signs, format
    return None if found is None else _fitted(found, tokens)


def shows(format: Format, *, tail: str, template: str, tokens: Collection[str]) -> bool:
    """Tell whether a model shows a family's tags, as `find` looks."""
    return _signs(format, tail, template, tokens) != _NOTHING


def _fitted(format: Format, tokens: Collection[str]) -> Format:
    """Keep the wrappers that the vocabulary has; all where it has none."""
    opening = tuple(text for text in format.answer_open if text in tokens)
    closing = tuple(text for text in format.answer_close if text in tokens)
    if not opening and not closing:
        return format
    return dataclasses.replace(format, answer_open=opening, answer_close=closing)


def seen_in(text: str) -> Format:
    """Choose the family of a text; R1's where it holds no tags.

    A closing tag tells, or an opening one at the start.
    """
    begins = text.lstrip()
    for format in _FAMILIES:
        if format.close in text or begins.startswith(format.open):
            # Wrapped answers come in families with the same tags.
            return next((f for f in _FAMILIES if f.wraps(text, format)), format)
    return R1


def _signs(
    format: Format, tail: str, template: str, tokens: Collection[str]
) -> tuple[int, int, int]:
    """Weigh what speaks for a family.

    First the prompt, then template and vocabulary, then details.
    """
    in_tail = format.open in tail or format.close in tail
    in_template = format.open in template or format.close in template
    in_tokens = bool(format.pieces) and format.pieces <= set(tokens)
    if not (in_tail or in_template or in_tokens):
        return _NOTHING
    wrappers = (*format.answer_open, *format.answer_close)
    # The same tags without wrappers are another family: these must show theirs.
    if wrappers and _is_plain(format) and not _shows_wrappers(format, template, tokens):
        return _NOTHING
    detail = 1 + sum(text in template or text in tail for _, text in format.marks)
    return int(in_tail), 2 * in_template + in_tokens, detail


def _shows_wrappers(format: Format, template: str, tokens: Collection[str]) -> bool:
    """Tell whether a wrapper stands around answers.

    Tools have such tags too: here it is a token, or stands behind the block.
    """
    for before, after in zip(format.answer_open, format.answer_close, strict=True):
        stands = rf"{re.escape(format.close)}(?:\s|\\n)*{re.escape(before)}"
        if before in tokens or before + after in template or re.search(stands, template):
            return True
    return False


def _is_plain(format: Format) -> bool:
    return (format.open, format.close) == (R1.open, R1.close)


def _filled(format: Format, tokens: Iterable[str]) -> Iterator[Format]:
    """The family itself, or one with each suffix that the tokens have."""
    if _ANY not in format.open:
        yield format
        return
    suffixes = (_SUFFIX.fullmatch(token) for token in tokens)
    for suffix in dict.fromkeys(match.group(1) for match in suffixes if match):
        yield format.with_suffix(suffix)


def unknown_signs(*, template: str, tokens: Iterable[str]) -> list[str]:
    """List signs that a model thinks in unknown tags."""
    found = [token for token in tokens if _LIKE_A_TOKEN.search(token)]
    return found or (["reasoning_content"] if "reasoning_content" in template else [])
