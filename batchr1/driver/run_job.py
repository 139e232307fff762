"""`batchr1 run` without the command line: from a spec to a summary.

check what needs no engine ─▶ lock ─▶ find pending rows ─▶ work ─▶ record, _SUCCESS

Nothing is written before the checks are through: a job with a mistake leaves no trace.
"""

from __future__ import annotations

import datetime as dt
import logging

from batchr1.dataset.pending import Counts, Pending
from batchr1.driver.context import DEFAULTS, RunContext, RunOptions, open_job
from batchr1.driver.monitor.on_finish import run_command
from batchr1.driver.monitor.prometheus import MetricsExporter, exporting
from batchr1.driver.monitor.stages import Stages
from batchr1.driver.monitor.summary import (
    RunEnd,
    Summary,
    counted,
    exit_code_of,
    initial_record,
    job_document,
    now_text,
    run_name,
)
from batchr1.driver.planning import EngineInputs, make_renderer, plan_engines
from batchr1.driver.preflight import (
    check_fingerprint,
    check_options,
    confirm_fresh,
    download_weights,
    note_uncached,
)
from batchr1.driver.resume.changed_golds import check_golds
from batchr1.driver.resume.changed_prompts import agrees_with_input, check_prompts, files_to_check
from batchr1.driver.resume.continue_truncated import continue_truncated_rows
from batchr1.driver.resume.pending_rows import (
    read_ids,
    take_out_done,
    take_out_failed,
    take_out_unneeded,
    take_over_checkpoints,
)
from batchr1.driver.signals import StopSignals, stop_signals
from batchr1.driver.tally import Tally
from batchr1.driver.work import Work
from batchr1.events import event
from batchr1.job.spec import JobSpec
from batchr1.output.doubled import drop_doubled
from batchr1.output.folder import Output
from batchr1.output.replace import Limit, roll_forward, start_over
from batchr1.output.run_record import CountsRecord, RunRecord, TallyRecord
from batchr1.storage.owner import owned

log = logging.getLogger("batchr1.run")


def run_job(spec: JobSpec, options: RunOptions = DEFAULTS) -> Summary:
    """Run a job to its end, or to the next interruption.

    Raises `BatchError` for what ends a run before it could begin or for good. A run that stopped
    half-way returns a summary with exit code 75.
    """
    with exporting(spec.name, options.metrics_file, options.metrics_address) as exporter:
        is_shown = options.show_progress and not options.log_json
        with (
            stop_signals(quiet=options.log_json, grace_s=options.grace_s) as signals,
            Stages(is_shown=is_shown) as stages,
        ):
            end = _run_locked(spec, options, signals, exporter, stages)
        if spec.on_finish is not None and end.record is not None:
            run_command(spec.on_finish, end.record, end.summary.output)
        if end.error is not None:
            raise end.error
        return end.summary


def _run_locked(
    spec: JobSpec,
    options: RunOptions,
    signals: StopSignals,
    exporter: MetricsExporter,
    stages: Stages,
) -> RunEnd:
    """Check the job, take its output's lock, and do the work."""
    stages.begin("looking at the job, its model and its input")
    job = open_job(spec, options)
    spec = job.spec
    check_options(job, options)
    job.output.refuse_foreign()
    if not options.fresh:
        check_fingerprint(job, continue_truncated=options.continue_truncated)
    stages.begin("reading the input's ids")
    pending = read_ids(job)
    # An existing output was made with this model, and often nothing is left to do: sizing can wait.
    is_new = options.fresh or not job.output.exists()
    stages.begin("measuring prompts, planning the engines")
    engines = plan_engines(job, options) if is_new and pending.counts().pending else None
    stages.end()
    confirm_fresh(job, options)
    name = run_name(dt.datetime.now(dt.UTC))
    job.output.storage.check_writable()
    with owned(job.output.storage, run=name) as lock:
        run = RunContext(job, options, name, lock, signals, exporter)
        stages.begin("looking for what the output has already")
        engines = _find_pending(run, pending, engines)
        counts = pending.counts()
        if counts.pending == 0:
            return _finish_without_work(run, pending, counts)
        engines = engines or plan_engines(job, options)
        checkpoints = take_over_checkpoints(job, pending, name)
        pending.free()
        stages.end()
        note_uncached(job, options)
        download_weights(job, options)
        return Work(run, pending, counts, engines, checkpoints).do()


def _find_pending(
    run: RunContext, pending: Pending, engines: EngineInputs | None
) -> EngineInputs | None:
    """Take what is not to do out of `pending`.

    Returns the engines' inputs, where they had to be made for it.
    """
    job, options = run.job, run.options
    if options.fresh:
        start_over(job.output)
    check_fingerprint(job, continue_truncated=options.continue_truncated)
    roll_forward(job.output)
    job.output.clear_staging()
    rejudges = job.spec.input.on_changed_gold == "rejudge"
    if not rejudges:
        check_golds(job, pending, run=run.name)
    if take_out_done(job, pending) and drop_doubled(job.output, run.name):
        take_out_done(job, pending)
    _check_prompts(run, pending, engines)
    if rejudges:  # changes rows: not where prompts are refused
        check_golds(job, pending, run=run.name)
        if job.spec.stop_when:
            take_out_done(job, pending)  # other samples are right now
    if job.output.exists():
        agrees_with_input(job, pending)
    if not options.retry_failed:
        take_out_failed(job, pending)
    if options.continue_truncated:
        engines = engines or plan_engines(job, options)
        limit = Limit(job.spec.sampling.max_tokens, engines.plan.max_model_len)
        continue_truncated_rows(job, pending, engines.renderer, limit, run=run.name)
    take_out_unneeded(job, pending)
    return engines


def _check_prompts(run: RunContext, pending: Pending, engines: EngineInputs | None) -> None:
    """Compare the prompts of done rows, where an input file has changed."""
    job = run.job
    files = files_to_check(job, pending)
    if files:
        renderer = engines.renderer if engines else make_renderer(job, run.options)
        check_prompts(job, pending, renderer, files, run=run.name)


def _finish_without_work(run: RunContext, pending: Pending, counts: Counts) -> RunEnd:
    """Record and complete a run with nothing to do, like any other.

    Such are an empty night, and a job that is run once more. No engine is started.
    """
    job, output = run.job, run.job.output
    code = exit_code_of(counts, job.spec, None)
    take_over_checkpoints(job, pending, run.name)
    output.clear_inflight(run.name)
    record = initial_record(job, run.options, run.name)
    record.state, record.ended, record.exit_code, record.stopped = "ended", now_text(), code, None
    record.counts = CountsRecord.model_validate(counts.to_dict())
    record.tally = TallyRecord(done=0, failed=0, tokens=0)
    if not output.exists():  # input.exclude left no row: who waits for _SUCCESS shall find it
        output.write_job(job_document(job))
        agrees_with_input(job, pending)
    _record_once_a_day(output, record)
    if code == 0 and not output.is_complete():
        output.succeed(run.name, rows=counts.rows, samples=counts.done)
    said = event(
        "nothing_to_do",
        run=run.name,
        job=job.spec.name,
        output=output.uri,
        **counted(counts),
        exit_code=code,
    )
    log.info("nothing to do", extra=said)
    run.exporter.begin(run.name, output.uri, counts)
    run.exporter.end(code)
    summary = Summary(run.name, output.uri, counts, Tally(), 0.0, 0.0, code, None)
    return RunEnd(summary, record, None)


def _record_once_a_day(output: Output, record: RunRecord) -> None:
    """Write an empty run's record in place of the day's earlier one.

    A scheduler that looks every minute then leaves one a day. No part belongs to such a run.
    """
    before = output.last_run()
    output.write_run(record)
    if before is None or before.had_work or before.state != "ended":
        return
    if before.date == record.date:
        output.forget_run(before.run)
