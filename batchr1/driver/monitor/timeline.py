"""The load of the engines over a run, as a short series.

The driver hears of its workers twice a second. The series has one point a second. Once there are
MAX_POINTS of them, neighbours are merged and points come half as often: a run of a minute and one
of a week both give 300 to 600.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchr1.driver.tally import Tally
from batchr1.executors.messages import Heartbeat

MAX_POINTS = 600
EVERY_S = 1.0


@dataclass(slots=True)
class _Point:
    """An interval of the series.

    `seconds` is its end, since the run began; the counts are totals of the run until then. The
    loads are sums over what was heard in the interval, `heard` times.
    """

    seconds: float
    tokens: int
    finished: int
    preempted: int
    running: float = 0.0
    waiting: float = 0.0
    kv_cache_usage: float = 0.0
    heard: int = 0

    def merge(self, later: _Point) -> _Point:
        return _Point(
            later.seconds,
            later.tokens,
            later.finished,
            later.preempted,
            self.running + later.running,
            self.waiting + later.waiting,
            self.kv_cache_usage + later.kv_cache_usage,
            self.heard + later.heard,
        )


class Timeline:
    """Collects the driver's progress.

    `started` is the run's beginning on `clock`.
    """

    def __init__(self, started: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._started, self._clock = started, clock
        self._every_s = EVERY_S
        self._points: list[_Point] = []
        self._open: _Point | None = None
        self._opened_at = 0.0
        self._seen = (0, 0, 0)
        self._totals = (0, 0, 0)

    def update(self, tally: Tally, workers: list[Heartbeat]) -> None:
        """Note the load. Calls may come as often as the driver likes.

        Before the first worker reports there is nothing to note.
        """
        if not workers:
            return
        now = self._clock() - self._started
        generated = sum(w.generated_tokens for w in workers)
        seen = (generated, sum(w.finished for w in workers), sum(w.load.preempted for w in workers))
        if not self._points:
            self._points.append(_Point(now, *seen, heard=1))
            self._opened_at, self._seen, self._totals = now, seen, seen
            return
        # A worker that was started again counts from zero: until it has caught up, nothing is
        # added.
        grown = tuple(max(0, new - old) for new, old in zip(seen, self._seen, strict=True))
        self._seen = seen
        self._totals = (
            self._totals[0] + grown[0],
            self._totals[1] + grown[1],
            self._totals[2] + grown[2],
        )
        point = _Point(
            now,
            *self._totals,
            running=sum(w.load.running for w in workers),
            waiting=sum(w.load.waiting for w in workers),
            kv_cache_usage=sum(w.load.kv_cache_usage for w in workers) / len(workers),
            heard=1,
        )
        if self._open:
            point = self._open.merge(point)
        self._open = point
        if now - self._opened_at >= self._every_s:
            self._close(now)

    def _close(self, now: float) -> None:
        if self._open is None:
            return
        self._points.append(self._open)
        self._open, self._opened_at = None, now
        if len(self._points) >= MAX_POINTS:
            first, rest = self._points[0], self._points[1:]
            pairs = [rest[i].merge(rest[i + 1]) for i in range(0, len(rest) - 1, 2)]
            self._points = [first, *pairs, *rest[len(pairs) * 2 :]]
            self._every_s *= 2

    @property
    def tokens(self) -> int:
        """Generated since the run began, by all engines that it had."""
        return self._totals[0]

    @property
    def preempted(self) -> int:
        """Preemptions since then."""
        return self._totals[2]

    def to_dict(self) -> dict[str, list[float]]:
        """Give the series by column, with the interval under way.

        Each point stands for the time since the one before it. `seconds` are since the run began;
        `tokens`, `finished` rows and preemptions are totals until then. Sequences running and
        waiting and the share of the KV cache in use are means meanwhile. The first point is the
        moment at which the first engine was ready. Lists are empty before anything was heard.
        """
        points = list(self._points)
        if self._open:
            points.append(self._open)
        document: dict[str, list[Any]] = {
            "seconds": [round(p.seconds, 2) for p in points],
            "tokens": [p.tokens for p in points],
            "finished": [p.finished for p in points],
            "preempted": [p.preempted for p in points],
        }
        for name, digits in (("running", 1), ("waiting", 1), ("kv_cache_usage", 4)):
            document[name] = [round(getattr(p, name) / p.heard, digits) for p in points]
        return document
