"""Parquet and JSON lines → rows, streamed: only the columns that a job names, one batch in memory at a time."""

from __future__ import annotations

import difflib
import hashlib
import json
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from batchr1.data.columns import NAMES
from batchr1.data.storage import InputFile
from batchr1.errors import InputError, JobError, StorageError
from batchr1.job.spec import InputSpec

BATCH_ROWS = 4096
_JSON_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row stands in the input, for messages: file and row number from 0."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"


class Source:
    """A job's dataset. Opening it checks that files can be read and columns exist with usable types."""

    def __init__(self, spec: InputSpec, keep: list[str] | dict[str, str] | str, files: Sequence[InputFile]) -> None:
        self._spec = spec
        self._files = list(files)
        self._predicate = _Predicate(spec.where) if spec.where else None
        self._template_fields = _template_fields(spec.template) if spec.template is not None else ()
        schemas = [(file, _schema_of(file)) for file in self._files]
        first_file, first = schemas[0]
        self.kept_names = _kept_names(keep, first, first_file.uri, spec)
        self._check_columns(schemas)
        fields = [pa.field(new, plain_type(first.field(old).type)) for new, old in self.kept_names.items()]
        self.kept_schema = pa.schema(fields)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The input columns that a prompt is made of."""
        single = self._spec.prompt or self._spec.messages
        return (single,) if single else self._template_fields

    @property
    def content_is_messages(self) -> bool:
        return self._spec.messages is not None

    @cached_property
    def id_columns(self) -> tuple[str, ...]:
        """The columns that ids are read from: the id column, or those of the prompt."""
        return (self._spec.id,) if self._spec.id else self.prompt_columns

    @cached_property
    def row_columns(self) -> tuple[str, ...]:
        """The columns that a run reads: nothing else is decoded."""
        spec = self._spec
        extra = [c for c in (spec.gold, spec.max_tokens) if c]
        return tuple(dict.fromkeys([*self.id_columns, *self.prompt_columns, *extra, *self.kept_names.values()]))

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Position, pa.RecordBatch]]:
        """Batches of the rows that pass `where` and `limit`, in file order, with the position of each one's first row.

        The predicate's columns are read first; where no row of a Parquet row group passes, the others stay unread.
        Raises `StorageError` for a file that was replaced since: its rows would be taken for others.
        """
        left = self._spec.limit
        for file in self._files:
            _refuse_changed(file)
            read = _read_parquet if file.format == "parquet" else _read_jsonl
            for row, batch in read(file, list(columns), self._predicate):
                if left is not None:
                    batch = batch.slice(0, left)
                    left -= batch.num_rows
                if batch.num_rows:
                    yield Position(file.uri, row), batch
                if left == 0:
                    return

    def ids(self, batch: pa.RecordBatch) -> list[str | None]:
        """The ids of a batch that has the id columns; None where the id column is null."""
        if self._spec.id:
            column = batch.column(self._spec.id)
            values = column.to_pylist()
            if pa.types.is_integer(column.type):
                return [None if v is None else str(v) for v in values]
            return list(values)
        return [content_id(c) for c in self.contents(batch)]

    def contents(self, batch: pa.RecordBatch) -> list[Any]:
        """What each row asks: text, a list of messages, or None."""
        if self._spec.template is not None:
            columns = [batch.column(c).to_pylist() for c in self._template_fields]
            rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
            return [self._fill(row) for row in rows]
        return list(batch.column(self.prompt_columns[0]).to_pylist())

    def golds(self, batch: pa.RecordBatch) -> list[str | None]:
        """The right answers as text; numbers are written as Python writes them."""
        return _as_text(batch.column(self._spec.gold)) if self._spec.gold else [None] * batch.num_rows

    def caps(self, batch: pa.RecordBatch) -> list[int | None]:
        """The rows' own caps of new tokens."""
        name = self._spec.max_tokens
        return list(batch.column(name).to_pylist()) if name else [None] * batch.num_rows

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The kept columns of a batch, renamed, in plain types."""
        columns = [batch.column(old).cast(self.kept_schema.field(new).type) for new, old in self.kept_names.items()]
        return pa.RecordBatch.from_arrays(columns, schema=self.kept_schema)

    def _fill(self, row: tuple[Any, ...]) -> str | None:
        if any(value is None for value in row):
            return None
        values = {name: str(value) for name, value in zip(self._template_fields, row, strict=True)}
        return str(self._spec.template).format_map(values)

    def _check_columns(self, schemas: Sequence[tuple[InputFile, pa.Schema]]) -> None:
        spec = self._spec
        wanted: list[tuple[str, str, str]] = [("input.template", c, "any") for c in self._template_fields]
        for key, name, need in (
            ("input.id", spec.id, "text or whole numbers"),
            ("input.prompt", spec.prompt, "text"),
            ("input.messages", spec.messages, "a list of {role, content}"),
            ("input.gold", spec.gold, "text or numbers"),
            ("input.max_tokens", spec.max_tokens, "whole numbers"),
        ):
            if name is not None:
                wanted.append((key, name, need))
        wanted += [("input.where", c, "any") for c in (self._predicate.columns if self._predicate else ())]
        wanted += [("output.keep", c, "any") for c in self.kept_names.values()]
        first = schemas[0][1]
        for file, schema in schemas:
            for key, name, need in wanted:
                if schema.get_field_index(name) < 0:
                    near = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.6)
                    names = ", ".join(schema.names[:12]) + (", …" if len(schema.names) > 12 else "")
                    hint = f"Did you mean {near[0]}?" if near else "Name one of these."
                    raise InputError(f"{file.uri}: {key}: there is no column {name!r} (the file has: {names}). {hint}")
                kind = schema.field(name).type
                if not _TYPE_CHECKS[need](kind):
                    raise InputError(
                        f"{file.uri}: {key}: column {name!r} has the wrong type (got {kind}, need {need}). "
                        "Name another column, or convert it."
                    )
                other = first.field(name).type
                if key == "output.keep" and plain_type(kind) != plain_type(other):
                    raise InputError(
                        f"{file.uri}: {key}: column {name!r} has another type than in the first file "
                        f"(got {kind}, need {other}). Convert it, or do not keep it."
                    )


class _Predicate:
    """`input.where`: a SQL predicate, evaluated by polars on batches of the columns it names."""

    def __init__(self, text: str) -> None:
        self._text = text
        try:
            self._expr = pl.sql_expr(text)
            self.columns: tuple[str, ...] = tuple(dict.fromkeys(self._expr.meta.root_names()))
        except pl.exceptions.PolarsError as exc:
            raise JobError(
                f"input.where: not a SQL predicate (got {text!r}: {_first_line(exc)}). Write one such as level >= 4."
            ) from exc
        if not self.columns:
            raise JobError(f"input.where: names no column (got {text!r}). Write a condition such as level >= 4.")

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        try:
            frame = pl.DataFrame(table.select(self.columns))
            result = frame.select(self._expr.alias("_"))["_"]
        except pl.exceptions.PolarsError as exc:
            raise JobError(
                f"input.where: cannot be evaluated (got {self._text!r}: {_first_line(exc)}). Correct the condition."
            ) from exc
        if result.dtype != pl.Boolean or len(result) != table.num_rows:
            got = result.dtype if result.dtype != pl.Boolean else "one value for many rows"
            raise JobError(
                f"input.where: not a condition on a row (got {got}, need true or false for each). "
                "Write one such as level >= 4."
            )
        return pa.chunked_array([result.fill_null(False).to_arrow()])


def _read_parquet(
    file: InputFile, columns: list[str], predicate: _Predicate | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with _reading(file), file.open() as handle, pq.ParquetFile(handle) as parquet:
        row = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            mask = predicate.mask(parquet.read_row_group(group, list(predicate.columns))) if predicate else None
            if mask is None or pc.any(mask).as_py():
                offset = 0
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns or None):
                    end = offset + batch.num_rows
                    kept = batch.select(columns)
                    kept.validate(full=True)  # text that is not UTF-8 would surface much later, as a crash
                    if mask is not None:
                        kept = kept.filter(mask.slice(offset, batch.num_rows).combine_chunks())
                    yield row + offset, kept
                    offset = end
            row += size


def _read_jsonl(
    file: InputFile, columns: list[str], predicate: _Predicate | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with _reading(file), file.open() as handle:
        row = 0
        for batch in _open_json(handle):
            kept = batch.select(columns)
            if predicate is not None:
                kept = kept.filter(predicate.mask(pa.table(batch)).combine_chunks())
            for start in range(0, kept.num_rows, BATCH_ROWS):
                yield row + start, kept.slice(start, BATCH_ROWS)
            row += batch.num_rows


def _refuse_changed(file: InputFile) -> None:
    found = file.storage.find_file(file.rel)
    if found is None or found.version != file.version:
        raise StorageError(
            f"{file.uri}: changed since this command began (got {'no file' if found is None else 'another version'}, "
            "need the one that its ids were read from). Run the same command again."
        )


def _schema_of(file: InputFile) -> pa.Schema:
    with _reading(file), file.open() as handle:
        if file.format == "parquet":
            return pq.read_schema(handle)
        return _open_json(handle).schema


def _open_json(handle: Any) -> pj.JSONStreamingReader:
    """A reader of JSON lines. Text that looks like a date stays text: Arrow alone would make an instant of it."""
    options = pj.ReadOptions(block_size=_JSON_BLOCK_BYTES)
    found = pj.open_json(handle, read_options=options).schema
    handle.seek(0)
    as_text = pa.schema([pa.field(f.name, _dates_as_text(f.type)) for f in found])
    return pj.open_json(handle, read_options=options, parse_options=pj.ParseOptions(explicit_schema=as_text))


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
        broken = isinstance(exc, pa.ArrowException) or (isinstance(exc, OSError) and exc.errno is None)
        if exc is not None and broken and not isinstance(exc, MemoryError):
            what = "Parquet" if self._file.format == "parquet" else "JSON lines"
            raise InputError(
                f"{self._file.uri}: not a readable {what} file ({_first_line(exc)}). Write it again, or take it out."
            ) from exc


def content_id(content: Any) -> str:
    """The id of a row that has none: 128-bit hash of what it asks, hexadecimal."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as every reader knows it and as Parquet gives it back: no dictionaries, no views, no 64-bit offsets.

    Instants are in UTC, lists have no fixed size, a duration is a number in its own unit: Parquet has no more.
    """
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, tz="UTC")
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, plain_type(f.type)) for f in kind])
    if pa.types.is_null(kind):
        return pa.string()
    return kind


def _kept_names(
    keep: list[str] | dict[str, str] | str, schema: pa.Schema, file: str, spec: InputSpec
) -> dict[str, str]:
    """{name in the output: name in the input}"""
    if keep == "all":
        pairs = [(f"input_{n}" if n in NAMES else n, n) for n in schema.names if n != spec.id]
        for new, old in pairs:
            if [n for n, _ in pairs].count(new) > 1:
                raise JobError(
                    f"output.keep: all would give two columns the name {new!r} (one is {old!r} in {file}). "
                    "List the columns to keep, or give them names: keep: {new_name: old_name}."
                )
        return dict(pairs)
    chosen = dict(keep) if isinstance(keep, dict) else {name: name for name in keep}
    for new, old in chosen.items():
        if new in NAMES:
            raise JobError(
                f"output.keep: {new!r} is a column of the output already. Rename it: keep: {{input_{new}: {old}}}."
            )
    return chosen


def _template_fields(template: str) -> tuple[str, ...]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise JobError(f"input.template: braces do not match ({exc}). Write {{{{ and }}}} for literal braces.") from exc
    names = []
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name or not name.replace("_", "a").isalnum() or spec or conversion:
            raise JobError(f"input.template: {{{name}}} is not a plain column name. Write {{{{ and }}}} for braces.")
        names.append(name)
    if not names:
        raise JobError("input.template: names no column. Write {column} where a column's text belongs.")
    return tuple(dict.fromkeys(names))


def _is_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_string(kind))


def _is_messages(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _is_answer(kind: pa.DataType) -> bool:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(numeric or _is_text(kind))


_TYPE_CHECKS: dict[str, Callable[[pa.DataType], bool]] = {
    "any": lambda kind: True,
    "text": _is_text,
    "text or whole numbers": lambda kind: _is_text(kind) or pa.types.is_integer(kind),
    "a list of {role, content}": _is_messages,
    "text or numbers": _is_answer,
    "whole numbers": lambda kind: pa.types.is_integer(kind),
}


def _as_text(column: pa.Array) -> list[str | None]:
    return [None if v is None else v if isinstance(v, str) else str(v) for v in column.to_pylist()]


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")


def key_hashes(ids: Sequence[str]) -> np.ndarray[Any, Any]:
    """128-bit hashes of ids: shape (len(ids), 2), unsigned 64-bit. Stable over versions and machines."""
    digests = b"".join(hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=16).digest() for i in ids)
    hashes: np.ndarray[Any, Any] = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    return hashes
