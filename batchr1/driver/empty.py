"""A run with nothing to do: an empty night, or a job that is run once more. Nothing is loaded, a
record is left.
"""

from __future__ import annotations

import logging
from typing import Any

from batchr1.dataset.pending import Counts, Pending
from batchr1.driver.driver import Tally
from batchr1.driver.monitor.watch import Watch
from batchr1.driver.prepare import JobContext, RunOptions, take_over_checkpoints
from batchr1.driver.resume.changed_prompts import agrees_with_input
from batchr1.driver.summary import (
    Summary,
    counted,
    exit_code_of,
    initial_record,
    job_document,
    now_text,
)
from batchr1.events import event
from batchr1.output.folder import Output
from batchr1.storage.lock import Lock

log = logging.getLogger("batchr1.run")


def finish_without_work(
    prepared: JobContext,
    options: RunOptions,
    pending: Pending,
    run: str,
    lock: Lock,
    counts: Counts,
    watch: Watch,
    told: dict[str, Any],
) -> Summary:
    """Record, complete and tell such a run like any other. `told` takes its record."""
    output, name = prepared.output, prepared.spec.name
    code = exit_code_of(counts, prepared.spec, None)
    take_over_checkpoints(prepared, pending, run)
    output.clear_inflight(run)
    record = initial_record(prepared, options, run) | {
        "state": "ended",
        "ended": now_text(),
        "exit_code": code,
        "stopped": None,
        "counts": counts.to_dict(),
        "tally": {"done": 0, "failed": 0, "tokens": 0},
    }
    lock.check()
    if not output.exists():  # input.exclude left no row: whoever waits for _SUCCESS shall find it
        output.write_job(job_document(prepared))
        agrees_with_input(prepared, pending)
    _record_once_a_day(output, run, record)
    if code == 0 and not output.is_complete():
        output.succeed()
    told |= record | {"output": output.uri}
    said = event(
        "nothing_to_do", run=run, job=name, output=output.uri, **counted(counts), exit_code=code
    )
    log.info("nothing to do", extra=said)
    watch.begin(run, output.uri, counts)
    watch.end(code)
    return Summary(run, output.uri, counts, Tally(), 0.0, 0.0, code, None)


def _record_once_a_day(output: Output, run: str, record: dict[str, Any]) -> None:
    """A scheduler that looks every minute leaves one such record a day: the newest takes the place of the one before.

    It made nothing, so that no part is anybody's because of it.
    """
    before = output.last_run()
    output.write_run(run, record)
    if before is not None and _is_empty(before) and before.get("date") == record["date"]:
        output.forget_run(str(before["run"]))


def _is_empty(record: dict[str, Any]) -> bool:
    """Whether it is of a run that found nothing to do: it had no plan."""
    return "plan" not in record and record.get("state") == "ended"
