"""Vocabulary: the tokens of a model that the replay engine uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from batchr1.errors import ModelError
from batchr1.reasoning.formats import Format
from batchr1.reasoning.tags import ThinkTags

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids of a model that a scripted generation is made of.

    `close_ids`: the closing tag, of one token or several. `marker`: a token near the end of every
    prompt that no generation holds; `after_marker` tokens of the prompt follow it.
    """

    close_ids: tuple[int, ...]
    end_id: int
    first_text_id: int
    num_text_ids: int
    marker: int
    after_marker: int = 0

    @classmethod
    def of(cls, tokenizer: Any, format: Format, prompts: Sequence[Sequence[int]]) -> Vocabulary:
        """Find them in a model's tokenizer and in two rendered prompts.

        Raises `ModelError` for a tokenizer without tokens of single letters.
        """
        tags, unknown = ThinkTags.of(tokenizer, format=format), tokenizer.unk_token_id
        ids = tokenizer.convert_tokens_to_ids(list(_LETTERS))
        first, count = _longest_run([i for i in ids if i is not None and i != unknown])
        if not count:
            raise ModelError(
                "engine.kind: replay needs a model whose letters are single tokens (this tokenizer "
                "has none). Choose another model, such as variant r1-tiny."
            )
        text = format.before_close + format.close
        close_ids = tags.close_ids
        if format.before_close or not close_ids:
            close_ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
        generated = {*range(first, first + count), tokenizer.eos_token_id}
        marker, after = _marker(prompts, generated, set(close_ids))
        return cls(close_ids, tokenizer.eos_token_id, first, count, marker, after)


def _marker(
    prompts: Sequence[Sequence[int]], generated: set[int], closing: set[int]
) -> tuple[int, int]:
    """Find the marker at the prompts' common end.

    Also counts the tokens that follow it.
    """
    backwards = zip(*(reversed(ids) for ids in prompts), strict=False)
    tail = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, backwards)]
    for banned in (generated | closing, generated):
        for after, token in enumerate(tail):
            if token not in banned:
                return token, after
    raise ModelError(
        "engine.kind: replay needs a chat template whose prompts end alike (these do not). Choose "
        "another model, such as variant r1-tiny."
    )


def _longest_run(ids: list[int]) -> tuple[int, int]:
    """Find the longest run of consecutive ids.

    Returns its first id, and how many.
    """
    best = (0, 0)
    for start in ids:
        count = 1
        while start + count in ids:
            count += 1
        best = max(best, (start, count), key=lambda run: run[1])
    return best
