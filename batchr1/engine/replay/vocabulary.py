"""Vocabulary: the tokens of a model that the replay engine uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchr1.errors import ModelError
from batchr1.reasoning.formats import ThinkTags

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids that the engine speaks with.

    They are the think tags, the end, a range of text, and the last token of every prompt.
    """

    open_id: int
    close_id: int
    end_id: int
    first_text_id: int
    num_text_ids: int
    marker: int

    @classmethod
    def of(cls, tokenizer: Any, *, marker: int) -> Vocabulary:
        """Find them in a model's tokenizer.

        Raises `ModelError` for one without think tags or single letters.
        """
        tags, unknown = ThinkTags.of(tokenizer), tokenizer.unk_token_id
        ids = tokenizer.convert_tokens_to_ids(list(_LETTERS))
        first, count = _longest_run([i for i in ids if i is not None and i != unknown])
        if tags.close_id is None or not count:
            raise ModelError(
                "engine.kind: replay needs a model whose </think> and letters are single tokens "
                "(this tokenizer spells them out). Choose another model, such as variant r1-tiny."
            )
        open_id = tags.close_id if tags.open_id is None else tags.open_id
        return cls(open_id, tags.close_id, tokenizer.eos_token_id, first, count, marker)


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
