"""Reasoning and answer of a completion, told apart on token ids.

A completion is laid out in this order, every part but one of them possibly absent:

    text before │ <think> … │ reasoning │ </think> │ answer

The prompt has usually opened the block, so that a completion begins inside the reasoning. The same
rules are applied to ids, where positions are token offsets, and to text, where they are character
offsets. The tags are those of a `Format`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchr1.reasoning.formats import R1, Format
from batchr1.reasoning.tags import Decode, Tag, ThinkTags, find_in_ids, tags_in
from batchr1.records import FinishReason, ReasoningStatus, TruncatedIn

Span = tuple[int, int]


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
class _Layout:
    """Cuts of a completion of length `end`.

    `opening` spans the opening tags (empty if the prompt has them), `closing` the closing one.
    `dropped` are marks inside the parts that are left out of their texts, in order.
    """

    opening: Span | None
    closing: Span | None
    end: int
    opened: bool
    extra: int
    dropped: tuple[Span, ...] = ()

    @property
    def reasoning(self) -> Span | None:
        if self.opening is None:
            return None
        return self.opening[1], self.closing[0] if self.closing else self.end

    @property
    def before(self) -> Span:
        """Text before the opening tags; blank if the prompt opened the block."""
        return 0, self.opening[0] if self.opening else self.end

    @property
    def after(self) -> Span:
        return self.closing[1] if self.closing else self.end, self.end

    def pieces(self, part: Span) -> list[Span]:
        """Cut a part at the marks that are left out of it."""
        start, end = part
        cuts: list[Span] = []
        for left, right in self.dropped:
            if start <= left and right <= end:
                cuts.append((start, left))
                start = right
        return [*cuts, (start, end)]

    def length(self, part: Span) -> int:
        return sum(end - start for start, end in self.pieces(part))


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
    says whether the prompt ended inside a think block. Where all marks are tokens of their own,
    only those tokens are tags: a tag that the model spells out of several tokens is text that talks
    about the tag. Elsewhere tags are searched for in the text.

    Control tokens are the end tokens, wherever they stand, and the marks that are left out of the
    text; a token that holds any character of such a mark is one of them, whatever else it holds.
    Tags that stay in the text count where they stand. White space between repeated opening tags
    goes with the tags.
    """
    ids = [i for i in token_ids if i not in tags.end_ids]
    if tags.is_exact:
        return _split_ids(ids, len(token_ids), tags, decode, opened, finish_reason)
    return _split_decoded(ids, len(token_ids), tags, decode, opened, finish_reason)


def places(
    token_ids: Sequence[int], *, tags: ThinkTags, decode: Decode, opened: bool
) -> tuple[list[int], list[int]]:
    """List the offsets of reasoning tokens, and those of the answer.

    They are counted as `split` counts them; control tokens are in neither.
    """
    kept = [at for at, token in enumerate(token_ids) if token not in tags.end_ids]
    ids = [token_ids[at] for at in kept]
    if tags.is_exact:
        found = find_in_ids(ids, tags.marks)
        layout = _lay_out(
            found, len(ids), lambda a, b: not decode(ids[a:b]).strip(), opened, tags.format
        )
    else:
        text = decode(ids)
        spelled = tags_in(text, tags.format)
        layout = _lay_out(
            spelled, len(text), lambda a, b: not text[a:b].strip(), opened, tags.format
        )
        layout = _in_tokens(layout, ids, text, decode)

    def offsets(part: Span | None) -> list[int]:
        pieces = layout.pieces(part) if part else []
        return [kept[at] for start, end in pieces for at in range(start, end)]

    before, inside, after = map(offsets, (layout.before, layout.reasoning, layout.after))
    return (before + inside, after) if layout.opened else (inside, before + after)


def split_text(
    text: str,
    *,
    opened: bool = True,
    finish_reason: FinishReason = "stop",
    format: Format = R1,
) -> Split:
    """Take the text of a completion apart; the counts are null."""
    layout = _lay_out(
        tags_in(text, format), len(text), lambda a, b: not text[a:b].strip(), opened, format
    )
    return _build(layout, lambda a, b: text[a:b], finish_reason, None)


def _split_ids(
    ids: list[int],
    total: int,
    tags: ThinkTags,
    decode: Decode,
    opened: bool,
    finish_reason: FinishReason,
) -> Split:
    found = find_in_ids(ids, tags.marks)

    def text(start: int, end: int) -> str:
        # Tag ids are never given to `decode`, which in some vocabularies would leave them out as
        # special tokens.
        parts, at = [], start
        for tag in found:
            if start <= tag.start and tag.end <= end:
                parts += [decode(ids[at : tag.start])] if at < tag.start else []
                parts.append(tag.text)
                at = tag.end
        return "".join(parts) + (decode(ids[at:end]) if at < end else "")

    def blank(start: int, end: int) -> bool:
        return start == end or not decode(ids[start:end]).strip()

    layout = _lay_out(found, len(ids), blank, opened, tags.format)
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
        tags_in(text, tags.format),
        len(text),
        lambda a, b: not text[a:b].strip(),
        opened,
        tags.format,
    )
    return _build(
        layout,
        lambda a, b: text[a:b],
        finish_reason,
        _count(_in_tokens(layout, ids, text, decode), total),
    )


def _in_tokens(layout: _Layout, ids: list[int], text: str, decode: Decode) -> _Layout:
    """Translate a layout of characters into tokens.

    A token with a character of a mark is the mark's.
    """
    at, spans = 0, []
    cuts = [*([layout.opening] if layout.opening else []), *layout.dropped]
    cuts += [layout.closing] if layout.closing else []
    for cut in sorted(cuts):
        span = _to_tokens(cut, at, ids, text, decode)
        spans.append((cut, span))
        at = span[1]
    moved = dict(spans)
    return _Layout(
        moved[layout.opening] if layout.opening else None,
        moved[layout.closing] if layout.closing else None,
        len(ids),
        layout.opened,
        layout.extra,
        tuple(moved[cut] for cut in layout.dropped),
    )


def _lay_out(
    found: list[Tag], end: int, blank: Callable[[int, int], bool], opened: bool, format: Format
) -> _Layout:
    """Choose the marks that delimit the block; others stay text."""
    if format.channels:
        return _lay_out_channels(found, end, opened)
    tags = [tag for tag in found if tag.kind in ("open", "close")]
    layout = _lay_out_tags(tags, end, blank, opened)
    start, _ = layout.after if layout.closing else (0, end)
    if layout.closing is None and layout.opening is not None:
        return layout
    dropped = _wrappers([tag for tag in found if tag.start >= start], start, end, blank)
    if not dropped:
        return layout
    return _Layout(layout.opening, layout.closing, end, opened, layout.extra, dropped)


def _lay_out_tags(
    found: list[Tag], end: int, blank: Callable[[int, int], bool], opened: bool
) -> _Layout:
    at = 0
    opening: Span | None = (0, 0) if opened else None
    if not opened:
        at = next((i for i, tag in enumerate(found) if tag.kind == "open"), len(found))
        if at == len(found):
            return _Layout(None, None, end, opened, len(found))
    used = 0
    for tag in found[at:]:
        if tag.kind != "open" or (opening is not None and not blank(opening[1], tag.start)):
            break
        opening = (opening[0] if used and opening else tag.start, tag.end)
        used += 1
    closing = next(
        ((tag.start, tag.end) for tag in found[at + used :] if tag.kind == "close"), None
    )
    return _Layout(opening, closing, end, opened, len(found) - used - (closing is not None))


def _wrappers(
    found: list[Tag], start: int, end: int, blank: Callable[[int, int], bool]
) -> tuple[Span, ...]:
    """The wrappers at the edges of an answer."""
    dropped: list[Span] = []
    first = next((tag for tag in found if tag.kind == "answer_open"), None)
    if first is not None and blank(start, first.start):
        dropped.append((first.start, first.end))
    last = next((tag for tag in reversed(found) if tag.kind == "answer_close"), None)
    if last is not None and blank(last.end, end):
        dropped.append((last.start, last.end))
    return tuple(dropped)


def _lay_out_channels(found: list[Tag], end: int, opened: bool) -> _Layout:
    """Lay out messages: all before the answer's head is reasoning."""
    close = next((tag for tag in found if tag.kind == "close"), None)
    limit = close.start if close else end
    first = next((tag for tag in found if tag.kind == "open" and tag.start < limit), None)
    if opened:
        opening: Span | None = (0, 0)
    else:
        opening = (first.start, first.end) if first else None
    if opening is None:
        spans = tuple((tag.start, tag.end) for tag in found)
        return _Layout(None, None, end, opened, 0, spans)
    closing = (close.start, close.end) if close else None
    spans = tuple((tag.start, tag.end) for tag in found)
    dropped = tuple(span for span in spans if span not in (opening, closing))
    return _Layout(opening, closing, end, opened, 0, dropped)


def _build(
    layout: _Layout,
    text: Callable[[int, int], str],
    finish_reason: FinishReason,
    counts: tuple[int, int, int] | None,
) -> Split:
    def text_of(part: Span) -> str:
        pieces = (text(*piece).strip() for piece in layout.pieces(part))
        return "\n\n".join(piece for piece in pieces if piece)

    inside = text_of(layout.reasoning) if layout.reasoning else None
    before = "" if layout.opened else text_of(layout.before)
    after = text_of(layout.after)
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
    """Reasoning, answer and control tokens of a layout in token offsets.

    `total` counts the end tokens too.
    """
    before = layout.length(layout.before)
    inside = layout.length(layout.reasoning) if layout.reasoning else 0
    after = layout.length(layout.after)
    reasoning, answer = (before + inside, after) if layout.opened else (inside, before + after)
    return reasoning, answer, total - reasoning - answer


def _to_tokens(span: Span, at: int, ids: list[int], text: str, decode: Decode) -> Span:
    """Find the tokens from `at` on that hold a character of `span`.

    An empty span at the start stays empty. `at` is where the mark before ends: two may share a
    token (`><`), which then counts once.
    """
    if span[0] == span[1]:
        return span
    start = max(at, _tokens_reaching(span[0] + 1, ids, text, decode) - 1)
    return start, max(start, _tokens_reaching(span[1], ids, text, decode))


def _tokens_reaching(chars: int, ids: list[int], text: str, decode: Decode) -> int:
    """Count the leading tokens that hold the first `chars` characters.

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
