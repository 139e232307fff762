"""`batchr1 status OUTPUT…|JOB`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchr1.cli.options import JSON, JobOptions, duration, job_options, named
from batchr1.cli.printing import echo, echo_json, say
from batchr1.cli.show import FEW
from batchr1.cli.status.rows import say_failed, say_rows
from batchr1.cli.status.text import as_text
from batchr1.errors import StorageError

if TYPE_CHECKING:
    from batchr1.dataset.pending import Counts
    from batchr1.output.folder import Output


@click.command()
@click.argument("targets", metavar="OUTPUT...|JOB", nargs=-1, required=True)
@job_options(devices=False)
@click.option("--by", metavar="COLUMN", help="Also a line for each value of this column.")
@click.option("--failed", "show_failed", is_flag=True, help="List the rows that failed, and why.")
@click.option(
    "--rows", type=click.IntRange(1), metavar="N", help="Show the N rows that finished last."
)
@click.option(
    "--follow",
    is_flag=True,
    help="Show rows as they are committed, until no run holds the output.",
)
@click.option(
    "--health",
    is_flag=True,
    help="Only whether a run is alive: exit code 0 healthy or complete, 1 not.",
)
@click.option(
    "--max-age",
    metavar="20m",
    help="With --health: a run that did nothing for so long is not healthy.",
)
@JSON
@click.pass_context
def command(
    ctx: click.Context,
    targets: tuple[str, ...],
    options: JobOptions,
    by: str | None,
    show_failed: bool,
    rows: int | None,
    follow: bool,
    health: bool,
    max_age: str | None,
    as_json: bool,
) -> None:
    """Say what an output holds: rows done, failed and pending, truncation, right answers, tokens.

    Several outputs, or a glob of their folders, get a line each and a total, which counts rows with
    the same model, id and sample once: the one that finished last. Those that share prompts with
    the first are compared with it, by pass@1. With a job file the input is read too, and pending
    rows are counted against it. With --health neither input nor rows are read: its line says
    whether a run holds the output, gives signs of life and gets on, or what the last left.

    pass@k is the chance that one of k samples of a prompt is right, cons@k that the majority of
    their final answers is.
    """
    from batchr1.output.find import find_outputs, is_glob

    job = _job_of(targets, options)
    _refuse_mixed(by, show_failed, rows, follow, health, max_age)
    if health:
        age = duration(max_age, "--max-age")
        looked_at = _outputs_of(targets, job, options, must_be_begun=False)
        ctx.exit(max(_say_health(output, age, as_json=as_json) for output in looked_at))
    if rows or follow:
        looked_at = _outputs_of(targets, job, options, must_be_begun=True)
        if follow and len(looked_at) > 1:
            raise click.UsageError(f"--follow follows one output (got {len(looked_at)})")
        say_rows(looked_at, rows or FEW, follow=follow, as_json=as_json)
        return
    if job is None and (len(targets) > 1 or is_glob(targets[0])):
        found = find_outputs(targets)
        if len(found) > 1 or show_failed:
            _say_several(found, by, show_failed=show_failed, as_json=as_json)
            return
        targets = (found[0].uri,)
    _say_one(targets[0], options, by, show_failed=show_failed, as_json=as_json)


def _refuse_mixed(
    by: str | None,
    show_failed: bool,
    rows: int | None,
    follow: bool,
    health: bool,
    max_age: str | None,
) -> None:
    """Raise `UsageError` for options that do not go together."""
    if health and (by is not None or show_failed or rows or follow):
        raise click.UsageError(
            "--health reads no rows: leave --by, --failed, --rows and --follow out"
        )
    if max_age is not None and not health:
        raise click.UsageError("--max-age belongs to --health")
    if (rows or follow) and (by is not None or show_failed):
        raise click.UsageError("--rows and --follow show rows alone: leave --by, --failed out")


def _say_several(
    outputs: Sequence[Output], by: str | None, *, show_failed: bool, as_json: bool
) -> None:
    """Print a line each and the total, or all failed rows."""
    if show_failed:
        say_failed(outputs, as_json=as_json)
        return
    from batchr1.cli.status.many import as_text as many_as_text
    from batchr1.report.totals import total_of

    totals = total_of(outputs, by=by)
    if as_json:
        echo_json(totals.to_dict())
    else:
        echo(many_as_text(totals, by))


def _say_one(
    target: str, options: JobOptions, by: str | None, *, show_failed: bool, as_json: bool
) -> None:
    """Print the summary of one output, or its failed rows."""
    found, counts = look_up(target, options)
    if counts is not None and not found.was_tried():
        _say_nothing(found, counts.pending, rows_only=show_failed, as_json=as_json)
        return
    if show_failed:
        say_failed([found], as_json=as_json)
        return
    from batchr1.report.health import look
    from batchr1.report.summary import summarise

    summary = summarise(found, by=by, counts=counts)
    if as_json:
        echo_json(summary.to_dict() | {"health": asdict(look(found))})
    else:
        echo(as_text(summary, by))


def _job_of(targets: Sequence[str], options: JobOptions) -> Path | None:
    """Tell whether the target is a job file; None: outputs."""
    jobs = [target for target in targets if Path(target).suffix in {".yaml", ".yml"}]
    if jobs and len(targets) > 1:
        raise click.UsageError(f"a job file stands alone (got {len(targets)} arguments)")
    if jobs:
        return Path(jobs[0])
    if options:
        raise click.UsageError(
            f"{options.flags}: needs a job file, not an output (got {targets[0]})"
        )
    return None


def look_up(target: str, options: JobOptions) -> tuple[Output, Counts | None]:
    """Open an output, or that of a job and count its samples."""
    job = _job_of([target], options)
    return (_open(target), None) if job is None else _count(job, options)


def _count(job: Path, options: JobOptions) -> tuple[Output, Counts]:
    """Open the output of a job, and count the input's samples."""
    from batchr1.driver.context import open_job
    from batchr1.driver.preflight import check_fingerprint
    from batchr1.driver.resume.pending_rows import find_pending

    spec = options.read(job)
    with named(job):
        context = open_job(spec)
        check_fingerprint(context)
        return context.output, find_pending(context).counts()


def _say_nothing(output: Output, pending: int, *, rows_only: bool, as_json: bool) -> None:
    """Print that an output is not there yet."""
    if not as_json:
        echo(f"{output.uri}: nothing here yet, {pending:,} pending")
    elif rows_only:
        echo_json([])
    else:
        said = {"output": output.uri, "complete": False, "done": 0, "pending": pending}
        echo_json(said)


def _open(target: str) -> Output:
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    return Output(open_storage(target))


def _outputs_of(
    targets: Sequence[str], job: Path | None, options: JobOptions, *, must_be_begun: bool
) -> list[Output]:
    """Open outputs, or that of a job and nothing else."""
    from batchr1.output.find import find_outputs, is_glob
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    if job is not None:
        spec = options.read(job)
        with named(job):
            return [Output(open_storage(spec.output.path, spec.storage.options))]
    if len(targets) == 1 and not must_be_begun and not is_glob(targets[0]):
        return [_open(targets[0])]
    return find_outputs(targets)


def _say_health(output: Output, max_age_s: float | None, *, as_json: bool) -> int:
    """Print the health, and return the exit code.

    Storage that cannot be read is not healthy.
    """
    from batchr1.report.health import MAX_AGE_S, look

    try:
        found = look(output, max_age_s=max_age_s or MAX_AGE_S)
    except StorageError as exc:
        said = {"output": output.uri, "healthy": False, "state": "unreadable", "error": str(exc)}
        say(said, f"{output.uri}: unreadable ({exc})", as_json=as_json)
        return 1
    say(asdict(found), str(found), as_json=as_json)
    return int(not found.healthy)
