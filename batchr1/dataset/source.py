"""Parquet and JSON lines → rows, streamed: only the columns that a job names, one batch in memory
at a time.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import string
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.columns import NAMES
from batchr1.dataset.readers import Predicate, read_jsonl, read_parquet, refuse_changed, schema_of
from batchr1.dataset.sampling import count_groups, read_spread
from batchr1.errors import InputError, JobError
from batchr1.job.spec import InputSpec
from batchr1.storage.base import InputFile


@dataclass(frozen=True, slots=True)
class Position:
    """Where a row stands in the input, for messages: file and row number from 0."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}: row {self.row}"


class Source:
    """A job's dataset.

    Opening it checks that files can be read and columns exist with usable types.
    """

    def __init__(
        self, spec: InputSpec, keep: list[str] | dict[str, str] | str, files: Sequence[InputFile]
    ) -> None:
        self._spec = spec
        self._files = list(files)
        self._predicate = Predicate(spec.where) if spec.where else None
        self._template_fields = _template_fields(spec.template) if spec.template is not None else ()
        schemas = [(file, schema_of(file)) for file in self._files]
        first_file, first = schemas[0]
        self.kept_names = _kept_names(keep, first, first_file.uri, spec)
        self._check_columns(schemas)
        fields = [
            pa.field(new, plain_type(first.field(old).type)) for new, old in self.kept_names.items()
        ]
        self.kept_schema = pa.schema(fields)

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The input columns that a prompt is made of."""
        single = self._spec.prompt or self._spec.messages
        return (single,) if single else self._template_fields

    @cached_property
    def id_columns(self) -> tuple[str, ...]:
        """The columns that ids are read from: the id column, or those of the prompt."""
        return (self._spec.id,) if self._spec.id else self.prompt_columns

    @cached_property
    def row_columns(self) -> tuple[str, ...]:
        """The columns that a run reads: nothing else is decoded."""
        spec = self._spec
        extra = [c for c in (spec.gold, spec.max_tokens, spec.expected_tokens) if c]
        return tuple(
            dict.fromkeys(
                [*self.id_columns, *self.prompt_columns, *extra, *self.kept_names.values()]
            )
        )

    @property
    def versions(self) -> dict[str, str]:
        """Each file's URI, and what changes when its content does."""
        return {file.uri: f"{file.size} {file.version}" for file in self._files}

    def batches(
        self, columns: Sequence[str], *, only: Collection[str] | None = None
    ) -> Iterator[tuple[Position, pa.RecordBatch]]:
        """Batches of the rows that pass `where` and `limit`, in file order, with the position of each one's first row.

        `only`: of the files with these URIs, and `limit` is the caller's business.

        The predicate's columns are read first; where no row of a Parquet row group passes, the
        others stay unread. Raises `StorageError` for a file that was replaced since: its rows would
        be taken for others.
        """
        left = self._spec.limit if only is None else None
        for file in self._files:
            if only is not None and file.uri not in only:
                continue
            refuse_changed(file)
            read = read_parquet if file.format == "parquet" else read_jsonl
            for row, batch in read(file, list(columns), self._predicate):
                if left is not None:
                    batch = batch.slice(0, left)
                    left -= batch.num_rows
                if batch.num_rows:
                    yield Position(file.uri, row), batch
                if left == 0:
                    return

    def position(self, uri: str, number: int) -> Position:
        """Where the `number`-th row (from 0) of a file that passes `where` stands in it.

        Reads up to there.
        """
        if self._predicate is None:
            return Position(uri, number)
        [file] = [file for file in self._files if file.uri == uri]
        read = read_parquet if file.format == "parquet" else read_jsonl
        for row, batch in read(file, list(self._predicate.columns), None):
            passing = np.flatnonzero(self._predicate.mask(pa.table(batch)).to_numpy())
            if number < len(passing):
                return Position(uri, row + int(passing[number]))
            number -= len(passing)
        raise AssertionError("a row that was counted must be there")

    def spread(
        self, columns: Sequence[str], at_most: int, *, else_about: int | None = None
    ) -> tuple[int, Iterator[pa.RecordBatch]]:
        """How many rows pass `where` and `limit`, and batches of all of them, or of some, evenly spread.

        Where there are more than `at_most`, of about `else_about` (without it, `at_most`).

        The same rows each time. Row groups that hold none of them are not read.
        """
        limit = self._spec.limit
        if (
            limit is not None and limit <= at_most
        ):  # few rows: read up to the limit, not the whole input
            probe = self._predicate.columns if self._predicate else columns[:1]
            rows = sum(batch.num_rows for _, batch in self.batches(probe))
        else:
            counts = count_groups(self._files, columns[:1], self._predicate, limit)
            rows = sum(sum(groups) for groups in counts)
            if rows > at_most:
                return rows, read_spread(
                    self._files, columns, self._predicate, counts, else_about or at_most
                )
        return rows, (batch for _, batch in self.batches(columns))

    def ids(self, batch: pa.RecordBatch) -> list[str | None]:
        """The ids of a batch that has the id columns; None where the id column is null."""
        return list(self.id_array(batch).to_pylist())

    def id_array(self, batch: pa.RecordBatch) -> pa.Array:
        """`ids` as a column of text, without an object for each."""
        if not self._spec.id:
            return pa.array([content_id(c) for c in self.contents(batch)], pa.string())
        column = batch.column(self._spec.id)
        if pa.types.is_integer(column.type):
            return column.cast(pa.string())
        return (
            column if pa.types.is_string(column.type) else pa.array(column.to_pylist(), pa.string())
        )

    def contents(self, batch: pa.RecordBatch) -> list[Any]:
        """What each row asks: text, a list of messages, or None."""
        if self._spec.template is not None:
            columns = [batch.column(c).to_pylist() for c in self._template_fields]
            rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
            return [self._fill(row) for row in rows]
        return list(batch.column(self.prompt_columns[0]).to_pylist())

    def golds(self, batch: pa.RecordBatch) -> list[str | None]:
        """The right answers as text; numbers are written as Python writes them."""
        return (
            _as_text(batch.column(self._spec.gold)) if self._spec.gold else [None] * batch.num_rows
        )

    def caps(self, batch: pa.RecordBatch) -> list[int | None]:
        """The rows' own caps of new tokens."""
        name = self._spec.max_tokens
        return list(batch.column(name).to_pylist()) if name else [None] * batch.num_rows

    def expected_tokens(self, batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
        """The expected new tokens of the rows, as 64-bit floats: NaN where the row does not say
        (null, below 0, ∞).
        """
        if self._spec.expected_tokens is None:
            nothing: np.ndarray[Any, Any] = np.full(batch.num_rows, np.nan)
            return nothing
        column = batch.column(self._spec.expected_tokens).cast(pa.float64(), safe=False)
        values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
        known: np.ndarray[Any, Any] = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
        return known

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The kept columns of a batch, renamed, in plain types."""
        columns = [
            batch.column(old).cast(self.kept_schema.field(new).type)
            for new, old in self.kept_names.items()
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.kept_schema)

    def _fill(self, row: tuple[Any, ...]) -> str | None:
        if any(value is None for value in row):
            return None
        values = {name: str(value) for name, value in zip(self._template_fields, row, strict=True)}
        return str(self._spec.template).format_map(values)

    def _check_columns(self, schemas: Sequence[tuple[InputFile, pa.Schema]]) -> None:
        spec = self._spec
        wanted: list[tuple[str, str, str]] = [
            ("input.template", c, "any") for c in self._template_fields
        ]
        for key, name, need in (
            ("input.id", spec.id, "text or whole numbers"),
            ("input.prompt", spec.prompt, "text"),
            ("input.messages", spec.messages, "a list of {role, content}"),
            ("input.gold", spec.gold, "text or numbers"),
            ("input.max_tokens", spec.max_tokens, "whole numbers"),
            ("input.expected_tokens", spec.expected_tokens, "numbers"),
        ):
            if name is not None:
                wanted.append((key, name, need))
        wanted += [
            ("input.where", c, "any") for c in (self._predicate.columns if self._predicate else ())
        ]
        wanted += [("output.keep", c, "any") for c in self.kept_names.values()]
        first = schemas[0][1]
        for file, schema in schemas:
            for key, name, need in wanted:
                if schema.get_field_index(name) < 0:
                    near = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.6)
                    names = ", ".join(schema.names[:12]) + (", …" if len(schema.names) > 12 else "")
                    hint = f"Did you mean {near[0]}?" if near else "Name one of these."
                    raise InputError(
                        f"{file.uri}: {key}: there is no column {name!r} (the file has: "
                        f"{names}). "
                        f"{hint}"
                    )
                kind = schema.field(name).type
                if not _TYPE_CHECKS[need](kind):
                    raise InputError(
                        f"{file.uri}: {key}: column {name!r} has the wrong type (got {kind}, need "
                        f"{need}). "
                        "Name another column, or convert it."
                    )
                other = first.field(name).type
                if key == "output.keep" and plain_type(kind) != plain_type(other):
                    raise InputError(
                        f"{file.uri}: {key}: column {name!r} has another type than in the first "
                        f"file "
                        f"(got {kind}, need {other}). Convert it, or do not keep it."
                    )


def content_id(content: Any) -> str:
    """The id of a row that has none: 128-bit hash of what it asks, hexadecimal."""
    text = (
        content
        if isinstance(content, str)
        else json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    )
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as every reader knows it and as Parquet gives it back: no dictionaries, no views, no 64-bit offsets.

    Instants are in UTC, lists have no fixed size, a duration is a number in its own unit: Parquet
    has no more.
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
                    f"output.keep: all would give two columns the name {new!r} (one is {old!r} in "
                    f"{file}). "
                    "List the columns to keep, or give them names: keep: {new_name: old_name}."
                )
        return dict(pairs)
    chosen = dict(keep) if isinstance(keep, dict) else {name: name for name in keep}
    for new, old in chosen.items():
        if new in NAMES:
            raise JobError(
                f"output.keep: {new!r} is a column of the output already. Rename it: keep: "
                f"{{input_{new}: {old}}}."
            )
    return chosen


def _template_fields(template: str) -> tuple[str, ...]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise JobError(
            f"input.template: braces do not match ({exc}). Write {{{{ and }}}} for literal braces."
        ) from exc
    names = []
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name or name.isdigit() or not name.replace("_", "a").isalnum() or spec or conversion:
            raise JobError(
                f"input.template: {{{name}}} is not a plain column name. Write {{{{ and }}}} "
                f"for "
                f"braces."
            )
        names.append(name)
    if not names:
        raise JobError(
            "input.template: names no column. Write {column} where a column's text belongs."
        )
    return tuple(dict.fromkeys(names))


def _is_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_string(kind))


def _is_messages(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


_TYPE_CHECKS: dict[str, Callable[[pa.DataType], bool]] = {
    "any": lambda kind: True,
    "text": _is_text,
    "text or whole numbers": lambda kind: _is_text(kind) or pa.types.is_integer(kind),
    "a list of {role, content}": _is_messages,
    "text or numbers": lambda kind: _is_number(kind) or _is_text(kind),
    "numbers": _is_number,
    "whole numbers": lambda kind: pa.types.is_integer(kind),
}


def _as_text(column: pa.Array) -> list[str | None]:
    return [None if v is None else v if isinstance(v, str) else str(v) for v in column.to_pylist()]


def key_hashes(ids: pa.Array) -> np.ndarray[Any, Any]:
    """128-bit hashes of a column of text: shape (len(ids), 2), unsigned 64-bit. Good within this process only.

    Two XXH3 hashes with seeds of their own; a cryptographic one costs 25 times as much, most of it
    in Python.
    """
    import polars as pl

    column = pl.Series(pl.from_arrow(ids))
    hashes: np.ndarray[Any, Any] = np.stack(
        [column.hash(1).to_numpy(), column.hash(2).to_numpy()], axis=1
    )
    return hashes
