"""`batchr1 run JOB`"""

from __future__ import annotations

import datetime as dt
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchr1.cli.options import (
    JOB,
    JSON,
    SIMPLE_FLAGS,
    JobOptions,
    address,
    days,
    duration,
    job_options,
    logging_as,
    named,
    next_time,
    refuse_same_days,
)
from batchr1.cli.printing import beside, echo, say

if TYPE_CHECKING:
    from batchr1.driver.context import RunOptions
    from batchr1.driver.monitor.summary import Summary
    from batchr1.job.spec import JobSpec


@click.command()
@JOB
@job_options(devices=True, dates=True)
@click.option("--fresh", is_flag=True, help="Delete this output's results and start over.")
@click.option("--yes", is_flag=True, help="Do not ask before --fresh deletes results.")
@click.option("--retry-failed", is_flag=True, help="Run failed rows again.")
@click.option(
    "--continue-truncated",
    is_flag=True,
    help="Let rows that were cut go on, up to a larger max_tokens.",
)
@click.option("--stop-after", metavar="6h", help="Stop, resumably, after this long.")
@click.option(
    "--stop-at", metavar="06:00", help="Stop, resumably, when the clock here next says so."
)
@click.option(
    "--grace", metavar="20s", help="After a signal, save and commit for at most this long."
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="What stderr holds."
)
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Keep Prometheus metrics in this file: PATH.prom for the node exporter.",
)
@click.option(
    "--metrics-port",
    metavar="[HOST:]PORT",
    help="Serve them at /metrics; without HOST, to this machine.",
)
@JSON
@click.pass_context
def command(
    ctx: click.Context,
    job: Path,
    options: JobOptions,
    fresh: bool,
    yes: bool,
    retry_failed: bool,
    continue_truncated: bool,
    stop_after: str | None,
    stop_at: str | None,
    grace: str | None,
    log_format: str,
    metrics_file: Path | None,
    metrics_port: str | None,
    as_json: bool,
) -> None:
    """Run JOB, a YAML file, or go on with it where it stopped.

    With --date A..B it is run for each day from A to B in turn, up to the first that does not come
    to its end.
    """
    with logging_as(log_format):
        dated = {day: replace(options, date=day) for day in days(options.date)}
        specs = {day: one.read(job) for day, one in dated.items()}
        refuse_same_days(job, specs)
        stop_after_s, grace_s = duration(stop_after), duration(grace, "--grace")
        stop_at_time = next_time(stop_at, dt.datetime.now())
        from batchr1.executors.worker_process import early_worker

        first = next(iter(specs.values()))
        with early_worker(first, options.gpus, options.device_ids) as early:
            from batchr1.driver.context import RunOptions

            def confirm(question: str) -> bool:
                return yes or (sys.stdin.isatty() and click.confirm(question, err=True))

            run_options = RunOptions(
                fresh=fresh,
                retry_failed=retry_failed,
                continue_truncated=continue_truncated,
                stop_after_s=stop_after_s,
                window_began=time.monotonic(),
                stop_at=stop_at_time,
                grace_s=grace_s,
                gpus=options.gpus,
                devices=options.device_ids,
                confirm_fresh=confirm,
                log_json=log_format == "json",
                metrics_file=metrics_file,
                metrics_address=address(metrics_port),
                early=early,
            )
            code = _run_days(ctx, specs, run_options, as_json=as_json)
    ctx.exit(code)


def _run_days(
    ctx: click.Context, specs: dict[str | None, JobSpec], options: RunOptions, *, as_json: bool
) -> int:
    """Run a job for each day; returns the exit code.

    The first that does not come to its end is the last.
    """
    from batchr1.driver.run_job import run_job

    given, code = ctx.params, 0
    for day, spec in specs.items():
        if len(specs) > 1 and not as_json:
            echo(f"{day}:")
        with named(given["job"]):
            if day:
                options = replace(options, date=dt.date.fromisoformat(day))
            summary = run_job(spec, options)
        document = as_document(summary)
        if len(specs) > 1:
            document = {"date": day} | document
        text = as_text(summary, _again(ctx), continues=given["continue_truncated"])
        say(document, text, as_json=as_json)
        code = max(code, summary.exit_code)
        if summary.exit_code not in (0, 3):
            break
    return code


def as_document(summary: Summary) -> dict[str, object]:
    """The summary as plain values."""
    counts, tally = summary.counts, summary.tally
    spend = {}
    if summary.spend:
        spend = {"spend": summary.spend.model_dump()}
    return {
        "run": summary.run,
        "output": summary.output,
        "exit_code": summary.exit_code,
        "stopped": summary.stopped,
        "rungs": [asdict(rung) for rung in summary.rungs],
        "given_up": {str(worker): why for worker, why in summary.given_up.items()},
        "samples": counts.samples,
        "done": counts.done,
        "failed": counts.failed,
        "pending": counts.pending,
        "spared": counts.spared,
        "beside": counts.beside,
        "this_run": {
            "done": tally.done,
            "failed": tally.failed,
            "reasons": tally.reasons,
            "tokens": tally.tokens,
            "tokens_per_s": round(summary.tokens_per_s, 1),
            "truncated": tally.truncated,
            "correct": tally.correct,
            "judged": tally.judged,
            "discarded_tokens": tally.discarded,
            "spared": tally.spared,
            "dropped_tokens": tally.dropped_tokens,
            "seconds": round(summary.wall_s, 1),
        },
        **spend,
    }


def _again(ctx: click.Context) -> str:
    """Write the command that goes on with this run.

    Overrides stay; --fresh is done.
    """
    given = ctx.params
    words = ["batchr1", "run", str(given["job"])]
    for name, flag in SIMPLE_FLAGS.items():
        if given[name] is not None:
            words += [flag, str(given[name])]
    for setting in given["settings"]:
        key, _, value = setting.partition("=")
        is_shown = not key.startswith("on_finish")  # the arguments of a command may hold a secret
        words += ["--set", setting if is_shown or value == "null" else f"{key}=…"]
    words += ["--retry-failed"] * given["retry_failed"]
    return shlex.join(words + ["--continue-truncated"] * given["continue_truncated"])


def as_text(summary: Summary, again: str, *, continues: bool = False) -> str:
    """Format the lines that every run ends with.

    `continues`: whether truncated rows were to go on.
    """
    counts, tally = summary.counts, summary.tally
    unit = "rows"
    if counts.n > 1:
        unit = f"samples ({counts.rows:,} rows × {counts.n})"
    left = f"{counts.pending:,} pending"
    if counts.spared:
        left += f" + {counts.spared:,} spared"
    lines = [
        f"{counts.samples:,} {unit} = {counts.done:,} done + {counts.failed:,} failed + {left}"
    ]
    if counts.duplicates:
        lines.append(
            f"{counts.duplicates:,} rows left out: equal prompts, or done in input.exclude"
        )
    if counts.beside:
        lines.append(beside(counts.beside))
    if tally.done:
        lines.append(_work(summary))
    elif not counts.pending and not tally.failed:
        why = ""
        if not counts.rows and not counts.duplicates:
            why = ": the input has no rows"
        if continues:
            why = ": no row was cut below sampling.max_tokens"
        lines.append("nothing to do" + why)
    lines += [*_costs(summary), *_troubles(summary)]
    if summary.stopped:
        lines.append(f"stopped: {summary.stopped}")
    lines.append(f"output: {summary.output}")
    status = f"batchr1 status {shlex.quote(summary.output)}"
    match summary.exit_code:
        case 75:
            lines.append(f"next: {again}    (goes on from here)")
        case 3:
            lines.append(f"next: {status} --failed    (why rows failed)")
        case _:
            lines.append(f"next: {status}")
    return "\n".join(lines)


def _work(summary: Summary) -> str:
    """The line on the rows of this run."""
    tally = summary.tally
    done = (
        f"{tally.done:,} rows, {tally.tokens - tally.carried:,} tokens in {summary.wall_s:,.1f} s, "
        f"{summary.tokens_per_s:,.0f} tokens/s while generating"
    )
    if summary.spend and not tally.tokens:
        done = f"{tally.done:,} rows in {summary.wall_s:,.1f} s, tokens not counted by the server"
    correct = ""
    if tally.judged:
        correct = f", {tally.correct / tally.judged:.1%} correct"
    return f"this run: {done}, {tally.truncated / tally.done:.1%} truncated{correct}"


def _costs(summary: Summary) -> list[str]:
    """Lines on tokens thrown away and spared, and on money."""
    from batchr1.driver.monitor.cost import as_line as spent_line

    tally, lines = summary.tally, []
    if tally.discarded:
        lines.append(
            f"tried again: {tally.discarded:,} tokens of outcomes that retry.on names were "
            f"thrown away"
        )
    if tally.spared and tally.done:
        saved = tally.spared * tally.tokens / tally.done - tally.dropped_tokens
        lines.append(
            f"spared: {tally.spared:,} samples of rows with enough right ones, about "
            f"{max(0, saved):,.0f} tokens "
            f"({tally.dropped_tokens:,} of theirs were generated before that was known)"
        )
    if summary.spend and (spent := spent_line(summary.spend, summary.max_cost)):
        lines.append(spent)
    return lines


def _troubles(summary: Summary) -> list[str]:
    """Lines on steps down, replicas given up, and failed rows."""
    lines = []
    for rung in summary.rungs:
        changes = ", ".join(f"{name}={value}" for name, value in rung.changes.items())
        lines.append(
            f"stepped down: worker {rung.worker} after {rung.at_s:.0f} s, "
            f"{changes or 'tried again as it was'} ({rung.reason})"
        )
    others = ", and the others did its work"
    if summary.stopped:
        others = ""
    for worker, why in summary.given_up.items():
        lines.append(f"given up: worker {worker}{others} ({why})")
    reasons = sorted(summary.tally.reasons.items())
    if reasons:
        lines.append("failed: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons))
    return lines
