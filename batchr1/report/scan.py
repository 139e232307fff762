"""One pass over the parts of outputs, for a report.

Numbers are kept of all rows (some 120 bytes each). Texts are read only of chosen rows, from the
parts that hold them, one part at a time.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from batchr1.columns import NAMES
from batchr1.dataset.values import temporal_as_text
from batchr1.errors import UsageError
from batchr1.output.across import last_of_each
from batchr1.output.folder import Output

NUMBERS = (
    "id",
    "sample",
    "correct",
    "final_answer",
    "reasoning_status",
    "truncated",
    "truncated_in",
    "truncated_by",
    "prompt_tokens",
    "reasoning_tokens",
    "answer_tokens",
    "completion_tokens",
    "injected_tokens",
    "flags",
    "attempts",
    "run",
    "model",
    "finished_at",
)
TEXTS = (
    "id",
    "sample",
    "prompt",
    "gold",
    "reasoning",
    "answer",
    "final_answer",
    "correct",
    "flags",
    "truncated_in",
    "reasoning_tokens",
    "answer_tokens",
)
SAMPLES = 10
MOST_GROUPS = 60  # a column with more values than this is no table for people
MOST_COLUMNS = 3
_LONGEST_VALUE = 60


@dataclass(slots=True)
class Scan:
    """Numbers of all rows, each key once, and texts of a few.

    `rows` also has the columns to group by, which `by` names, and `output`: the number of the
    row's output. `of_each` has the rows of each output, `rows` one of each key (see `across`).
    `quoted` holds up to SAMPLES rows with their texts for each flag, and for "wrong" and
    "truncated". The same rows always give the same quotes.
    """

    rows: pl.DataFrame
    of_each: pl.DataFrame
    by: list[str]
    parts: int
    quoted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def repeated(self) -> int:
        """Rows that `rows` leaves out, since a later one has their key."""
        return self.of_each.height - self.rows.height


def scan(outputs: Sequence[Output], *, by: str | None = None, samples: int = SAMPLES) -> Scan:
    """Read outputs.

    `by` names a column to group by. None: kept columns of few values that all outputs have. Raises
    `UsageError` when there is no column `by`.
    """
    parts = [(number, rel) for number, output in enumerate(outputs) for rel in output.parts()]
    columns: list[str] = [by] if by is not None else _columns_of_all(outputs, parts)
    frames: list[pl.DataFrame] = []
    for place, (number, rel) in enumerate(parts):
        frame = _read(outputs[number], rel, [*NUMBERS, *(c for c in columns if c not in NUMBERS)])
        frames.append(
            frame.with_columns(
                pl.lit(number, pl.Int32).alias("output"),
                pl.lit(place, pl.UInt32).alias("part"),
                pl.col("run", "model").cast(pl.Categorical),
            )
        )
    if not frames:
        nothing = pl.DataFrame(schema=dict.fromkeys(NUMBERS, pl.String) | {"output": pl.Int32})
        return Scan(nothing, nothing, [], 0)
    of_each = each_once(pl.concat(frames), "output")
    rows = of_each
    if len(outputs) > 1:
        rows = last_of_each(of_each)
    if by is None:
        most = min(MOST_GROUPS, rows["id"].n_unique() // 2)  # else each prompt is its own group
        columns = [c for c in columns if 1 < rows[c].n_unique() <= most][:MOST_COLUMNS]
    chosen = _Chosen(samples)
    chosen.look_at(rows)
    return Scan(rows, of_each, columns, len(parts), chosen.quote(outputs, parts))


def each_once(rows: pl.DataFrame, *more_keys: str) -> pl.DataFrame:
    """Drop repeated rows, which are the same.

    A row lies in data/ twice where a part was copied, or its replacement is not finished.
    """
    keys = ["id", "sample", *more_keys]
    if not rows.height or rows.select(keys).is_unique().all():
        return rows
    return rows.unique(keys, keep="first", maintain_order=True)


def _read(output: Output, rel: str, columns: Iterable[str]) -> pl.DataFrame:
    columns, have = list(columns), output.part_columns(rel)
    missing = [name for name in columns if name not in have]
    if missing:
        kept = ", ".join(name for name in have if name not in NAMES) or "none"
        raise UsageError(
            f"{output.uri}: --by {missing[0]}: there is no such column (kept columns: {kept})."
        )
    table = output.read_part(rel, columns)
    others = [name for name in columns if name not in NUMBERS]
    return pl.DataFrame(temporal_as_text(table, others))


def _columns_of_all(outputs: Sequence[Output], parts: Sequence[tuple[int, str]]) -> list[str]:
    """Find columns to group by that all outputs have, with one type.

    Only the first part of each output is looked at.
    """
    firsts = dict(reversed(parts))
    if not firsts:
        return []
    number = min(firsts)
    columns = _columns_to_group_by(outputs[number], firsts[number])
    types = [outputs[number].part_columns(rel) for number, rel in firsts.items()]
    return [name for name in columns if len({str(have.get(name)) for have in types}) == 1]


def _columns_to_group_by(output: Output, rel: str) -> list[str]:
    """Find kept columns that look like a category in one part.

    They have few values: short texts, whole numbers, or yes and no.
    """
    found = []
    for name in [name for name in output.part_columns(rel) if name not in NAMES]:
        values = pl.DataFrame(output.read_part(rel, [name]))[name].drop_nulls()
        if not (values.dtype in (pl.String, pl.Boolean) or values.dtype.is_integer()):
            continue
        if values.dtype == pl.String:
            longest = values.str.len_chars().max() or 0
            if longest > _LONGEST_VALUE:  # type: ignore[operator]
                continue
        if values.n_unique() <= MOST_GROUPS:
            found.append(name)
    return found


def outcome() -> pl.Expr:
    """Name the outcome of a row, one for each.

    Right is right, even where a limit cut the answer's end.
    """
    cut = pl.col("truncated_in")
    return (
        pl.when(pl.col("correct"))
        .then(pl.lit("right"))
        .when(cut == "reasoning")
        .then(pl.lit("cut in reasoning"))
        .when(cut == "answer")
        .then(pl.lit("cut in answer"))
        .when(pl.col("reasoning_status") == "unclosed")
        .then(pl.lit("ended without an answer"))
        .when(pl.col("correct").not_())
        .then(pl.lit("wrong"))
        .otherwise(pl.lit("not judged"))
        .alias("outcome")
    )


class _Chosen:
    """Rows to quote: those of each kind with the smallest hashes.

    So the order of parts and runs does not matter.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        # kind → (−hash, number of the part, id, sample)
        self._heaps: dict[str, list[tuple[int, int, str, int]]] = {}

    def look_at(self, rows: pl.DataFrame) -> None:
        flagged = rows.select("part", "id", "sample", "flags").filter(
            pl.col("flags").list.len() > 0
        )
        self._add(flagged.explode("flags").rename({"flags": "kind"}))
        for kind, wanted in (("truncated", pl.col("truncated")), ("wrong", outcome() == "wrong")):
            found = rows.filter(wanted)
            self._add(found.select("part", "id", "sample", pl.lit(kind).alias("kind")))

    def _add(self, rows: pl.DataFrame) -> None:
        for part, id, sample, kind in rows.select("part", "id", "sample", "kind").iter_rows():
            key = hashlib.blake2b(f"{sample} {id}".encode(), digest_size=8).digest()
            entry = (-int.from_bytes(key), part, id, sample)
            heap = self._heaps.setdefault(kind, [])
            if len(heap) < self._samples:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)

    def quote(
        self, outputs: Sequence[Output], parts: Sequence[tuple[int, str]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Read the texts of the chosen rows, by kind."""
        wanted: dict[int, set[tuple[str, int]]] = {}
        for heap in self._heaps.values():
            for _, part, id, sample in heap:
                wanted.setdefault(part, set()).add((id, sample))
        texts: dict[tuple[int, str, int], dict[str, Any]] = {}
        for part, keys in wanted.items():
            number, rel = parts[part]
            frame = pl.DataFrame(outputs[number].read_part(rel, list(TEXTS)))
            ids = pl.DataFrame({"id": [k[0] for k in keys], "sample": [k[1] for k in keys]})
            ids = ids.cast({"sample": frame.schema["sample"]})
            texts |= {
                (part, r["id"], r["sample"]): r
                for r in frame.join(ids, on=["id", "sample"]).to_dicts()
            }
        return {
            kind: [texts[part, id, sample] for _, part, id, sample in sorted(heap, reverse=True)]
            for kind, heap in self._heaps.items()
        }
