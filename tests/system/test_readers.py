"""Every common reader takes an output as it lies, and sees the same rows in the same columns."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from replay_job import questions, replay, run_replay, write_job

ROWS, N = 45, 2
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output in several parts: finished and truncated rows, kept columns of many types, nulls,
    any script.
    """
    folder = tmp_path_factory.mktemp("readers")
    kept = {
        "subject": pl.Series(
            [
                None if i % 4 == 0 else f"Zahlentheorie, 数論 {i} \u2028\n\t\"'\0"
                for i in range(ROWS)
            ]
        ),
        "level": pl.Series(range(ROWS), dtype=pl.Int8),
        "price": pl.Series(
            [None if i % 5 == 0 else Decimal(i) / 4 for i in range(ROWS)], dtype=pl.Decimal(12, 2)
        ),
        "at": pl.Series(
            [dt.datetime(2024, 2, 29, 1, 2, 3, i) for i in range(ROWS)], dtype=pl.Datetime("us")
        ),
        "tags": pl.Series(
            [None if i % 6 == 0 else ["é"] * (i % 3) for i in range(ROWS)], dtype=pl.List(pl.String)
        ),
        "meta": pl.Series([{"a": i, "b": None if i % 2 else "東"} for i in range(ROWS)]),
    }
    questions(ROWS).with_columns(**kept, gold=pl.lit("½")).write_parquet(folder / "in.parquet")
    job = write_job(
        folder, input={"gold": "gold"}, output={"keep": list(kept)}, sampling={"n": N, "seed": 3}
    )
    assert run_replay(job, replay(mean_len=80.0)).exit_code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def schema(output: Path) -> pa.Schema:
    return pq.read_schema(min((output / "data").iterdir()))


@pytest.fixture(scope="module")
def expected(output: Path) -> Rows:
    """All rows as plain values, by id and sample, read file by file."""
    rows: Rows = []
    for part in (output / "data").iterdir():
        rows += pq.ParquetFile(part).read().to_pylist()
    assert len(rows) == ROWS * N
    assert len(list((output / "data").iterdir())) > 3
    assert {row["truncated"] for row in rows} == {True, False}
    return by_key(rows)


def by_key(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: (row["id"], row["sample"]))


def test_the_rows_say_what_went_in(expected: Rows) -> None:
    assert [(row["id"], row["sample"]) for row in expected] == sorted(
        (f"row/{i}", sample) for i in range(ROWS) for sample in range(N)
    )
    one = next(row for row in expected if row["id"] == "row/7")
    assert one["subject"] == "Zahlentheorie, 数論 7 \u2028\n\t\"'\0"
    assert one["prompt"].startswith("What is 7 + 7? ½ é 東\n\n")
    assert (one["level"], one["price"], one["gold"]) == (7, Decimal("1.75"), "½")
    assert (one["tags"], one["meta"]) == (["é"], {"a": 7, "b": None})


def test_polars_reads_it_by_glob_and_by_folder(
    output: Path, schema: pa.Schema, expected: Rows
) -> None:
    for frame in (
        pl.read_parquet(output / "data/*.parquet"),
        pl.read_parquet(output / "data"),
        pl.scan_parquet(output / "data").collect(),
    ):
        assert frame.columns == schema.names
        assert by_key(frame.to_dicts()) == expected


def test_pyarrow_reads_it_as_a_dataset(output: Path, schema: pa.Schema, expected: Rows) -> None:
    dataset = pyarrow.dataset.dataset(output / "data")
    assert dataset.schema == schema
    assert by_key(dataset.to_table().to_pylist()) == expected
    assert by_key(pq.read_table(output / "data").to_pylist()) == expected


def test_duckdb_reads_it(output: Path, schema: pa.Schema, expected: Rows) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(f"SELECT * FROM '{output}/data/*.parquet'").to_arrow_table()
        [count] = connection.sql(
            f"SELECT count(*) FROM '{output}/data/*.parquet' WHERE truncated AND finish_reason = "
            "'length'"
        ).fetchall()
    assert found.column_names == schema.names
    assert by_key(found.to_pylist()) == expected
    assert count == (sum(row["truncated"] for row in expected),)


def test_pandas_reads_it(output: Path, schema: pa.Schema, expected: Rows) -> None:
    import pandas as pd

    frame = pd.read_parquet(output / "data", dtype_backend="pyarrow")
    assert list(frame.columns) == schema.names
    assert (
        by_key(pa.Table.from_pandas(frame, schema=schema, preserve_index=False).to_pylist())
        == expected
    )
    plain = pd.read_parquet(output / "data").sort_values(["id", "sample"])
    assert plain["answer"].isna().tolist() == [row["answer"] is None for row in expected]
    assert plain["reasoning"].dropna().tolist() == [
        row["reasoning"] for row in expected if row["reasoning"]
    ]


def test_hugging_face_datasets_reads_the_output_folder_itself(
    output: Path, schema: pa.Schema, expected: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    assert {path.name for path in output.iterdir()} == {".batchr1", "_SUCCESS", "data"}
    datasets.disable_progress_bars()
    found = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]
    assert found["train"].column_names == schema.names
    assert by_key(found["train"].to_list()) == expected
