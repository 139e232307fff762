"""Metrics of a run for Prometheus: a file and a port.

The file is for the node exporter. Every sample carries the job's `name`, so that the files of
several jobs may lie in one folder. Totals are of one run: Prometheus expects a counter to begin
anew with a program. Nothing that fails here ends a run that has begun.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    generate_latest,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchr1.dataset.pending import Counts
from batchr1.driver.monitor.timeline import Timeline
from batchr1.driver.tally import Tally
from batchr1.errors import BatchError, JobError
from batchr1.events import event
from batchr1.executors.messages import Heartbeat
from batchr1.storage.files import is_replaceable, write_into
from batchr1.version import __version__

log = logging.getLogger("batchr1.watch")

MAX_READERS = 32
READER_S = 10.0
"""Seconds for which a reader of the port may say or take nothing."""

FILE_EVERY_S = 15.0
RENEW_EVERY_S = 1.0
Kind = Literal["gauge", "counter"]

HELP: dict[str, tuple[Kind, str]] = {
    "batchr1_run_info": ("gauge", "Which run this is about; always 1."),
    "batchr1_run_active": ("gauge", "1 while the run goes on, 0 once it has ended."),
    "batchr1_run_started_timestamp_seconds": ("gauge", "When the command was started."),
    "batchr1_run_ended_timestamp_seconds": ("gauge", "When it ended; absent until then."),
    "batchr1_run_exit_code": ("gauge", "With which exit code it ended; absent until then."),
    "batchr1_updated_timestamp_seconds": (
        "gauge",
        "When these numbers were last renewed: old ones are of a dead run.",
    ),
    "batchr1_last_commit_timestamp_seconds": (
        "gauge",
        "When a file of results last became durable, in this run.",
    ),
    "batchr1_samples": ("gauge", "Samples of the whole input, by state."),
    "batchr1_run_samples_total": (
        "counter",
        "Samples that this run brought to an end, by outcome.",
    ),
    "batchr1_truncated_samples_total": ("counter", "Samples of this run that a limit cut."),
    "batchr1_judged_samples_total": ("counter", "Samples of this run whose answer was verified."),
    "batchr1_correct_samples_total": ("counter", "Those of them that are right."),
    "batchr1_generated_tokens_total": ("counter", "Tokens that this run's engines have generated."),
    "batchr1_committed_tokens_total": (
        "counter",
        "Output tokens of samples that this run has made durable.",
    ),
    "batchr1_prompt_tokens_total": ("counter", "Prompt tokens of the same samples."),
    "batchr1_server_requests_total": (
        "counter",
        "Requests that a server has answered in this run (engine.kind openai).",
    ),
    "batchr1_server_tokens_total": (
        "counter",
        "Tokens by the usage of these answers, by kind: what they cost.",
    ),
    "batchr1_worker_restarts_total": ("counter", "Workers that were started again in this run."),
    "batchr1_preemptions_total": (
        "counter",
        "Sequences that engines of this run had to put off for want of memory.",
    ),
    "batchr1_workers": ("gauge", "Workers whose engine is loaded."),
    "batchr1_sequences": ("gauge", "Sequences in the engines, by state."),
    "batchr1_kv_cache_usage_ratio": (
        "gauge",
        "Share of the KV cache in use, mean over the workers.",
    ),
}


@dataclass(slots=True)
class Metrics:
    """Figures of a run so far. `name`: the job's."""

    name: str
    started: float = field(default_factory=time.time)
    ended: float | None = None
    exit_code: int | None = None
    run: str | None = None
    output: str | None = None
    counts: Counts | None = None
    tally: Tally = field(default_factory=Tally)
    workers: list[Heartbeat] = field(default_factory=list)
    tokens: int = 0
    preempted: int = 0

    def collect(self) -> list[Metric]:
        """Make the metric families, with help and types."""
        found: list[Metric] = []
        for name, samples in self._samples().items():
            kind, meaning = HELP[name]
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, meaning, labels=["name", *samples[0][0]])
            for labels, value in samples:
                metric.add_metric([self.name, *labels.values()], value)
            found.append(metric)
        return found

    def _samples(self) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        found = dict[str, list[tuple[Mapping[str, str], float]]]()

        def put(name: str, value: float | None, **labels: str) -> None:
            if value is not None:
                found.setdefault(name, []).append((labels, value))

        tally = self.tally
        info = {"run": self.run or "", "output": self.output or "", "version": __version__}
        put("batchr1_run_info", 1, **info)
        put("batchr1_run_active", int(self.ended is None))
        put("batchr1_run_started_timestamp_seconds", round(self.started, 3))
        put("batchr1_run_ended_timestamp_seconds", self.ended and round(self.ended, 3))
        put("batchr1_run_exit_code", self.exit_code)
        put("batchr1_updated_timestamp_seconds", round(time.time(), 3))
        if tally.last_commit is not None:  # by the monotonic clock
            put(
                "batchr1_last_commit_timestamp_seconds",
                round(time.time() - time.monotonic() + tally.last_commit, 3),
            )
        for state, count in self._states():
            put("batchr1_samples", count, state=state)
        put("batchr1_run_samples_total", tally.done, outcome="done")
        put("batchr1_run_samples_total", tally.failed, outcome="failed")
        put("batchr1_truncated_samples_total", tally.truncated)
        put("batchr1_judged_samples_total", tally.judged)
        put("batchr1_correct_samples_total", tally.correct)
        put("batchr1_generated_tokens_total", self.tokens)
        put("batchr1_committed_tokens_total", tally.tokens)
        put("batchr1_prompt_tokens_total", tally.prompt_tokens)
        if tally.spent is not None:
            put("batchr1_server_requests_total", tally.spent.requests)
            put("batchr1_server_tokens_total", tally.spent.prompt_tokens, kind="prompt")
            put("batchr1_server_tokens_total", tally.spent.completion_tokens, kind="completion")
        put("batchr1_worker_restarts_total", tally.restarts)
        put("batchr1_preemptions_total", self.preempted)
        workers = self.workers
        if self.ended is not None:
            workers = []
        put("batchr1_workers", len(workers))
        put("batchr1_sequences", sum(w.load.running for w in workers), state="running")
        put("batchr1_sequences", sum(w.load.waiting for w in workers), state="waiting")
        put(
            "batchr1_kv_cache_usage_ratio",
            sum(w.load.kv_cache_usage for w in workers) / max(1, len(workers)),
        )
        return found

    def _states(self) -> Iterable[tuple[str, int]]:
        """Count the input's samples by state, with this run's changes."""
        if self.counts is None:
            return
        before, tally = self.counts, self.tally
        yield "done", before.done + tally.done
        yield "failed", before.failed + tally.failed
        yield "spared", before.spared + tally.spared
        yield "pending", before.pending - tally.done - tally.failed - tally.spared


class _Shown(Collector):
    """The served metrics, replaced as a whole: threads see one moment."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self.metrics


class MetricsExporter:
    """Keeps the metrics file and the served metrics up to date."""

    def __init__(self, metrics: Metrics, file: Path | None = None) -> None:
        self.metrics = metrics
        self._file = file
        self._shown = _Shown(metrics.collect())
        self.registry = CollectorRegistry()
        self.registry.register(self._shown)
        self._renewed_at = self._wrote_at = 0.0
        self._failed = ""

    def begin(self, run: str, output: str, counts: Counts) -> None:
        self.metrics.run, self.metrics.output, self.metrics.counts = run, output, counts
        self.renew()

    def update(self, tally: Tally, workers: list[Heartbeat], timeline: Timeline) -> None:
        """Take new figures. Calls may come as often as the driver likes."""
        now = time.monotonic()
        if now - self._renewed_at >= RENEW_EVERY_S:
            self._renewed_at = now
            self.metrics.tally, self.metrics.workers = tally, workers
            self.metrics.tokens, self.metrics.preempted = timeline.tokens, timeline.preempted
            self._shown.metrics = self.metrics.collect()
        if now - self._wrote_at >= FILE_EVERY_S:
            self._write()

    def end(
        self, exit_code: int, tally: Tally | None = None, timeline: Timeline | None = None
    ) -> None:
        """Take the last figures, and the exit code."""
        if tally is not None and timeline is not None:
            self.metrics.tally, self.metrics.tokens = tally, timeline.tokens
            self.metrics.preempted = timeline.preempted
        self.metrics.ended, self.metrics.exit_code = time.time(), exit_code
        self.renew()

    def renew(self) -> None:
        """Renew the served metrics and the file now."""
        self._shown.metrics = self.metrics.collect()
        self._write()

    def text(self) -> str:
        """Give the metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def check_file(self) -> None:
        """Write the file; raises `JobError` when it cannot be written."""
        if self._file is None:
            return
        try:
            self._write_to(self._file)
        except OSError as exc:
            raise JobError(
                f"--metrics-file: {self._file} cannot be written (got "
                f"{(exc.strerror or str(exc)).lower()}). Name a file in a folder that is there."
            ) from exc

    def _write_to(self, file: Path) -> None:
        """Replace the file, so that readers see it whole.

        A device, a FIFO or a link is written into.
        """
        if is_replaceable(file):
            write_to_textfile(str(file), self.registry)
        else:
            write_into(file, generate_latest(self.registry), waits=False)

    def _write(self) -> None:
        if self._file is None:
            return
        self._wrote_at = time.monotonic()
        try:
            self._write_to(self._file)
        except OSError as exc:
            if str(exc) != self._failed:  # once, not every fifteen seconds
                self._failed = str(exc)
                log.warning(
                    "%s: the metrics were not written (%s)",
                    self._file,
                    exc.strerror or exc,
                    extra=event("metrics_not_written", path=str(self._file)),
                )


@contextlib.contextmanager
def exporting(
    name: str, file: Path | None, address: tuple[str, int] | None
) -> Iterator[MetricsExporter]:
    """Write and serve the metrics of a run until it ends.

    `name`: the job's. Raises `JobError` when the file cannot be written or the port cannot be had,
    before anything else is done. A `BatchError` on its way out is the run's end, and is counted.
    """
    exporter = MetricsExporter(Metrics(name), file)
    exporter.check_file()
    with serving(exporter.registry, address) if address else contextlib.nullcontext():
        try:
            yield exporter
        except BatchError as exc:
            exporter.end(exc.exit_code)
            raise


@contextlib.contextmanager
def serving(registry: CollectorRegistry, address: tuple[str, int]) -> Iterator[str]:
    """Serve metrics at /metrics, and yield the URL.

    Port 0 takes any that is free.
    """
    host, port = address
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise JobError(
            f"--metrics-port: cannot listen on {host}:{port} (got {reason}). Choose another."
        ) from exc
    _bound(server)
    server.set_app(_only_metrics(server.get_app()))
    url = f"http://{host}:{server.server_port}/metrics"
    log.info("metrics at %s", url, extra=event("metrics_listening", url=url))
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(server: Any) -> None:
    """Let nobody hold the port: few at a time, and briefly."""
    slots = threading.BoundedSemaphore(MAX_READERS)
    answer, complain = server.process_request_thread, server.handle_error

    def answer_and_leave(request: Any, address: Any) -> None:
        try:
            answer(request, address)
        finally:
            slots.release()

    def complain_of_others(request: Any, address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # silent, or gone
            complain(request, address)

    kind = server.RequestHandlerClass
    server.RequestHandlerClass = type(kind.__name__, (kind,), {"timeout": READER_S})
    server.verify_request = lambda request, address: slots.acquire(blocking=False)
    server.process_request_thread = answer_and_leave
    server.handle_error = complain_of_others


def _only_metrics(metrics: Any) -> Callable[..., Any]:
    """Answer 404 at paths other than /metrics.

    The library's application answers at all of them.
    """

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"metrics are at /metrics\n"]

    return application
