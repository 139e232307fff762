"""The kind of verification that the input's right answers ask for."""

from __future__ import annotations

from batchr1.driver.context import JobContext
from batchr1.reasoning.verdicts.column import GoldColumn


def gold_column(job: JobContext) -> GoldColumn | None:
    """Read the column of right answers.

    None where the job names a kind, or has no such column.
    """
    spec = job.spec
    if spec.verify.kind != "auto" or spec.input.gold is None:
        return None
    column = GoldColumn()
    for _, batch in job.source.batches((spec.input.gold,)):
        column.add(job.source.golds(batch))
    return column


def verify_kind(job: JobContext) -> str:
    """Name the kind that rows are judged by.

    It is the job's, or what `auto` chooses.
    """
    column = gold_column(job)
    return job.spec.verify.kind if column is None else column.kind
