"""Reasoning and answer are told apart on token ids, and no token is lost in the counts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.reasoning import Split, ThinkTags, split, split_text, text_decoder
from batchr1.reasoning.formats import Format

# A toy byte-level vocabulary: some tokens hold a part of a character, some have no text, some spell
# out a tag.
PIECES: list[bytes] = [
    b"<think>",
    b"</think>",
    b"",
    b"",
    b"So ",
    b"2",
    b" ",
    b"\n",
    b"\n\n",
    b"\xc2\xa0",
    b"\xf0\x9f",
    b"\x98\x80",
    b"\xe4",
    b"\xff",
    b"x",
    b"42",
    b"<think>",
    b"</think>",
    b"<",
    b"/",
    b"think",
    b">",
    b"x</",
    b"think>\n",
    b"><",
]
OPEN, CLOSE, END, PAD, SO, TWO, SPACE, NEWLINE, BLANK, NBSP = range(10)
EMOJI_A, EMOJI_B, STRAY_A, STRAY_B, X, FORTY_TWO = range(10, 16)
SINGLE = ThinkTags.of_ids(open_id=OPEN, close_id=CLOSE, end_ids=frozenset([END]))
SPELLED = ThinkTags.of_ids(end_ids=frozenset([END]))
SPELLED_IDS = {piece.decode().strip(): i for i, piece in enumerate(PIECES) if i > FORTY_TWO}


def decode(ids: Sequence[int]) -> str:
    return b"".join(PIECES[i] for i in ids).decode("utf-8", errors="replace")


def split_ids(
    ids: Sequence[int], *, opened: bool = True, finish: str = "stop", tags: ThinkTags = SINGLE
) -> Split:
    return split(ids, tags=tags, decode=decode, opened=opened, finish_reason=finish)  # type: ignore[arg-type]


# --- the table of the design, line by line ---


@pytest.mark.parametrize(("finish", "truncated_in"), [("stop", None), ("length", "answer")])
def test_a_closed_block_gives_reasoning_and_answer(finish: str, truncated_in: str | None) -> None:
    assert split_ids(
        [NEWLINE, SO, X, NEWLINE, CLOSE, BLANK, FORTY_TWO, END], finish=finish
    ) == Split(
        reasoning="So x",
        answer="42",
        status="closed",
        truncated_in=truncated_in,  # type: ignore[arg-type]
        reasoning_tokens=4,
        answer_tokens=2,
        control_tokens=2,
        extra_think_tags=0,
    )


@pytest.mark.parametrize(("finish", "truncated_in"), [("stop", None), ("length", "answer")])
def test_a_block_of_white_space_is_empty_and_its_reasoning_null(
    finish: str, truncated_in: str | None
) -> None:
    assert split_ids([BLANK, NBSP, CLOSE, FORTY_TWO, END], finish=finish) == Split(
        reasoning=None,
        answer="42",
        status="empty",
        truncated_in=truncated_in,  # type: ignore[arg-type]
        reasoning_tokens=2,
        answer_tokens=1,
        control_tokens=2,
        extra_think_tags=0,
    )


@pytest.mark.parametrize(("finish", "truncated_in"), [("stop", None), ("length", "reasoning")])
def test_a_block_that_is_never_closed_is_all_reasoning(
    finish: str, truncated_in: str | None
) -> None:
    assert split_ids([SO, X], finish=finish) == Split(
        reasoning="So x",
        answer=None,
        status="unclosed",
        truncated_in=truncated_in,  # type: ignore[arg-type]
        reasoning_tokens=2,
        answer_tokens=0,
        control_tokens=0,
        extra_think_tags=0,
    )


@pytest.mark.parametrize(("finish", "truncated_in"), [("stop", None), ("length", "answer")])
def test_without_any_block_all_is_answer(finish: str, truncated_in: str | None) -> None:
    assert split_ids([SO, X, END], opened=False, finish=finish) == Split(
        reasoning=None,
        answer="So x",
        status="missing",
        truncated_in=truncated_in,  # type: ignore[arg-type]
        reasoning_tokens=0,
        answer_tokens=2,
        control_tokens=1,
        extra_think_tags=0,
    )


@pytest.mark.parametrize(("finish", "truncated_in"), [("stop", None), ("length", "answer")])
def test_a_block_that_the_model_opens_later_leaves_the_text_around_it_as_answer(
    finish: str, truncated_in: str | None
) -> None:
    assert split_ids([SO, OPEN, X, CLOSE, FORTY_TWO, END], opened=False, finish=finish) == Split(
        reasoning="x",
        answer="So\n\n42",
        status="closed",
        truncated_in=truncated_in,  # type: ignore[arg-type]
        reasoning_tokens=1,
        answer_tokens=2,
        control_tokens=3,
        extra_think_tags=0,
    )


def test_a_block_that_the_model_opens_later_may_be_empty_or_stay_open() -> None:
    empty = split_ids([SO, OPEN, BLANK, CLOSE, FORTY_TWO], opened=False, finish="length")
    assert (empty.status, empty.reasoning, empty.answer, empty.truncated_in) == (
        "empty",
        None,
        "So\n\n42",
        "answer",
    )
    left_open = split_ids([SO, OPEN, X], opened=False, finish="length")
    assert (left_open.status, left_open.reasoning, left_open.answer) == ("unclosed", "x", "So")
    assert left_open.truncated_in == "reasoning"
    at_once = split_ids([OPEN, X], opened=False)
    assert (at_once.status, at_once.reasoning, at_once.answer, at_once.truncated_in) == (
        "unclosed",
        "x",
        None,
        None,
    )


# --- tags in excess ---


def test_an_opening_tag_repeated_at_the_start_is_dropped_and_counts_as_control() -> None:
    parts = split_ids([NEWLINE, OPEN, NEWLINE, OPEN, X, CLOSE, TWO])
    assert (parts.reasoning, parts.answer, parts.status, parts.extra_think_tags) == (
        "x",
        "2",
        "closed",
        0,
    )
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (2, 1, 4)
    assert split_ids([OPEN, OPEN, X, CLOSE], opened=False).reasoning == "x"


def test_later_tags_stay_where_they_are_and_are_counted() -> None:
    parts = split_ids([X, OPEN, X, CLOSE, TWO, CLOSE, OPEN, TWO, END])
    assert (parts.reasoning, parts.answer) == ("x<think>x", "2</think><think>2")
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (3, 4, 2)
    assert parts.extra_think_tags == 3


def test_a_closing_tag_without_a_block_is_part_of_the_answer() -> None:
    parts = split_ids([X, CLOSE, TWO], opened=False)
    assert (parts.status, parts.answer, parts.extra_think_tags) == ("missing", "x</think>2", 1)


def test_a_tag_spelled_out_by_a_model_that_has_a_token_for_it_is_text() -> None:
    spelled = [SPELLED_IDS["</think>"], TWO]
    assert split_ids([X, *spelled]).reasoning == "x</think>2"
    assert split_ids([X, CLOSE, *spelled]).answer == "</think>2"


# --- what has no text ---


def test_nothing_at_all_is_an_unclosed_block_or_an_empty_answer() -> None:
    assert split_ids([]) == Split("", None, "unclosed", None, 0, 0, 0, 0)
    assert split_ids([END]) == Split("", None, "unclosed", None, 0, 0, 1, 0)
    assert split_ids([], opened=False) == Split(None, "", "missing", None, 0, 0, 0, 0)
    assert split_ids([X, CLOSE]) == Split("x", "", "closed", None, 1, 0, 1, 0)


def test_an_end_token_is_control_wherever_it_stands_and_never_text() -> None:
    parts = split_ids([X, END, CLOSE, END, TWO, END])
    assert (parts.reasoning, parts.answer) == ("x", "2")
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (1, 1, 4)


def test_a_character_over_two_tokens_is_whole_and_a_cut_one_does_not_fail() -> None:
    assert split_ids([EMOJI_A, EMOJI_B, CLOSE, TWO, EMOJI_A]).reasoning == "😀"
    assert split_ids([EMOJI_A, EMOJI_B, CLOSE, TWO, EMOJI_A]).answer == "2\ufffd"


# --- tags of several tokens ---


def test_a_tag_of_several_tokens_is_found_in_the_text_and_counted_in_tokens() -> None:
    s = SPELLED_IDS
    closing = [s["<"], s["/"], s["think"], s[">"]]
    parts = split_ids([SO, X, *closing, FORTY_TWO, END], tags=SPELLED)
    assert (parts.reasoning, parts.answer, parts.status) == ("So x", "42", "closed")
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (2, 1, 5)


def test_a_token_that_holds_a_part_of_a_tag_is_control() -> None:
    s = SPELLED_IDS
    parts = split_ids([SO, s["x</"], s["think>"], FORTY_TWO], tags=SPELLED)
    assert (parts.reasoning, parts.answer) == ("So x", "42")
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (1, 1, 2)


def test_two_tags_that_share_a_token_count_it_once() -> None:
    s = SPELLED_IDS
    shared = [s["<"], s["think"], s["><"], s["/"], s["think"], s[">"], TWO]
    assert decode(shared) == "<think></think>2"
    parts = split_ids(shared, tags=SPELLED, opened=False)
    assert (parts.status, parts.answer) == ("empty", "2")
    assert (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens) == (0, 1, 6)


# --- claims about all inputs ---

any_ids = st.lists(st.integers(0, len(PIECES) - 1), max_size=40)
ids_without_spelled_tags = st.lists(st.integers(0, FORTY_TWO), max_size=40)
finishes = st.sampled_from(["stop", "length"])
flags = st.booleans()


@given(any_ids, flags, finishes, st.sampled_from([SINGLE, SPELLED, ThinkTags.of_ids(open_id=OPEN)]))
def test_no_token_is_lost_in_the_counts(
    ids: list[int], opened: bool, finish: str, tags: ThinkTags
) -> None:
    parts = split_ids(ids, opened=opened, finish=finish, tags=tags)
    counts = (parts.reasoning_tokens, parts.answer_tokens, parts.control_tokens)
    assert all(count is not None and count >= 0 for count in counts)
    assert sum(count or 0 for count in counts) == len(ids)
    assert (parts.truncated_in is None) == (finish == "stop")


def agree(ids: list[int], opened: bool, finish: str, tags: ThinkTags) -> None:
    by_ids = split_ids(ids, opened=opened, finish=finish, tags=tags)
    by_text = split_text(decode(ids), opened=opened, finish_reason=finish, format=tags.format)  # type: ignore[arg-type]
    assert (by_text.reasoning_tokens, by_text.answer_tokens, by_text.control_tokens) == (
        None,
        None,
        None,
    )
    for column in ("reasoning", "answer", "status", "truncated_in", "extra_think_tags"):
        assert getattr(by_ids, column) == getattr(by_text, column), column


@given(ids_without_spelled_tags, flags, finishes)
def test_ids_and_text_agree_where_tags_are_tokens(
    ids: list[int], opened: bool, finish: str
) -> None:
    agree(ids, opened, finish, SINGLE)


@given(any_ids, flags, finishes)
def test_ids_and_text_agree_where_tags_are_spelled_out(
    ids: list[int], opened: bool, finish: str
) -> None:
    agree(ids, opened, finish, SPELLED)


@given(ids_without_spelled_tags, flags, finishes)
def test_counts_do_not_depend_on_how_the_tags_were_found(
    ids: list[int], opened: bool, finish: str
) -> None:
    # Tokens without text at a tag's edge could be on either side of it, so they are left out here.
    ids = [i for i in ids if i != PAD]
    found_as_tokens, found_as_text = (
        split_ids(ids, opened=opened, finish=finish, tags=t) for t in (SINGLE, SPELLED)
    )
    assert found_as_tokens == found_as_text


@given(st.text(), flags, finishes)
def test_any_text_can_be_split(text: str, opened: bool, finish: str) -> None:
    parts = split_text(text, opened=opened, finish_reason=finish)  # type: ignore[arg-type]
    assert parts.reasoning is None or parts.reasoning in text


@pytest.mark.parametrize("tags", [SINGLE, SPELLED])
@pytest.mark.parametrize(
    "ids", [[OPEN] * 32768, [CLOSE] * 32768, [X, OPEN] * 16384, [OPEN, X, CLOSE] * 10922]
)
def test_a_long_degenerate_completion_is_split_in_no_time(ids: list[int], tags: ThinkTags) -> None:
    start = time.process_time()
    split_ids(ids, tags=tags, finish="length")
    assert time.process_time() - start < 2


# --- tags as a tokenizer has them ---


class FakeTokenizer:
    eos_token_id = 2
    unk_token_id = 9
    all_special_ids: tuple[int, ...] = (0, 2)

    def convert_tokens_to_ids(self, text: str) -> int:
        return {"<think>": 0, "</think>": 1, "[T]": 4}.get(text, 9)

    def decode(self, ids: list[int], skip_special_tokens: bool = False, **options: object) -> str:
        return decode([i for i in ids if not skip_special_tokens or i not in self.all_special_ids])


def test_tags_are_read_from_the_tokenizer() -> None:
    tags = ThinkTags.of(FakeTokenizer(), end_ids=[3])
    assert tags == ThinkTags.of_ids(open_id=0, close_id=1, end_ids=frozenset([2, 3]))
    other = ThinkTags.of(FakeTokenizer(), format=Format("t", "[T]", "[/T]"))
    assert [mark.ids for mark in other.marks] == [(), ()], (
        "one decodes to something else, the other is unknown"
    )


def test_the_decoder_keeps_think_tags_even_if_they_are_special() -> None:
    text = text_decoder(FakeTokenizer(), ThinkTags.of(FakeTokenizer()))
    assert text([OPEN, SO, CLOSE, CLOSE, X, END]) == "<think>So </think></think>x"
