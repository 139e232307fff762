"""Verdicts of a whole output, given again under its lock.

    lock ─▶ finish what a killed command began ─▶ job.json names the new verification
         ─▶ each part: judge, replace if anything changed ─▶ _SUCCESS again, if it was there

Each part is replaced through an intent. A kill at any moment leaves every row once, some with old
verdicts and some with new ones. The same command again judges the rest: a part whose verdicts stay
as they are is not written.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from batchr1.columns import ADDED_LATER
from batchr1.errors import InputError, JobError, OutputError
from batchr1.job.fingerprint import digest
from batchr1.job.load import explain
from batchr1.job.spec import VerifySpec
from batchr1.output.find import no_output
from batchr1.output.folder import Output
from batchr1.output.replace import replace_part, roll_forward
from batchr1.reasoning.verdicts.column import GoldColumn
from batchr1.reasoning.verify import Verify
from batchr1.rejudge.golds import GoldCounts, count_golds, read_golds
from batchr1.rejudge.parts import Counts, PartJudge
from batchr1.storage.owner import owned
from batchr1.verifier.pool import check_verifier

log = logging.getLogger("batchr1.verify")


@dataclass(frozen=True, slots=True)
class GoldFile:
    """Source of new right answers; columns that are None are the job's."""

    path: str
    id: str | list[str] | None = None
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of judging an output again.

    `kind`: as the job says; `chosen`: the choice of `auto` for the column; `golds`: of the file
    with right answers.
    """

    output: str
    kind: str
    chosen: str
    why: str | None
    counts: Counts
    parts: int
    replaced: int
    golds: GoldCounts | None = None


def judge_again(
    output: Output,
    changes: dict[str, Any],
    golds: GoldFile | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, parts: None,
) -> Judged:
    """Judge every row of an output anew.

    `changes` replace keys of the job's `verify`. Raises `UsageError` where no job has been,
    `JobError` where the verification cannot work, `LockHeldError` where a run holds the output.
    """
    job = output.job()
    if job is None:
        raise no_output(output.uri)
    spec = _changed(job, changes)
    right = _read(golds, job, output) if golds is not None else None
    run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}000Z-{secrets.token_hex(2)}"
    verify = Verify(**spec.model_dump())
    has_gold = bool(golds) or job["spec"]["input"].get("gold") is not None
    if not has_gold and not verify.is_function:
        raise JobError(
            f"{output.uri}: there are no right answers (the job names no input.gold). "
            "Give them with --gold, or a function with --kind."
        )
    module = check_verifier(verify, has_gold=has_gold)
    with owned(output.storage, run=run):
        roll_forward(output)
        output.clear_staging()
        if not output.exists():
            raise OutputError(f"{output.uri}: --fresh was killed here, nothing is left to judge.")
        of_golds = _count(golds, right, output)
        was_complete, rows = _completed(output)
        column = _gold_column(output, right) if spec.kind == "auto" else None
        chosen = column.kind if column is not None else spec.kind
        output.begin()
        output.write_job(_named(job, spec, module))
        judge = PartJudge(Verify(**(spec.model_dump() | {"kind": chosen})), right)
        counts, parts, replaced = Counts(), output.parts(), 0
        try:
            for number, rel in enumerate(parts):
                table = output.read_part(rel, None)
                new, found = judge.judge(table)
                counts = counts.plus(found)
                if found.changed or not _is_of_this_version(output, rel):
                    replace_part(output, rel, new, run)
                    replaced += 1
                progress(number + 1, len(parts))
        finally:
            judge.close()
        if was_complete:
            output.succeed(run, rows=rows, samples=counts.rows)
    why = column.why if column is not None else None
    return Judged(output.uri, spec.kind, chosen, why, counts, len(parts), replaced, of_golds)


def _changed(job: dict[str, Any], changes: dict[str, Any]) -> VerifySpec:
    before = dict(job["spec"].get("verify") or {})
    if "kind" in changes and ":" not in changes["kind"]:
        before.pop("path", None)
    try:
        return VerifySpec(**{**before, **changes})
    except ValidationError as exc:
        raise JobError(explain(exc, "options", ["verify"])) from exc


def _read(golds: GoldFile, job: dict[str, Any], output: Output) -> dict[str, str | None]:
    source = job["spec"]["input"]
    id, gold = golds.id or source.get("id"), golds.gold or source.get("gold")
    if id is None or gold is None:
        missing = "--id-column" if id is None else "--gold-column"
        raise JobError(f"--gold {golds.path}: the job names no such column. Add {missing}.")
    return read_golds(golds.path, id=id, gold=gold, storage=output.storage.options)


def _count(
    file: GoldFile | None, right: dict[str, str | None] | None, output: Output
) -> GoldCounts | None:
    """Compare the new right answers with the output's rows.

    Raises `InputError` where they are of none of its rows.
    """
    if file is None or right is None:
        return None
    counts = count_golds(right, output.tables(["id", "gold"]))
    if not counts.found:
        example = "" if counts.missing is None else f", such as {counts.missing!r}"
        raise InputError(
            f"--gold {file.path}: none of its ids is in the output (got {counts.read:,}{example}). "
            "Correct the ids, or name their column by --id-column."
        )
    return counts


def _completed(output: Output) -> tuple[bool, int | None]:
    """Tell whether the output was complete, even before a killed command.

    Returns the input's rows too; None where nothing says them.
    """
    if output.is_complete():
        return True, (output.success() or {}).get("rows")
    last = output.last_run()
    if last is None or last.exit_code != 0:
        return False, None
    return True, None if last.counts is None else last.counts.rows


def _gold_column(output: Output, golds: dict[str, str | None] | None) -> GoldColumn:
    """Look at the right answers of all rows, corrected ones too."""
    column, new = GoldColumn(), golds or {}
    for table in output.tables(["id", "gold"]):
        ids, before = (table.column(name).to_pylist() for name in ("id", "gold"))
        column.add(new.get(name, gold) for name, gold in zip(ids, before, strict=True))
    return column


def _is_of_this_version(output: Output, rel: str) -> bool:
    return set(output.stored_columns(rel)) >= ADDED_LATER


def _named(job: dict[str, Any], spec: VerifySpec, module: str | None) -> dict[str, Any]:
    """Write job.json with the new verification.

    A run with another one is refused from then on.
    """
    semantic = job["fingerprint"] | {
        "verify.kind": spec.kind,
        "verify.extract": spec.extract,
        "verify.kind's module": module,
    }
    document = job["spec"] | {"verify": spec.model_dump(mode="json")}
    return job | {"fingerprint": semantic, "digest": digest(semantic), "spec": document}


def to_dict(judged: Judged) -> dict[str, Any]:
    """As plain values."""
    return asdict(judged)
