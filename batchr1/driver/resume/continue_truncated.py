"""`--continue-truncated`: truncated rows become pending, with their tokens.

For each part: the cut rows go into a checkpoint, then a part without them replaces it. From there
on they are like any interrupted generation, so that a kill at any moment costs only time.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchr1.dataset.pending import Bools, Pending
from batchr1.driver.resume.changed_prompts import have_changed, prompt_digests
from batchr1.job.fingerprint import continued_digest
from batchr1.output.checkpoints import GenerationCheckpoint, reopened_name, write_checkpoint
from batchr1.output.replace import COLUMNS, Limit, may_go_on, replace_part, truncated_rows

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.context import JobContext

log = logging.getLogger("batchr1.reopen")


def continue_truncated_rows(
    job: JobContext,
    pending: Pending,
    renderer: Renderer,
    limit: Limit,
    *,
    run: str,
) -> int:
    """Make truncated rows that may go on under `limit` pending; how many.

    Only of samples that this run is asked for: another row would leave its part, and nobody would
    finish it. Call with the lock held, when what is committed and what failed was taken out and
    prompts were compared.
    """
    output, digest = job.output, continued_digest(job.semantic)
    count = 0
    for number, (rel, cut, rest) in enumerate(
        truncated_rows(output, limit, _wanted(job, pending, renderer, limit))
    ):
        if not count:
            output.begin()
        write_checkpoint(output.storage, reopened_name(run, number), _saved(cut), job=digest)
        replace_part(output, rel, rest, run)
        pending.reopen(cut)
        count += cut.num_rows
    if count:
        log.info("%d truncated rows go on", count)
    return count


def _wanted(
    job: JobContext, pending: Pending, renderer: Renderer, limit: Limit
) -> Callable[[pa.Table], Bools]:
    """Make a filter for rows of a part that go on.

    Such rows are asked for, below their own cap, and of the input's prompt. A prompt with enough
    right samples has none: what left its part would not be generated.
    """
    stop_when = job.spec.stop_when

    def is_done(table: pa.Table) -> Bools:
        done = pending.states(table.column("id"), table.column("sample"))[1]
        if stop_when:
            done = done & ~pending.has_enough(table.column("id"), stop_when.correct)
        return done

    spec, source = job.spec.input, job.source
    is_kept = (
        spec.on_changed_prompt == "keep" and spec.id is not None
    )  # else prompts were compared before
    if not is_kept and spec.cap is None:
        return is_done

    chosen: Bools = np.zeros(pending.num_rows, dtype=bool)
    for table in job.output.tables(COLUMNS):
        chosen[pending.find(table.column("id"))[may_go_on(table, limit) & is_done(table)]] = True
    caps = np.full(pending.num_rows, np.inf)
    if spec.cap is not None:
        for numbers, batch in pending.rows_at(source, chosen, [spec.cap]):
            own = np.array(source.caps(batch), dtype=np.float64)  # None becomes NaN
            caps[numbers] = np.nan_to_num(own, nan=np.inf)
    digests = None
    if is_kept:
        columns = tuple(dict.fromkeys([*source.id_columns, *source.prompt_columns]))
        digests, _ = prompt_digests(
            job, renderer, pending.rows_at(source, chosen, columns), pending.num_rows
        )

    def wanted(table: pa.Table) -> Bools:
        cap = caps[pending.find(table.column("id"))]
        mask: Bools = is_done(table) & (table.column("completion_tokens").to_numpy() < cap)
        if digests is not None:
            mask = mask & ~have_changed(table, pending, digests)
        return mask

    return wanted


def _saved(rows: pa.Table) -> list[GenerationCheckpoint]:
    names = [
        "id",
        "sample",
        "attempts",
        "prompt_hash",
        "token_ids",
        "resumed_at",
        "injected_tokens",
    ]
    return [
        GenerationCheckpoint(
            id=row["id"],
            sample=row["sample"],
            attempt=row["attempts"],
            prompt_hash=bytes.fromhex(row["prompt_hash"]),
            tokens=array("i", row["token_ids"]),
            resumed_at=tuple(row["resumed_at"]),
            injected=row["injected_tokens"],
        )
        for row in rows.select(names).to_pylist()
        if row["token_ids"]
    ]
