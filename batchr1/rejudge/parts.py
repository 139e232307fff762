"""Verdicts of one part, given again as a run gives them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from batchr1.columns import COLUMNS, NAMES
from batchr1.reasoning.flags import in_order
from batchr1.reasoning.verify import Verify, quick_verdict
from batchr1.records import Result
from batchr1.verifier.pool import VERIFIER_FLAGS, VerifierPool, judged

JUDGED = ("gold", "final_answer", "correct", "verdict_by", "flags")  # columns that may change
_TUPLES = ("flags", "resumed_at")


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by outcome; `changed` ones have another verdict or stage."""

    rows: int = 0
    changed: int = 0
    correct: int = 0
    judged: int = 0
    was_correct: int = 0
    was_judged: int = 0
    unsure: int = 0
    failed: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


class PartJudge:
    """Judge of parts, one at a time; verifying processes live on between."""

    def __init__(self, verify: Verify, golds: Mapping[str, str | None] | None = None) -> None:
        self._verify = verify
        self._golds = golds
        self._judged: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._pool = VerifierPool(verify, self._judged.put)

    def judge(
        self, table: pa.Table, tick: Callable[[], None] = lambda: None
    ) -> tuple[pa.Table, Counts]:
        """Judge a part; returns it with new verdicts, and the changes.

        `tick` is called every second or so.
        """
        rows = [self._row(row) for row in _rows(table)]
        places = {row.key: at for at, row in enumerate(rows)}
        waiting = 0
        for at, row in enumerate(rows):
            verdict = quick_verdict(self._verify, row.answer, row.gold)
            if verdict is not None:
                rows[at] = judged(row, verdict)
            elif self._pool.takes(row):
                waiting += 1
                self._pool.put(replace(row, kept=_kept(table, at)))
        while waiting:
            try:
                row = self._judged.get(timeout=1.0)
            except queue.Empty:
                tick()
                continue
            rows[places[row.key]] = row
            waiting -= 1
        new = _with_verdicts(table, rows)
        return new, _counted(table, new)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _row(self, row: dict[str, Any]) -> Result:
        gold = row["gold"]
        if self._golds is not None:
            gold = self._golds.get(row["id"], gold)
        flags = tuple(flag for flag in row["flags"] if flag not in VERIFIER_FLAGS)
        tuples = {name: tuple(row[name]) for name in _TUPLES} | {"flags": flags}
        fresh = {"gold": gold, "final_answer": None, "correct": None, "verdict_by": None}
        return Result(**{**row, **tuples, **fresh, "token_ids": None, "kept": None})


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    names = [c.name for c in COLUMNS if c.name != "token_ids"]
    found: list[dict[str, Any]] = table.select(names).to_pylist()
    return found


def _kept(table: pa.Table, at: int) -> pa.RecordBatch | None:
    names = [name for name in table.schema.names if name not in NAMES]
    if not names:
        return None
    [batch] = table.select(names).slice(at, 1).combine_chunks().to_batches()
    return batch


def _with_verdicts(table: pa.Table, rows: list[Result]) -> pa.Table:
    for name in JUDGED:
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        values = [getattr(row, name) for row in rows]
        if name == "flags":
            values = [in_order(flags) for flags in values]
        table = table.set_column(at, field, pa.array(values, type=field.type))
    return table


def _counted(old: pa.Table, new: pa.Table) -> Counts:
    before, after = (table.select(JUDGED).to_pylist() for table in (old, new))
    return Counts(
        rows=len(after),
        changed=sum(a != b for a, b in zip(before, after, strict=True)),
        correct=sum(row["correct"] is True for row in after),
        judged=sum(row["correct"] is not None for row in after),
        was_correct=sum(row["correct"] is True for row in before),
        was_judged=sum(row["correct"] is not None for row in before),
        unsure=sum("verify_unsure" in row["flags"] for row in after),
        failed=sum("verify_failed" in row["flags"] for row in after),
    )
