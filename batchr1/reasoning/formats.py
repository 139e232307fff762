"""Think-tag families, each bound to one model's vocabulary, and decoding that keeps the tags.

A family is a value. Prompts, split, budgets, flags, export and the split of servers' text all take
it from here, so that a new family is a new `Format` in this module and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Format:
    """Think-tag family: the texts that mark reasoning and answer.

    `after_open` follows the opening tag where batchr1 opens the block in a prompt; `after_close`
    follows the closing tag where batchr1 closes it.
    """

    name: str
    open: str
    close: str
    after_open: str = "\n"
    after_close: str = "\n\n"

    @property
    def opening(self) -> str:
        """Text that a prompt ends with to begin inside the block."""
        return self.open + self.after_open

    def ends_open(self, text: str) -> bool:
        """Tell whether a text ends inside a block that nothing was said in."""
        return re.search(rf"{re.escape(self.open)}\s*\Z", text) is not None

    def ends_empty(self, text: str) -> bool:
        """Tell whether a text ends behind an empty block."""
        empty = rf"{re.escape(self.open)}\s*{re.escape(self.close)}\s*\Z"
        return re.search(empty, text) is not None

    def inline(self, reasoning: str, answer: str) -> str:
        """Lay out reasoning and answer as one assistant turn."""
        return f"{self.opening}{reasoning}\n{self.close}{self.after_close}{answer}"


R1 = Format("r1", "<think>", "</think>")

FORMATS: dict[str, Format] = {format.name: format for format in (R1,)}

# Any text that looks like a think tag, in whatever family or spelling.
LIKE_A_TAG = re.compile(r"</?think(?:ing)?>|<｜?/?think", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """Think-tag family in the token ids of one vocabulary.

    `open_id` and `close_id` are None where the tag is not a single token of this vocabulary;
    `end_ids` are the tokens that end a generation.
    """

    format: Format = R1
    open_id: int | None = None
    close_id: int | None = None
    end_ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any, *, format: Format = R1, end_ids: Iterable[int] = ()) -> ThinkTags:
        """Read the tags from a transformers tokenizer.

        `end_ids` are end tokens beyond the tokenizer's own, as a model's generation config names
        them.
        """
        eos = tokenizer.eos_token_id
        own = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
        return cls(
            format=format,
            open_id=_single_token(tokenizer, format.open),
            close_id=_single_token(tokenizer, format.close),
            end_ids=frozenset((*own, *end_ids)),
        )


def text_decoder(tokenizer: Any, tags: ThinkTags) -> Decode:
    """Make a decoder that keeps think tags and drops all other special tokens.

    Think tags are ordinary added tokens in some vocabularies and special ones in others; here both
    are kept.
    """
    kept = {tags.open_id: tags.format.open, tags.close_id: tags.format.close}

    def plain(ids: Sequence[int]) -> str:
        # An end token of the generation config may not be special.
        wanted = [i for i in ids if i not in tags.end_ids]
        return str(
            tokenizer.decode(wanted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def decode(ids: Sequence[int]) -> str:
        if not any(i in kept for i in ids):
            return plain(ids)
        runs = groupby(ids, key=lambda i: kept.get(i))
        return "".join(
            plain(list(run)) if tag is None else tag * len(list(run)) for tag, run in runs
        )

    return decode


def _single_token(tokenizer: Any, text: str) -> int | None:
    token_id = tokenizer.convert_tokens_to_ids(text)
    if not isinstance(token_id, int) or token_id < 0 or token_id == tokenizer.unk_token_id:
        return None
    # Some tokenizers put a space around an added token when they decode it.
    return token_id if str(tokenizer.decode([token_id])).strip() == text else None
