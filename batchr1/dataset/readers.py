"""Parquet and JSON lines as batches: chosen columns of the rows that pass a predicate, read as late
as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from batchr1.errors import InputError, JobError, StorageError
from batchr1.storage.base import InputFile

BATCH_ROWS = 4096
_JSON_BLOCK_BYTES = 16 * 2**20


class Predicate:
    """`input.where`: a SQL predicate, evaluated by polars on batches of the columns it names.
    `key`: whose it is.
    """

    def __init__(self, text: str, *, key: str = "input.where") -> None:
        self._text, self._key = text, key
        try:
            self._expr = pl.sql_expr(text)
            self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._expr.meta.root_names()))
        except pl.exceptions.PolarsError as exc:
            raise JobError(
                f"{key}: not a SQL predicate (got {text!r}: {_first_line(exc)}). Write one "
                f"such "
                f"as level >= 4."
            ) from exc
        if not self.columns:
            raise JobError(
                f"{key}: names no column (got {text!r}). Write a condition such as level >= 4."
            )

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        try:
            frame = pl.DataFrame(table.select(self.columns))
            result = frame.select(self._expr.alias("_"))["_"]
        except pl.exceptions.PolarsError as exc:
            raise JobError(
                f"{self._key}: cannot be evaluated (got {self._text!r}: {_first_line(exc)}). "
                f"Correct the condition."
            ) from exc
        if result.dtype != pl.Boolean or len(result) != table.num_rows:
            got = result.dtype if result.dtype != pl.Boolean else "one value for many rows"
            raise JobError(
                f"{self._key}: not a condition on a row (got {got}, need true or false for each). "
                "Write one such as level >= 4."
            )
        return pa.chunked_array([result.fill_null(False).to_arrow()])


def read_parquet(
    file: InputFile, columns: list[str], predicate: Predicate | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with _reading(file), file.open() as handle, pq.ParquetFile(handle) as parquet:
        row = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            mask = (
                predicate.mask(parquet.read_row_group(group, list(predicate.columns)))
                if predicate
                else None
            )
            if mask is None or pc.any(mask).as_py():
                offset = 0
                for batch in parquet.iter_batches(
                    BATCH_ROWS, row_groups=[group], columns=columns or None
                ):
                    end = offset + batch.num_rows
                    kept = batch.select(columns)
                    kept.validate(
                        full=True
                    )  # text that is not UTF-8 would surface much later, as a crash
                    if mask is not None:
                        kept = kept.filter(mask.slice(offset, batch.num_rows).combine_chunks())
                    yield row + offset, kept
                    offset = end
            row += size


def read_jsonl(
    file: InputFile, columns: list[str], predicate: Predicate | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with _reading(file), file.open() as handle:
        row = 0
        for batch in _open_json(handle):
            kept = batch.select(columns)
            kept.validate(
                full=True
            )  # as above: Arrow takes bytes that are not UTF-8 from JSON, too
            if predicate is not None:
                kept = kept.filter(predicate.mask(pa.table(batch)).combine_chunks())
            for start in range(0, kept.num_rows, BATCH_ROWS):
                yield row + start, kept.slice(start, BATCH_ROWS)
            row += batch.num_rows


def refuse_changed(file: InputFile) -> None:
    found = file.storage.find_file(file.rel)
    if found is None or found.version != file.version:
        raise StorageError(
            f"{file.uri}: changed since this command began (got "
            f"{'no file' if found is None else 'another version'}, "
            "need the one that its ids were read from). Run the same command again."
        )


def schema_of(file: InputFile) -> pa.Schema:
    with _reading(file), file.open() as handle:
        if file.format == "parquet":
            return pq.read_schema(handle)
        return _open_json(handle).schema


def _open_json(handle: Any) -> pj.JSONStreamingReader:
    """A reader of JSON lines.

    Text that looks like a date stays text: Arrow alone would make an instant of it.
    """
    options = pj.ReadOptions(block_size=_JSON_BLOCK_BYTES)
    found = pj.open_json(handle, read_options=options).schema
    handle.seek(0)
    as_text = pa.schema([pa.field(f.name, _dates_as_text(f.type)) for f in found])
    return pj.open_json(
        handle, read_options=options, parse_options=pj.ParseOptions(explicit_schema=as_text)
    )


def _dates_as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_dates_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _dates_as_text(f.type)) for f in kind])
    return kind


class _reading:
    """Turns Arrow's complaints about a file's content into an `InputError` that names the file."""

    def __init__(self, file: InputFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        # Arrow raises OSError without a number when a page cannot be decompressed or decoded.
        broken = isinstance(exc, pa.ArrowException) or (
            isinstance(exc, OSError) and exc.errno is None
        )
        if exc is not None and broken and not isinstance(exc, MemoryError):
            what = "Parquet" if self._file.format == "parquet" else "JSON lines"
            raise InputError(
                f"{self._file.uri}: not a readable {what} file ({_first_line(exc)}). Write it "
                f"again, or take it out."
            ) from exc


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")
