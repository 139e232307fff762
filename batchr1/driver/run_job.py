"""`batchr1 run`, without the command line: from a spec to a summary.

check everything that can be checked without an engine ─▶ lock ─▶ what is pending? ─▶ Driver ─▶ record, _SUCCESS

Nothing is written before the checks are through, so that a job with a mistake in it leaves no
trace.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchr1.backends.openai import price_of, require_key, server_setup
from batchr1.dataset.pending import Counts, Pending
from batchr1.driver.cost import spend_document, spent_before
from batchr1.driver.driver import GRACE_S, LEASE_SIZE, Driver, Tally
from batchr1.driver.empty import finish_without_work
from batchr1.driver.fleet import Fleet
from batchr1.driver.logs import log_file
from batchr1.driver.monitor.timeline import Timeline
from batchr1.driver.monitor.watch import Watch, watching
from batchr1.driver.on_finish import tell
from batchr1.driver.prepare import (
    DEFAULTS,
    JobContext,
    RunOptions,
    budgets_of,
    check_fingerprint,
    download_weights,
    make_renderer,
    note_uncached,
    plan_job,
    prepare,
    read_ids,
    take_out_done,
    take_out_failed,
    take_out_unneeded,
    take_over_checkpoints,
    verify_setup,
)
from batchr1.driver.resume.changed_prompts import agrees_with_input, check_prompts, files_to_check
from batchr1.driver.resume.continue_truncated import continue_truncated_rows
from batchr1.driver.signals import StopSignals, stop_signals
from batchr1.driver.summary import (
    Summary,
    counted,
    exit_code_of,
    initial_record,
    job_document,
    now_text,
    run_name,
)
from batchr1.engine.openai.server import Price, Spent
from batchr1.engine.protocol import EngineLoad, Sampling
from batchr1.errors import BatchError, JobError, OutputError, StoppedError, StorageError, UsageError
from batchr1.events import event
from batchr1.executors.base import open_executor
from batchr1.executors.local import share_cores
from batchr1.executors.messages import EngineSpec, Heartbeat, WorkerReady, WorkerSetup
from batchr1.faults import fault_point
from batchr1.job.fingerprint import continued_digest
from batchr1.job.spec import JobSpec
from batchr1.output.checkpoints import FoundCheckpoints
from batchr1.output.replace import Limit, roll_forward
from batchr1.sizing.plan import Plan
from batchr1.storage.base import Retry
from batchr1.storage.lock import Lock
from batchr1.worker.admission import most_in_flight
from batchr1.worker.checkpointer import CheckpointSetup

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer

log = logging.getLogger("batchr1.run")

RECORD_EVERY_S = (
    60.0  # the record of a run that is under way, for reports on it and on one that was killed
)
_NOT_TALLIED = {
    "first_submit",
    "last_commit",
    "spent",
}  # moments on a clock; what a server's work costs stands apart
PATIENCE = Retry(for_s=120.0)  # with storage that does not answer, while work is under way


def run_job(spec: JobSpec, options: RunOptions = DEFAULTS) -> Summary:
    """Run a job to its end, or to the next interruption.

    Raises `BatchError` for what ends a run before it could begin or for good; a run that stopped
    half-way returns a summary with exit code 75.
    """
    record: dict[str, Any] = {}
    with watching(spec.name, options.metrics_file, options.metrics_address) as watch:
        try:
            with stop_signals(quiet=options.log_json) as signals:
                return _run_job(spec, options, signals, watch, record)
        finally:
            if spec.on_finish is not None and "exit_code" in record:
                tell(spec.on_finish, record)


def _run_job(
    spec: JobSpec, options: RunOptions, signals: StopSignals, watch: Watch, record: dict[str, Any]
) -> Summary:
    """`record` takes the run's record, where there is one to tell."""
    prepared = prepare(spec, options)
    if options.continue_truncated and spec.engine.is_server:
        raise JobError(
            "--continue-truncated: goes on from token ids, and engine.kind openai gives none. "
            "Leave it out."
        )
    output = prepared.output
    output.refuse_foreign()
    if not options.fresh:
        check_fingerprint(prepared, continue_truncated=options.continue_truncated)
    pending = read_ids(prepared)
    # An output that is kept was made with this model, and often nothing is left to do: then spare
    # the time.
    is_new = options.fresh or not output.exists()
    engines = _size_engines(prepared, options) if is_new and pending.counts().pending else None
    if options.fresh and output.exists():
        question = f"{output.uri}: delete {output.count_own()} result files?"
        if output.count_own() and not options.confirm_fresh(question):
            raise OutputError(
                f"{output.uri}: --fresh would delete {output.count_own()} result files. Add "
                f"--yes "
                f"to agree."
            )
    run = run_name(dt.datetime.now(dt.UTC))
    output.storage.check_writable()
    with Lock.acquire(output.storage, run=run) as lock:
        if options.fresh:
            output.remove_own()
        check_fingerprint(prepared, continue_truncated=options.continue_truncated)
        roll_forward(output)
        output.clear_staging()
        take_out_done(prepared, pending)
        engines = _check_prompts(prepared, options, pending, engines, run, lock)
        if not options.retry_failed:
            take_out_failed(prepared, pending)
        if options.continue_truncated:
            engines = engines or _size_engines(prepared, options)
            limit = Limit(spec.sampling.max_tokens, engines.plan.max_model_len)
            continue_truncated_rows(
                prepared, pending, engines.renderer, limit, run=run, check_lock=lock.check
            )
        take_out_unneeded(prepared, pending)
        counts = pending.counts()
        if counts.pending == 0:
            return finish_without_work(prepared, options, pending, run, lock, counts, watch, record)
        engines = engines or _size_engines(prepared, options)
        inflight = take_over_checkpoints(prepared, pending, run)
        pending.free()
        if not spec.engine.is_server:
            note_uncached(prepared, options)
            download_weights(prepared, options)
        return _Run(
            prepared, options, run, lock, pending, counts, engines, signals, inflight, watch, record
        ).go()


@dataclass(frozen=True, slots=True)
class _Engines:
    """What the engines will be given: rendered prompts, and their plan."""

    renderer: Renderer
    plan: Plan


def _size_engines(prepared: JobContext, options: RunOptions) -> _Engines:
    if prepared.spec.engine.is_server:
        require_key(prepared.spec)
    renderer = make_renderer(prepared, options)
    return _Engines(renderer, plan_job(prepared, renderer, options))


def _check_prompts(
    prepared: JobContext,
    options: RunOptions,
    pending: Pending,
    engines: _Engines | None,
    run: str,
    lock: Lock,
) -> _Engines | None:
    """Look for changed prompts under ids that are done, where an input file has changed."""
    files = files_to_check(prepared, pending)
    if files:
        renderer = engines.renderer if engines else make_renderer(prepared, options)
        check_prompts(prepared, pending, renderer, files, run=run, check_lock=lock.check)
    if prepared.output.exists():
        agrees_with_input(prepared, pending)
    return engines


class _Run:
    """A run that has work to do and holds the lock."""

    def __init__(
        self,
        prepared: JobContext,
        options: RunOptions,
        run: str,
        lock: Lock,
        pending: Pending,
        counts: Counts,
        engines: _Engines,
        signals: StopSignals,
        inflight: FoundCheckpoints,
        watch: Watch,
        record: dict[str, Any],
    ) -> None:
        self._prepared, self._options, self._run, self._lock = prepared, options, run, lock
        self._pending, self._counts, self._signals = pending, counts, signals
        self._renderer, self._plan = engines.renderer, engines.plan
        self._inflight = inflight
        self._watch, self._reported = watch, record
        self._output = prepared.output
        self._price: Price | None = price_of(prepared.spec.engine)
        self._before = (
            spent_before(self._output, inflight.saved.values(), self._price)
            if self._price
            else None
        )
        self._started = time.monotonic()
        self._claimed = False
        self._timeline = Timeline(self._started)
        self._recorded_at = self._started
        self._got_to = (0, 0, 0)
        self._record: dict[str, Any] = initial_record(prepared, options, run) | {
            "plan": self._plan.to_dict(),
            "counts_before": counts.to_dict(),
            "taken_over": {
                "generations": len(inflight.saved) - inflight.finished,
                "finished": inflight.finished,
                "tokens": inflight.tokens,
                "unreadable": list(inflight.unreadable),
            },
        }

    def go(self) -> Summary:
        self._signals.is_polled = True
        self._output.storage.retry = PATIENCE
        self._output.begin()
        self._output.write_run(self._run, self._record)
        self._watch.begin(self._run, self._output.uri, self._counts)
        with log_file(self._output, self._run) as log_path:
            named = {"run": self._run, "job": self._prepared.spec.name, "output": self._output.uri}
            log.info(
                "run %s: %d pending",
                self._run,
                self._counts.pending,
                extra=event("run_started", **named, **counted(self._counts)),
            )
            self._log_checkpoints()
            driver, executor, feeder = self._build(log_path)
            stopped: str | None = None
            error: BatchError | None = None
            try:
                driver.run()
            except BatchError as exc:
                stopped, error = (str(exc) if isinstance(exc, StoppedError) else None), exc
                log.error("%s", exc)
                driver.release()
            finally:
                feeder.close()
                executor.close()
            return self._end(driver, stopped, error)

    def _log_checkpoints(self) -> None:
        for rel, why in self._inflight.unreadable.items():
            log.warning(
                "%s: not used (%s): its generations begin again",
                self._output.storage.where(rel),
                why,
            )
        if self._inflight.saved:
            generations, tokens, finished = (
                len(self._inflight.saved),
                self._inflight.tokens,
                self._inflight.finished,
            )
            log.info(
                "going on with %d generations that were saved: %d tokens, %d of them finished",
                generations,
                tokens,
                finished,
                extra=event("going_on", generations=generations, finished=finished, tokens=tokens),
            )

    def _engine_is_ready(self, ready: WorkerReady) -> None:
        """From here on the output is this job's.

        Earlier, a wrong engine argument would bind it to that mistake.
        """
        if self._claimed:
            return
        self._claimed = True
        self._output.write_job(job_document(self._prepared))
        agrees_with_input(self._prepared, self._pending)

    def _build(self, log_path: Path) -> tuple[Driver, Any, Any]:
        from batchr1.driver.feeder import Feeder, Limits
        from batchr1.driver.monitor.progress import ProgressDisplay

        prepared, spec, plan = self._prepared, self._prepared.spec, self._plan
        limits = Limits(spec.sampling.max_tokens, plan.max_model_len)
        feeder = Feeder(
            prepared.source,
            self._pending,
            self._renderer,
            limits,
            seed=spec.sampling.seed,
            ahead=LEASE_SIZE * plan.replicas,
            first=most_in_flight(plan.max_num_seqs) * plan.replicas,
            longest_first=spec.longest_first,
            enough=spec.stop_when.correct if spec.stop_when else None,
            saved=self._inflight.saved,
        )
        executor = open_executor(spec, plan, log_path.open("ab", buffering=0))
        setups = [self._setup(worker, plan.kind_of(worker)) for worker in range(plan.replicas)]
        self._fleet = Fleet(executor, setups, self._setup, most=spec.executor.replicas)
        display = (
            ProgressDisplay(pending=self._counts.pending, as_events=self._options.log_json)
            if self._options.show_progress
            else None
        )
        stop_after_s, stop_at = self._options.stop_after_s, self._options.stop_at
        began = self._started if self._options.window_began is None else self._options.window_began

        def should_stop() -> str | None:
            if stop_after_s is not None and time.monotonic() >= began + stop_after_s:
                return f"the time window of {stop_after_s:g} s is over"
            if (
                stop_at is not None and dt.datetime.now(dt.UTC) >= stop_at
            ):  # a wall clock's time, so by that clock
                return f"the time window is over: it is {stop_at:%H:%M}"
            return self._signals.reason

        driver = Driver(
            output=self._output,
            lock=self._lock,
            executor=executor,
            feeder=feeder,
            replicas=self._fleet,
            failed_every_s=spec.output.part_every_s,
            should_stop=should_stop,
            on_ready=self._engine_is_ready,
            on_progress=self._note_progress(
                display.update if display else lambda tally, workers: None
            ),
            grace_s=self._options.grace_s,
            n=spec.sampling.n,
        )
        return driver, _Closing(executor, display), feeder

    def _note_progress(
        self, show: Callable[[Tally, list[Heartbeat]], None]
    ) -> Callable[[Tally, list[Heartbeat]], None]:
        def note(tally: Tally, workers: list[Heartbeat]) -> None:
            self._timeline.update(tally, workers)
            self._note_where(tally)
            self._watch.update(tally, workers, self._timeline)
            if (
                workers
                and time.monotonic() - self._recorded_at >= RECORD_EVERY_S
                and not self._lock.lost
            ):
                self._recorded_at = time.monotonic()
                self._record["timeline"] = self._timeline.to_dict()
                self._record["counts_so_far"] = self._counts_with(tally).to_dict()
                self._record |= self._spend(tally)
                self._write_record("it goes on")
            show(tally, workers)

        return note

    def _note_where(self, tally: Tally) -> None:
        """When something was last generated or written: a run may live and stand still."""
        got_to = (self._timeline.tokens, tally.done, tally.failed)
        if got_to != self._got_to:
            self._got_to = got_to
            self._record["progressed"] = now_text()

    def _counts_with(self, tally: Tally) -> Counts:
        """Of the whole input, with what this run has done."""
        before = self._counts
        return replace(
            before,
            done=before.done + tally.done,
            failed=before.failed + tally.failed,
            spared=before.spared + tally.spared,
        )

    def _spend(self, tally: Tally) -> dict[str, Any]:
        """What the record says of a server's work."""
        if not self._prepared.spec.engine.is_server:
            return {}
        return {"spend": spend_document(tally.spent or Spent(), self._price, self._before)}

    def _setup(self, worker: int, kind: int) -> WorkerSetup:
        """What a worker is told. `kind`: which of the plan's kinds of machine it is to live on."""
        spec, plan, model = self._prepared.spec, self._plan.of_kind(kind), self._prepared.model
        s = spec.sampling
        remote = None
        if spec.engine.is_server:
            grace_s = GRACE_S if self._options.grace_s is None else self._options.grace_s
            remote = server_setup(
                spec, before_usd=self._before["usd"] if self._before else 0.0, grace_s=grace_s
            )
        engine = EngineSpec(
            kind="vllm" if remote is None else "openai",
            device="cuda" if plan.device == "cuda" else "cpu",
            model=model.location,
            revision=model.revision,
            trust_remote_code=spec.model.trust_remote_code,
            args=plan.engine_args,
            sampling=Sampling(s.temperature, s.top_p, s.top_k, s.min_p, s.ignore_eos),
        )
        if self._options.engine is not None:
            engine = replace(
                self._options.engine, args=plan.engine_args | self._options.engine.args
            )
        local = spec.executor.kind == "local"
        cpus = (
            share_cores(plan.replicas)[worker]
            if local and plan.device == "cpu" and plan.replicas > 1
            else ()
        )
        return WorkerSetup(
            run=self._run,
            worker=worker,
            epoch=0,
            engine=engine,
            max_num_seqs=plan.max_num_seqs,
            storage=self._output.storage,
            kept_schema=self._prepared.source.kept_schema.serialize().to_pybytes(),
            seed=s.seed,
            attempts=spec.retry.attempts,
            rows_per_part=spec.output.rows_per_part,
            part_every_s=spec.output.part_every_s,
            model_label=f"{model.name} ({model.identity[:80]})",
            expects_box=spec.prompting.instruction == "math",
            instruction=self._renderer.instruction,
            verify=verify_setup(spec),
            budgets=budgets_of(spec),
            stop_loops=s.stop_loops,
            judges=spec.stop_when is not None,
            retry_on=frozenset(spec.retry.on),
            keep_token_ids=spec.output.token_ids == "always",
            devices=self._plan.device_groups[worker]
            if local
            else (),  # elsewhere the cluster chooses
            cpus=cpus,
            num_threads=len(cpus) or plan.cpus_per_replica,
            kind=kind,
            fixed_args=frozenset(plan.fixed),
            checkpoint=CheckpointSetup(
                spec.checkpoint.every_s, continued_digest(self._prepared.semantic)
            ),
            expected=self._plan.completions,
            remote=remote,
        )

    def _end(self, driver: Driver, stopped: str | None, error: BatchError | None) -> Summary:
        """Write the run's record, and `_SUCCESS` when everything is there."""
        tally, fleet = driver.tally, self._fleet
        counts = self._counts_with(tally)
        code = error.exit_code if error else exit_code_of(counts, self._prepared.spec, stopped)
        wall = time.monotonic() - self._started
        busy = (
            (tally.last_commit or 0.0) - (tally.first_submit or 0.0) if tally.last_commit else 0.0
        )
        rate = (tally.tokens - tally.carried) / busy if busy > 0 else 0.0
        is_counted = (
            tally.tokens > 0 or not self._prepared.spec.engine.is_server
        )  # a server need not count
        self._record |= {
            "state": "stopped" if error else "ended",
            "ended": now_text(),
            "exit_code": code,
            "stopped": stopped,
            "wall_s": round(wall, 3),
            "generating_s": round(busy, 3),
            "tokens_per_s": round(rate, 1) if is_counted else None,
            "counts": counts.to_dict(),
            "tally": {k: v for k, v in asdict(tally).items() if k not in _NOT_TALLIED},
            "engines": {str(w): asdict(r) for w, r in fleet.ready.items()},
            "memory": self._memories(),
            "loads": {str(w): load.counts() for w, load in _by_worker(driver.loads).items()},
            "rungs": [asdict(rung) for rung in fleet.rungs],
            "replicas": self._replicas(driver),
            "timeline": self._timeline.to_dict(),
            **self._spend(tally),
        }
        self._record.pop("counts_so_far", None)
        self._watch.end(code, tally, self._timeline)
        named = {"run": self._run, "job": self._prepared.spec.name, "output": self._output.uri}
        said = event(
            "run_ended",
            **named,
            **counted(counts),
            exit_code=code,
            stopped=stopped,
            tokens=tally.tokens,
            tokens_per_s=round(rate, 1),
            seconds=round(wall, 3),
        )
        log.info("the run has ended: exit code %d, %d done in it", code, tally.done, extra=said)
        is_forgotten = isinstance(error, UsageError) and not self._claimed
        if is_forgotten:
            self._output.forget_run(self._run)
        else:
            self._reported |= {**self._record, "output": self._output.uri}
        if not is_forgotten and not driver.lost:
            self._write_record(stopped)
            fault_point("finish.recorded")
            if not counts.pending:
                self._lock.check()
                self._output.clear_inflight(self._run)
                # a dead worker may have staged a part that nobody heard of
                self._output.clear_staging()
                fault_point("finish.cleared")
            if code == 0:
                self._lock.check()
                self._output.succeed()
                fault_point("finish.succeeded")
        if error is not None and stopped is None:
            raise error
        return Summary(
            self._run,
            self._output.uri,
            counts,
            tally,
            wall,
            rate,
            code,
            stopped,
            tuple(fleet.rungs),
            fleet.given_up,
            self._record.get("spend"),
            self._prepared.spec.engine.max_cost,
        )

    def _replicas(self, driver: Driver) -> dict[str, Any]:
        """When which engine lived, in seconds since the driver started, and what the driver itself
        cost.
        """
        first, last, fleet = driver.tally.first_submit, driver.tally.last_commit, self._fleet
        return {
            "first_submit_s": None if first is None else round(first - fleet.started, 3),
            "last_commit_s": None if last is None else round(last - fleet.started, 3),
            "driver_cpu_s": round(driver.cpu_s, 3),
            "events": [asdict(event) for event in fleet.events],
            "gpus": {str(replica.worker): self._gpus_of(replica.setup.kind) for replica in fleet},
            "given_up": {str(worker): why for worker, why in fleet.given_up.items()},
        }

    def _gpus_of(self, kind: int) -> int:
        """GPUs of an engine on that kind of machine."""
        plan = self._plan.of_kind(kind)
        return plan.tensor_parallel * plan.pipeline_parallel if plan.device == "cuda" else 0

    def _memories(self) -> dict[str, Any]:
        """By worker; none where the memory is a server's."""
        if self._prepared.spec.engine.is_server:
            return {}
        fleet = self._fleet
        return {str(w): self._memory(r, fleet[w].setup.kind) for w, r in fleet.ready.items()}

    def _memory(self, ready: WorkerReady, kind: int) -> dict[str, dict[str, float | None]]:
        """What was planned for an engine beside what it turned out to be, in GiB and tokens."""
        plan = self._plan.of_kind(kind)
        planned: dict[str, float | None] = asdict(plan.memory) | {
            "kv_cache_tokens": plan.kv_cache_tokens
        }
        found = asdict(ready.info.memory) if ready.info.memory else dict.fromkeys(planned)
        measured = found | {"kv_cache_tokens": ready.info.kv_cache_tokens}
        return {
            name: {"planned": planned[name], "measured": measured.get(name)} for name in planned
        }

    def _write_record(self, stopped: str | None) -> None:
        """Write the run's record; where storage is what stopped the run, it is allowed to be
        missing.
        """
        try:
            self._output.write_run(self._run, self._record)
        except StorageError as exc:
            if stopped is None:
                raise
            log.warning("the run's record could not be written: %s", exc)


def _by_worker(loads: dict[tuple[int, int], EngineLoad]) -> dict[int, EngineLoad]:
    """What all engines of each worker counted together."""
    sums: dict[int, EngineLoad] = {}
    for (worker, _), load in loads.items():
        sums[worker] = sums.get(worker, EngineLoad()).plus(load)
    return sums


@dataclass(frozen=True, slots=True)
class _Closing:
    """Closes what a run opened."""

    executor: Any
    display: Any

    def close(self) -> None:
        self.executor.close()
        if self.display is not None:
            self.display.close()
