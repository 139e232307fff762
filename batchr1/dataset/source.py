"""Rows of data files, streamed.

Only the columns that a job names are read, one batch at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.dataset.columns import check_columns, kept_columns, kept_types, template_fields
from batchr1.dataset.messages import as_messages
from batchr1.dataset.predicate import Predicate
from batchr1.dataset.readers import forms_of, open_files, prefetched, refuse_changed
from batchr1.dataset.sampling import count_groups, read_spread
from batchr1.dataset.types import is_json, plain_type, unread_by
from batchr1.dataset.values import (
    gold_texts,
    id_texts,
    is_valid,
    joined_ids,
    own_sampling,
    python_values,
    scalar_texts,
    to_plain,
)
from batchr1.errors import InputError
from batchr1.job.spec import InputSpec
from batchr1.records import RowSampling
from batchr1.storage.inputs import InputFile


@dataclass(frozen=True, slots=True)
class Position:
    """A row's place in the input: file and number from 0."""

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
        self._predicate = Predicate(spec.where) if spec.where else None
        self._template_fields = template_fields(spec.template) if spec.template is not None else ()
        compared = self._predicate.columns if self._predicate else ()
        forms = forms_of(spec, self._template_fields)
        self._files = open_files(files, self._named(keep, compared), forms)
        self.kept_names = kept_columns(keep, self._files, spec)
        check_columns(self._files, spec, self._template_fields, compared, self.kept_names)
        self._kept_types = kept_types(self._files, self.kept_names)
        self._set_kept_schema()
        self._all_files = self._files
        self._files = [file for file in self._files if file.num_rows != 0]

    def _named(
        self, keep: list[str] | dict[str, str] | str, compared: Sequence[str]
    ) -> list[str] | None:
        """The columns that the job names; None where it names all."""
        if keep == "all":
            return None
        spec, kept = self._spec, list(keep.values()) if isinstance(keep, dict) else list(keep)
        single = [*spec.id_columns, spec.prompt, spec.messages, spec.gold]
        single += [spec.max_tokens, spec.expected_tokens, *spec.sampling.columns.values()]
        named = [*(name for name in single if name), *self._template_fields, *compared, *kept]
        return list(dict.fromkeys(named))

    def _set_kept_schema(self) -> None:
        fields = [pa.field(new, plain_type(kind)) for new, kind in self._kept_types.items()]
        self.kept_schema = pa.schema(fields)

    @property
    def unsure_kept(self) -> list[str]:
        """Kept columns whose type an earlier output may know better.

        Null in every row; JSON, and old timestamps, which were kept in another type once.
        """
        old = frozenset[str]().union(*(file.int96 for file in self._files))
        return [
            new
            for new, kind in self._kept_types.items()
            if pa.types.is_null(kind) or is_json(kind) or self.kept_names[new] in old
        ]

    @property
    def unread_kept(self) -> dict[str, tuple[str, ...]]:
        """Kept columns that some libraries cannot read, and which."""
        found = {field.name: unread_by(field.type) for field in self.kept_schema}
        return {name: readers for name, readers in found.items() if readers}

    def keep_as(self, types: Mapping[str, pa.DataType]) -> None:
        """Give `unsure_kept` columns the types that an output has them in already."""
        for name in self.unsure_kept:
            if name in types:
                place = self.kept_schema.get_field_index(name)
                self.kept_schema = self.kept_schema.set(place, pa.field(name, types[name]))

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """The input columns that a prompt is made of."""
        single = self._spec.prompt or self._spec.messages
        return (single,) if single else self._template_fields

    @cached_property
    def id_columns(self) -> tuple[str, ...]:
        """The columns of ids: those of `id`, or the prompt's."""
        return self._spec.id_columns or self.prompt_columns

    @cached_property
    def row_columns(self) -> tuple[str, ...]:
        """The columns that a run reads: nothing else is decoded."""
        spec = self._spec
        extra = [c for c in (spec.gold, spec.max_tokens, spec.expected_tokens) if c]
        extra += spec.sampling.columns.values()
        return tuple(
            dict.fromkeys(
                [*self.id_columns, *self.prompt_columns, *extra, *self.kept_names.values()]
            )
        )

    @property
    def versions(self) -> dict[str, str]:
        """Each file's URI, and what changes when its content does."""
        files = [data.file for data in self._all_files]
        return {file.uri: f"{file.size} {file.version}{file.changed}" for file in files}

    def batches(
        self, columns: Sequence[str], *, only: Collection[str] | None = None
    ) -> Iterator[tuple[Position, pa.RecordBatch]]:
        """Read rows that pass `where` and `limit`, in file order.

        Each comes with the position of its first row.

        `only`: of the files with these URIs, and `limit` is the caller's business.

        The predicate's columns are read first; where no row of a Parquet row group passes, the
        others stay unread. Raises `StorageError` for a file that was replaced since: its rows would
        be taken for others.
        """
        left = self._spec.limit if only is None else None
        chosen = [file for file in self._files if only is None or file.uri in only]
        for file in prefetched(chosen, at_most=left):
            refuse_changed(file.file)
            for row, batch in file.read(columns, self._predicate):
                if left is not None:
                    batch = batch.slice(0, left)
                    left -= batch.num_rows
                if batch.num_rows:
                    yield Position(file.uri, row), batch
                if left == 0:
                    return

    def position(self, uri: str, number: int) -> Position:
        """Find the place of a file's `number`-th row that passes `where`.

        Reads up to there.
        """
        if self._predicate is None:
            return Position(uri, number)
        [file] = [file for file in self._files if file.uri == uri]
        for row, batch in file.read(self._predicate.columns):
            passing = np.flatnonzero(self._predicate.mask(pa.table(batch)).to_numpy())
            if number < len(passing):
                return Position(uri, row + int(passing[number]))
            number -= len(passing)
        raise AssertionError("a row that was counted must be there")

    def spread(
        self, columns: Sequence[str], at_most: int, *, else_about: int | None = None
    ) -> tuple[int, Iterator[pa.RecordBatch]]:
        """Count rows that pass `where` and `limit`; read some, evenly spread.

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
        """The ids of a batch; None where an id column is null."""
        return list(self.id_array(batch).to_pylist())

    def id_array(self, batch: pa.RecordBatch) -> pa.Array:
        """`ids` as a column of text, without an object for each."""
        names = self._spec.id_columns
        if not names:
            return pa.array([content_id(c) for c in self._raw_contents(batch)], pa.string())
        return joined_ids([self._id_column(batch, name) for name in names])

    def _id_column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        texts = id_texts(batch.column(name))
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid as exc:
            raise InputError(
                f"input.id: column {name!r} holds an id that is not valid Unicode "
                f"({str(exc).rstrip('.')}). Correct it."
            ) from exc
        return texts

    def describe(self, number: int) -> tuple[Position, str]:
        """Find the place and the id of the input's `number`-th row.

        Counted from 0 within `where` and `limit`. Reads ids up to there.
        """
        row, starts = 0, dict[str, int]()
        for position, batch in self.batches(self.id_columns):
            start = starts.setdefault(position.file, row)
            if number < row + batch.num_rows:
                place = self.position(position.file, number - start)
                return place, self.show_id(batch, number - row)
            row += batch.num_rows
        raise AssertionError("a row that was counted must be there")

    def show_id(self, batch: pa.RecordBatch, row: int) -> str:
        """Show a row's id for people: of several columns, with their names."""
        names = self._spec.id_columns
        if len(names) < 2:
            return repr(self.ids(batch.slice(row, 1))[0])
        values = (self._id_column(batch.slice(row, 1), name)[0].as_py() for name in names)
        pairs = zip(names, values, strict=True)
        return ", ".join(f"{name} {'null' if v is None else repr(v)}" for name, v in pairs)

    def bad_texts(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Find gold or kept values that are no valid Unicode.

        Row by row, with the column. Only JSON lines have them: a lone surrogate, where a text was
        cut.
        """
        gold = [self._spec.gold] if self._spec.gold else []
        found: dict[int, str] = {}
        for name in dict.fromkeys([*gold, *self.kept_names.values()]):
            if is_valid(batch.column(name)):
                continue
            for row in range(batch.num_rows):
                if not is_valid(batch.column(name).take(pa.array([row]))):
                    found.setdefault(row, name)
        return found

    def contents(self, batch: pa.RecordBatch) -> list[Any]:
        """Read the prompt of each row: text, messages, or None."""
        found = self._raw_contents(batch)
        return found if self._spec.messages is None else [as_messages(value) for value in found]

    def _raw_contents(self, batch: pa.RecordBatch) -> list[Any]:
        """The same as the input has it: ids come from it."""
        if self._spec.template is not None:
            columns = [scalar_texts(batch.column(c)) for c in self._template_fields]
            rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
            return [self._fill(row) for row in rows]
        return python_values(batch.column(self.prompt_columns[0]))

    def golds(self, batch: pa.RecordBatch) -> list[str | None]:
        """The right answers as text; null, NaN and blank are None."""
        if self._spec.gold is None:
            return [None] * batch.num_rows
        return gold_texts(batch.column(self._spec.gold))

    def caps(self, batch: pa.RecordBatch) -> list[int | None]:
        """The rows' own caps of new tokens."""
        name = self._spec.cap
        return list(batch.column(name).to_pylist()) if name else [None] * batch.num_rows

    def own_sampling(self, batch: pa.RecordBatch) -> list[RowSampling]:
        """Read the rows' own keys of sampling, but for the cap."""
        return own_sampling(batch, self._spec.sampling.columns)

    def expected_tokens(self, batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
        """Read the expected new tokens; NaN where a row is silent.

        Null, below 0 and ∞ say nothing.
        """
        if self._spec.expected_tokens is None:
            nothing: np.ndarray[Any, Any] = np.full(batch.num_rows, np.nan)
            return nothing
        column = to_plain(batch.column(self._spec.expected_tokens)).cast(pa.float64(), safe=False)
        values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
        known: np.ndarray[Any, Any] = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
        return known

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The kept columns of a batch, renamed, in plain types."""
        columns = [
            self._kept(batch.column(old), old, self.kept_schema.field(new).type)
            for new, old in self.kept_names.items()
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.kept_schema)

    def _kept(self, column: pa.Array, name: str, kind: pa.DataType) -> pa.Array:
        try:
            column = to_plain(column, kind)
            column.validate(full=True)
        except (pa.ArrowException, UnicodeEncodeError) as exc:
            raise InputError(
                f"output.keep: column {name!r} holds a value that {kind} cannot hold "
                f"({str(exc).partition(chr(10))[0].rstrip('.')}). Correct it, or do not keep it."
            ) from exc
        return column

    def samples(
        self, rows: int, *, files: int | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Some rows of every file that pass `where`, with its URI.

        `files`: of so many files, evenly spread. With `limit`, only its first rows.
        """
        if self._spec.limit is not None:
            for position, batch in self.batches(self.row_columns):
                yield position.file, batch.slice(0, 4 * rows)
                return
            return
        chosen = self._files
        if files is not None and files < len(chosen):
            places = np.linspace(0, len(chosen) - 1, files).astype(int).tolist()
            chosen = [chosen[place] for place in places]
        compared = self._predicate.columns if self._predicate else ()
        columns = list(dict.fromkeys([*self.row_columns, *compared]))
        for file in prefetched(chosen):
            for batch in file.sample(columns, rows):
                if self._predicate is not None:
                    table = pa.table(batch)
                    mask = self._predicate.select(iter([table]), batch.num_rows)
                    batch = batch.filter(pa.array(mask))
                if batch.num_rows:
                    yield file.uri, batch.select(list(self.row_columns))

    def _fill(self, row: tuple[str | None, ...]) -> str | None:
        if any(value is None for value in row):
            return None
        values = dict(zip(self._template_fields, row, strict=True))
        return str(self._spec.template).format_map(values)


def content_id(content: Any) -> str:
    """Hash what a row asks to an id: 128 bits, hexadecimal."""
    text = (
        content
        if isinstance(content, str)
        else json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    )
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def key_hashes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Hash a column of text to 128 bits.

    Shape (len(ids), 2), unsigned 64-bit. The hashes are good within this process only.

    Two XXH3 hashes with seeds of their own; a cryptographic one costs 25 times as much, most of it
    in Python.
    """
    import polars as pl

    column = pl.Series(pl.from_arrow(ids))
    hashes: np.ndarray[Any, Any] = np.stack(
        [column.hash(1).to_numpy(), column.hash(2).to_numpy()], axis=1
    )
    return hashes
