"""Guesses at the columns of an unknown dataset."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from batchr1.columns import NAMES
from batchr1.dataset.types import Use, is_text, misfit
from batchr1.dataset.values import to_plain

# Names that public datasets give such columns, the likelier ones first.
IDS = ("id", "uid", "uuid", "unique_id", "problem_id", "question_id", "task_id", "row_id", "index")
PROMPTS = ("prompt", "problem", "question", "instruction", "query", "input", "text")
MESSAGES = ("messages", "conversations", "conversation", "chat", "dialog")
GOLDS = ("answer", "gold", "final_answer", "target", "label", "expected", "solution", "reference")
# Words that such a column's name may end with, where none is named as above: "Correct answer".
LAST_WORDS: dict[Use, Sequence[str]] = {
    "input.id": ("id", "uid", "uuid", "guid"),
    "input.prompt": ("prompt", "problem", "question", "instruction", "query"),
    "input.gold": ("answer", "gold", "ground_truth"),
}
FILLERS = ("_text", "_str", "_string", "_value")
"""Endings of names that say nothing of the column's use."""
MOST_KEPT = 4
FEW_VALUES = 0.5
"""Distinct values a row, at most, of a column that is worth grouping by."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Columns by use; None where none will do.

    `id` is several columns for rows of an output. `unfit_id` is named as an id is, but has nulls or
    values that stand more than once. `unique`, where there is no id, is not named so but would do.
    """

    id: str | list[str] | None
    prompt: str | None
    messages: str | None
    gold: str | None
    keep: list[str] = field(default_factory=list)
    unfit_id: str | None = None
    unique: str | None = None


def guess_columns(rows: pa.Table) -> Guess:
    """Guess the columns from their names, types and some rows."""
    prompt = _first(rows, PROMPTS, "input.prompt")
    messages = None
    if prompt is None:
        messages = _first(rows, MESSAGES, "input.messages")
    if prompt is None and messages is None:
        prompt = _first_ending(rows, "input.prompt") or _longest_text(rows)
    gold = _first(rows, [name for name in GOLDS if name != prompt], "input.gold")
    if gold is None:
        gold = _first_ending(rows, "input.gold", other_than=prompt)
    own_id, unfit_id = _guess_id(rows)
    taken = {*([own_id] if isinstance(own_id, str) else own_id or []), prompt, messages, gold}
    keep = [
        name
        for name in rows.column_names
        if name not in taken
        and name.lower() not in NAMES
        and (name == unfit_id or _is_group(rows[name]))
    ]
    unique = None if own_id else _unique(rows, taken)
    return Guess(own_id, prompt, messages, gold, keep[:MOST_KEPT], unfit_id, unique)


def _guess_id(rows: pa.Table) -> tuple[str | list[str] | None, str | None]:
    """Find unique ids: a column, or an output's id and sample.

    Without any, the second is a column that is named as an id.
    """
    name = _first(rows, IDS, "input.id")
    if name is not None and _is_unique(rows[name]):
        return name, None
    if name is not None and "sample" in rows.column_names:
        pair = [name, "sample"]
        groups = pa.table({part: _values(rows[part]) for part in pair}).group_by(pair).aggregate([])
        has_nulls = any(rows[part].null_count for part in pair)
        if groups.num_rows == rows.num_rows and not has_nulls:
            return pair, None
    others = _named_like(rows, "input.id")
    unique = next((other for other in others if _is_unique(rows[other])), None)
    if unique is not None:
        return unique, None
    return None, name or next(iter(others), None)


def _unique(rows: pa.Table, taken: Collection[str | None]) -> str | None:
    """Find a column of numbers or words, none of them twice."""
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        if name in taken or not name.isprintable():  # a comment in YAML is one line
            continue
        if misfit("input.id", kind) is not None or not _is_unique(rows[name]):
            continue
        texts = _values(rows[name]).cast(pa.large_string())
        if rows.num_rows > 1 and not pc.any(pc.match_substring_regex(texts, r"\s")).as_py():
            return str(name)
    return None


def _first(rows: pa.Table, names: Sequence[str], use: Use) -> str | None:
    """Find the column of the likeliest name whose type will do."""
    for name in names:
        for column in rows.column_names:
            if _plain(column) == name and misfit(use, rows.schema.field(column).type) is None:
                return str(column)
    return None


def _first_ending(rows: pa.Table, use: Use, *, other_than: str | None = None) -> str | None:
    """Find the first column whose name ends as such names do."""
    return next((name for name in _named_like(rows, use) if name != other_than), None)


def _named_like(rows: pa.Table, use: Use) -> list[str]:
    """List columns of a fitting type whose names end like this use."""
    endings = tuple(f"_{word}" for word in LAST_WORDS[use])
    return [
        name
        for name in rows.column_names
        if f"_{_without_fillers(_plain(name))}".endswith(endings)
        and misfit(use, rows.schema.field(name).type) is None
    ]


def _plain(name: str) -> str:
    """Write a name in lower case with low lines between its words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z]+", "_", words.lower()).strip("_")


def _without_fillers(plain: str) -> str:
    for ending in FILLERS:
        plain = plain.removesuffix(ending)
    return plain


def _longest_text(rows: pa.Table) -> str | None:
    """Find the column whose texts are longest."""
    lengths = {
        name: pc.sum(pc.utf8_length(_values(rows[name]))).as_py() or 0
        for name in rows.column_names
        if misfit("input.prompt", rows.schema.field(name).type) is None
        and is_text(rows.schema.field(name).type)
    }
    return max(lengths, key=lambda name: lengths[name], default=None)


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Decode dictionaries, views and UUIDs, whose values Arrow cannot count."""
    return to_plain(column.combine_chunks())


def _is_unique(column: pa.ChunkedArray) -> bool:
    found = pc.count_distinct(_values(column)).as_py()
    return column.null_count == 0 and bool(found == len(column))


def _is_group(column: pa.ChunkedArray) -> bool:
    """Whether a column holds few values, each short: a subject, a level."""
    kind = column.type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return False
    return bool(pc.count_distinct(_values(column)).as_py() <= max(1, FEW_VALUES * len(column)))
