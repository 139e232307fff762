"""Ids of several columns: joined without collisions, kept with their types."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchr1.dataset.pending import Pending
from batchr1.dataset.source import Source
from batchr1.dataset.values import joined_ids
from batchr1.job.spec import InputSpec
from batchr1.rejudge.golds import read_golds
from batchr1.storage.inputs import expand_inputs

PARTS = st.lists(
    st.tuples(*[st.text(alphabet="a/%25F2東 ", max_size=5)] * 2), min_size=1, max_size=20
)


def source_of(
    path: Path, columns: dict[str, Any], keep: Any = (), id: Any = ("id", "sample")
) -> Source:
    pq.write_table(pa.table(columns), path / "in.parquet")
    spec = InputSpec(path=str(path / "in.parquet"), id=list(id), prompt="q")
    return Source(spec, keep or [], expand_inputs(path / "in.parquet"))


@given(PARTS)
def test_rows_share_an_id_only_where_every_column_is_equal(rows: list[tuple[str, str]]) -> None:
    ids = joined_ids([pa.array(column, pa.string()) for column in zip(*rows, strict=True)])

    assert [tuple(map(unquote, id.split("/"))) for id in ids.to_pylist()] == rows


def test_a_single_column_is_not_escaped_and_a_list_of_one_is_the_column(tmp_path: Path) -> None:
    source = source_of(tmp_path, {"id": ["a/b%"], "q": ["?"]}, id=["id"])

    assert InputSpec(path="x", id=["id"], prompt="q") == InputSpec(path="x", id="id", prompt="q")
    assert [source.ids(batch) for _, batch in source.batches(source.row_columns)] == [["a/b%"]]
    assert source.kept_names == {}


def test_columns_of_an_id_are_kept_with_their_types_under_free_names(tmp_path: Path) -> None:
    columns = {
        "id": pa.array(["a/b", "a"]),
        "sample": pa.array([0, 1], pa.int32()),
        "shard": pa.array(["x", "x"]).dictionary_encode(),
        "q": pa.array(["?", "?"]),
    }
    source = source_of(tmp_path, columns, ["q"], id=["id", "sample", "shard"])
    [(_, batch)] = source.batches(source.row_columns)

    assert source.ids(batch) == ["a%2Fb/0/x", "a/1/x"]
    assert source.kept_schema == pa.schema(
        {
            "input_id": pa.string(),
            "input_sample": pa.int32(),
            "shard": pa.string(),
            "q": pa.string(),
        }
    )
    assert source.kept(batch).to_pydict() == {
        "input_id": ["a/b", "a"],
        "input_sample": [0, 1],
        "shard": ["x", "x"],
        "q": ["?", "?"],
    }


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ({"question": "id"}, {"input_sample": "sample", "question": "id"}),
        ("all", {"input_id": "id", "input_sample": "sample", "q": "q"}),
        ([], {"input_id": "id", "input_sample": "sample"}),
    ],
)
def test_a_column_of_an_id_is_kept_once(tmp_path: Path, keep: Any, names: dict[str, str]) -> None:
    columns = {"id": ["a"], "sample": [0], "q": ["?"]}

    assert source_of(tmp_path, columns, keep).kept_names == names


def test_done_rows_are_found_by_the_joined_id(tmp_path: Path) -> None:
    columns = {"id": ["a", "a", "b"], "sample": [0, 1, 0], "q": ["?"] * 3}
    source = source_of(tmp_path, columns)
    pending = Pending(source, 1, ids_are_hashes=False)
    pending.mark_done(pa.array(["a/1", "a/7"]), pa.array([0, 0], pa.int32()))

    assert [source.ids(batch) for batch, _ in pending.rows(source)] == [["a/0", "b/0"]]


def test_right_answers_of_a_file_are_found_by_the_joined_id(tmp_path: Path) -> None:
    path = tmp_path / "gold.parquet"
    pq.write_table(pa.table({"id": ["a", "a"], "sample": [0, 1], "gold": ["x", "y"]}), path)

    found = read_golds(str(path), id=["id", "sample"], gold="gold")

    assert found == {"a/0": "x", "a/1": "y"}


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ([], "an empty list (need a column or several, or null)"),
        (["id", "id"], "column 'id' is named twice (need each once)"),
    ],
)
def test_a_list_that_names_no_id_is_refused(id: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("(", r"\(").replace(")", r"\)")):
        InputSpec(path="in", id=id, prompt="q")
