"""Pending rows: the input's ids, without done and failed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchr1.backends.base import backend_of
from batchr1.backends.renderers import day_of
from batchr1.dataset.pending import Pending
from batchr1.driver.resume.exclude import exclude_earlier
from batchr1.job.fingerprint import continued_digest
from batchr1.output.checkpoints import FoundCheckpoints, consolidate, read_checkpoints
from batchr1.records import SampleKey

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.context import JobContext


def find_pending(job: JobContext, *, retry_failed: bool = False) -> Pending:
    """Match the input's ids against what the output holds."""
    pending = read_ids(job)
    take_out_done(job, pending)
    if not retry_failed:
        take_out_failed(job, pending)
    take_out_unneeded(job, pending)
    return pending


def read_ids(job: JobContext) -> Pending:
    """One pass over the input's ids, without those that earlier outputs hold.

    Raises `InputError` when an id is null or comes twice, or nothing is there.
    """
    spec = job.spec
    pending = Pending(
        job.source,
        spec.sampling.n,
        ids_are_hashes=spec.input.id is None,
        allow_empty=spec.input.allow_empty,
    )

    def renderer() -> Renderer:
        day = day_of(job.output)
        return backend_of(spec).renderer(spec, *job.model.loads_from, day=day)

    by_prompt = None
    if spec.input.exclude_by == "prompt":
        by_prompt = renderer
    exclude_earlier(job.source, pending, job.earlier, make_renderer=by_prompt)
    return pending


def take_out_done(job: JobContext, pending: Pending) -> int:
    """Take out what the output holds. A run must hold the lock.

    Returns how many rows may be in the output twice.
    """
    pending.forget_learned()
    again = 0
    spec = job.spec
    siblings = spec.longest_first and spec.sampling.n > 1
    columns = ["id", "sample"]
    if siblings:
        columns.append("completion_tokens")
    if spec.stop_when:
        columns.append("correct")
    for table in job.output.tables(columns):
        again += pending.mark_done(table.column("id"), table.column("sample"))
        if siblings:
            pending.learn_lengths(table.column("id"), table.column("completion_tokens"))
        if spec.stop_when:
            pending.learn_right(table.column("id"), table.column("correct"))
    return again


def take_out_failed(job: JobContext, pending: Pending) -> None:
    """Take out what failed; call after `take_out_done`."""
    for table in job.output.failed_tables(["id", "sample"]):
        pending.mark_failed(table.column("id"), table.column("sample"))


def take_out_unneeded(job: JobContext, pending: Pending) -> None:
    """Take out what `stop_when` needs no more.

    Call last, so that what failed stays failed.
    """
    if job.spec.stop_when:
        pending.spare(job.spec.stop_when.correct)


def take_over_checkpoints(job: JobContext, pending: Pending, run: str) -> FoundCheckpoints:
    """Bring earlier runs' checkpoints of pending samples into this run's.

    Samples that this run is not asked for stay pending for a wider run. Rows of the others go
    first. Call with the lock held, after `take_out_done`.
    """
    storage, digest = job.output.storage, continued_digest(job.semantic)
    found = read_checkpoints(storage, job=digest)
    keys, aside = list(found.saved), set[SampleKey]()
    if keys:
        ids, samples = (
            pa.array([k.id for k in keys], pa.string()),
            pa.array([k.sample for k in keys], pa.int32()),
        )
        for key, is_asked, is_done in zip(keys, *pending.states(ids, samples), strict=True):
            if is_done:
                del found.saved[key]
            elif not is_asked:
                aside.add(key)
    consolidate(storage, run, found, job=digest, aside=aside)
    pending.begin_with(pa.array([key.id for key in found.saved if key not in aside], pa.string()))
    return found
