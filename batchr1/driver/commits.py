"""Commits of a run: parts that workers stage, and rows that failed.

Each commit passes the fence of the output's storage: a run that lost the lock writes nothing more.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import Counter

from batchr1.driver.tally import Tally
from batchr1.events import event
from batchr1.executors.messages import PartStaged
from batchr1.faults import fault_point
from batchr1.output.folder import Output
from batchr1.output.parts import failures_table
from batchr1.records import Failure
from batchr1.storage.lock import Lock

log = logging.getLogger("batchr1.driver")

FAILED_PART_ROWS = 1000


class Commits:
    """Commits parts to an output, and counts them in `tally`.

    Failed rows are collected and written every `failed_every_s` seconds. One counts when it is
    written: where the run ends before, the next one tries it again.
    """

    def __init__(self, output: Output, lock: Lock, *, run: str, failed_every_s: float) -> None:
        self._output, self._lock, self._run = output, lock, run
        self._failed_every_s = failed_every_s
        self._failures: list[Failure] = []
        self._failed_at = time.monotonic()
        self._failed_parts = 0
        self.tally = Tally()

    @property
    def lost(self) -> bool:
        """Whether another run has the output: nothing may be written then."""
        return self._lock.lost

    def commit(self, part: PartStaged) -> None:
        """Publish a staged part."""
        self._output.commit_part(part.name)
        fault_point("commit.done")
        self.tally.add(part.counts)
        self.tally.parts.append(part.name)
        self.tally.last_commit = time.monotonic()
        rows, tokens = part.counts.rows, part.counts.tokens
        said = event("part_committed", part=part.name, rows=rows, tokens=tokens)
        log.info("committed %s: %d rows, %d tokens", part.name, rows, tokens, extra=said)

    def add_failures(self, failures: list[Failure]) -> None:
        """Collect failed rows for the next part of them."""
        self._failures += failures

    def write_failures(self, *, now: bool = False) -> None:
        """Write the collected failures when they are due, or `now`."""
        due = time.monotonic() - self._failed_at >= self._failed_every_s
        if not self._failures or not (now or due or len(self._failures) >= FAILED_PART_ROWS):
            return
        self._failed_parts += 1
        table = failures_table(self._failures, run=self._run, failed_at=dt.datetime.now(dt.UTC))
        name = f"part-{self._run}-failed-{self._failed_parts:05d}.parquet"
        self._output.commit_failed(table, name)
        reasons = Counter(failure.reason for failure in self._failures)
        self.tally.failed += reasons.total()
        for reason, count in reasons.items():
            self.tally.reasons[reason] = self.tally.reasons.get(reason, 0) + count
        said = event("rows_failed", rows=reasons.total(), reasons=dict(reasons))
        log.info("%d rows failed: %s", reasons.total(), ", ".join(sorted(reasons)), extra=said)
        self._failures = []
        self._failed_at = time.monotonic()
