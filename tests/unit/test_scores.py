"""Scores become columns: nested lists, perplexities and entropies, whatever the rows are."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.errors import FingerprintError, OutputError, UsageError
from batchr1.output.parts import write_parquet
from batchr1.reasoning import ThinkTags, split
from batchr1.reasoning.split import places
from batchr1.records import Failure
from batchr1.scoring.columns import SCHEMA, Row, ScoredRow, Scores, entropies, scores_table
from batchr1.scoring.folder import ScoreFolder
from batchr1.scoring.planning import wanted
from batchr1.scoring.target import engine_argument
from batchr1.storage.base import open_storage
from batchr1.storage.owner import owned

NOW = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)
RUN = "20261129T210000000Z-abcd"
SINGLE = ThinkTags.of_ids(open_id=0, close_id=1, end_ids=frozenset([2]))
SPELLED = ThinkTags.of_ids(end_ids=frozenset([2]))
TEXTS = ["<think>", "</think>", "", "a", " ", "\n", "</", "think>", "b "]


def scored(id: str, tokens: int, k: int = 3, reasoning: int = 1) -> ScoredRow:
    row = Row(id, 0, [9, 8], list(range(tokens)), True, "ab")
    logs = np.log(np.linspace(0.5, 0.9, tokens, dtype=np.float32))
    ids = np.arange(tokens * k, dtype=np.int32).reshape(tokens, k)
    top = np.log(np.full((tokens, k), 0.25, dtype=np.float32))
    spans = (list(range(min(reasoning, tokens))), list(range(reasoning, tokens)))
    return ScoredRow(row, Scores(logs, ids, top), spans, NOW)


@pytest.mark.parametrize("k", [0, 1, 3, 128])
def test_a_part_holds_each_rows_lists(tmp_path: Path, k: int) -> None:
    rows = [scored("a", 5, k), scored("b", 0, k), scored("c", 1, k)]
    write_parquet(scores_table(rows, RUN), tmp_path / "part.parquet")
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.schema.types == SCHEMA.types
    for row, found in zip(rows, table.to_pylist(), strict=True):
        assert found["logprob"] == row.scores.logprob.tolist()
        assert found["topk_ids"] == row.scores.top_ids.tolist()
        shown = np.array(found["topk_logprobs"], dtype=np.float32).reshape(-1, max(k, 1))
        assert np.abs(shown.ravel() - row.scores.top_logprobs.ravel()).max(initial=0) < 1e-3


def test_perplexity_and_entropy_are_of_reasoning_and_answer() -> None:
    [row] = scores_table([scored("a", 3, k=3, reasoning=1)], RUN).to_pylist()
    assert row["reasoning_perplexity"] == pytest.approx(1 / 0.5)
    assert row["answer_perplexity"] == pytest.approx((1 / (0.7 * 0.9)) ** 0.5)
    assert row["answer_entropy"] == pytest.approx(np.log(4))  # three quarters and the rest
    [empty] = scores_table([scored("a", 1, k=0)], RUN).to_pylist()
    assert (empty["answer_tokens"], empty["answer_perplexity"]) == (0, None)
    assert empty["reasoning_entropy"] is None


@given(st.lists(st.floats(-20, 5), min_size=2, max_size=40), st.integers(1, 40))
def test_entropy_of_the_top_k_is_below_the_whole(logits: list[float], k: int) -> None:
    shares = np.exp(logits) / np.exp(logits).sum()
    top = np.log(np.sort(shares)[::-1][:k]).astype(np.float32)[None]
    found = entropies(top)
    assert found is not None
    assert -1e-5 <= found[0] <= -(shares * np.log(shares)).sum() + 1e-4


def test_certainty_has_no_entropy() -> None:
    found = entropies(np.array([[0.0, -np.inf]], dtype=np.float32))
    assert found is not None and found[0] == 0


@given(st.lists(st.integers(0, 8), max_size=30), st.booleans(), st.booleans())
def test_places_are_as_many_as_the_split_counts(
    ids: list[int], opened: bool, is_spelled: bool
) -> None:
    tags = SPELLED if is_spelled else SINGLE

    def decode(some: object) -> str:
        return "".join(TEXTS[i] for i in some)  # type: ignore[attr-defined]

    inside, answer = places(ids, tags=tags, decode=decode, opened=opened)
    counted = split(ids, tags=tags, decode=decode, opened=opened, finish_reason="stop")
    assert (len(inside), len(answer)) == (counted.reasoning_tokens, counted.answer_tokens)
    assert len({*inside, *answer}) == len(inside) + len(answer)
    assert all(0 <= at < len(ids) and ids[at] != 2 for at in [*inside, *answer])


def test_done_rows_are_left_out_and_changed_ones_refused() -> None:
    rows = [Row(id, 0, [1], [2] * 3, True, "new") for id in "abc"]
    left = wanted(iter(rows), {("a", 0): "new"}, longest=4, where="out")
    assert [row.id for row in left] == ["b", "c"]
    doubled = wanted(iter([*rows, *rows]), {}, longest=4, where="out")
    assert [row.id for row in doubled] == ["a", "b", "c"]
    [failure, _, _] = wanted(iter(rows), {}, longest=3, where="out")
    assert isinstance(failure, Failure) and failure.reason == "too_long"
    with pytest.raises(UsageError, match=r"^out: row 'b' \(sample 0\) has changed since it was "):
        list(wanted(iter(rows), {("b", 0): "old"}, longest=4, where="out"))


def test_a_part_that_was_copied_is_refused(tmp_path: Path) -> None:
    folder = ScoreFolder(open_storage(tmp_path / "s"))
    with owned(folder.storage, run=RUN):
        name = folder.commit(scores_table([scored("a", 2)], RUN), RUN)
        assert folder.done() == {("a", 0): "ab"}
        (tmp_path / "s/data" / f"part-x{name}").write_bytes(
            (tmp_path / "s/data" / name).read_bytes()
        )
        with pytest.raises(OutputError, match=r"row 'a' \(sample 0\) is in another part, too"):
            folder.done()


def test_other_scores_and_other_records_are_refused(tmp_path: Path) -> None:
    folder = ScoreFolder(open_storage(tmp_path / "s"))
    with owned(folder.storage, run=RUN):
        folder.refuse_foreign({"top_k": 5})
        folder.write({"top_k": 5}, {})
        folder.refuse_foreign({"top_k": 5})
        with pytest.raises(FingerprintError, match=r"top_k is 5 there \(got 6\)\. Give another"):
            folder.refuse_foreign({"top_k": 6})
        folder.storage.write_bytes(".batchr1/score.json", b"[]")
        with pytest.raises(OutputError, match="not the record of scores"):
            folder.document()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=float32", "float32"),
        ("a=true", True),
        ("a={b: c}", {"b": "c"}),
        ("a=", None),
    ],
)
def test_values_of_engine_arguments_are_yaml(text: str, value: object) -> None:
    assert engine_argument(text) == ("a", value)


def test_every_column_has_a_type_that_parquet_keeps() -> None:
    assert SCHEMA.field("topk_logprobs").type == pa.list_(pa.list_(pa.float16()))
