"""`batchr1 status OUTPUT|JOB`"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import JSON, JobOptions, duration, job_options, named
from batchr1.cli.printing import echo, say
from batchr1.errors import StorageError
from batchr1.events import printable

if TYPE_CHECKING:
    from batchr1.dataset.pending import Counts
    from batchr1.output.folder import Output
    from batchr1.report.labels import LabelCounts
    from batchr1.report.measures import Estimate, Measures
    from batchr1.report.summary import GroupSummary, OutputSummary


@click.command()
@click.argument("target", metavar="OUTPUT|JOB")
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
    target: str,
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

    With a job file the input is read too, and pending rows are counted against it. With --health
    neither input nor rows are read: its line says whether a run holds the output, gives signs of
    life and gets on, or what the last left.
    """
    job = _job_of(target, options)
    if health:
        if by is not None or show_failed or rows or follow:
            raise click.UsageError(
                "--health reads no rows: leave --by, --failed, --rows and --follow out"
            )
        looked_at = _output_of(target, job, options)
        ctx.exit(_say_health(looked_at, duration(max_age, "--max-age"), as_json=as_json))
    if max_age is not None:
        raise click.UsageError("--max-age belongs to --health")
    if rows or follow:
        if by is not None or show_failed:
            raise click.UsageError("--rows and --follow show rows alone: leave --by, --failed out")
        looked_at = _open_begun(target) if job is None else _output_of(target, job, options)
        _say_rows(looked_at, rows, follow=follow, as_json=as_json)
        return
    pending = spared = None
    found, counts = look_up(target, options)
    if counts is not None:
        pending, spared = counts.pending, counts.spared
        if not found.exists():
            _say_nothing(found, counts.pending, rows_only=show_failed, as_json=as_json)
            return
    if show_failed:
        _say_failed(found, as_json=as_json)
        return
    from batchr1.report.health import look
    from batchr1.report.summary import summarise

    summary = summarise(found, by=by, pending=pending, spared=spared)
    if as_json:
        echo(json.dumps(summary.to_dict() | {"health": asdict(look(found))}, default=str))
    else:
        echo(as_text(summary, by))


def _job_of(target: str, options: JobOptions) -> Path | None:
    """Tell whether a target is a job file; None: an output."""
    if Path(target).suffix in {".yaml", ".yml"}:
        return Path(target)
    if options:
        raise click.UsageError(f"{options.flags}: needs a job file, not an output (got {target})")
    return None


def look_up(target: str, options: JobOptions) -> tuple[Output, Counts | None]:
    """Open an output, or that of a job and count its samples."""
    job = _job_of(target, options)
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
        echo(json.dumps([]))
    else:
        said = {"output": output.uri, "complete": False, "done": 0, "pending": pending}
        echo(json.dumps(said))


def _say_rows(output: Output, count: int | None, *, follow: bool, as_json: bool) -> None:
    """Print the newest rows; with `follow` also those that come."""
    from batchr1.report.newest import as_text as row_text
    from batchr1.report.newest import follow as follow_rows
    from batchr1.report.newest import newest_rows

    def say_one(row: dict[str, Any]) -> None:
        click.echo(json.dumps(row, default=str) if as_json else row_text(row))

    if not output.was_tried():
        echo(f"{output.uri}: nothing here yet", err=True)
        return
    if follow:
        follow_rows(output, say_one, count or 3)
        return
    found = newest_rows(output, count or 3)
    if not found:
        click.echo("no rows yet", err=True)
    for row in found:
        say_one(row)


def _say_failed(output: Output, *, as_json: bool) -> None:
    """Print the rows that failed, and why."""
    from batchr1.report.summary import failed_rows

    rows = failed_rows(output)
    if as_json:
        echo(json.dumps(rows, default=str))
        return
    if not rows:
        echo("no failed rows", err=True)
    for row in rows:
        cells = (row["id"], row["sample"], row["reason"], row["message"])
        echo("\t".join(printable(cell) for cell in cells))


def _open(target: str) -> Output:
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    return Output(open_storage(target))


def _open_begun(target: str) -> Output:
    """Open an output that a run has begun."""
    from batchr1.output.find import open_output

    return open_output(target)


def _output_of(target: str, job: Path | None, options: JobOptions) -> Output:
    """Open an output, or that of a job and nothing else."""
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    if job is None:
        return _open(target)
    spec = options.read(job)
    with named(job):
        storage = spec.storage.options
        return Output(open_storage(spec.output.path, storage))


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


def state_of(s: OutputSummary) -> str:
    """Name the state of an output that no run holds."""
    if s.complete and not s.pending:
        return "complete"
    if s.pending == 0 and s.failed:
        return "complete but for failed rows"
    return "not complete"


def as_text(s: OutputSummary, by: str | None) -> str:
    """The table that `status` prints."""
    state = state_of(s)
    if s.holder:
        state = f"running ({s.holder})"
    elif s.last_run.state == "running":
        state += f" (run {s.last_run.run} ended without a word: run the job again, it goes on)"
    lines = [f"{s.output}: {state}", *_counts(s), *_speed(s)]
    if s.failed:
        lines.append("  failed     " + _list(s.failed))
    if s.done:
        lines += _results(s)
    return "\n".join(lines + [_group(group, by) for group in s.groups])


def _counts(s: OutputSummary) -> list[str]:
    """Rows by state, and what is saved of those under way."""
    failed = sum(s.failed.values())
    pending = "pending unknown"
    if s.pending is not None:
        pending = f"{s.pending:,} pending"
    if s.spared:
        pending += f", {s.spared:,} spared"
    runs = "1 run"
    if s.runs != 1:
        runs = f"{s.runs:,} runs"
    lines = [f"  rows       {s.done:,} done, {failed:,} failed, {pending}, {runs}"]
    if s.repeated:
        lines.append(
            f"  repeated   {s.repeated:,} rows lie in data/ twice (a part was copied there?): "
            f"counted once, and the next run keeps one of each"
        )
    saved = s.in_flight
    if saved.under_way or saved.finished:
        rows = f"{saved.under_way:,} under way, {saved.finished:,} waiting for their file"
        lines.append(f"  in flight  {rows}: {saved.tokens:,} tokens saved")
    if saved.unreadable:
        lines.append(
            f"  in flight  {saved.unreadable:,} snapshots cannot be read: their tokens are "
            f"generated again"
        )
    return lines


def _speed(s: OutputSummary) -> list[str]:
    """Tokens per second, and the engines' preemptions and prefix cache."""
    from batchr1.driver.monitor.progress import format_seconds

    lines = []
    if s.tokens_per_s is not None:
        since = "in the last run"
        if s.holder:
            since = "since this run began"
        eta = ""
        if s.eta_s is not None:
            eta = f", ETA {format_seconds(s.eta_s)}"
        lines.append(f"  speed      {s.tokens_per_s:,.0f} tokens/s {since}{eta}")
    loads = list((s.last_run.loads or {}).values())
    if any(load.preempted or load.prefix_hits for load in loads):
        preempted = sum(load.preempted for load in loads)
        queries = sum(load.prefix_queries for load in loads)
        hits = sum(load.prefix_hits for load in loads)
        share = ""
        if queries:
            share = f", {hits / queries:.0%} of prompt tokens found in the prefix cache"
        lines.append(f"  engines    {preempted:,} preemptions in the last run{share}")
    return lines


def _results(s: OutputSummary) -> list[str]:
    """Reasoning, truncation, right answers, flags and tokens of the done rows."""
    cut = sum(s.truncated_in.values())
    where = ""
    if cut:
        where = f" (in {_list(s.truncated_in)})"
    lines = [
        f"  reasoning  {_list(s.statuses)}",
        f"  truncated  {cut:,} = {cut / s.done:.1%}{where}",
    ]
    if s.judged:
        lines.append(f"  correct    {s.correct:,} of {s.judged:,} = {s.correct / s.judged:.1%}")
    if s.measures:
        lines += _measures(s.measures)
    if s.labels:
        lines.append(_labels(s.labels))
    if s.flags:
        lines.append(f"  flags      {_list(s.flags)}")
    if s.token_stats:
        lines.append(f"  tokens     {s.tokens:,} generated; per row:")
    else:
        lines.append("  tokens     the server counted none")
    for name, stats in s.token_stats.items():
        numbers = "  ".join(f"{key} {value:>8,.0f}" for key, value in stats.items())
        lines.append(f"    {name:<18} {numbers}")
    return lines


def _group(group: GroupSummary, by: str | None) -> str:
    """The line of a value of the column `by`."""
    share = "     no gold"
    if group.judged:
        share = f"{group.correct / group.judged:6.1%} correct"
    line = (
        f"  {printable(by)} {printable(group.value):<24} {group.rows:>7,} rows  {share}  "
        f"{group.truncated / group.rows:6.1%} truncated"
    )
    if group.mean_tokens is not None:
        line += f"  {group.mean_tokens:>8,.0f} tokens"
    if group.measures:
        line += _at_most_k(group.measures)
    return line


def _measures(m: Measures) -> list[str]:
    """pass@k and cons@k with their intervals; cons@1 is pass@1."""

    def at(estimates: dict[int, Estimate]) -> str:
        return "  ".join(
            f"@{k} {e.value:.1%} ({100 * e.low:.1f}-{100 * e.high:.1f})"
            for k, e in estimates.items()
        )

    agreed = {k: e for k, e in m.cons_at.items() if k > 1}
    lines = [f"  pass@k     {at(m.pass_at)}"]
    if agreed:
        lines.append(f"  cons@k     {at(agreed)}")
    return [*lines, f"             95% intervals, bootstrap over {m.prompts:,} prompts"]


def _labels(labels: LabelCounts) -> str:
    """The line of pass rates and majority shares."""
    found = []
    if labels.pass_rate:
        rates = ", ".join(f"{name}: {count:,}" for name, count in labels.pass_rate.items())
        found.append(f"by pass rate {rates}")
    if labels.mean_majority_share is not None:
        found.append(f"majority share {labels.mean_majority_share:.1%} in the mean")
    return f"  prompts    {labels.prompts:,}; {'; '.join(found) or 'no answers'}"


def _at_most_k(m: Measures) -> str:
    """Both measures at the largest k that a group has."""
    k = max(m.pass_at, default=1)
    if k == 1:
        return ""
    return f"  pass@{k} {m.pass_at[k].value:.1%}  cons@{k} {m.cons_at[k].value:.1%}"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {printable(name)}" for name, count in counts.items())
