"""Think tags in the ids of one vocabulary: found, read, decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchr1.reasoning.formats import R1, Format, Kind

Decode = Callable[[Sequence[int]], str]
Decided = list[tuple[Kind | None, tuple[int, ...]]]  # marks, and single tokens of text

_TOKEN = re.compile(r"<\|?[^<>\s]+>|\[[^\[\]]+\]|◁[^◁▷]+▷")


@dataclass(frozen=True, slots=True)
class Mark:
    """Text of a family, and its ids; none where spelled out."""

    kind: Kind
    text: str
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tag:
    """A mark that was found: where it stands, in tokens or characters."""

    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """Think-tag family in the token ids of one vocabulary.

    `end_ids` are the tokens that end a generation; `close_ids` is how batchr1 writes the closing
    tag; `text` decodes ids with all special tokens in it.
    """

    format: Format = R1
    marks: tuple[Mark, ...] = ()
    end_ids: frozenset[int] = frozenset()
    close_ids: tuple[int, ...] = ()
    text: Decode | None = field(default=None, compare=False, repr=False)

    @property
    def is_exact(self) -> bool:
        """Tell whether every mark is made of tokens of its own."""
        return bool(self.marks) and all(mark.ids for mark in self.marks)

    @classmethod
    def of(cls, tokenizer: Any, *, format: Format = R1, end_ids: Iterable[int] = ()) -> ThinkTags:
        """Read the tags from a transformers tokenizer.

        `end_ids` are end tokens beyond the tokenizer's own, as a model's generation config names
        them.
        """
        eos = tokenizer.eos_token_id
        own = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)

        def text(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

        marks = tuple(_marks(tokenizer, format))
        return cls(format, marks, frozenset((*own, *end_ids)), _close_ids(tokenizer, marks), text)

    @classmethod
    def of_ids(
        cls,
        *,
        open_id: int | None = None,
        close_id: int | None = None,
        end_ids: Iterable[int] = (),
        format: Format = R1,
    ) -> ThinkTags:
        """Make the tags of single tokens; None: spelled out."""
        opening = () if open_id is None else (open_id,)
        closing = () if close_id is None else (close_id,)
        marks = (Mark("open", format.open, opening), Mark("close", format.close, closing))
        return cls(format, marks, frozenset(end_ids), closing)


def _marks(tokenizer: Any, format: Format) -> Iterator[Mark]:
    for kind, text in format.marks:
        ids = _ids_of(tokenizer, text)
        is_wrapper = kind in ("answer_open", "answer_close")
        # A wrapper that looks like a special token, and is none here, is another model's.
        if not ids and is_wrapper and text.startswith("<|"):
            continue
        yield Mark(kind, text, ids)


def _ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Give the ids of a mark, where text around cannot change them.

    So it is with a token of its own, and with words between such tokens.
    """
    single = _single_token(tokenizer, text)
    if single is not None:
        return (single,)
    pieces = list(_TOKEN.finditer(text))
    if not pieces or pieces[0].end() - pieces[0].start() == len(text):
        return ()
    at_edge = [m.group() for m in pieces if m.start() == 0 or m.end() == len(text)]
    if not any(_single_token(tokenizer, piece) is not None for piece in at_edge):
        return ()
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    return ids if str(tokenizer.decode(list(ids))).strip() == text.strip() else ()


def _single_token(tokenizer: Any, text: str) -> int | None:
    token_id = tokenizer.convert_tokens_to_ids(text)
    if not isinstance(token_id, int) or token_id < 0 or token_id == tokenizer.unk_token_id:
        return None
    # Some tokenizers put a space around an added token when they decode it.
    return token_id if str(tokenizer.decode([token_id])).strip() == text else None


def _close_ids(tokenizer: Any, marks: Iterable[Mark]) -> tuple[int, ...]:
    mark = next(mark for mark in marks if mark.kind == "close")
    if mark.ids or not callable(tokenizer):
        return mark.ids
    return tuple(tokenizer(mark.text, add_special_tokens=False).input_ids)


def find_in_ids(ids: Sequence[int], marks: Iterable[Mark]) -> list[Tag]:
    """List the marks among token ids; the longer of two."""
    by_first: dict[int, list[Mark]] = {}
    for mark in sorted(marks, key=lambda mark: -len(mark.ids)):
        if mark.ids:
            by_first.setdefault(mark.ids[0], []).append(mark)
    found, at = [], 0
    for start, token in enumerate(ids):
        if token not in by_first or start < at:
            continue
        for mark in by_first[token]:
            end = start + len(mark.ids)
            if tuple(ids[start:end]) == mark.ids:
                found.append(Tag(mark.kind, mark.text, start, end))
                at = end
                break
    return found


def tags_in(text: str, format: Format) -> list[Tag]:
    """List the marks of a text; the longer of two."""
    kinds: dict[str, Kind] = {mark: kind for kind, mark in reversed(format.marks)}
    longest_first = sorted(kinds, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return [Tag(kinds[m.group()], m.group(), *m.span()) for m in re.finditer(pattern, text)]


def text_decoder(tokenizer: Any, tags: ThinkTags) -> Decode:
    """Make a decoder that keeps think tags, no other special tokens.

    Think tags are ordinary added tokens in some vocabularies and special ones in others; here both
    are kept.
    """
    firsts = {mark.ids[0] for mark in tags.marks if mark.ids}

    def plain(ids: Sequence[int]) -> str:
        # An end token of the generation config may not be special.
        wanted = [i for i in ids if i not in tags.end_ids]
        return str(
            tokenizer.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def decode(ids: Sequence[int]) -> str:
        if firsts.isdisjoint(ids):
            return plain(ids)
        parts, at = [], 0
        for tag in find_in_ids(ids, tags.marks):
            if at < tag.start:
                parts.append(plain(ids[at : tag.start]))
            parts.append(tag.text)
            at = tag.end
        if at < len(ids):
            parts.append(plain(ids[at:]))
        return "".join(parts)

    return decode


class TagReader:
    """Recognises marks in tokens as they come, one at a time.

    Tokens that may yet become a mark are `held`; what `push` returns is decided. A spelled mark
    takes each token that holds a character of it.
    """

    __slots__ = ("_begins", "_marks", "_text", "held")

    def __init__(self, tags: ThinkTags) -> None:
        self.held: list[int] = []
        self._marks = tags.marks
        # Where all marks are tokens, text that spells one is no mark.
        self._text = None if tags.is_exact else tags.text
        self._begins: dict[int, bool] = {}

    def is_plain(self, token: int) -> bool:
        """Tell whether a token is part of no mark, whatever follows."""
        if self.held:
            return False
        begins = self._begins.get(token)
        if begins is None:
            begins = self._begins[token] = self._match([token]) != "no"
        return not begins

    def push(self, token: int) -> Decided:
        """Take a token; return marks and text that are now decided."""
        self.held.append(token)
        decided: Decided = []
        while self.held:
            match = self._match(self.held)
            if match == "maybe":
                break
            if match == "no":
                decided.append((None, (self.held.pop(0),)))
                continue
            decided.append((match, tuple(self.held)))
            self.held.clear()
        return decided

    def flush(self) -> Decided:
        """Give up what is held: nothing follows it."""
        decided: Decided = [(None, (t,)) for t in self.held]
        self.held.clear()
        return decided

    def _match(self, held: list[int]) -> Any:
        """A mark's kind, `maybe`, or `no`."""
        ids, answer = tuple(held), "no"
        for mark in self._marks:
            if mark.ids == ids:
                return mark.kind
            if mark.ids and mark.ids[: len(ids)] == ids:
                answer = "maybe"
        if self._text is None:
            return answer
        text, first = self._text(held), max(1, len(self._text(held[:1])))
        for start in range(min(first, len(text))):
            rest = text[start:]
            for mark in self._marks:
                if mark.ids:
                    continue
                if rest.startswith(mark.text):
                    return mark.kind
                if mark.text.startswith(rest):
                    answer = "maybe"
        return answer
