"""The first record of a run, its summary, and job.json."""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchr1.backends.renderers import recorded_prompts
from batchr1.dataset.pending import Counts
from batchr1.driver.context import JobContext, RunOptions
from batchr1.driver.oom_restart import RungTaken
from batchr1.driver.tally import Tally
from batchr1.errors import BatchError
from batchr1.job.fingerprint import digest
from batchr1.job.spec import JobSpec
from batchr1.output.run_record import FORMAT, RunRecord, SpendRecord, WindowRecord
from batchr1.version import __version__

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run, for the command line.

    `counts` are of the whole input; `tally` of this run alone.
    """

    run: str
    output: str
    counts: Counts
    tally: Tally
    wall_s: float
    tokens_per_s: float
    exit_code: int
    stopped: str | None
    rungs: tuple[RungTaken, ...] = ()
    given_up: dict[int, str] = field(default_factory=dict)  # replicas that were, and why
    spend: SpendRecord | None = None  # where a server did the work
    max_cost: float | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run.

    `record` is for `on_finish`, None where the run left none; `error` is to be raised.
    """

    summary: Summary
    record: RunRecord | None
    error: BatchError | None


def run_name(now: dt.datetime) -> str:
    """Name a run so that names sort by time, to the millisecond.

    Records and failed parts of quick runs stay in order too.
    """
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{secrets.token_hex(2)}"


def initial_record(job: JobContext, options: RunOptions, run: str) -> RunRecord:
    """Make the record of a run that has done nothing yet."""
    stop_at = None
    if options.stop_at:
        stop_at = options.stop_at.isoformat()
    return RunRecord(
        format=FORMAT,
        run=run,
        state="running",
        started=now_text(),
        date=(options.date or dt.date.today()).isoformat(),
        window=WindowRecord(stop_after_s=options.stop_after_s, stop_at=stop_at),
        batchr1=__version__,
        job=job.spec.name,
        model=job.model.identity,
    )


def job_document(job: JobContext, renderer: Renderer | None = None) -> dict[str, Any]:
    """Make the content of job.json.

    Of the command of `on_finish`, only the program: arguments may hold secrets. With a `renderer`,
    also what prompts depend on beyond the spec.
    """
    model, spec = job.model, job.spec.model_dump(mode="json")
    if spec["on_finish"] is not None and len(spec["on_finish"]["command"]) > 1:
        spec["on_finish"]["command"][1:] = ["…"]
    return {
        "batchr1": __version__,
        "fingerprint": job.semantic,
        "digest": digest(job.semantic),
        "model": {"name": model.name, "location": model.location, "revision": model.revision},
        "spec": spec,
        **({} if renderer is None else recorded_prompts(renderer)),
    }


def counted(counts: Counts) -> dict[str, int]:
    """Pick the counts that events have."""
    return {
        name: getattr(counts, name) for name in ("samples", "done", "failed", "spared", "pending")
    }


def exit_code_of(counts: Counts, spec: JobSpec, stopped: str | None) -> int:
    if stopped is not None or counts.pending:
        return 75
    if counts.failed > spec.max_failed:
        return 3
    return 0


def now_text() -> str:
    """This moment in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
