"""Splitting of token ids and of text, with a real tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchr1.reasoning import ThinkTags, split, split_text, text_decoder


@cache
def r1_tiny() -> Any:
    from batchr1.dataset.prompts import load_tokenizer

    return load_tokenizer(str(Path(__file__).parents[2] / "batchr1" / "models" / "r1_tiny"))


@settings(deadline=None)  # the first example loads the tokenizer
@given(
    st.lists(
        st.one_of(st.integers(0, 500), st.sampled_from(["<think>", "</think>", "eos"])), max_size=30
    ),
    st.booleans(),
)
def test_ids_and_text_agree_with_a_real_tokenizer(tokens: list[int | str], opened: bool) -> None:
    tags = ThinkTags.of(r1_tiny())
    [(open_id,), (close_id,)] = [mark.ids for mark in tags.marks]
    assert len(tags.end_ids) == 1
    [end] = tags.end_ids
    named = {"<think>": open_id, "</think>": close_id, "eos": end}
    ids = [named[token] if isinstance(token, str) else token for token in tokens]
    text_of = text_decoder(r1_tiny(), tags)
    text = text_of(ids)
    assume(
        text.count("<think>") == ids.count(open_id)
        and text.count("</think>") == ids.count(close_id)
    )
    by_ids = split(ids, tags=tags, decode=text_of, opened=opened, finish_reason="length")
    by_text = split_text(text, opened=opened, finish_reason="length", format=tags.format)
    for column in ("reasoning", "answer", "status", "truncated_in", "extra_think_tags"):
        assert getattr(by_ids, column) == getattr(by_text, column), column
    unknown = ThinkTags.of_ids(end_ids=tags.end_ids)
    found_as_text = split(ids, tags=unknown, decode=text_of, opened=opened, finish_reason="length")
    assert (found_as_text.reasoning, found_as_text.answer) == (by_ids.reasoning, by_ids.answer)
