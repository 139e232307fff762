"""What marks a think block in one model's vocabulary, and how its tokens become text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """The tags of a think block, as text and as token ids.

    `open_id` and `close_id` are None where the tag is not a single token of this vocabulary;
    `end_ids` are the tokens that end a generation.
    """

    open_text: str = "<think>"
    close_text: str = "</think>"
    open_id: int | None = None
    close_id: int | None = None
    end_ids: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *,
        open_text: str = "<think>",
        close_text: str = "</think>",
        end_ids: Iterable[int] = (),
    ) -> ThinkTags:
        """Read the tags from a transformers tokenizer.

        `end_ids` are end tokens beyond the tokenizer's own, as a model's generation config names
        them.
        """
        eos = tokenizer.eos_token_id
        own = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
        return cls(
            open_text=open_text,
            close_text=close_text,
            open_id=_single_token(tokenizer, open_text),
            close_id=_single_token(tokenizer, close_text),
            end_ids=frozenset((*own, *end_ids)),
        )


def text_decoder(tokenizer: Any, tags: ThinkTags) -> Decode:
    """A function from token ids to text that keeps think tags and leaves out all other special tokens.

    Think tags are ordinary added tokens in some vocabularies and special ones in others; here both
    are kept.
    """
    kept = {tags.open_id: tags.open_text, tags.close_id: tags.close_text}

    def plain(ids: Sequence[int]) -> str:
        wanted = [
            i for i in ids if i not in tags.end_ids
        ]  # an end token of the generation config may not be special
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
