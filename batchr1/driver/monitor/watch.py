"""What lets others watch a run: metrics in a file and on a port. Nothing that fails here ends a run
that has begun.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from batchr1.dataset.pending import Counts
from batchr1.driver.driver import Tally
from batchr1.driver.monitor.prometheus import Metrics
from batchr1.driver.monitor.timeline import Timeline
from batchr1.errors import BatchError, JobError
from batchr1.events import event
from batchr1.executors.messages import Heartbeat

log = logging.getLogger("batchr1.watch")

FILE_EVERY_S = 15.0
TEXT_EVERY_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Watch:
    """Told of a run what there is to tell; writes the file and renews what is served, often enough."""

    metrics: Metrics
    file: Path | None = None
    text: str = ""  # read by the server's threads
    _said_at: float = 0.0
    _wrote_at: float = 0.0
    _failed: str = field(default="", repr=False)

    def begin(self, run: str, output: str, counts: Counts) -> None:
        self.metrics.run, self.metrics.output, self.metrics.counts = run, output, counts
        self.renew()

    def update(self, tally: Tally, workers: list[Heartbeat], timeline: Timeline) -> None:
        """Call as often as you like."""
        now = time.monotonic()
        if now - self._said_at >= TEXT_EVERY_S:
            self.metrics.tally, self.metrics.workers = tally, workers
            self.metrics.tokens, self.metrics.preempted = timeline.tokens, timeline.preempted
            self._said_at = now
            self.text = self.metrics.text()
        if now - self._wrote_at >= FILE_EVERY_S:
            self._write()

    def end(
        self, exit_code: int, tally: Tally | None = None, timeline: Timeline | None = None
    ) -> None:
        if tally is not None and timeline is not None:
            self.metrics.tally, self.metrics.tokens = tally, timeline.tokens
            self.metrics.preempted = timeline.preempted
        self.metrics.ended, self.metrics.exit_code = time.time(), exit_code
        self.renew()

    def renew(self) -> None:
        """Both, now."""
        self.text = self.metrics.text()
        self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        self._wrote_at = time.monotonic()
        try:
            write_whole(self.file, self.text)
        except OSError as exc:
            if str(exc) != self._failed:  # once, not every fifteen seconds
                self._failed = str(exc)
                log.warning(
                    "%s: the metrics were not written (%s)",
                    self.file,
                    exc.strerror or exc,
                    extra=event("metrics_not_written", path=str(self.file)),
                )


def write_whole(path: Path, text: str) -> None:
    """Write a file that readers see as it was or as it is now, never a part. Its mode is what the umask says.

    The temporary name does not end like the file's: the collector reads all of a folder's *.prom.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def watching(name: str, file: Path | None, address: tuple[str, int] | None) -> Iterator[Watch]:
    """Write and serve the metrics of a run of the job `name` until it ends.

    Raises `JobError` when the file cannot be written or the port cannot be had, before anything
    else is done. A `BatchError` on its way out is the run's end, and is counted.
    """
    watch = Watch(Metrics(name), file)
    watch.text = watch.metrics.text()
    if file is not None:
        try:
            write_whole(file, watch.text)
        except OSError as exc:
            raise JobError(
                f"--metrics-file: {file} cannot be written (got "
                f"{(exc.strerror or str(exc)).lower()}). "
                "Name a file in a folder that is there."
            ) from exc
    with serving(watch, address) if address else contextlib.nullcontext():
        try:
            yield watch
        except BatchError as exc:
            watch.end(exc.exit_code)
            raise


@contextlib.contextmanager
def serving(watch: Watch, address: tuple[str, int]) -> Iterator[str]:
    """Serve the metrics at /metrics. Yields the URL; port 0 is any that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = watch.text.encode() if found else b"metrics are at /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Who scrapes is not worth a line."""

    host, port = address
    try:
        server = ThreadingHTTPServer(address, Handler)
    except (OSError, OverflowError) as exc:
        reason = (getattr(exc, "strerror", None) or str(exc)).lower()
        raise JobError(
            f"--metrics-port: cannot listen on {host}:{port} (got {reason}). Choose another."
        ) from exc
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    url = f"http://{host}:{server.server_address[1]}/metrics"
    log.info("metrics at %s", url, extra=event("metrics_listening", url=url))
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
