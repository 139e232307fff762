"""CSV and TSV as batches of the columns that a job names.

The first line names the columns. Python's own parser reads the rest, in its strict mode: quotes
stand around a whole field, and a quote within is doubled. Types are found by reading: see
`CsvLines`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc

from batchr1.dataset.lines.json_lines import BLOCK_BYTES, BLOCK_ROWS, MAX_LINE_BYTES, bounded_lines
from batchr1.errors import InputError

ColumnType = Literal["text", "int", "float", "bool"]

_TYPES: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# What a value of a type looks like. A leading zero makes text: 007 is no number.
_FORMS: dict[pa.DataType, str] = {
    pa.int64(): r"^-?(0|[1-9][0-9]*)$",
    pa.float64(): r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$",
    pa.bool_(): r"^(true|false|True|False|TRUE|FALSE)$",
}


class CsvLines:
    """Columns of one CSV or TSV file.

    `uri`: for messages. `names`: columns to read; None: all that there are. `types`: the types of
    some of them, as declared; JSON stands for text that is parsed later.

    Of a column without a declared type all values decide: int where each is a whole number of 64
    bits, float where each is a number, bool where each is true or false, else text. A field without
    a character is null.
    """

    def __init__(
        self,
        uri: str,
        names: Sequence[str] | None,
        *,
        delimiter: str,
        types: Mapping[str, pa.DataType],
    ) -> None:
        self._uri, self._delimiter = uri, delimiter
        self._names = None if names is None else list(names)
        self._declared = types

    def schema(self, handle: BinaryIO) -> tuple[pa.Schema, bool]:
        """Find the columns' types, and whether there is any row.

        Columns that are not named have the type null. A column that is there twice is named twice.
        """
        found: dict[str, pa.DataType] = {}
        has_rows = False
        head, blocks = self._open(handle)
        self._check_header(head)
        names = [name for name in (self._names or head) if name in head]
        for _, columns in blocks:
            has_rows = True
            for name in names:
                if name not in self._declared and not _is_settled(found.get(name)):
                    found[name] = _widened(found.get(name), columns[head.index(name)])
            if all(name in self._declared or _is_settled(found.get(name)) for name in names):
                break
        found |= {name: self._declared[name] for name in names if name in self._declared}
        fields = [pa.field(name, found.get(name, pa.null())) for name in head]
        return pa.schema(fields), has_rows

    def _check_header(self, head: list[str]) -> None:
        """Raise `InputError` for separators of another kind, and columns without a name."""
        need = {",": "commas", "\t": "tabs"}[self._delimiter]
        wanted = set(self._names or ())
        if len(head) == 1 and wanted - set(head) and re.search(r"[;,\t|]", head[0]):
            raise InputError(
                f"{self._uri}: line 1: its columns are not separated by {need} (got "
                f"{head[0][:60]!r}). Write it as .csv with commas, or as .tsv with tabs."
            )
        if self._names is None and "" in head:
            raise InputError(
                f"{self._uri}: line 1: column {head.index('') + 1} has no name (got an empty "
                "field). Give it one, or list the columns to keep."
            )

    def batches(
        self, handle: BinaryIO, types: Mapping[str, pa.DataType]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches, each with its first row's number; `types` as of `schema`."""
        head, blocks = self._open(handle)
        names = list(types) if self._names is None else self._names
        schema = pa.schema([pa.field(name, types[name]) for name in names])
        row = 0
        for lines, columns in blocks:
            arrays = [
                self._typed(name, columns[head.index(name)], types[name], lines) for name in names
            ]
            if arrays:
                yield row, pa.RecordBatch.from_arrays(arrays, schema=schema)
            else:  # rows without any column that is wanted still count
                yield row, pa.record_batch({"_": pa.nulls(len(lines))}).select([])
            row += len(lines)

    def _open(
        self, handle: BinaryIO
    ) -> tuple[list[str], Iterator[tuple[list[int], list[pa.Array]]]]:
        """Read the header; give it and the blocks of rows."""
        records = self._records(handle)
        _, head = next(records, (1, []))
        return head, self._blocks(records, head)

    def _blocks(
        self, records: Iterator[tuple[int, list[str]]], head: list[str]
    ) -> Iterator[tuple[list[int], list[pa.Array]]]:
        """Gather rows to columns of text, with the line of each row."""
        lines: list[int] = []
        rows: list[list[str]] = []
        size = 0
        for line, fields in records:
            if len(fields) != len(head):
                raise InputError(
                    f"{self._uri}: line {line:,}: another number of fields than in the header (got "
                    f"{len(fields)}, need {len(head)}). Correct the line, and quote fields that "
                    "hold separators or line breaks."
                )
            lines.append(line)
            rows.append(fields)
            size += sum(map(len, fields))
            if len(rows) >= BLOCK_ROWS or size >= BLOCK_BYTES:
                yield lines, _as_columns(rows)
                lines, rows, size = [], [], 0
        if rows:
            yield lines, _as_columns(rows)

    def _records(self, handle: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        """Parse the rows, each with the number of its first line.

        Empty lines are none.
        """
        csv.field_size_limit(MAX_LINE_BYTES)
        reader = csv.reader(self._lines(handle), delimiter=self._delimiter, strict=True)
        line = 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as exc:
                raise InputError(
                    f"{self._uri}: line {line:,}: not a readable CSV file ({exc}). Correct the "
                    "line: quote whole fields, double a quote within, and close each."
                ) from exc
            if fields is None:
                return
            if fields:
                yield line, fields
            line = reader.line_num + 1

    def _lines(self, handle: BinaryIO) -> Iterator[str]:
        """Decode line by line."""
        for number, line in enumerate(bounded_lines(handle, self._uri, "row"), 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as exc:
                got = "UTF-16" if number == 1 and line.startswith(_UTF_16) else "other bytes"
                raise InputError(
                    f"{self._uri}: line {number:,}: not UTF-8 (got {got}). Save the file as UTF-8."
                ) from exc

    def _typed(
        self, name: str, column: pa.Array, kind: pa.DataType, lines: Sequence[int]
    ) -> pa.Array:
        """Cast a column of text; `InputError` for what does not fit."""
        if pa.types.is_string(kind):
            return column
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, column.cast(kind.storage_type))
        if pa.types.is_null(kind):
            return pa.nulls(len(column))
        typed = _cast(column, kind)
        if typed is not None:
            return typed
        row = next(row for row in range(len(column)) if _cast(column.slice(row, 1), kind) is None)
        raise InputError(
            f"{self._uri}: line {lines[row]:,}: {name!r} has another type than declared (got "
            f"{column[row].as_py()[:40]!r}, need {_NAMES[kind]}). Correct the value, or "
            "input.types."
        )


def declared_type(name: ColumnType) -> pa.DataType:
    """Give the Arrow type that a job calls by this name."""
    return _TYPES[name]


def _as_columns(rows: list[list[str]]) -> list[pa.Array]:
    """Turn rows to columns; an empty field is null."""
    found = []
    for values in zip(*rows, strict=True):
        column = pa.array(values, pa.string())
        found.append(pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column))
    return found


def _widened(known: pa.DataType | None, column: pa.Array) -> pa.DataType:
    """Find the narrowest type of these values and those before."""
    if column.null_count == len(column):
        return known if known is not None else pa.null()
    kind = next((kind for kind in _FORMS if _cast(column, kind) is not None), pa.string())
    if kind == pa.float64():
        whole = column.filter(pc.match_substring_regex(column, _FORMS[pa.int64()]))
        if _cast(whole, pa.int64()) is None:  # digits that a float would lose
            return pa.string()
    if known is None or known in (kind, pa.null()):
        return kind
    if {known, kind} == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Cast texts to a type; None where one does not fit."""
    if pc.all(pc.match_substring_regex(column, _FORMS[kind])).as_py() is False:
        return None
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:  # a whole number beyond 64 bits
        return None


def _is_settled(kind: pa.DataType | None) -> bool:
    """Whether no later value can widen the type."""
    return kind is not None and pa.types.is_string(kind)
