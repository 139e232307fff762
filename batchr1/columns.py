"""Columns of an output, in order.

The writer and `schemas/output.schema.json` both come from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchr1.records import FLAGS, VERDICT_STAGES


@dataclass(frozen=True, slots=True)
class Column:
    """Column: Arrow type, nullability, unit, allowed values, meaning.

    One that was added after 0.1.0 may be null, and older parts lack it.
    """

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str
    unit: str | None = None
    values: tuple[str, ...] | None = None
    added_later: bool = False


_text, _count = pa.string(), pa.int32()

COLUMNS: tuple[Column, ...] = (
    Column(
        "id",
        _text,
        False,
        "the row's id in the input, as text, that of several columns joined by /; without input.id "
        "a hash of the prompt",
    ),
    Column("sample", _count, False, "which of the row's n samples, from 0"),
    Column(
        "prompt",
        _text,
        False,
        "the user turn as sent, instruction included, before the chat template",
    ),
    Column(
        "prompt_messages",
        _text,
        True,
        "the turns of a dialogue as sent, as JSON; null for one user turn",
        added_later=True,
    ),
    Column("gold", _text, True, "the right answer, from input.gold"),
    Column(
        "reasoning",
        _text,
        True,
        "the text inside the think block; null when the block is empty or missing",
    ),
    Column(
        "answer",
        _text,
        True,
        "the text after the think block; null when the block was never closed",
    ),
    Column(
        "final_answer",
        _text,
        True,
        "the content of the answer's last \\boxed{}, or what verify.* takes instead",
    ),
    Column(
        "correct",
        pa.bool_(),
        True,
        "whether the answer is right, by verify.kind; null without gold or verdict",
    ),
    Column(
        "verdict_by",
        _text,
        True,
        "the stage of verification that decided correct; null where none did",
        values=VERDICT_STAGES,
        added_later=True,
    ),
    Column(
        "reasoning_status",
        _text,
        False,
        "how the think block ended",
        values=("closed", "empty", "unclosed", "missing"),
    ),
    Column("truncated", pa.bool_(), False, "whether generation was cut by a length limit"),
    Column("truncated_in", _text, True, "the part that was cut", values=("reasoning", "answer")),
    Column(
        "truncated_by",
        _text,
        True,
        "the limit that cut it",
        values=("max_tokens", "context", "budget", "loop"),
    ),
    Column("finish_reason", _text, False, "why generation ended", values=("stop", "length")),
    Column(
        "prompt_tokens",
        _count,
        True,
        "length of the rendered prompt; null where a server does not say",
        "tokens",
    ),
    Column(
        "reasoning_tokens",
        _count,
        True,
        "generated inside the think block; null where a server does not say",
        "tokens",
    ),
    Column(
        "answer_tokens",
        _count,
        True,
        "generated outside the think block; null from a server",
        "tokens",
    ),
    Column(
        "control_tokens",
        _count,
        True,
        "think tags and end-of-sequence token; null from a server",
        "tokens",
    ),
    Column(
        "injected_tokens",
        _count,
        False,
        "those of completion_tokens that batchr1 put in itself",
        "tokens",
    ),
    Column(
        "completion_tokens",
        _count,
        True,
        "reasoning_tokens + answer_tokens + control_tokens; null where a server does not say",
        "tokens",
    ),
    Column(
        "flags",
        pa.list_(_text),
        False,
        "what is odd about the row, by rules and thresholds of docs/traces.md",
        values=FLAGS,
    ),
    Column("seed", pa.int64(), True, "the sample's own seed; null when none was sent"),
    Column("attempts", _count, False, "which attempt this is; going on after a kill is no new one"),
    Column(
        "resumed_at",
        pa.list_(_count),
        False,
        "token offsets at which an interrupted generation went on",
        "tokens",
    ),
    Column(
        "token_ids",
        pa.list_(_count),
        True,
        "the exact completion; for truncated rows, or all by option; null from a server",
    ),
    Column(
        "prompt_hash",
        _text,
        False,
        "128-bit hash of the rendered prompt's token ids, or of the messages sent",
    ),
    Column("model", _text, False, "the model's name and identity"),
    Column("run", _text, False, "the run that generated the row"),
    Column("finished_at", pa.timestamp("us", tz="UTC"), False, "when the last token came"),
)

NAMES = frozenset(c.name for c in COLUMNS)
ADDED_LATER = frozenset(c.name for c in COLUMNS if c.added_later)
KEPT_AFTER = "sample"  # kept input columns stand behind this one

FAILED_SCHEMA = pa.schema(
    [
        pa.field("id", _text, nullable=False),
        pa.field("sample", _count, nullable=False),
        pa.field("reason", _text, nullable=False),
        pa.field("message", _text, nullable=False),
        pa.field("attempts", _count, nullable=False),
        pa.field("prompt_hash", _text),
        pa.field("run", _text, nullable=False),
        pa.field("failed_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


def output_schema(kept: pa.Schema) -> pa.Schema:
    """Build the Arrow schema of an output's parts, kept columns included."""
    fields: list[pa.Field] = []
    for column in COLUMNS:
        fields.append(pa.field(column.name, column.type, nullable=column.nullable))
        if column.name == KEPT_AFTER:
            fields.extend(pa.field(f.name, f.type) for f in kept)
    return pa.schema(fields)


def with_later_columns(table: pa.Table) -> pa.Table:
    """Add the columns that an older version lacks, as null."""
    for at, column in enumerate(COLUMNS):
        if column.name not in ADDED_LATER or column.name in table.schema.names:
            continue
        before = (
            table.schema.names.index(COLUMNS[at - 1].name)
            if COLUMNS[at - 1].name in table.schema.names
            else -1
        )
        field = pa.field(column.name, column.type, nullable=column.nullable)
        table = table.add_column(before + 1, field, pa.nulls(table.num_rows, column.type))
    return table


def schema_document() -> dict[str, Any]:
    """Build `schemas/output.schema.json`.

    Each column has its name, Arrow type, nullability, unit, values and meaning.
    """
    return {
        "title": "batchr1 output: one row per (id, sample)",
        "files": "OUTPUT/data/part-*.parquet",
        "kept": (
            f"the input columns named in output.keep stand behind '{KEPT_AFTER}', with the "
            "input's type; so do those of an input.id of several columns, called input_NAME where "
            "the output has a NAME of its own"
        ),
        "columns": [
            {
                "name": c.name,
                "type": str(c.type),
                "nullable": c.nullable,
                **({"unit": c.unit} if c.unit else {}),
                **({"values": list(c.values)} if c.values else {}),
                "meaning": c.meaning,
            }
            for c in COLUMNS
        ],
    }
