"""Arrow types of input columns, their uses and output types.

The one place that knows them. `Source` refuses what is not listed here before a model loads;
docs/inputs.md holds the same table, written by `type_table` and held by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Use = Literal[
    "input.id",
    "input.prompt",
    "input.template",
    "input.messages",
    "input.gold",
    "input.max_tokens",
    "input.expected_tokens",
    "input.where",
    "output.keep",
]

MAX_DEPTH = 64
"""Lists, maps and structs within one another, at most: readers recurse, and so do we."""
MAX_DECIMAL_DIGITS = 38
"""Digits of a decimal that can be compared, at most: polars knows no more."""

_NEEDS: dict[Use, str] = {
    "input.id": "text or whole numbers",
    "input.prompt": "text",
    "input.template": "text, numbers, booleans, dates or times",
    "input.messages": "a list of {role, content}",
    "input.gold": "text or numbers",
    "input.max_tokens": "whole numbers",
    "input.expected_tokens": "numbers",
    "input.where": "a type that can be compared",
    "output.keep": "a type that every reader of Parquet knows",
}
USES: tuple[Use, ...] = tuple(_NEEDS)

_ROLE_AND_CONTENT = (("role", "content"), ("from", "value"))


@dataclass(frozen=True, slots=True)
class Misfit:
    """Reason why a type cannot be used, for an error message."""

    what: str
    got: str
    need: str


def misfit(use: Use, kind: pa.DataType) -> Misfit | None:
    """Say why a type cannot be used so, or None."""
    if pa.types.is_null(kind):  # nulls fit every type
        return None
    if depth(kind) > MAX_DEPTH:
        return Misfit("is nested too deep", f"{depth(kind)} levels", f"at most {MAX_DEPTH}")
    if use == "output.keep":
        return _misfit_of_kept(kind)
    if use == "input.where":
        found = next((part for part in _parts(kind) if not _has_order(part)), None)
        if found is None:
            return None
        return Misfit("has a type that cannot be compared", _short(found), _NEEDS[use])
    if use == "input.messages" and not is_json(kind) and _keys(kind) is not None:
        keys = _keys(kind) or ()
        if not any(set(pair) <= set(keys) for pair in _ROLE_AND_CONTENT):
            what = "has no role and content"
            return Misfit(what, ", ".join(keys[:12]) or "no key", _NEEDS[use])
        return None
    if _FITS[use](decoded(kind)) or (use == "input.messages" and is_json(kind)):
        return None
    return Misfit("has the wrong type", _short(kind), _NEEDS[use])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as every reader, and Parquet, gives it back.

    No dictionaries, no views, no extensions, no 64-bit offsets. Instants are in UTC, lists have no
    fixed size, a duration is a number in its own unit: Parquet has no more.
    """
    if is_uuid(kind):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, tz="UTC")
    if pa.types.is_duration(kind):
        return pa.int64()
    if _is_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, plain_type(f.type)) for f in kind])
    if pa.types.is_null(kind):
        return pa.string()
    return kind


def merged(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Merge a column's types in two files; None where they differ.

    Null fits every type, nested too. Both are plain but for nulls.
    """
    if pa.types.is_null(one):
        return other
    if pa.types.is_null(other) or plain_type(one) == plain_type(other):
        return one
    if is_list(one) and is_list(other):
        inner = merged(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_map(one) and pa.types.is_map(other):
        key = merged(one.key_type, other.key_type)
        item = merged(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        if [f.name for f in one] != [f.name for f in other]:
            return None
        inners = [merged(a.type, b.type) for a, b in zip(one, other, strict=True)]
        if any(inner is None for inner in inners):
            return None
        return pa.struct([pa.field(f.name, i) for f, i in zip(one, inners, strict=True)])
    return None


def decoded(kind: pa.DataType) -> pa.DataType:
    """The values' type: no dictionary, and JSON as its text."""
    if pa.types.is_dictionary(kind):
        return decoded(kind.value_type)
    if is_bool8(kind):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType) and not is_uuid(kind):
        return decoded(kind.storage_type)
    return kind


def depth(kind: pa.DataType) -> int:
    """Count types nested in one another; 1 for a plain one."""
    deepest, level = 1, [(kind, 1)]
    while level:
        inner, at = level.pop()
        deepest = max(deepest, at)
        if at <= MAX_DEPTH:
            level += [(child, at + 1) for child in _children(inner)]
    return deepest


def unread_by(kind: pa.DataType) -> tuple[str, ...]:
    """Name the libraries that cannot read this type as it is."""
    found: dict[str, None] = {}
    for part in _parts(kind):
        if pa.types.is_map(part):
            found["datasets"] = None
        if pa.types.is_decimal(part) and part.precision > MAX_DECIMAL_DIGITS:
            found |= {"polars": None, "duckdb": None}
    return tuple(found)


def has_extension(kind: pa.DataType) -> bool:
    """Whether the type is, or holds, one of Arrow's extension types."""
    return any(isinstance(part, pa.BaseExtensionType) for part in _parts(kind))


def has_null(kind: pa.DataType) -> bool:
    """Whether the type is, or holds, that of null columns."""
    return any(pa.types.is_null(part) for part in _parts(kind))


def is_uuid(kind: pa.DataType) -> bool:
    """Whether this is Arrow's UUID: 16 bytes, marked as such."""
    return bool(getattr(kind, "extension_name", "") == "arrow.uuid")


def is_json(kind: pa.DataType) -> bool:
    """Whether this is Arrow's JSON: text, marked as such."""
    return bool(getattr(kind, "extension_name", "") == "arrow.json")


def is_bool8(kind: pa.DataType) -> bool:
    """Whether this is Arrow's boolean of 8 bits."""
    return bool(getattr(kind, "extension_name", "") == "arrow.bool8")


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are text, however they are encoded."""
    return _is_string(decoded(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether the values are lists of any layout."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or is_list_view(kind)
    )


def is_list_view(kind: pa.DataType) -> bool:
    """Whether the values are lists that name their places themselves."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def has_list_view(kind: pa.DataType) -> bool:
    """Whether the type is, or holds, a list view.

    Arrow's own cast of one with nulls is wrong.
    """
    return any(is_list_view(part) for part in _parts(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _is_scalar(kind: pa.DataType) -> bool:
    """Whether a value has one usual form as text."""
    return bool(
        _is_string(kind)
        or is_uuid(kind)
        or _is_number(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
        or pa.types.is_time(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
    )


_FITS: dict[Use, Callable[[pa.DataType], bool]] = {
    "input.id": lambda kind: _is_string(kind) or pa.types.is_integer(kind) or is_uuid(kind),
    "input.prompt": _is_string,
    "input.template": _is_scalar,
    "input.messages": lambda kind: False,  # only a list of structs, looked at by its keys
    "input.gold": lambda kind: _is_string(kind) or _is_number(kind),
    "input.max_tokens": lambda kind: bool(pa.types.is_integer(kind)),
    "input.expected_tokens": _is_number,
}


def _keys(kind: pa.DataType) -> tuple[str, ...] | None:
    """The keys of a list of structs; None for others."""
    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return None
    return tuple(field.name for field in kind.value_type)


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [] if is_uuid(kind) else [kind.storage_type]
    if pa.types.is_dictionary(kind):
        return [kind.value_type]
    return [kind.field(i).type for i in range(kind.num_fields)]


def _parts(kind: pa.DataType) -> list[pa.DataType]:
    """The type and all that are nested in it, outermost first."""
    found, waiting = [], [kind]
    while waiting:
        part = waiting.pop(0)
        found.append(part)
        waiting += _children(part)
    return found


def _is_unknown(kind: pa.DataType) -> bool:
    """Whether Parquet, or polars, has no such type."""
    return bool(
        pa.types.is_union(kind)
        or pa.types.is_run_end_encoded(kind)
        or pa.types.is_interval(kind)
        or (pa.types.is_struct(kind) and kind.num_fields == 0)
        or (pa.types.is_fixed_size_binary(kind) and kind.byte_width == 0)
    )


def _has_order(kind: pa.DataType) -> bool:
    if pa.types.is_decimal(kind) and kind.precision > MAX_DECIMAL_DIGITS:
        return False
    has_size = not (pa.types.is_fixed_size_list(kind) and kind.list_size == 0)
    return not is_list_view(kind) and has_size and not _is_unknown(kind)


def _misfit_of_kept(kind: pa.DataType) -> Misfit | None:
    for part in _parts(kind):
        if pa.types.is_struct(part) and part.num_fields == 0:
            return Misfit(
                "holds objects without any key", "struct<>", "at least one key: Parquet has none"
            )
        if _is_unknown(part):
            return Misfit("has a type that Parquet lacks", _short(part), _NEEDS["output.keep"])
        if pa.types.is_struct(part):
            names = [field.name.casefold() for field in part]
            if "" in names:
                return Misfit("has a key without a name", "''", "a name: DuckDB makes one up")
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                return Misfit(
                    "has a key twice", f"two keys {twice!r} without regard to case", "one"
                )
    return None


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 120 else f"{text[:117]}..."


_EXAMPLES: tuple[tuple[str, pa.DataType], ...] = (
    ("null (a column without any value)", pa.null()),
    ("text: string, large_string, string_view", pa.string()),
    ("whole numbers: int8 to uint64", pa.int64()),
    ("floats: 16, 32, 64 bits", pa.float64()),
    ("decimal up to 38 digits", pa.decimal128(38, 2)),
    ("decimal beyond 38 digits", pa.decimal256(76, 2)),
    ("bool", pa.bool_()),
    ("date32, date64", pa.date32()),
    ("time32, time64", pa.time64("us")),
    ("timestamp, INT96", pa.timestamp("us")),
    ("duration", pa.duration("us")),
    ("UUID", pa.uuid()),
    ("JSON (text that is marked as such)", pa.json_()),
    ("binary, fixed_size_binary", pa.binary()),
    (
        "list of {role, content} or {from, value}",
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    ),
    ("other lists", pa.list_(pa.int64())),
    ("list_view", pa.list_view(pa.int64())),
    ("map", pa.map_(pa.string(), pa.int64())),
    ("struct", pa.struct([("a", pa.int64())])),
    ("struct without fields ({} in every row)", pa.struct([])),
    ("dictionary: as its values", pa.dictionary(pa.int32(), pa.string())),
    ("union, interval, run-end encoded", pa.month_day_nano_interval()),
)


def type_table() -> str:
    """The table of docs/inputs.md, in Markdown."""
    heads = ["type", *(use.partition(".")[2] for use in USES)]
    heads += ["in the output", "not read by", "in JSON lines"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for name, kind in _EXAMPLES:
        cells = ["yes" if misfit(use, kind) is None else "–" for use in USES]
        is_kept = misfit("output.keep", kind) is None
        shown = f"`{plain_type(kind)}`" if is_kept else "–"
        cells += [shown, ", ".join(unread_by(kind)) if is_kept else "–"]
        cells += [_as_json(plain_type(kind)) if is_kept else "–"]
        lines.append(" | ".join([name, *cells]).replace("|  |", "| |"))
    return "\n".join(f"| {line} |" for line in lines)


def _as_json(kind: pa.DataType) -> str:
    """Name a kept value's form in lines of JSON."""
    if _is_string(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "number"
    if pa.types.is_floating(kind):
        return "number, null for NaN and ∞"
    if pa.types.is_boolean(kind):
        return "true, false"
    if pa.types.is_binary(kind):
        return "text in base64"
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return "text in ISO 8601"
    if pa.types.is_decimal(kind):
        return "text"
    if pa.types.is_map(kind):
        return "list of [key, value]"
    return "object" if pa.types.is_struct(kind) else "list"
