"""Results → Parquet parts. Builds and writes a file; publishing it is `data.output`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.columns import COLUMNS, FAILED_SCHEMA, output_schema
from batchr1.records import Failure, Result


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


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table as one zstd Parquet file that every reader understands, without pandas or Arrow
    metadata tricks.
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
