"""Answers of OpenAI-compatible servers in all their forms: understood, or refused at once."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from batchr1.engine.openai.bounds import MAX_HELD_BYTES, Held
from batchr1.engine.openai.client import Answer
from batchr1.engine.openai.faults import RowFailed, ServerFault
from batchr1.records import Reply

USAGE = {"prompt_tokens": 10, "completion_tokens": 50}


def answer(
    message: dict[str, Any], finish: str | None = "stop", *, whole: bool = True, **options: Any
) -> Reply:
    found = Answer(Held(1).share())
    found.take({"choices": [{"message": message, "finish_reason": finish}], "usage": USAGE})
    found.is_whole = whole
    return found.reply(**options)


def test_content_may_come_as_parts_of_thinking_and_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "so"}]},
        {"type": "text", "text": "\\boxed{5}"},
    ]
    reply = answer({"content": parts})
    assert (reply.reasoning, reply.content, reply.completion_tokens) == ("so", "\\boxed{5}", 50)


@pytest.mark.parametrize(
    ("content", "got"),
    [([{"type": "image_url"}], "a part of type image_url"), ({"a": 1}, "dict"), (7, "int")],
)
def test_what_is_no_text_fails_its_row_at_once_and_is_paid_for(content: Any, got: str) -> None:
    with pytest.raises(RowFailed) as caught:
        answer({"content": content})
    assert str(caught.value) == f"its answer is no text (got {got}, need text or parts of text)"
    assert (caught.value.reason, caught.value.completion_tokens) == ("engine_refused", 50)


@pytest.mark.parametrize(
    ("finish", "known"),
    [
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("model_length", "length"),
        ("max_tokens", "length"),
    ],
)
def test_every_servers_word_for_an_end_is_known(finish: str, known: str) -> None:
    assert answer({"content": "so"}, finish).finish_reason == known


def test_an_answer_without_a_reason_to_end_is_whole_where_the_server_says_so() -> None:
    assert answer({"content": "so"}, None).finish_reason == "stop"
    assert answer({"content": "so"}, None, max_tokens=50).finish_reason == "length"
    assert answer({"content": "so"}, None, max_tokens=51).finish_reason == "stop"
    with pytest.raises(ServerFault, match=r"^its answer was cut: it has no end$"):
        answer({"content": "so"}, None, whole=False)


def test_a_refusal_is_the_answer_where_there_is_no_other() -> None:
    said = "I cannot help with that."
    assert answer({"content": None, "refusal": said}).content == said
    assert answer({"content": "Yes.", "refusal": None}).content == "Yes."
    assert answer({"content": [{"type": "refusal", "refusal": said}]}).content == said


def test_of_answers_that_hold_too_much_together_those_beyond_their_share_are_refused() -> None:
    held = Held(4)
    honest, hoard = held.share(), held.share()
    with closing(hoard):
        hoard.take(MAX_HELD_BYTES)
        honest.take(held.share_bytes)
        with pytest.raises(RowFailed, match="too large beside others"):
            honest.take(1)
    honest.take(held.share_bytes)


def test_many_small_pieces_are_counted_as_the_text_that_they_make() -> None:
    held = Held(1)
    with closing(held.share()) as share:
        answer = Answer(share)
        for _ in range(100_000):
            answer.take({"choices": [{"delta": {"content": "a"}}]})
        assert held.bytes < 2 * 100_000
        answer.take({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        assert answer.reply().content == "a" * 100_000
    assert held.bytes == 0
