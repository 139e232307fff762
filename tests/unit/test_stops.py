"""Stop strings: found where the answer is, at the same token however tokens come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.job.engine import EngineKind
from batchr1.job.sampling import SamplingSpec
from batchr1.reasoning import ThinkTags
from batchr1.reasoning.stops import StopStrings, cut_at
from batchr1.records import Prompt, ResumePoint, WorkItem
from batchr1.worker.generation import Generation, Rules

OPEN, CLOSE, END = 1, 2, 3
TAGS = ThinkTags.of_ids(open_id=OPEN, close_id=CLOSE, end_ids=frozenset({END}))
LETTERS = {10: "a", 11: "b", 12: " ", 13: "\n", 14: "ab"}


def decode(ids: Sequence[int]) -> str:
    return "".join(LETTERS.get(i, "") for i in ids)


def rules(*texts: str, anywhere: bool = False) -> Rules:
    return Rules(stops=StopStrings(texts, TAGS, decode, anywhere))


def generation(
    rules: Rules, partial: ResumePoint | None = None, *, opened: bool = True
) -> Generation:
    return Generation(
        WorkItem(Prompt("r", "", (5,), opened, b""), 0, 500, "max_tokens", partial=partial), rules
    )


def stopped(tokens: list[int], rules: Rules, *, step: int = 1, opened: bool = True) -> list[int]:
    """All tokens that are kept of a stream."""
    one = generation(rules, opened=opened)
    for at in range(0, len(tokens), step):
        if one.take(tokens[at : at + step]) == "stop":
            break
    return one.tokens.tolist()


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([10, 11, CLOSE, 10, 11, 10], 5),  # not in the trace
        ([10, CLOSE, 14, 10], 3),  # within one token
        ([10, 11, 10], 3),  # the trace is never closed
        ([10, CLOSE, 10, 10, 11, END], 5),
    ],
)
def test_a_stop_string_is_found_in_the_answer_alone(tokens: list[int], kept: int) -> None:
    assert stopped(tokens, rules("ab")) == tokens[:kept]


def test_white_space_before_an_answer_is_no_stop() -> None:
    tokens = [10, CLOSE, 13, 13, 10, 13, 13, 11]
    assert stopped(tokens, rules("\n\n")) == tokens[:7]


def test_without_a_think_block_the_text_is_the_answer() -> None:
    tokens = [10, 11, 10]
    assert stopped(tokens, rules("ab"), opened=False) == tokens[:2]


def test_a_think_block_that_the_model_opens_is_a_trace() -> None:
    tokens = [13, OPEN, 10, 11, CLOSE, 10, 11, 10]
    assert stopped(tokens, rules("ab"), opened=False) == tokens[:7]


def test_anywhere_is_in_the_trace_too() -> None:
    tokens = [10, 10, 11, 10, CLOSE, 10]
    assert stopped(tokens, rules("ab", anywhere=True)) == tokens[:3]


STREAMS = st.lists(st.sampled_from([10, 11, 12, 13, 14, CLOSE]), max_size=60)


@given(STREAMS, st.integers(1, 9), st.sampled_from([["ab"], ["b\na", "aa"], ["\n\n", "ba b"]]))
def test_the_end_depends_on_the_tokens_alone(
    tokens: list[int], step: int, stops: list[str]
) -> None:
    asked = rules(*stops)
    kept = stopped(tokens, asked)
    assert stopped(tokens, asked, step=step) == kept
    text = decode(kept[kept.index(CLOSE) + 1 :] if CLOSE in kept else []).lstrip()
    assert (len(kept) < len(tokens)) <= any(stop in text for stop in stops)
    assert not any(
        stop in decode(kept[kept.index(CLOSE) + 1 : -1]).lstrip() for stop in stops if CLOSE in kept
    )


@given(STREAMS, st.integers(0, 60))
def test_a_resumed_generation_ends_at_the_same_token(tokens: list[int], at: int) -> None:
    asked = rules("ab", "\n\n")
    whole = stopped(tokens, asked)
    one = generation(asked, ResumePoint(tuple(tokens[:at])))
    if one.ended() is None:
        for token in tokens[at:]:
            if one.take([token]) == "stop":
                break
    assert one.tokens.tolist() == whole


@pytest.mark.parametrize(
    ("text", "before"),
    [("one END two STOP", "one"), ("one", "one"), (None, None), ("END", ""), ("a STOP END", "a")],
)
def test_a_text_ends_before_the_first_stop_string(text: str | None, before: str | None) -> None:
    assert cut_at(text, ("END", "STOP")) == before


def body(**sampling: object) -> dict[str, object]:
    from batchr1.engine.openai.client import ChatClient

    server = EngineKind.model_validate({"kind": "openai", "base_url": "http://h/v1"})
    client = ChatClient(server, "m", SamplingSpec.model_validate(sampling))
    return client._body([("user", "hello")], None, None)


def test_a_server_is_asked_for_what_the_job_sets() -> None:
    found = body(presence_penalty=0.5, logit_bias={7: -3}, bad_words=["no"], stop=["END"])
    assert found["presence_penalty"] == 0.5
    assert found["logit_bias"] == {7: -3}
    assert found["bad_words"] == ["no"]
    assert "stop" not in found, "it would stop in the reasoning"
    assert body(stop=["END"], stop_in="anywhere")["stop"] == ["END"]
    assert "frequency_penalty" not in body()
