"""Values of Arrow columns as Python values and as text.

Nanoseconds, and years past 9999, are text here: Python's own `datetime` holds neither.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchr1.dataset.types import (
    decoded,
    has_extension,
    has_list_view,
    is_bool8,
    is_list,
    is_list_view,
    is_uuid,
    plain_type,
)
from batchr1.records import RowSampling

_EPOCH = dt.datetime(1970, 1, 1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST_DAY, _LAST_DAY = -719162, 2932896  # 0001-01-01 and 9999-12-31, from 1970-01-01


GATHERED_BYTES = 2**24
"""Bytes of batches that are joined, at most, unless one is larger."""


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Join tiny batches to some of about `rows` rows."""
    waiting: list[pa.RecordBatch] = []
    num_rows = size = 0
    for batch in batches:
        if waiting and not batch.schema.equals(waiting[0].schema):
            yield from _joined(waiting)
            waiting, num_rows, size = [], 0, 0
        waiting.append(batch)
        num_rows, size = num_rows + batch.num_rows, size + batch.nbytes
        if num_rows >= rows or size >= GATHERED_BYTES:
            yield from _joined(waiting)
            waiting, num_rows, size = [], 0, 0
    yield from _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(batches) < 2:
        return batches
    try:
        joined: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    except pa.ArrowException:  # nested dictionaries, unlike one another
        return batches
    return joined


def to_plain(column: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """A column in its plain type, or in `kind`.

    Raises `ArrowInvalid` where a value does not fit.
    """
    kind = kind or plain_type(column.type)
    if column.type == kind:
        return column
    if has_extension(column.type) or has_list_view(column.type):
        column = _rebuilt(column)
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:
        return pa.array(python_values(column), kind)


def _rebuilt(column: Any) -> Any:
    """The same values without extensions and list views, however deep they lie."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        if is_uuid(kind):
            return pa.array(_uuids_as_text(column.to_pylist()), pa.string())
        return _rebuilt(column.storage)
    if not (has_extension(kind) or has_list_view(kind)):
        return column
    if pa.types.is_dictionary(kind):
        return _rebuilt(column.dictionary_decode())
    if pa.types.is_struct(kind):
        parts = [_rebuilt(part) for part in column.flatten()]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(parts, names=names, mask=column.is_null())
    starts, sizes = _layout(column)
    # Of a slice only its own part of the child is rebuilt.
    last = int((starts + sizes).max(initial=0))
    first = int(starts.min(initial=last))
    starts -= first
    # Values below null rows are left out: Arrow would give them to the row before.
    places = pa.array(
        np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    )
    ends = pa.array(np.concatenate([[0], np.cumsum(sizes)]))
    if pa.types.is_map(kind):
        inner = [to_plain(part[first:last]).take(places) for part in (column.keys, column.items)]
        return pa.MapArray.from_arrays(_nulled(ends, column).cast(pa.int32()), *inner)
    return pa.LargeListArray.from_arrays(
        _nulled(ends, column), to_plain(column.values[first:last]).take(places)
    )


def _layout(column: Any) -> tuple[Any, Any]:
    """Give start and size of each row of lists or maps.

    Both count values of the whole child, as arrays of int64; a null row has size 0.
    """
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        starts = (np.arange(len(column)) + column.offset) * kind.list_size
        sizes = np.full(len(column), kind.list_size)
    elif is_list_view(kind):
        starts, sizes = column.offsets.to_numpy(), column.sizes.to_numpy()
    else:
        offsets = column.offsets.to_numpy()
        starts, sizes = offsets[:-1], np.diff(offsets)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return starts.astype(np.int64), np.where(valid, sizes, 0).astype(np.int64)


def _nulled(offsets: pa.Array, column: pa.Array) -> pa.Array:
    """Offsets that are null where the column is, for Arrow."""
    valid = pa.concat_arrays([column.is_valid(), pa.array([True])])
    return pc.if_else(valid, offsets, pa.scalar(None, offsets.type))


def python_values(column: pa.Array | pa.ChunkedArray, *, separator: str = "T") -> list[Any]:
    """Convert a column to Python values.

    Instants that Python lacks are ISO 8601 text. Text that is no valid Unicode keeps its lone
    surrogates.
    """
    if isinstance(column, pa.ChunkedArray):
        parts = [python_values(chunk, separator=separator) for chunk in column.chunks]
        return [value for part in parts for value in part]
    kind = column.type
    if pa.types.is_dictionary(kind):
        return python_values(column.dictionary_decode(), separator=separator)
    if isinstance(column, pa.ExtensionArray):
        if is_uuid(kind):
            return list(_uuids_as_text(column.to_pylist()))
        if is_bool8(kind):
            return list(column.storage.cast(pa.bool_()).to_pylist())
        return python_values(column.storage, separator=separator)
    if (is_list(kind) or is_list_view(kind)) and _is_special(kind):
        return _rows(column, python_values(column.values, separator=separator))
    if pa.types.is_map(kind) and _is_special(kind):
        keys = python_values(column.keys, separator=separator)
        items = python_values(column.items, separator=separator)
        return _rows(column, list(zip(keys, items, strict=True)))
    if pa.types.is_struct(kind) and _is_special(kind):
        names = [field.name for field in kind]
        columns = [python_values(part, separator=separator) for part in column.flatten()]
        rows = zip(*columns, strict=True)
        return [
            dict(zip(names, row, strict=True)) if valid else None
            for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)
        ]
    if _is_special(kind):
        return _instants(column, separator)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return _with_surrogates(column)


def scalar_texts(column: pa.Array) -> list[str | None]:
    """A template's fields as text; None for null, NaN and ∞.

    Numbers and booleans are as Python writes them, instants as `2024-02-29 00:00:00.5`.
    """
    return [_scalar_text(value) for value in python_values(column, separator=" ")]


def temporal_as_text(table: pa.Table, names: Collection[str]) -> pa.Table:
    """Turn temporal columns of these names into text.

    Python has no year 10000.
    """
    for place, field in enumerate(table.schema):
        if field.name in names and pa.types.is_temporal(field.type):
            texts = [scalar_texts(chunk) for chunk in table.column(place).chunks]
            table = table.set_column(place, field.name, pa.chunked_array(texts, pa.string()))
    return table


def is_valid(column: pa.Array) -> bool:
    """Whether a column holds what its type says."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def own_sampling(batch: pa.RecordBatch, columns: Mapping[str, str]) -> list[RowSampling]:
    """Read rows' own keys of sampling.

    `columns`: what holds them, by key. The cap of tokens is none of them.
    """
    found: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    for key, name in columns.items():
        if key == "max_tokens":
            continue
        for row, value in zip(found, python_values(batch.column(name)), strict=True):
            if value is not None and value == value:  # pandas writes NaN for null
                row[key] = _OWN[key](value)
    return [RowSampling(**row) for row in found]


def _stops(value: str | Sequence[str | None]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(text or "" for text in value)


_OWN: dict[str, Callable[[Any], Any]] = {
    "temperature": float,
    "top_p": float,
    "seed": int,
    "stop": _stops,
}


def gold_texts(column: pa.Array) -> list[str | None]:
    """Write right answers as text; null, NaN and blank are None."""
    found: list[str | None] = []
    for value in python_values(column):
        if isinstance(value, float) and math.isnan(value):
            found.append(None)
            continue
        text = value if value is None or isinstance(value, str) else str(value)
        found.append(text if text and text.strip() else None)
    return found


def id_texts(column: pa.Array) -> pa.Array:
    """Ids as text: numbers in decimal, UUIDs with hyphens."""
    kind = decoded(column.type)
    if pa.types.is_dictionary(column.type):
        texts = id_texts(column.dictionary)
        return texts.take(column.indices)
    if is_uuid(kind) or isinstance(column, pa.ExtensionArray):
        return to_plain(column)
    return column if pa.types.is_string(kind) else column.cast(pa.string())


def joined_ids(columns: Sequence[pa.Array]) -> pa.Array:
    """Join columns of ids to one; null where one of them is.

    Their texts stand side by side with `/` between. Within a text, `%` is written %25 and `/` %2F,
    so that two rows with different values never have one id. A single column stays as it is.
    """
    if len(columns) == 1:
        return columns[0]
    escaped = []
    for column in columns:
        texts = pc.replace_substring(column, "%", "%25")
        escaped.append(pc.replace_substring(texts, "/", "%2F"))
    return pc.binary_join_element_wise(*escaped, "/")


def _scalar_text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return str(value)


def _is_special(kind: pa.DataType) -> bool:
    """Whether the type is, or holds, one whose values Python may lack."""
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return True
    if pa.types.is_duration(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    if pa.types.is_dictionary(kind):
        return _is_special(kind.value_type)
    return any(_is_special(kind.field(i).type) for i in range(kind.num_fields))


def _rows(column: Any, values: list[Any]) -> list[Any]:
    """Cut the child's values of lists or maps into rows."""
    places = zip(*(part.tolist() for part in _layout(column)), strict=True)
    valid = column.is_valid().to_pylist()
    return [
        values[start : start + size] if is_valid else None
        for (start, size), is_valid in zip(places, valid, strict=True)
    ]


def _instants(column: pa.Array, separator: str) -> list[Any]:
    kind = column.type
    convert: Callable[[int], Any]
    if pa.types.is_date(kind):
        numbers = column.cast(pa.date32()).cast(pa.int32())
        convert = _date
    elif pa.types.is_time(kind):
        unit = kind.unit
        numbers = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        convert = lambda number: _time(number, unit)  # noqa: E731
    elif pa.types.is_timestamp(kind):
        zone = kind.tz
        unit = kind.unit
        numbers = column.cast(pa.int64())
        convert = lambda number: _timestamp(number, unit, zone, separator)  # noqa: E731
    else:
        unit = kind.unit
        numbers = column.cast(pa.int64())
        convert = lambda number: _duration(number, unit)  # noqa: E731
    return [None if number is None else convert(number) for number in numbers.to_pylist()]


def _date(day: int) -> dt.date | str:
    if _FIRST_DAY <= day <= _LAST_DAY:
        return dt.date(1970, 1, 1) + dt.timedelta(days=day)
    return str(pc.cast(pa.scalar(day, pa.date32()), pa.string()).as_py())


def _time(number: int, unit: str) -> dt.time | str:
    nanoseconds = number * (10**9 // _PER_SECOND[unit])
    microseconds, rest = divmod(nanoseconds, 1000)
    value = (_EPOCH + dt.timedelta(microseconds=microseconds)).time()
    return f"{value.isoformat(timespec='microseconds')}{rest:03d}" if rest else value


def _timestamp(number: int, unit: str, zone: str | None, separator: str) -> dt.datetime | str:
    per_second = _PER_SECOND[unit]
    seconds, rest = divmod(number, per_second)
    nanoseconds = rest * (10**9 // per_second)
    day = seconds // 86400
    if not _FIRST_DAY < day < _LAST_DAY:
        text = str(pc.cast(pa.scalar(seconds, pa.timestamp("s")), pa.string()).as_py())
        offset = "+00:00" if zone is not None else ""
        return text.replace(" ", separator) + _fraction(nanoseconds) + offset
    value: dt.datetime = _EPOCH + dt.timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
    if zone is not None:
        value = pa.scalar(
            (value - _EPOCH) // dt.timedelta(microseconds=1), pa.timestamp("us", zone)
        ).as_py()
    if nanoseconds % 1000 == 0:
        return value
    text = value.replace(microsecond=0).isoformat(sep=separator)
    return text[:19] + _fraction(nanoseconds) + text[19:]


def _fraction(nanoseconds: int) -> str:
    if not nanoseconds:
        return ""
    return f".{nanoseconds:09d}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06d}"


def _duration(number: int, unit: str) -> dt.timedelta | str:
    nanoseconds = number * (10**9 // _PER_SECOND[unit])
    if nanoseconds % 1000 == 0 and abs(nanoseconds) < 10**9 * 86400 * 10**8:
        return dt.timedelta(microseconds=nanoseconds // 1000)
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}{_fraction(rest)} s"


def _uuids_as_text(value: Any) -> Any:
    """Nested Python values in which UUIDs are text."""
    if isinstance(value, list):
        return [_uuids_as_text(inner) for inner in value]
    if isinstance(value, tuple):
        return tuple(_uuids_as_text(inner) for inner in value)
    if isinstance(value, dict):
        return {key: _uuids_as_text(inner) for key, inner in value.items()}
    return str(value) if type(value).__name__ == "UUID" else value


def as_bytes_type(kind: pa.DataType) -> pa.DataType:
    """The same type with binary in the place of text."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(as_bytes_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, as_bytes_type(f.type)) for f in kind])
    return kind


def _with_surrogates(column: pa.Array) -> list[Any]:
    """Values of text that is not UTF-8, to be refused by row."""
    return [_as_text(value) for value in column.view(as_bytes_type(column.type)).to_pylist()]


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_as_text(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    return value
