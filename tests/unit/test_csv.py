"""CSV and TSV: the same rows as of other formats, with types found by a stated rule."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.dataset.lines.csv_lines import CsvLines
from batchr1.dataset.source import Source
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs

TEXTS = st.text(alphabet='a,;"\n\r\t é東', max_size=6).filter(lambda text: text != "")


def source_of(path: Path, keep: Any = (), **keys: Any) -> Source:
    return Source(InputSpec(path=str(path), **keys), keep or [], expand_inputs(path))


def values_of(source: Source) -> list[dict[str, Any]]:
    return [
        {**row, "id": id, "content": content}
        for _, batch in source.batches(source.row_columns)
        for row, id, content in zip(
            source.kept(batch).to_pylist(), source.ids(batch), source.contents(batch), strict=True
        )
    ]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20))
def test_what_a_csv_writer_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b"), *rows])
    types = {"a": pa.string(), "b": pa.string()}
    lines = CsvLines("in.csv", ["a", "b"], delimiter=",", types=types)
    batches = lines.batches(io.BytesIO(text.getvalue().encode()), types)

    found = [tuple(row.values()) for _, batch in batches for row in batch.to_pylist()]

    assert found == rows


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "IN.CSV", "in.csv.gz", "in.tsv.gz"])
def test_a_file_gives_its_rows_whatever_its_ending(tmp_path: Path, name: str) -> None:
    separator = "\t" if ".tsv" in name else ","
    rows = [["id", "q", "level"], ["007", 'say ""hi""\nthere', "3"], ["é", "x,y\tz", ""]]
    text = "\r\n".join(separator.join(f'"{field}"' for field in row) for row in rows)
    data = b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n"
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    source = source_of(tmp_path / name, ["level"], id="id", prompt="q")

    assert values_of(source) == [
        {"id": "007", "content": 'say "hi"\nthere', "level": 3},
        {"id": "é", "content": "x,y\tz", "level": None},
    ]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "", "0"], pa.int64()),
        (["1", "2.50", "1e-3", "-0.5"], pa.float64()),
        (["true", "False", "TRUE"], pa.bool_()),
        (["007", "1"], pa.string()),
        (["1", str(2**63)], pa.string()),
        (["1", "true"], pa.string()),
        (["0.5", str(2**64)], pa.string()),
        (["nan"], pa.string()),
        (["2024-01-01"], pa.string()),
        (["1"] * 5000 + ["1.5"], pa.float64()),
        (["1"] * 5000 + ["one"], pa.string()),
        (["", ""], pa.null()),
    ],
)
def test_all_values_of_a_column_decide_its_type(values: list[str], kind: pa.DataType) -> None:
    data = "a,v\n" + "".join(f"x,{value}\n" for value in values)
    lines = CsvLines("in.csv", ["v"], delimiter=",", types={})

    schema, has_rows = lines.schema(io.BytesIO(data.encode()))

    assert (schema.field("v").type, has_rows) == (kind, True)
    batches = lines.batches(io.BytesIO(data.encode()), {"v": kind})
    assert sum(batch.num_rows for _, batch in batches) == len(values)


def test_texts_that_a_prompt_is_made_of_stay_as_written(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,price,gold\n1,1.50,2.0\n")
    source = source_of(tmp_path / "in.csv", id="id", template="{price}", gold="gold")
    [(_, batch)] = source.batches(source.row_columns)

    assert source.contents(batch) == ["1.50"]
    assert source.golds(batch) == ["2.0"]


def test_declared_types_are_obeyed(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("key,q,code,share\n1,?,12,3\n")
    types = {"key": "int", "code": "text", "share": "float"}
    keep = ["key", "code", "share"]
    source = source_of(tmp_path / "in.csv", keep, id="key", prompt="q", types=types)

    assert [field.type for field in source.kept_schema] == [pa.int64(), pa.string(), pa.float64()]
    assert values_of(source) == [
        {"id": "1", "content": "?", "key": 1, "code": "12", "share": 3.0},
    ]


def test_messages_of_csv_are_json(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": 'two\nlines, "quoted"'}]
    pl.DataFrame({"id": ["a"], "m": [json.dumps(turns)]}).write_csv(tmp_path / "in.csv")
    source = source_of(tmp_path / "in.csv", id="id", messages="m")
    [(_, batch)] = source.batches(source.row_columns)

    assert source.contents(batch) == [turns]


def test_conditions_limits_and_samples_are_as_of_parquet(tmp_path: Path) -> None:
    rows = pl.DataFrame({"id": [f"r{i}" for i in range(9000)], "q": "?", "level": range(9000)})
    rows.write_csv(tmp_path / "in.csv")
    rows.write_parquet(tmp_path / "in.parquet")
    keys: dict[str, Any] = {"id": "id", "prompt": "q", "where": "level % 1000 = 7", "limit": 5}

    found = [source_of(tmp_path / name, ["level"], **keys) for name in ("in.csv", "in.parquet")]

    assert values_of(found[0]) == values_of(found[1])
    assert [row["level"] for row in values_of(found[0])] == [7, 1007, 2007, 3007, 4007]
    spread = [sum(b.num_rows for b in source.spread(["id"], 3)[1]) for source in found]
    assert spread == [3, 3]
