"""A run with work: feeder, workers and driver, to the end."""

from __future__ import annotations

import datetime as dt
import logging
import time

from batchr1.backends.base import backend_of
from batchr1.dataset.pending import Counts, Pending
from batchr1.driver.commits import Commits
from batchr1.driver.context import RunContext
from batchr1.driver.driver import Driver, RunHooks
from batchr1.driver.feed.feeder import Feeder
from batchr1.driver.feed.golds import verify_kind
from batchr1.driver.feed.items import ItemMaker, Limits
from batchr1.driver.fleet import Fleet
from batchr1.driver.leases import LEASE_SIZE
from batchr1.driver.monitor.logs import log_file
from batchr1.driver.monitor.progress import ProgressDisplay
from batchr1.driver.monitor.recorder import RunRecorder, RunResult
from batchr1.driver.monitor.summary import RunEnd, Summary, counted, job_document
from batchr1.driver.planning import EngineInputs
from batchr1.driver.resume.changed_prompts import agrees_with_input
from batchr1.driver.tally import Tally
from batchr1.driver.worker_setup import WorkerSetups
from batchr1.errors import BatchError, InterruptedRun, StorageError, UsageError
from batchr1.events import event
from batchr1.executors.base import Executor, open_executor
from batchr1.executors.messages import Heartbeat, WorkerReady
from batchr1.executors.setup import most_in_flight
from batchr1.faults import fault_point
from batchr1.output.checkpoints import FoundCheckpoints
from batchr1.storage.base import Retry
from batchr1.storage.errors import mapped

log = logging.getLogger("batchr1.run")

PATIENCE = Retry(for_s=120.0)  # with storage that does not answer, while work is under way


class Work:
    """The work of a run that holds the lock."""

    def __init__(
        self,
        run: RunContext,
        pending: Pending,
        counts: Counts,
        engines: EngineInputs,
        checkpoints: FoundCheckpoints,
    ) -> None:
        self._run, self._pending, self._counts = run, pending, counts
        self._engines, self._checkpoints = engines, checkpoints
        self._output = run.job.output
        self._recorder = RunRecorder(run, counts, engines.plan, checkpoints)
        self._claimed = False
        self._warned: set[str] = set()
        self._named = {"run": run.name, "job": run.job.spec.name, "output": self._output.uri}

    def do(self) -> RunEnd:
        """Work until nothing is pending or the run is stopped.

        Returns how it ended; the record says it too.
        """
        self._run.signals.is_polled = True
        self._output.storage.retry = PATIENCE
        self._output.begin()
        self._recorder.write()
        self._run.exporter.begin(self._run.name, self._output.uri, self._counts)
        with log_file(self._output, self._run.name) as log_path:
            said = event("run_started", **self._named, **counted(self._counts))
            log.info("run %s: %d pending", self._run.name, self._counts.pending, extra=said)
            self._log_checkpoints()
            feeder = self._make_feeder()
            job, plan = self._run.job, self._engines.plan
            with mapped(str(log_path)):
                log_stream = log_path.open("ab", buffering=0)
            executor = open_executor(job.spec, plan, log_stream, self._run.options.early)
            fleet = self._make_fleet(executor)
            display = self._make_display()
            driver = self._make_driver(executor, feeder, fleet, display)
            error: BatchError | None = None
            try:
                driver.run()
            except BatchError as exc:
                error = exc
                log.log(self._level_of(exc), "%s", exc)
                driver.release()
            finally:
                feeder.close()
                executor.close()
                if display is not None:
                    display.close()
            return self._end(driver, fleet, error)

    @staticmethod
    def _level_of(error: BatchError) -> int:
        """Choose the log's level.

        A window's end is planned, a lost server is not.
        """
        if not isinstance(error, InterruptedRun) or error.cause == "server":
            return logging.ERROR
        return logging.INFO if error.cause == "window" else logging.WARNING

    def _log_checkpoints(self) -> None:
        found, where = self._checkpoints, self._output.storage.where
        for rel, why in found.unreadable.items():
            log.warning("%s: not used (%s): its generations begin again", where(rel), why)
        if not found.saved:
            return
        generations = len(found.saved)
        log.info(
            "going on with %d generations that were saved: %d tokens, %d of them finished",
            generations,
            found.tokens,
            found.finished,
            extra=event(
                "going_on", generations=generations, finished=found.finished, tokens=found.tokens
            ),
        )

    def _make_feeder(self) -> Feeder:
        job, plan = self._run.job, self._engines.plan
        spec = job.spec
        items = ItemMaker(
            job.source,
            self._engines.renderer,
            Limits(spec.sampling.max_tokens, plan.max_model_len),
            spec.sampling.seed,
            self._checkpoints.saved,
        )
        return Feeder(
            self._pending,
            items,
            ahead=LEASE_SIZE * plan.replicas,
            first=most_in_flight(plan.max_num_seqs) * plan.replicas,
            longest_first=spec.longest_first,
            enough=spec.stop_when.correct if spec.stop_when else None,
        )

    def _make_fleet(self, executor: Executor) -> Fleet:
        plan, kind = self._engines.plan, verify_kind(self._run.job)
        setups = WorkerSetups(self._run, self._engines, self._recorder.spent_usd, kind)
        first = [setups.make(worker, plan.kind_of(worker)) for worker in range(plan.replicas)]
        return Fleet(executor, first, setups.make, most=self._run.job.spec.executor.replicas)

    def _make_display(self) -> ProgressDisplay | None:
        options = self._run.options
        if not options.show_progress:
            return None
        spec, found = self._run.job.spec, self._checkpoints
        unit = "row" if spec.sampling.n == 1 else "sample"
        saved = None
        if found.saved:
            saved = (
                f"going on from {found.tokens:,} saved tokens of {len(found.saved):,} {unit}s, "
                f"{found.finished:,} of them finished"
            )
        return ProgressDisplay(
            pending=self._counts.pending,
            unit=unit,
            loading="reaching the server" if backend_of(spec).is_server else "loading the model",
            saved=saved,
            as_events=options.log_json,
        )

    def _make_driver(
        self, executor: Executor, feeder: Feeder, fleet: Fleet, display: ProgressDisplay | None
    ) -> Driver:
        spec, options = self._run.job.spec, self._run.options

        def on_progress(tally: Tally, workers: list[Heartbeat]) -> None:
            self._recorder.update(tally, workers)
            self._run.exporter.update(tally, workers, self._recorder.timeline)
            if display is not None:
                display.update(tally, workers)

        def on_ready(ready: WorkerReady) -> None:
            self._claim_output(ready)
            for warning in self._new_warnings(ready):
                log.warning("the engine goes a slower way: %s", warning)
                if display is not None:
                    display.note(f"slower: {warning}")

        return Driver(
            commits=Commits(
                self._output,
                self._run.lock,
                run=self._run.name,
                failed_every_s=spec.output.part_every_s,
            ),
            executor=executor,
            feeder=feeder,
            replicas=fleet,
            hooks=RunHooks(self._interruption, on_ready, on_progress),
            grace_s=options.grace_s,
            n=spec.sampling.n,
        )

    def _interruption(self) -> InterruptedRun | None:
        """Say why the run shall stop; None while it shall not."""
        if (over := self._window_over()) is not None:
            return InterruptedRun(over, cause="window")
        reason = self._run.signals.reason
        return None if reason is None else InterruptedRun(reason)

    def _window_over(self) -> str | None:
        """Say that the time window is over; None while it is not."""
        options = self._run.options
        began = options.window_began
        if began is None:
            began = self._recorder.started
        window_s, stop_at = options.stop_after_s, options.stop_at
        if window_s is not None and time.monotonic() >= began + window_s:
            return f"the time window of {window_s:g} s is over"
        # A time of day is compared with the wall clock, which may be set meanwhile.
        if stop_at is not None and dt.datetime.now(dt.UTC) >= stop_at:
            return f"the time window is over: it is {stop_at:%H:%M}"
        return None

    def _new_warnings(self, ready: WorkerReady) -> list[str]:
        """List warnings of an engine that no engine gave before."""
        new = [text for text in ready.slower if text not in self._warned]
        self._warned.update(new)
        return new

    def _claim_output(self, ready: WorkerReady) -> None:
        """Bind the output to this job, once an engine is ready.

        Earlier, a wrong engine argument would bind it to that mistake.
        """
        if self._claimed:
            return
        self._claimed = True
        self._output.write_job(job_document(self._run.job, self._engines.renderer))
        agrees_with_input(self._run.job, self._pending)

    def _end(self, driver: Driver, fleet: Fleet, error: BatchError | None) -> RunEnd:
        """Write the record, and `_SUCCESS` when everything is done."""
        result = self._recorder.end(driver, fleet, error)
        tally = driver.tally
        self._run.exporter.end(result.exit_code, tally, self._recorder.timeline)
        said = event(
            "run_ended",
            **self._named,
            **counted(result.counts),
            exit_code=result.exit_code,
            stopped=result.stopped,
            tokens=tally.tokens,
            tokens_per_s=round(result.tokens_per_s, 1),
            seconds=round(result.wall_s, 3),
        )
        log.info(
            "the run has ended: exit code %d, %d done in it",
            result.exit_code,
            tally.done,
            extra=said,
        )
        summary = self._summary(driver, fleet, result)
        if isinstance(error, UsageError) and not self._claimed:
            self._output.forget_run(self._run.name)
            return RunEnd(summary, None, error)
        failure = error if result.stopped is None else None
        if not driver.lost:
            try:
                self._complete(result)
            except BatchError as exc:
                failure = exc
        return RunEnd(summary, self._recorder.record, failure)

    def _complete(self, result: RunResult) -> None:
        """Leave the record, and no checkpoint that is not needed."""
        try:
            self._recorder.write()
        except StorageError as exc:
            if result.stopped is None:
                raise
            log.warning("the run's record could not be written: %s", exc)
        fault_point("finish.recorded")
        if not result.counts.pending:
            self._output.clear_inflight(self._run.name)
            self._output.storage.abort_uploads()  # of a dead worker; what it staged goes at the end
            fault_point("finish.cleared")
        if result.exit_code == 0:
            counts = result.counts
            self._output.succeed(self._run.name, rows=counts.rows, samples=counts.done)
            fault_point("finish.succeeded")

    def _summary(self, driver: Driver, fleet: Fleet, result: RunResult) -> Summary:
        return Summary(
            self._run.name,
            self._output.uri,
            result.counts,
            driver.tally,
            result.wall_s,
            result.tokens_per_s,
            result.exit_code,
            result.stopped,
            tuple(fleet.rungs),
            fleet.given_up,
            self._recorder.record.spend,
            self._run.job.spec.engine.max_cost,
        )
