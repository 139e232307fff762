"""Parquet parts of results: built and written here, published by `output.folder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.columns import COLUMNS, FAILED_SCHEMA, output_schema
from batchr1.errors import FailedError
from batchr1.records import Failure, Result

MAX_PART_BYTES = 2**29
"""Bytes of a part's rows, at most, before it is cut: columns of text or bytes hold 2 GiB."""


def results_table(results: Sequence[Result], kept: pa.Schema) -> pa.Table:
    """The rows of a part, in the order given.

    `kept` is the schema of each result's one-row `kept` batch.
    """
    columns: dict[str, pa.Array] = {}
    for column in COLUMNS:
        values = [getattr(result, column.name) for result in results]
        columns[column.name] = pa.array(values, type=column.type)
    if len(kept):
        table = pa.Table.from_batches([r.kept for r in results if r.kept is not None], schema=kept)
        if table.num_rows != len(results):
            raise ValueError(f"kept columns: {table.num_rows} rows for {len(results)} results")
        columns |= {name: table.column(name).combine_chunks() for name in kept.names}
    schema = output_schema(kept)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def row_bytes(row: Result) -> int:
    """About how many bytes a row adds to its part."""
    texts = (row.prompt, row.prompt_messages, row.reasoning, row.answer, row.gold, row.final_answer)
    kept = 0 if row.kept is None else row.kept.nbytes
    return kept + sum(len(text) for text in texts if text)


def failures_table(failures: Sequence[Failure], *, run: str, failed_at: object) -> pa.Table:
    """The rows of a part under `.batchr1/failed/`."""
    rows = [
        {
            "id": f.id,
            "sample": f.sample,
            "reason": f.reason,
            "message": f.message,
            "attempts": f.attempts,
            "prompt_hash": f.digest.hex() if f.digest else None,
            "run": run,
            "failed_at": failed_at,
        }
        for f in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILED_SCHEMA)


@contextmanager
def data_errors(name: str, table: pa.Table | None = None) -> Iterator[None]:
    """Turn Arrow's complaint about content into a `FailedError` for its column.

    The same rows would fail again, whatever engine made them.
    """
    try:
        yield
    except (pa.ArrowException, OverflowError, TypeError, ValueError, UnicodeError) as exc:
        column = None if table is None else _unwritable(table)
        where = "" if column is None else f"column {column!r}: "
        raise FailedError(
            f"{name}: {where}the part cannot be written as Parquet "
            f"({str(exc).partition(chr(10))[0].rstrip('.')}). Leave the column out of output.keep, "
            "or convert it; its rows are generated already, and are saved."
        ) from exc


def _unwritable(table: pa.Table) -> str | None:
    """The first column that cannot be written by itself."""
    for name in table.column_names:
        try:
            write_parquet(table.select([name]), pa.BufferOutputStream())
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return str(name)
    return None


def write_parquet(table: pa.Table, path: Path | pa.NativeFile) -> None:
    """Write a table as one zstd Parquet file for every reader.

    It has no metadata of pandas or Arrow.
    """
    pq.write_table(
        table,
        path,
        compression="zstd",
        version="2.6",
        store_schema=False,
        write_statistics=True,
        use_dictionary=True,
    )
