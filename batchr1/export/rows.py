"""Exported rows, as chat messages or as the output's own columns.

They are written as Parquet or as JSON lines.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.columns import NAMES
from batchr1.dataset.rendering.turns import flat_turns
from batchr1.dataset.values import python_values
from batchr1.export.options import FileFormat
from batchr1.reasoning.formats import R1, Format

# Names that trainers give a meaning of their own: those of TRL's data collators and trainers.
TRAINERS_OWN = frozenset(
    {
        "messages",
        "prompt",
        "completion",
        "text",
        "image",
        "images",
        "video",
        "videos",
        "tools",
        "label",
        "labels",
        "chosen",
        "rejected",
        "input_ids",
        "attention_mask",
        "completion_mask",
        "assistant_masks",
        "position_ids",
        "seq_lengths",
        "chat_template_kwargs",
    }
)

_TEXTS = ("prompt", "prompt_messages", "reasoning", "answer")
_ROW_OWN = (
    "gold",
    "final_answer",
    "correct",
    "reasoning_tokens",
    "answer_tokens",
    "completion_tokens",
    "flags",
    "model",
)


def sft_columns(have: list[str]) -> list[str]:
    """List the output's columns that the sft form is made from."""
    return ["id", "sample", *_TEXTS, *_kept(have), *_ROW_OWN]


def sft_table(table: pa.Table, *, inline: bool, format: Format = R1) -> pa.Table:
    """Shape rows as `messages`.

    First the user turn or the dialogue, then the assistant's turn. Behind them stand id, sample,
    kept columns and `_ROW_OWN`. With `inline` the reasoning stands in the think tags of `format`
    before the answer, else beside it as `reasoning_content`.
    """
    turns = []
    for row in table.select(_TEXTS).to_pylist():
        asked: list[dict[str, Any]] = [{"role": "user", "content": row["prompt"]}]
        if row["prompt_messages"] is not None:
            asked = list(flat_turns(row["prompt_messages"]))
        said = {"role": "assistant", "content": row["answer"]}
        if inline:
            said["content"] = format.inline(row["reasoning"], row["answer"])
        else:
            said["reasoning_content"] = row["reasoning"]
        turns.append([*asked, said])
    names = ("role", "content") if inline else ("role", "content", "reasoning_content")
    turn = pa.struct([pa.field(name, pa.string()) for name in names])
    columns = {
        "messages": pa.array(turns, pa.list_(turn)),
        "id": table["id"],
        "sample": table["sample"],
    }
    kept = _kept(table.column_names)
    for name in kept:
        new = name
        while new in TRAINERS_OWN or (new != name and new in kept):
            new = f"kept_{new}"
        columns[new] = table[name]
    columns |= {name: table[name] for name in _ROW_OWN}
    return pa.table(columns)


def _kept(names: list[str]) -> list[str]:
    return [name for name in names if name not in NAMES]


class RowWriter:
    """Writer of tables of one shape to one file."""

    def __init__(self, path: Path, format: FileFormat) -> None:
        self._path, self._format = path, format
        self._parquet: pq.ParquetWriter | None = None
        self._lines: BinaryIO | None = None
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        if self._format == "jsonl":
            self._lines = self._lines or self._path.open("wb")
            columns = [python_values(column) for column in table.columns]
            for row in zip(*columns, strict=True):
                self._lines.write(json_line(dict(zip(table.column_names, row, strict=True))))
            return
        table = without_maps(table)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(
                self._path, table.schema, compression="zstd", version="2.6", store_schema=False
            )
        self._parquet.write_table(table)

    def size(self) -> int:
        """Estimate the bytes written so far."""
        return self._path.stat().st_size if self._path.exists() else 0

    def close(self) -> None:
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()


def without_maps(table: pa.Table) -> pa.Table:
    """Maps as lists of {key, value}: `datasets` knows no maps."""
    for place, field in enumerate(table.schema):
        kind = _without_map(field.type)
        if kind != field.type:
            column = table.column(place)
            chunks = [_lists_of(chunk) for chunk in column.chunks]
            table = table.set_column(place, field.name, pa.chunked_array(chunks, kind))
    return table


def _without_map(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_map(kind):
        pair = {"key": _without_map(kind.key_type), "value": _without_map(kind.item_type)}
        return pa.list_(pa.struct(list(pair.items())))
    if pa.types.is_list(kind):
        return pa.list_(_without_map(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _without_map(f.type)) for f in kind])
    return kind


def _lists_of(column: pa.Array) -> pa.Array:
    """A column whose maps are lists of {key, value}."""
    return pa.array([_pairs(value) for value in column.to_pylist()], _without_map(column.type))


def _pairs(value: Any) -> Any:
    """Turn lists of pairs, which maps are, into lists of objects."""
    if isinstance(value, list):
        if value and all(isinstance(pair, tuple) for pair in value):
            return [{"key": key, "value": _pairs(item)} for key, item in value]
        return [_pairs(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _pairs(inner) for key, inner in value.items()}
    return value


def json_line(row: dict[str, Any]) -> bytes:
    """Encode a row as one line of JSON.

    Instants become ISO 8601, binary becomes base64, NaN and infinities become null.
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError:
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False, default=_as_json)
    return text.encode() + b"\n"


def json_features(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """Declare the columns of JSON lines for a card (`dataset_info.features`).

    None where a column has no such declaration. Without one, `datasets` would infer types by split,
    and fail on a column that is null or empty throughout one split only.
    """
    found = [_feature(field.type) for field in schema]
    if any(feature is None for feature in found):
        return None
    return [
        {"name": name, **(feature or {})} for name, feature in zip(schema.names, found, strict=True)
    ]


def _feature(kind: pa.DataType) -> dict[str, Any] | None:
    if pa.types.is_struct(kind):
        inner = json_features(pa.schema(list(kind)))
        return None if inner is None else {"struct": inner}
    if pa.types.is_list(kind):
        value = _feature(kind.value_type)
        if value is None:
            return None
        return {"list": value.get("dtype") or value.get("struct") or value}
    if pa.types.is_map(kind):
        return None
    has_name = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_instant = pa.types.is_date32(kind) or pa.types.is_timestamp(kind)  # read from ISO 8601
    if not (has_name or is_instant):
        return {"dtype": "string"}
    names = {
        "double": "float64",
        "float": "float32",
        "halffloat": "float16",
        "date32[day]": "date32",
    }
    return {"dtype": names.get(str(kind), str(kind))}


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
