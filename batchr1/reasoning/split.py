"""Reasoning and answer of a completion, told apart on token ids.

A completion is laid out in this order, every part but one of them possibly absent:

    text before │ <think> … │ reasoning │ </think> │ answer

The prompt has usually opened the block, so that a completion begins inside the reasoning. The same
rules are applied to ids, where positions are token offsets, and to text, where they are character
offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchr1.reasoning.formats import R1, Decode, Format, ThinkTags
from batchr1.records import FinishReason, ReasoningStatus, TruncatedIn


@dataclass(frozen=True, slots=True)
class Split:
    """A completion, taken apart.

    `reasoning` is null if the block is empty or missing, `answer` if the block was never closed and
    no text came before it. Counts are tokens, and reasoning + answer + control is the whole
    completion; they are null where only text was given. `extra_think_tags` counts the think tags
    that stayed in the text.
    """

    reasoning: str | None
    answer: str | None
    status: ReasoningStatus
    truncated_in: TruncatedIn | None
    reasoning_tokens: int | None
    answer_tokens: int | None
    control_tokens: int | None
    extra_think_tags: int


@dataclass(frozen=True, slots=True)
class Tag:
    """A think tag: where it stands, in tokens or characters."""

    opens: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a completion of length `end` is cut: its opening tags (empty if the prompt has them),
    its closing tag.
    """

    opening: tuple[int, int] | None
    closing: tuple[int, int] | None
    end: int
    opened: bool
    extra: int

    @property
    def reasoning(self) -> tuple[int, int] | None:
        if self.opening is None:
            return None
        return self.opening[1], self.closing[0] if self.closing else self.end

    @property
    def before(self) -> tuple[int, int]:
        """What lies before the opening tags: at most white space if the prompt opened the block."""
        return 0, self.opening[0] if self.opening else self.end

    @property
    def after(self) -> tuple[int, int]:
        return self.closing[1] if self.closing else self.end, self.end


def split(
    token_ids: Sequence[int],
    *,
    tags: ThinkTags,
    decode: Decode,
    opened: bool,
    finish_reason: FinishReason,
) -> Split:
    """Take a completion of token ids apart.

    `decode` turns ids into text, keeps think tags and leaves out other special tokens; `opened`
    says whether the prompt ended inside a think block. Where both tags are single tokens, only
    those tokens are tags: a tag that the model spells out of several tokens is text that talks
    about the tag. Elsewhere tags are searched for in the text.

    Control tokens are the end tokens, wherever they stand, and the tags that are left out of the
    text; a token that holds any character of such a tag is one of them, whatever else it holds.
    Tags that stay in the text count where they stand. White space between repeated opening tags
    goes with the tags.
    """
    ids = [i for i in token_ids if i not in tags.end_ids]
    if tags.open_id is not None and tags.close_id is not None:
        return _split_ids(ids, len(token_ids), tags, decode, opened, finish_reason)
    return _split_decoded(ids, len(token_ids), tags, decode, opened, finish_reason)


def split_text(
    text: str,
    *,
    opened: bool = True,
    finish_reason: FinishReason = "stop",
    format: Format = R1,
) -> Split:
    """Take a completion apart of which only the text is left; the counts are null."""
    layout = _lay_out(tags_in(text, format), len(text), lambda a, b: not text[a:b].strip(), opened)
    return _build(layout, lambda a, b: text[a:b], finish_reason, None)


def _split_ids(
    ids: list[int],
    total: int,
    tags: ThinkTags,
    decode: Decode,
    opened: bool,
    finish_reason: FinishReason,
) -> Split:
    found = [
        Tag(t == tags.open_id, i, i + 1)
        for i, t in enumerate(ids)
        if t in (tags.open_id, tags.close_id)
    ]

    def text(start: int, end: int) -> str:
        # Tag ids are never given to `decode`, which in some vocabularies would leave them out as
        # special tokens.
        parts, at = [], start
        for tag in found:
            if start <= tag.start and tag.end <= end:
                parts += [decode(ids[at : tag.start])] if at < tag.start else []
                parts.append(tags.format.open if tag.opens else tags.format.close)
                at = tag.end
        return "".join(parts) + (decode(ids[at:end]) if at < end else "")

    layout = _lay_out(found, len(ids), lambda a, b: a == b or not decode(ids[a:b]).strip(), opened)
    return _build(layout, text, finish_reason, _count(layout, total))


def _split_decoded(
    ids: list[int],
    total: int,
    tags: ThinkTags,
    decode: Decode,
    opened: bool,
    finish_reason: FinishReason,
) -> Split:
    text = decode(ids)
    layout = _lay_out(
        tags_in(text, tags.format), len(text), lambda a, b: not text[a:b].strip(), opened
    )
    opening = _to_tokens(layout.opening, 0, ids, text, decode)
    closing = _to_tokens(layout.closing, opening[1] if opening else 0, ids, text, decode)
    in_tokens = _Layout(opening, closing, len(ids), opened, layout.extra)
    return _build(layout, lambda a, b: text[a:b], finish_reason, _count(in_tokens, total))


def tags_in(text: str, format: Format) -> list[Tag]:
    """List the think tags of a text, in order."""
    pattern = f"({re.escape(format.open)})|{re.escape(format.close)}"
    return [Tag(m.group(1) is not None, m.start(), m.end()) for m in re.finditer(pattern, text)]


def _lay_out(
    found: list[Tag], end: int, blank: Callable[[int, int], bool], opened: bool
) -> _Layout:
    """Choose among the tags found, in order, those that delimit the block; the others stay in the
    text.
    """
    at = 0
    opening: tuple[int, int] | None = (0, 0) if opened else None
    if not opened:
        at = next((i for i, tag in enumerate(found) if tag.opens), len(found))
        if at == len(found):
            return _Layout(None, None, end, opened, len(found))
    used = 0
    for tag in found[at:]:
        if not tag.opens or (opening is not None and not blank(opening[1], tag.start)):
            break
        opening = (opening[0] if used and opening else tag.start, tag.end)
        used += 1
    closing = next(((tag.start, tag.end) for tag in found[at + used :] if not tag.opens), None)
    return _Layout(opening, closing, end, opened, len(found) - used - (closing is not None))


def _build(
    layout: _Layout,
    text: Callable[[int, int], str],
    finish_reason: FinishReason,
    counts: tuple[int, int, int] | None,
) -> Split:
    inside = text(*layout.reasoning).strip() if layout.reasoning else None
    before = "" if layout.opened else text(*layout.before).strip()
    after = text(*layout.after).strip()
    answer: str | None = "\n\n".join(part for part in (before, after) if part)
    status: ReasoningStatus
    if inside is None:
        status = "missing"
    elif layout.closing is None:
        status, answer = "unclosed", answer or None
    elif inside:
        status = "closed"
    else:
        status, inside = "empty", None
    truncated_in: TruncatedIn | None = None
    if finish_reason == "length":
        truncated_in = "reasoning" if status == "unclosed" else "answer"
    reasoning_tokens, answer_tokens, control_tokens = counts or (None, None, None)
    return Split(
        reasoning=inside,
        answer=answer,
        status=status,
        truncated_in=truncated_in,
        reasoning_tokens=reasoning_tokens,
        answer_tokens=answer_tokens,
        control_tokens=control_tokens,
        extra_think_tags=layout.extra,
    )


def _count(layout: _Layout, total: int) -> tuple[int, int, int]:
    """Reasoning, answer and control tokens of a layout in token offsets, out of `total` with the
    end tokens.
    """
    before = layout.before[1] - layout.before[0]
    inside = layout.reasoning[1] - layout.reasoning[0] if layout.reasoning else 0
    after = layout.after[1] - layout.after[0]
    reasoning, answer = (before + inside, after) if layout.opened else (inside, before + after)
    return reasoning, answer, total - reasoning - answer


def _to_tokens(
    span: tuple[int, int] | None, at: int, ids: list[int], text: str, decode: Decode
) -> tuple[int, int] | None:
    """The tokens from `at` on that hold at least one character of `span`; an empty span at the start stays empty.

    `at` is where the tag before ends: two tags may share a token (`><`), which then counts once.
    """
    if span is None or span[0] == span[1]:
        return span
    start = max(at, _tokens_reaching(span[0] + 1, ids, text, decode) - 1)
    return start, max(start, _tokens_reaching(span[1], ids, text, decode))


def _tokens_reaching(chars: int, ids: list[int], text: str, decode: Decode) -> int:
    """The smallest number of leading tokens whose text holds the first `chars` characters of `text`.

    Prefixes are decoded whole, because a token may hold a part of a character only; a decoded
    prefix reaches as far as it agrees with the whole text. Takes about log2(tokens) decodings.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if decode(ids[:middle]).startswith(text[:chars]):
            high = middle
        else:
            low = middle + 1
    return low
