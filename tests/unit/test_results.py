"""A completion becomes an output row with every column right."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pytest

from batchr1.reasoning import Split, ThinkTags, to_result
from batchr1.reasoning.flags import flags_of
from batchr1.reasoning.results import RowRules
from batchr1.records import Completion, Prompt, Result, ResumePoint, WorkItem

PIECES = ["<think>", "</think>", "", "1+1 ", "is two", " ", "\\boxed{2}", "\\boxed{3}", "no box"]
OPEN, CLOSE, END, SUM, TWO, SPACE, BOX_2, BOX_3, NO_BOX = range(9)
TAGS = ThinkTags.of_ids(open_id=OPEN, close_id=CLOSE, end_ids=frozenset([END]))
NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)

PROMPT = Prompt(
    id="row 1",
    text="1+1?",
    token_ids=(7, 8, 0),
    opened=True,
    digest=bytes(range(16)),
    gold="2",
    max_tokens=50,
)


def decode(ids: Sequence[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def result_of(
    ids: Sequence[int], *, finish: str = "stop", prompt: Prompt = PROMPT, **changes: Any
) -> Result:
    item: dict[str, Any] = {
        "sample": 1,
        "max_tokens": 50,
        "limited_by": "context",
        "seed": 11,
        "attempt": 2,
    }
    options: dict[str, Any] = {"expects_box": True, "keep_token_ids": False}
    for key, value in changes.items():
        (options if key in options else item)[key] = value
    rules = RowRules("r1-tiny", "run-1", options.pop("expects_box"))
    completion = Completion(WorkItem(prompt, **item), tuple(ids), finish)  # type: ignore[arg-type]
    return to_result(
        completion,
        tags=TAGS,
        decode=decode,
        rules=rules,
        finished_at=NOW,
        **options,
    )


def test_every_column_of_a_complete_row_is_filled() -> None:
    assert result_of([SUM, TWO, CLOSE, BOX_2, END]) == Result(
        id="row 1",
        sample=1,
        kept=None,
        prompt="1+1?",
        prompt_messages=None,
        gold="2",
        reasoning="1+1 is two",
        answer="\\boxed{2}",
        final_answer="2",
        correct=True,
        verdict_by="text",
        reasoning_status="closed",
        truncated=False,
        truncated_in=None,
        truncated_by=None,
        finish_reason="stop",
        prompt_tokens=3,
        reasoning_tokens=2,
        answer_tokens=1,
        control_tokens=2,
        injected_tokens=0,
        completion_tokens=5,
        flags=(),
        seed=11,
        attempts=2,
        resumed_at=(),
        token_ids=None,
        prompt_hash="000102030405060708090a0b0c0d0e0f",
        model="r1-tiny",
        run="run-1",
        finished_at=NOW,
    )


def test_a_row_cut_by_length_says_where_and_by_what_and_keeps_its_ids() -> None:
    row = result_of([SUM, TWO], finish="length")
    assert (row.truncated, row.truncated_in, row.truncated_by) == (True, "reasoning", "context")
    assert (row.answer, row.final_answer, row.correct, row.token_ids) == (
        None,
        None,
        False,
        (SUM, TWO),
    )
    row = result_of([SUM, CLOSE, BOX_3], finish="length", limited_by="budget")
    assert (row.truncated, row.truncated_in, row.truncated_by, row.correct) == (
        True,
        "answer",
        "budget",
        False,
    )


def test_token_ids_of_complete_rows_are_kept_by_option() -> None:
    assert result_of([SUM, CLOSE, BOX_2, END], keep_token_ids=True).token_ids == (
        SUM,
        CLOSE,
        BOX_2,
        END,
    )


def test_an_unclosed_block_that_ended_by_itself_is_not_truncated() -> None:
    row = result_of([SUM, END])
    assert (row.reasoning_status, row.truncated, row.truncated_in, row.truncated_by) == (
        "unclosed",
        False,
        None,
        None,
    )


def test_without_a_right_answer_nothing_is_correct_or_wrong() -> None:
    prompt = Prompt(id="a", text="x", token_ids=(1,), opened=True, digest=bytes(16))
    assert result_of([CLOSE, BOX_2], prompt=prompt).correct is None
    assert result_of([CLOSE, BOX_2], prompt=prompt).final_answer == "2"


@pytest.mark.parametrize(
    ("partial", "resumed_at"),
    [
        (None, ()),
        (ResumePoint(()), ()),
        (ResumePoint((SUM,)), (1,)),
        (ResumePoint((SUM, TWO, SPACE), (1,)), (1, 3)),
        (ResumePoint((SUM,), (1,)), (1,)),
        (ResumePoint((), (1,)), (1,)),
    ],
)
def test_a_row_lists_the_offsets_at_which_it_went_on(
    partial: ResumePoint | None, resumed_at: tuple[int, ...]
) -> None:
    assert result_of([SUM, TWO, SPACE, CLOSE, BOX_2], partial=partial).resumed_at == resumed_at


def test_flags_name_what_is_odd() -> None:
    assert result_of([SPACE, CLOSE, BOX_2]).flags == ("empty_think",)
    assert result_of([SUM, CLOSE, BOX_2, CLOSE]).flags == ("extra_think_tag",)
    assert result_of([SUM, CLOSE, NO_BOX]).flags == ("answer_without_box",)
    assert result_of([SUM, CLOSE, NO_BOX], expects_box=False).flags == ()
    assert result_of([SUM], finish="length").flags == (), "without an answer, no box is missing"
    not_opened = Prompt(id="a", text="x", token_ids=(1,), opened=False, digest=bytes(16))
    assert result_of([SUM, CLOSE, NO_BOX], prompt=not_opened).flags == (
        "no_think",
        "extra_think_tag",
        "answer_without_box",
    )


def test_flags_of_a_split_from_text_need_no_counts() -> None:
    assert flags_of(Split(None, "4", "missing", None, None, None, None, 0)) == ("no_think",)


def test_truncation_and_counts_hold_together_in_every_row() -> None:
    for finish in ("stop", "length"):
        for ids in (
            [],
            [END],
            [OPEN],
            [CLOSE],
            [SUM, OPEN, TWO],
            [OPEN, SUM, CLOSE, CLOSE, BOX_2, END],
        ):
            row = result_of(ids, finish=finish)
            assert (
                row.truncated == (row.finish_reason == "length") == (row.truncated_by is not None)
            )
            assert (
                row.completion_tokens
                == row.reasoning_tokens + row.answer_tokens + row.control_tokens
                == len(ids)
            )
