"""Completions → result rows → staged parts, on a thread beside the engine's loop."""

from __future__ import annotations

import datetime as dt
import queue
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from batchr1.data.output import part_name, stage_part
from batchr1.data.sink import results_table
from batchr1.records import Completion, Result
from batchr1.run.messages import FromWorker, PartCounts, Staged, WorkerSetup

ToResult = Callable[[Completion, dt.datetime], Result]

_NOTHING = PartCounts(0, 0, 0, 0, 0, 0)


class Collector:
    """Takes completions, never blocks the caller, and stages a part when it is full or old enough."""

    def __init__(self, setup: WorkerSetup, to_result: ToResult, send: Callable[[FromWorker], None]) -> None:
        self._setup = setup
        self._to_result = to_result
        self._send = send
        self._kept = pa.ipc.read_schema(pa.py_buffer(setup.kept_schema))
        self._queue: queue.SimpleQueue[tuple[Completion, dt.datetime] | None] = queue.SimpleQueue()
        self._rows: list[Result] = []
        self._oldest = 0.0
        self._number = 0
        self._error: BaseException | None = None
        self.totals = _NOTHING
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)
        self._thread.start()

    def put(self, completion: Completion) -> None:
        self._queue.put((completion, dt.datetime.now(dt.UTC)))

    def finish(self) -> None:
        """Stage everything that was put, and end. Raises what went wrong on the thread."""
        self._queue.put(None)
        self._thread.join()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise on the caller's thread what stopped this one."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (entry := self._next()) is not None:
                if entry != ():
                    self._add(self._to_result(*entry))
                if self._rows and time.monotonic() - self._oldest >= self._setup.part_every_s:
                    self._stage()
            if self._rows:
                self._stage()
        except BaseException as exc:
            self._error = exc

    def _next(self) -> tuple[Completion, dt.datetime] | tuple[()] | None:
        """The next completion, () when the oldest waiting row is due, None at the end."""
        due = self._oldest + self._setup.part_every_s - time.monotonic() if self._rows else None
        try:
            return self._queue.get(timeout=None if due is None else max(0.0, due))
        except queue.Empty:
            return ()

    def _add(self, row: Result) -> None:
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(row)
        self.totals = _plus(self.totals, row)
        if len(self._rows) >= self._setup.rows_per_part:
            self._stage()

    def _stage(self) -> None:
        rows, self._rows = self._rows, []
        self._number += 1
        name = part_name(self._setup.run, self._setup.worker, self._setup.epoch, self._number)
        stage_part(self._setup.storage, results_table(rows, self._kept), name)
        counts = _NOTHING
        for row in rows:
            counts = _plus(counts, row)
        self._send(Staged(name, tuple(row.key for row in rows), counts))


def _plus(counts: PartCounts, row: Result) -> PartCounts:
    return PartCounts(
        rows=counts.rows + 1,
        tokens=counts.tokens + row.completion_tokens,
        prompt_tokens=counts.prompt_tokens + row.prompt_tokens,
        truncated=counts.truncated + row.truncated,
        correct=counts.correct + (row.correct is True),
        judged=counts.judged + (row.correct is not None),
    )
