"""Result rows in Parquet: exactly them, in exactly the columns of the schema."""

from __future__ import annotations

import datetime as dt
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchr1.columns import (
    ADDED_LATER,
    COLUMNS,
    FAILED_SCHEMA,
    KEPT_AFTER,
    NAMES,
    output_schema,
    schema_document,
)
from batchr1.output.parts import failures_table, results_table, write_parquet
from batchr1.records import VERDICT_STAGES, Failure, Result

KEPT = pa.schema(
    [
        pa.field("subject", pa.string()),
        pa.field("at", pa.timestamp("ns")),
        pa.field("price", pa.decimal128(12, 3)),
        pa.field(
            "turns", pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("n", pa.int64())]))
        ),
    ]
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
COUNT = st.integers(0, 2**31 - 1)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "id": TEXT,
    "sample": COUNT,
    "kept": st.fixed_dictionaries(
        {
            "subject": st.none() | TEXT,
            "at": st.none() | st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 1, 1)),
            "price": st.none() | st.decimals(-999, 999, places=3),
            "turns": st.none()
            | st.lists(st.none() | st.fixed_dictionaries({"role": TEXT, "n": st.none() | COUNT})),
        }
    ),
    "prompt": TEXT,
    "prompt_messages": st.none() | TEXT,
    "gold": st.none() | TEXT,
    "reasoning": st.none() | TEXT,
    "answer": st.none() | TEXT,
    "final_answer": st.none() | TEXT,
    "correct": st.none() | st.booleans(),
    "verdict_by": st.none() | st.sampled_from(VERDICT_STAGES),
    "reasoning_status": st.sampled_from(["closed", "empty", "unclosed", "missing"]),
    "truncated": st.booleans(),
    "truncated_in": st.sampled_from([None, "reasoning", "answer"]),
    "truncated_by": st.sampled_from([None, "max_tokens", "context", "budget"]),
    "finish_reason": st.sampled_from(["stop", "length"]),
    "prompt_tokens": COUNT,
    "reasoning_tokens": COUNT,
    "answer_tokens": COUNT,
    "control_tokens": COUNT,
    "injected_tokens": COUNT,
    "completion_tokens": COUNT,
    "flags": st.lists(TEXT, max_size=3).map(tuple),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "attempts": COUNT,
    "resumed_at": st.lists(COUNT, max_size=3).map(tuple),
    "token_ids": st.none() | st.lists(COUNT, max_size=5).map(tuple),
    "prompt_hash": TEXT,
    "model": TEXT,
    "run": TEXT,
    "finished_at": st.datetimes(
        dt.datetime(2020, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)
    ),
}
ROWS = st.lists(st.fixed_dictionaries(STRATEGIES), min_size=1, max_size=8)


def test_the_strategies_cover_every_field_of_a_result() -> None:
    assert list(STRATEGIES) == [field.name for field in fields(Result)]


def result_of(row: dict[str, Any]) -> Result:
    return Result(**{**row, "kept": pa.RecordBatch.from_pylist([row["kept"]], schema=KEPT)})


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """The output row of a result, as a reader gives it."""
    flat = {**row, **row["kept"]}
    del flat["kept"]
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()
    }


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ROWS)
def test_results_come_back_from_parquet_as_they_went_in(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    table = results_table([result_of(row) for row in rows], KEPT)
    write_parquet(table, tmp_path / "part.parquet")
    wanted = [expected(row) for row in rows]
    assert pq.read_table(tmp_path / "part.parquet").to_pylist() == wanted
    assert pl.read_parquet(tmp_path / "part.parquet").to_dicts() == wanted
    assert pl.read_parquet(tmp_path / "part.parquet", use_pyarrow=True).to_dicts() == wanted


def a_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "sample": 0,
        "prompt": "?",
        "prompt_messages": None,
        "gold": None,
        "reasoning": None,
        "answer": None,
        "final_answer": None,
        "correct": None,
        "verdict_by": None,
        "reasoning_status": "closed",
        "truncated": False,
        "truncated_in": None,
        "truncated_by": None,
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "reasoning_tokens": 1,
        "answer_tokens": 0,
        "control_tokens": 0,
        "injected_tokens": 0,
        "completion_tokens": 1,
        "flags": (),
        "seed": None,
        "attempts": 1,
        "resumed_at": (),
        "token_ids": None,
        "prompt_hash": "00",
        "model": "m",
        "run": "r",
        "finished_at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "kept": {"subject": "é", "at": None, "price": None, "turns": None},
        **changes,
    }


def test_a_part_has_the_columns_of_the_schema_with_kept_ones_behind_sample(tmp_path: Path) -> None:
    write_parquet(results_table([result_of(a_row())], KEPT), tmp_path / "part.parquet")
    found = pq.read_schema(tmp_path / "part.parquet")
    documented = {column["name"]: column for column in schema_document()["columns"]}
    names = list(documented)
    after = names.index(KEPT_AFTER) + 1
    assert found.names == [*names[:after], *KEPT.names, *names[after:]]
    for column in COLUMNS:
        field = found.field(column.name)
        assert field.type == column.type
        assert field.nullable == column.nullable == documented[column.name]["nullable"]
        assert str(column.type) == documented[column.name]["type"]
    for name in KEPT.names:
        assert found.field(name).type == KEPT.field(name).type
        assert found.field(name).nullable
    assert found == output_schema(KEPT)
    assert len(NAMES) == len(COLUMNS)


def test_a_part_is_zstd_with_plain_strings_and_without_metadata_of_arrow(tmp_path: Path) -> None:
    write_parquet(results_table([result_of(a_row())] * 3, KEPT), tmp_path / "part.parquet")
    metadata = pq.read_metadata(tmp_path / "part.parquet")
    group = metadata.row_group(0)
    assert {group.column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    assert metadata.metadata is None
    texts = [
        field
        for field in pq.read_schema(tmp_path / "part.parquet")
        if pa.types.is_string(field.type)
    ]
    assert {field.name for field in texts} >= {
        "id",
        "prompt",
        "reasoning",
        "answer",
        "subject",
        "model",
    }
    for field in texts:
        index = [group.column(i).path_in_schema for i in range(metadata.num_columns)].index(
            field.name
        )
        assert str(metadata.schema.column(index).logical_type) == "String"


def test_a_job_that_keeps_nothing_has_our_columns_alone() -> None:
    row = result_of(a_row())
    table = results_table([row, row], pa.schema([]))
    assert table.schema == output_schema(pa.schema([]))
    assert table.num_rows == 2


def test_rows_without_their_kept_columns_are_refused() -> None:
    row = Result(**{**a_row(), "kept": None})
    with pytest.raises(ValueError, match="kept columns: 0 rows for 1 results"):
        results_table([row], KEPT)


@pytest.mark.parametrize(
    "name", [c.name for c in COLUMNS if not c.nullable and not pa.types.is_list(c.type)]
)
def test_a_null_where_none_may_be_is_refused(tmp_path: Path, name: str) -> None:
    row = result_of(a_row(**{name: None}))
    with pytest.raises((ValueError, pa.ArrowException)):
        write_parquet(results_table([row], KEPT), tmp_path / "part.parquet")


def test_failures_come_back_as_they_went_in(tmp_path: Path) -> None:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
    failures = [
        Failure(
            "a/é",
            0,
            "prompt_too_long",
            "the prompt is longer than the context",
            0,
            bytes(range(16)),
        ),
        Failure("b", 3, "engine_refused", "…", 3),
    ]
    write_parquet(failures_table(failures, run="r", failed_at=at), tmp_path / "part.parquet")
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.schema == FAILED_SCHEMA
    assert table.to_pylist() == [
        {
            "id": "a/é",
            "sample": 0,
            "reason": "prompt_too_long",
            "message": "the prompt is longer than the context",
            "attempts": 0,
            "prompt_hash": "000102030405060708090a0b0c0d0e0f",
            "run": "r",
            "failed_at": at,
        },
        {
            "id": "b",
            "sample": 3,
            "reason": "engine_refused",
            "message": "…",
            "attempts": 3,
            "prompt_hash": None,
            "run": "r",
            "failed_at": at,
        },
    ]


def test_columns_that_a_part_of_the_first_version_lacks_say_so() -> None:
    part = next(
        (Path(__file__).parents[1] / "data/before_rebuild/output/data").glob("part-*.parquet")
    )

    assert NAMES - set(pq.read_schema(part).names) == ADDED_LATER
    assert all(column.nullable for column in COLUMNS if column.added_later)
