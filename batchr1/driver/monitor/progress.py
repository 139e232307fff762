"""Progress of a run on stderr: a bar, or plain lines.

The bar (tqdm) is for terminals; elsewhere a line comes at the start and every 30 s. Where the log
is JSON, the event `progress` says the same, and there is no bar.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from batchr1.driver.tally import Tally
from batchr1.events import event
from batchr1.executors.messages import Heartbeat
from batchr1.records import expected_tokens_left

log = logging.getLogger("batchr1.progress")

LINE_EVERY_S = 30.0
RATE_OVER_S = 20.0


class ProgressDisplay:
    """Shows rows, output tokens/s, truncated share, and an ETA.

    The ETA is by the tokens that are still expected. `unit` is what is counted, `loading` what is
    waited for at first, and `saved` says what earlier runs have left to go on from.
    """

    def __init__(
        self,
        *,
        pending: int,
        unit: str = "row",
        loading: str = "loading the model",
        saved: str | None = None,
        stream: TextIO | None = None,
        as_events: bool = False,
    ) -> None:
        self._pending = pending
        self._unit = unit
        self._loading = loading
        self._as_events = as_events
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        if saved is not None and not as_events:
            self._say(saved)
        if _is_notebook() and stream is None and not as_events:
            from tqdm.auto import tqdm as notebook_bar

            self._bar = notebook_bar(total=pending, unit=unit)
        elif self._stream.isatty() and not as_events:
            self._bar = tqdm(total=pending, unit=unit, file=self._stream, dynamic_ncols=True)
            self._bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {postfix}"
        elif not as_events:
            self._say(f"0/{pending} {unit}s, {loading}")
        self._began = self._said_at = time.monotonic()
        self._is_loading = True
        self._history: list[tuple[float, int]] = []

    def update(self, tally: Tally, workers: list[Heartbeat]) -> None:
        """Call as often as you like."""
        now = time.monotonic()
        generated = sum(w.generated_tokens for w in workers)
        if self._history and (not generated or generated < self._history[-1][1]):
            self._history.clear()  # still loading, or a worker was restarted: from zero
        if not self._history or now - self._history[-1][0] >= 1.0:
            self._history.append((now, generated))
            while len(self._history) > 2 and now - self._history[0][0] > RATE_OVER_S:
                self._history.pop(0)
        finished = sum(w.finished for w in workers) + tally.failed + tally.spared
        rate, truncated, eta_s = self._numbers(workers, generated, finished)
        text = self._loading
        if self._is_loading and now - self._began >= LINE_EVERY_S:
            text += f" for {format_seconds(now - self._began)}"
        if workers:
            self._note_ready(now)
            text = f"{rate:,.0f} tok/s, {truncated:.1%} truncated"
        if eta_s is not None:
            text += f", ETA {format_seconds(eta_s)}"
        if self._bar is not None:
            self._bar.n = min(finished, self._pending)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.refresh()
        elif now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            if self._as_events:
                said = event(
                    "progress",
                    finished=finished,
                    pending=max(0, self._pending - finished),
                    tokens_per_s=round(rate, 1),
                    truncated=round(truncated, 4),
                    eta_s=eta_s and round(eta_s),
                )
                log.info("%d/%d rows, %s", finished, self._pending, text, extra=said)
                return
            self._say(f"{finished}/{self._pending} {self._unit}s, {text}")

    def note(self, line: str) -> None:
        """Say a line beside the bar, or among the lines."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        elif not self._as_events:
            self._say(line)

    def _note_ready(self, now: float) -> None:
        """Say once how long the loading took, where there is no bar."""
        if self._is_loading and self._bar is None and not self._as_events:
            self._say(f"the engine is ready after {now - self._began:.0f} s")
        self._is_loading = False

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _numbers(
        self, workers: list[Heartbeat], generated: int, finished: int
    ) -> tuple[float, float, float | None]:
        """Give tokens/s, the share of truncated rows, and seconds left.

        The seconds are None while they are not known.
        """
        (first_at, first), (last_at, last) = self._history[0], self._history[-1]
        rate = truncated = 0.0
        if last_at > first_at:
            rate = (last - first) / (last_at - first_at)
        done = sum(w.finished for w in workers)
        if done:
            truncated = sum(w.truncated for w in workers) / done
        under_way = sum(w.under_way for w in workers)
        left = expected_tokens_left(done, under_way, generated, self._pending - finished)
        if left is None or rate <= 0:
            return rate, truncated, None
        return rate, truncated, left / rate


def _is_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    return "ipykernel" in sys.modules


def format_seconds(seconds: float) -> str:
    """1:02:03 or 2:03"""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours}:{m:02}:{s:02}"
    return f"{m}:{s:02}"
