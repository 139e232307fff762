"""JSON lines as batches of the fields that a job names.

Types are found by reading. A field of text is known from its first value; one whose type may still
change (null, whole numbers, objects) is looked at to the end of the file. Text that looks like a
date stays text. Each line is parsed by itself, by Python's own parser: its depth is bounded, and a
line that is no JSON costs no process.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from batchr1.dataset.types import MAX_DEPTH, depth, is_json, is_list
from batchr1.dataset.values import as_bytes_type
from batchr1.errors import InputError

BLOCK_ROWS = 4096
BLOCK_BYTES = 16 * 2**20
_UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)
MAX_LINE_BYTES = 256 * 2**20
"""Bytes of a line, at most."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in sequence: number of the first, lines, fields."""

    first_row: int
    lines: list[int]
    rows: list[dict[str, Any]]


def bounded_lines(handle: BinaryIO, uri: str, unit: str) -> Iterator[bytes]:
    """Read lines of bounded length, without a mark of byte order.

    Raises `InputError` for one that is too long.
    """
    number = 0
    while line := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{uri}: line {number:,}: too long (got more than {MAX_LINE_BYTES:,} bytes). Write "
                f"one {unit} a line."
            )
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


class JsonLines:
    """Fields of one file of JSON lines.

    `uri`: for messages. `names`: fields to read; None: all that there are. `as_text`: those of them
    whose numbers may stand beside text, and are then text. `as_json`: those whose values may be of
    several shapes, and are then JSON text.
    """

    def __init__(
        self,
        uri: str,
        names: Sequence[str] | None,
        *,
        as_text: Collection[str] = (),
        as_json: Collection[str] = (),
    ) -> None:
        self._uri = uri
        self._names = None if names is None else list(names)
        self._as_text, self._as_json = frozenset(as_text), frozenset(as_json)

    def schema(self, handle: BinaryIO) -> tuple[pa.Schema, bool]:
        """Find the types of the fields, and whether there is any row.

        A field that no row has is left out, and all fields of the first block are named.
        """
        types: dict[str, pa.DataType] = {}
        others: dict[str, None] = {}
        for number, block in enumerate(self._blocks(handle)):
            if number == 0 or self._names is None:
                for row in block.rows:
                    others.update(dict.fromkeys(row))
            for name in list(others) if self._names is None else self._names:
                self._learn(types, name, block)
            if self._names is not None and all(
                name in types and _is_settled(types[name]) for name in self._names
            ):
                break
        for name in [name for name in others if not _is_unicode(name)]:
            if self._names is None:
                raise InputError(
                    f"{self._uri}: a field's name is not valid Unicode (got {name!r}). List the "
                    "columns to keep."
                )
            del others[name]
        fields = [pa.field(name, kind) for name, kind in types.items()]
        fields += [pa.field(name, pa.null()) for name in others if name not in types]
        return pa.schema(fields), bool(fields)

    def batches(
        self, handle: BinaryIO, types: dict[str, pa.DataType]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches, each with its first row's number; `types` as of `schema`."""
        names = list(types) if self._names is None else self._names
        schema = pa.schema([pa.field(name, types[name]) for name in names])
        for block in self._blocks(handle):
            columns = [self._column(block, name, types[name]) for name in names]
            if not columns:  # rows without any field that is wanted still count
                empty = pa.record_batch({"_": pa.nulls(len(block.rows))})
                yield block.first_row, empty.select([])
                continue
            yield block.first_row, pa.RecordBatch.from_arrays(columns, schema=schema)

    def _blocks(self, handle: BinaryIO) -> Iterator[Block]:
        row = 0
        block, size = Block(0, [], []), 0
        for number, line in enumerate(bounded_lines(handle, self._uri, "object"), 1):
            if line.isspace():
                continue
            block.rows.append(self._parse(line, number))
            block.lines.append(number)
            row, size = row + 1, size + len(line)
            if len(block.rows) >= BLOCK_ROWS or size >= BLOCK_BYTES:
                yield block
                block, size = Block(row, [], []), 0
        if block.rows:
            yield block

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            value = _loaded(line.decode("utf-8", "surrogateescape"))
        except RecursionError as exc:
            raise InputError(
                f"{self._uri}: line {number:,}: nested too deep (got about as many brackets as "
                f"{line.count(b'[') + line.count(b'{'):,}, need at most {MAX_DEPTH} levels). Take "
                "the line out."
            ) from exc
        except ValueError as exc:
            what = str(exc).partition(": line ")[0]
            raise InputError(
                f"{self._uri}: line {number:,}: not a readable JSON lines file ({what}). Correct "
                "the line, or take it out."
            ) from exc
        if not isinstance(value, dict):
            raise InputError(
                f"{self._uri}: line {number:,}: not a readable JSON lines file (got "
                f"{_kind_of(value)}, need an object). Write one object a line."
            )
        if not line.isascii():
            self._refuse_not_utf8(line, number, value)
        return value

    def _refuse_not_utf8(self, line: bytes, number: int, row: dict[str, Any]) -> None:
        """Raise `InputError` where a named field's bytes are no text."""
        try:
            line.decode()
        except UnicodeDecodeError as exc:
            names = list(row) if self._names is None else self._names
            fields = [name for name in names if not _is_unicode(row.get(name))]
            if fields:
                raise InputError(
                    f"{self._uri}: line {number:,}: not a readable JSON lines file ({fields[0]!r} "
                    "holds bytes that are not UTF-8). Correct the line, or take it out."
                ) from exc

    def _learn(self, types: dict[str, pa.DataType], name: str, block: Block) -> None:
        known = types.get(name)
        if known is not None and _is_settled(known):
            return
        if known is None and not any(name in row for row in block.rows):
            return
        values = [row.get(name) for row in block.rows]
        if name in self._as_text and _mixes_text(known, values):
            types[name] = pa.string()
            return
        try:
            found = _unified(known, pa.infer_type(values))
            if name in self._as_json:
                self._column(block, name, found)
        except (InputError, *_UNFIT) as exc:
            if name not in self._as_json:
                raise self._several_types(block, name, known) from exc
            found = pa.json_()
        if depth(found) > MAX_DEPTH:
            raise InputError(
                f"{self._uri}: {name!r}: nested too deep (got {depth(found)} levels, need at most "
                f"{MAX_DEPTH}). Take the field out."
            )
        types[name] = found

    def _column(self, block: Block, name: str, kind: pa.DataType) -> pa.Array:
        values = [row.get(name) for row in block.rows]
        if is_json(kind):
            texts = [None if v is None else json.dumps(v, ensure_ascii=True) for v in values]
            return pa.ExtensionArray.from_storage(kind, pa.array(texts, kind.storage_type))
        if name in self._as_text and pa.types.is_string(kind):
            values = [_plain_text(value) for value in values]
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if is_number and any(value is True or value is False for value in values):
            raise self._several_types(block, name, kind)  # Arrow takes true for 1.0
        try:
            return pa.array(values, kind)
        except UnicodeEncodeError:
            return _unsafe_text(values, kind)
        except _UNFIT as exc:
            raise self._several_types(block, name, kind) from exc

    def _several_types(self, block: Block, name: str, kind: pa.DataType | None) -> InputError:
        """Make the error for a value of another type, by line."""
        for line, row in zip(block.lines, block.rows, strict=True):
            value = row.get(name)
            try:
                known = _unified(kind, pa.infer_type([value]))
                pa.array([value], known)
            except UnicodeEncodeError:
                continue
            except _UNFIT:
                got, need = _kind_of(value), _named(kind)
                if got == need:
                    need = f"{need} of the same form"
                return InputError(
                    f"{self._uri}: line {line:,}: {name!r} has another type than before (got "
                    f"{got}, need {need}). Give the field one type."
                )
            kind = known
        return InputError(
            f"{self._uri}: line {block.lines[0]:,}: {name!r} cannot be read (got values of several "
            "types). Give the field one type."
        )


def _loaded(text: str) -> Any:
    """Parse a line; a number of thousands of digits is no error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=lambda digits: int(digits[:30]))


def _unified(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """Find the type that holds both.

    Null fits all, whole numbers fit floats, objects share keys.

    Raises `TypeError` where there is none.
    """
    if one is None or pa.types.is_null(one):
        return other
    if pa.types.is_null(other) or one == other:
        return one
    if pa.types.is_integer(one) and pa.types.is_floating(other):
        return other
    if pa.types.is_floating(one) and pa.types.is_integer(other):
        return one
    if is_list(one) and is_list(other):
        return pa.list_(_unified(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            fields[field.name] = _unified(fields.get(field.name), field.type)
        return pa.struct(list(fields.items()))
    raise TypeError(f"{one} and {other}")


def _is_settled(kind: pa.DataType) -> bool:
    """Whether no later value can widen the type."""
    if is_list(kind):
        return _is_settled(kind.value_type)
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_floating(kind)
        or is_json(kind)
    )


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _mixes_text(known: pa.DataType | None, values: list[Any]) -> bool:
    """Whether these are plain values, text and numbers together with those before."""
    kinds = {type(value) for value in values} - {type(None)}
    if known is not None and pa.types.is_string(known):
        kinds.add(str)
    elif known is not None and not pa.types.is_null(known):
        kinds.add(float)
    return kinds <= {str, int, float} and str in kinds and len(kinds) > 1


def _plain_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def _unsafe_text(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Build a column with invalid Unicode, for rows to be refused."""
    return pa.array([_encoded(value) for value in values], as_bytes_type(kind)).view(kind)


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list):
        return [_encoded(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _encoded(inner) for key, inner in value.items()}
    return value


def _kind_of(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    names |= {list: "a list", dict: "an object"}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "a number beyond 64 bits"
    return names.get(type(value), "null")


def _named(kind: pa.DataType | None) -> str:
    if kind is None:
        return "one type"
    if pa.types.is_string(kind):
        return "text"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "true or false"
    return "a list" if is_list(kind) else "an object"
