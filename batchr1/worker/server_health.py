"""Patience with a server, and rows that are to blame after all.

Rows are not to blame for a server that is overloaded, restarted or gone, so its faults use up none
of their attempts. A server that fails at a row for long, while it answers others, will not answer
that row. Both take `patience_s`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from tenacity import RetryCallState
from tenacity.wait import wait_base, wait_random_exponential

from batchr1.engine.openai.faults import RowFailed, ServerFault
from batchr1.records import SampleKey

log = logging.getLogger("batchr1.worker")

BACKOFF_S = 1.0  # the first wait after a fault, at most; doubled each time
BACKOFF_MAX_S = 60.0
LOG_EVERY_S = 10.0


class ServerGone(Exception):
    """Server that gave nothing but errors for too long."""


class Wait(wait_base):
    """Time until the next try: the server's wish, or exponentially longer.

    Jitter keeps tries from coming all at once.
    """

    def __init__(self) -> None:
        self._own = wait_random_exponential(multiplier=BACKOFF_S, max=BACKOFF_MAX_S)

    def __call__(self, retry_state: RetryCallState) -> float:
        fault = retry_state.outcome.exception() if retry_state.outcome else None
        asked = fault.retry_after_s if isinstance(fault, ServerFault) else None
        own = float(self._own(retry_state))
        return own if asked is None else asked + min(own, BACKOFF_S)


class ServerHealth:
    """Knowledge of a server's health.

    `patience_s`: seconds for which it may give nothing but errors.
    """

    def __init__(self, patience_s: float, clock: Callable[[], float]) -> None:
        self._patience_s, self._clock = patience_s, clock
        self._alive_at = clock()
        self._failing_at: float | None = None  # since when it has given nothing but faults
        self._failing_since: dict[SampleKey, float] = {}
        self._faults: Counter[str] = Counter()
        self._logged_at = -LOG_EVERY_S

    def alive(self) -> None:
        """The server has just given something."""
        self._alive_at, self._failing_at = self._clock(), None

    def was_alive_since(self, at: float) -> bool:
        return self._alive_at > at

    def answered(self, key: SampleKey) -> None:
        self._failing_since.pop(key, None)
        self.alive()

    def note(self, fault: ServerFault, key: SampleKey, *, since: float | None = None) -> None:
        """Note a failure at a sample whose request began at `since`.

        Raises `ServerGone` when the server failed at all for too long, `RowFailed` when it did at
        this row alone.
        """
        now = self._clock()
        self._log(str(fault), now)
        if self._failing_at is None:
            self._failing_at = now if since is None else max(since, self._alive_at)
        silent_s = now - self._failing_at
        if fault.retry_after_s is not None and fault.retry_after_s > self._patience_s:
            raise ServerGone(
                f"the server asks to be left alone for {fault.retry_after_s:,.0f} s, which is "
                f"longer than "
                f"engine.patience_s ({fault}). Try again then; the same command goes on."
            )
        if silent_s >= self._patience_s:
            raise ServerGone(
                f"the server gave nothing but errors for {silent_s:,.0f} s (last: {fault}). "
                "Look at it; the same command goes on."
            )
        if fault.is_busy:  # too many requests: no row's doing, ever
            return
        first = self._failing_since.setdefault(key, now)
        if now - first >= self._patience_s and self._alive_at > first:
            raise RowFailed(
                "server_failed",
                (
                    f"the server failed at it for {now - first:,.0f} s, while it answered others "
                    f"(last: {fault})"
                ),
            )

    def _log(self, words: str, now: float) -> None:
        """Log the first fault at once, later ones in sums."""
        self._faults[words] += 1
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            for said, count in self._faults.most_common(3):
                log.warning("the server failed %d times: %s", count, said)
            self._faults.clear()
