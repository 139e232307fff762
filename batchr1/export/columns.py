"""Columns of an export over several outputs."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from batchr1.errors import UsageError
from batchr1.output.folder import Output


def common_schema(parts: Sequence[tuple[Output, str]]) -> pa.Schema:
    """Join the columns of parts, in the order of parts.

    Raises `UsageError` where a column has two types.
    """
    found: dict[str, tuple[pa.DataType, str]] = {}
    for output, rel in parts:
        for name, kind in output.part_columns(rel).items():
            known, where = found.setdefault(name, (kind, output.uri))
            if known == kind or pa.types.is_null(kind):
                continue
            if not pa.types.is_null(known):
                raise UsageError(
                    f"{output.uri}: the column {name!r} has another type than in {where} "
                    f"(got {kind}, need {known}). Export them apart."
                )
            found[name] = (kind, output.uri)
    return pa.schema([(name, kind) for name, (kind, _) in found.items()])


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give a table the columns of `schema`; others are null."""
    have = set(table.column_names)
    columns = [
        table[field.name].cast(field.type)
        if field.name in have
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
