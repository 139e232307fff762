"""Golds that were corrected after their rows were done.

Committed rows carry the gold and the kept columns that they were made with. Where an input file has
changed, those are compared with the input's, by hashes; nothing is rendered or generated. Memory:
16 bytes per input row, and one part at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchr1.dataset.pending import Bools, Pending
from batchr1.dataset.values import gold_texts, python_values, to_plain
from batchr1.driver.feed.golds import verify_kind
from batchr1.driver.resume.changed_prompts import changed_files
from batchr1.errors import InputError
from batchr1.output.parts import results_table
from batchr1.output.replace import replace_part
from batchr1.reasoning.verify import Verify, quick_verdict
from batchr1.records import Result
from batchr1.verifier.pool import VERIFIER_FLAGS, VerifierPool, judged

if TYPE_CHECKING:
    from batchr1.driver.context import JobContext

log = logging.getLogger("batchr1.changed")

_NOT_LOOKED_AT = 0
Digests = np.ndarray[Any, np.dtype[np.uint64]]


def check_golds(job: JobContext, pending: Pending, *, run: str | None) -> None:
    """Refuse changed golds, judge their rows anew, or say that they stay.

    Call with the lock held, and before `take_out_done` where right answers count; without `run`
    nothing is changed. Raises `InputError` where the job says refuse.
    """
    if job.spec.input.gold is None and not len(job.source.kept_schema):
        return
    files = changed_files(job, pending)
    if not files or not job.output.exists():
        return
    golds, kept = _input_digests(job, pending, files)
    policy, num_golds, num_kept, first = job.spec.input.on_changed_gold, 0, 0, None
    verify: Verify | None = None
    for rel in job.output.parts():
        table = job.output.read_part(rel, ["id", *_compared(job)])
        rows = pending.find(table.column("id"))
        other_gold = (
            _differ(rows, golds, _gold_digests(table)) if "gold" in _compared(job) else None
        )
        other_kept = _differ(rows, kept, _kept_digests(job, table))
        changed = other_kept if other_gold is None else other_gold | other_kept
        num_golds += 0 if other_gold is None else int(other_gold.sum())
        num_kept += int(other_kept.sum())
        if first is None and other_gold is not None and other_gold.any():
            first = table.column("id")[int(np.flatnonzero(other_gold)[0])].as_py()
        if policy == "rejudge" and run is not None and changed.any():
            job.output.begin()
            verify = verify or _verify_of(job)
            _rejudge(job, pending, rel, changed, run, verify)
    _report(job, policy, num_golds, num_kept, first)


def _report(job: JobContext, policy: str, num_golds: int, num_kept: int, first: str | None) -> None:
    if num_golds and policy == "refuse":
        raise InputError(
            f"{job.output.uri}: the input has another gold for samples that are done (got "
            f"{num_golds} of them, one with id {first!r}; need none). Set input.on_changed_gold to "
            "rejudge (they are judged anew, nothing is generated) or keep (they stay as they are, "
            "with what `batchr1 verify --gold` corrected), or give a new output.path."
        )
    what = " and ".join(
        f"{count} another {name}"
        for count, name in ((num_golds, "gold"), (num_kept, "kept value"))
        if count
    )
    if what and policy == "rejudge":
        log.warning("samples that are done have %s in the input: they are judged anew", what)
    elif what:
        log.warning(
            "samples that are done have %s in the input: they stay as they are "
            "(input.on_changed_gold: rejudge takes them over)",
            what,
        )


def _compared(job: JobContext) -> list[str]:
    gold = ["gold"] if job.spec.input.gold is not None else []
    return [*gold, *job.source.kept_schema.names]


def _input_digests(job: JobContext, pending: Pending, files: set[str]) -> tuple[Digests, Digests]:
    """Hash the input's golds and kept values, by row number."""
    source = job.source
    golds: Digests = np.full(pending.num_rows, _NOT_LOOKED_AT, dtype=np.uint64)
    kept = golds.copy()
    extra = [job.spec.input.gold] if job.spec.input.gold else []
    columns = list(dict.fromkeys([*extra, *source.kept_names.values()]))
    for start, batch in pending.rows_of(source, columns, files):
        here = slice(start, start + batch.num_rows)
        golds[here] = [_digest(gold) for gold in source.golds(batch)]
        if len(source.kept_schema):
            kept[here] = _rows_digests(source.kept(batch))
    return golds, kept


def _gold_digests(table: pa.Table) -> Digests:
    """Hash the golds of a part.

    "nan" and blank text stood for no answer before they were known as that.
    """
    texts = [text for chunk in table.column("gold").chunks for text in gold_texts(chunk)]
    return _as_digests([_digest(None if text == "nan" else text) for text in texts])


def _kept_digests(job: JobContext, table: pa.Table) -> Digests:
    schema = job.source.kept_schema
    if not len(schema):
        return _as_digests([0] * table.num_rows)
    table = table.combine_chunks()
    columns = [
        to_plain(table.column(field.name).combine_chunks(), field.type)
        if table.num_rows
        else pa.nulls(0, field.type)
        for field in schema
    ]
    return _rows_digests(pa.RecordBatch.from_arrays(columns, schema=schema))


def _rows_digests(batch: pa.RecordBatch) -> Digests:
    rows = zip(*(python_values(column) for column in batch.columns), strict=True)
    return _as_digests([_digest(repr(row)) for row in rows])


def _as_digests(numbers: list[int]) -> Digests:
    digests: Digests = np.array(numbers, dtype=np.uint64)
    return digests


def _digest(text: str | None) -> int:
    """64 bits, never 0."""
    data = b"\0" if text is None else b"\1" + text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") | 1


def _differ(rows: np.ndarray[Any, Any], now: Digests, before: Digests) -> Bools:
    """Find rows that differ from the input, of those looked at."""
    if not len(now):
        return np.zeros(len(rows), dtype=bool)
    found = np.where(rows >= 0, now[rows], _NOT_LOOKED_AT)
    differ: Bools = (found != _NOT_LOOKED_AT) & (before != 0) & (found != before)
    return differ


def _verify_of(job: JobContext) -> Verify:
    """The rules that a run judges by."""
    return Verify(**(job.spec.verify.model_dump() | {"kind": verify_kind(job)}))


def _rejudge(
    job: JobContext, pending: Pending, rel: str, changed: Bools, run: str, verify: Verify
) -> None:
    """Give rows the input's gold, kept values and new verdict."""
    table = job.output.read_part(rel, None)
    gone = table.filter(pa.array(changed))
    numbers = pending.find(gone.column("id"))
    current = _current(job, pending, numbers)
    own = {field.name for field in dataclasses.fields(Result)} - {"kept"}
    rows = []
    for row, number in zip(gone.to_pylist(), numbers.tolist(), strict=True):
        values = {name: value for name, value in row.items() if name in own}
        for name in ("flags", "resumed_at", "token_ids"):
            values[name] = None if values[name] is None else tuple(values[name])
        gold, kept = current[number]
        rows.append(Result(**{**values, "kept": kept, "gold": gold}))
    again = judge(rows, verify)
    new = results_table(again, job.source.kept_schema)
    left = table.filter(pa.array(~changed))
    replace_part(job.output, rel, pa.concat_tables([left, new.cast(left.schema)]), run)


def _current(
    job: JobContext, pending: Pending, numbers: np.ndarray[Any, Any]
) -> dict[int, tuple[str | None, pa.RecordBatch | None]]:
    """Read the input's gold and kept values, by row number."""
    source = job.source
    chosen: Bools = np.zeros(pending.num_rows, dtype=bool)
    chosen[numbers] = True
    found: dict[int, tuple[str | None, pa.RecordBatch | None]] = {}
    for places, batch in pending.rows_at(source, chosen, source.row_columns):
        kept = source.kept(batch) if len(source.kept_schema) else None
        for i, (place, gold) in enumerate(zip(places.tolist(), source.golds(batch), strict=True)):
            found[place] = (gold, None if kept is None else kept.take(pa.array([i])))
    return found


def judge(rows: list[Result], verify: Verify) -> list[Result]:
    """Judge answers, by a verifier's process where needed; in any order."""
    done: list[Result] = []
    pool = VerifierPool(verify, done.append)
    for row in rows:
        flags = tuple(flag for flag in row.flags if flag not in VERIFIER_FLAGS)
        row = dataclasses.replace(
            row, final_answer=None, correct=None, verdict_by=None, flags=flags
        )
        verdict = quick_verdict(verify, row.answer, row.gold)
        if verdict is not None:
            done.append(judged(row, verdict))
        elif pool.takes(row):
            pool.put(row)
        else:
            done.append(row)
    pool.close()
    return done
