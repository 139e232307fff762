"""A server's answer, taken apart without token ids: every way in which reasoning is told, and every
end.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from batchr1.reasoning.results import RowRules
from batchr1.reasoning.server_replies import server_result, split_reply
from batchr1.records import Prompt, Reply, Result, ServerCompletion, TruncatedBy, WorkItem

Parts = tuple[str | None, str | None, str, str | None]


def parts(
    content: str | None, reasoning: str | None = None, *, finish: Any = "stop", forced: bool = True
) -> Parts:
    split = split_reply(Reply(content, reasoning, finish), forced=forced)
    assert (split.reasoning_tokens, split.answer_tokens, split.control_tokens) == (None, None, None)
    return split.reasoning, split.answer, split.status, split.truncated_in


@pytest.mark.parametrize(
    ("content", "reasoning", "finish", "wanted"),
    [
        # told apart by the server
        ("\n\n42", "so\n", "stop", ("so", "42", "closed", None)),
        ("42", "so", "length", ("so", "42", "closed", "answer")),
        (None, "so", "length", ("so", None, "unclosed", "reasoning")),
        ("", "so", "length", ("so", None, "unclosed", "reasoning")),
        ("\n\n", "so", "length", ("so", "", "closed", "answer")),
        (None, "so", "stop", ("so", None, "unclosed", None)),
        ("42", "\n", "stop", (None, "42", "empty", None)),
        # by tags
        ("so\n</think>\n\n42", None, "stop", ("so", "42", "closed", None)),
        ("<think>\nso\n</think>\n\n42", None, "stop", ("so", "42", "closed", None)),
        ("<think>\n\n</think>\n\n42", None, "stop", (None, "42", "empty", None)),
        ("</think>42", None, "stop", (None, "42", "empty", None)),
        ("<think>so", None, "length", ("so", None, "unclosed", "reasoning")),
        ("Well. <think>so</think> 42", None, "stop", ("so", "Well.\n\n42", "closed", None)),
        ("so</think>4", None, "length", ("so", "4", "closed", "answer")),
        ("42", "", "stop", (None, "42", "missing", None)),
        # no tag
        ("42", None, "stop", (None, "42", "missing", None)),
        ("so", None, "length", ("so", None, "unclosed", "reasoning")),
        (None, None, "stop", (None, "", "missing", None)),
    ],
)
def test_an_answer_is_taken_apart(
    content: str | None, reasoning: str | None, finish: str, wanted: Parts
) -> None:
    assert parts(content, reasoning, finish=finish) == wanted


@pytest.mark.parametrize(
    ("content", "reasoning", "finish", "wanted"),
    [
        # an opening tag in a text that ended by itself, never closed: text about a tag
        ("It may open with <think> so.", None, "stop", (None, "It may open with <think> so.")),
        # the closing tag that a parser left belongs to the block
        ("</think>\n\n42", "so", "stop", ("so", "42")),
        # a blank field is none
        ("<think>so</think>42", "\n", "stop", ("so", "42")),
        # other families, by their tags
        ("[THINK]so[/THINK]42", None, "stop", ("so", "42")),
        ("so</seed:think>42", None, "stop", ("so", "42")),
        ("<think>so</think>\n<answer>\n42\n</answer>", None, "stop", ("so", "42")),
        ("so<|END_THINKING|><|START_TEXT|>42<|END_TEXT|>", None, "stop", ("so", "42")),
        (
            "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>analysis"
            "<|message|>on<|end|><|start|>assistant<|channel|>final<|message|>42",
            None,
            "stop",
            ("so\n\non", "42"),
        ),
    ],
)
def test_what_servers_leave_in_their_text_is_understood(
    content: str, reasoning: str | None, finish: str, wanted: tuple[str | None, str]
) -> None:
    assert parts(content, reasoning, finish=finish)[:2] == wanted


def test_a_tag_that_is_only_talked_about_is_flagged() -> None:
    found = row(Reply("It opens with <think> and \\boxed{2}.", None, "stop"))
    assert found.reasoning is None and "extra_think_tag" in found.flags


def test_a_template_that_is_not_known_to_open_the_block_makes_of_a_cut_text_an_answer() -> None:
    assert parts("so", finish="length", forced=False) == (None, "so", "missing", "answer")


def row(reply: Reply, *, max_tokens: int = 100, limited_by: TruncatedBy = "max_tokens") -> Result:
    item = WorkItem(
        Prompt("a", "1 + 1?", (), False, b"d" * 16, gold="2"), 0, max_tokens, limited_by, seed=3
    )
    return server_result(
        ServerCompletion(item, reply),
        forced=True,
        rules=RowRules("m", "r", expects_box=True),
        finished_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )


def test_counts_are_those_of_usage_and_null_where_it_has_none() -> None:
    full = row(Reply("\\boxed{2}", "so", "stop", 5, 20, 12))
    assert (full.prompt_tokens, full.reasoning_tokens, full.completion_tokens) == (5, 12, 20)
    assert full.answer_tokens is full.control_tokens is full.token_ids is None
    assert (full.injected_tokens, full.correct, full.seed, full.prompt_hash) == (
        0,
        True,
        3,
        "64" * 16,
    )
    none = row(Reply("\\boxed{2}", "so", "stop"))
    assert none.prompt_tokens is none.reasoning_tokens is none.completion_tokens is None


def test_no_reasoning_tokens_beside_reasoning_are_no_count() -> None:
    assert row(Reply("2", "so", "stop", 5, 20, 0)).reasoning_tokens is None
    assert row(Reply("2", None, "stop", 5, 20, 0)).reasoning_tokens == 0


def test_a_row_says_what_cut_it_by_the_servers_count() -> None:
    assert row(Reply("so", None, "length", 5, 100)).truncated_by == "max_tokens"
    assert row(Reply("so", None, "length")).truncated_by == "max_tokens"
    assert row(Reply("so", None, "length", 5, 80)).truncated_by == "context"
    assert row(Reply("so", None, "length", 5, 80), limited_by="context").truncated_by == "context"
    assert row(Reply("2", "so", "stop", 5, 100)).truncated_by is None


def test_flags_are_found_in_a_servers_answer_too() -> None:
    assert row(Reply("It is 2.", "so", "stop")).flags == ("answer_without_box",)
    assert row(Reply("\\boxed{2} </think>", "so", "stop")).flags == ("extra_think_tag",)
    assert row(Reply("\\boxed{2}", None, "stop")).flags == ("no_think",)
