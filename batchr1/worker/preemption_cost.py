"""Cost of preemptions in seconds, learnt from the engine's pace."""

from __future__ import annotations

WINDOW_STEPS = 32  # calls of the engine that are looked at together
KEEP = 0.98  # of what is known, at each new window: an engine's pace changes over a run
PRIOR_WINDOWS = 4.0  # the step-time model counts like so many windows
MOST_FACTOR = 8.0  # beyond it a measurement is a hiccup of the machine


class PreemptionCost:
    """Least-squares fit of step time and the cost of preemptions.

        elapsed = pace × expected + factor × preemptions' expected cost

    Both coefficients are 1 to begin with: the step-time model is right until it is seen to be
    wrong. Old windows are forgotten slowly.
    """

    def __init__(self) -> None:
        self.pace = 1.0
        self.factor = 1.0
        self._squares = [0.0, 0.0, 0.0]  # of expected, of both, of the preemptions' cost
        self._products = [0.0, 0.0]  # of each with elapsed
        self._scale = 0.0  # seconds of a window
        self._calls = 0
        self._started: float | None = None
        self._expected_s = self._preempted_s = 0.0

    def stepped(self, now: float, *, expected_s: float, preempted_s: float) -> None:
        """Note that a call of the engine returned at `now`.

        `expected_s`: what the model says of the tokens that came; `preempted_s`: of the
        preemptions.
        """
        if self._started is None:
            self._started = now
            return
        self._calls += 1
        self._expected_s += expected_s
        self._preempted_s += preempted_s
        if self._calls < WINDOW_STEPS or not self._expected_s:
            return
        self._add(now - self._started, self._expected_s, self._preempted_s)
        self._started, self._calls = now, 0
        self._expected_s = self._preempted_s = 0.0

    def pause(self) -> None:
        """Drop the open window: the engine had nothing to do."""
        self._started, self._calls = None, 0
        self._expected_s = self._preempted_s = 0.0

    def _add(self, elapsed: float, expected: float, preempted: float) -> None:
        if self._scale and elapsed > MOST_FACTOR * (expected + preempted) * max(1.0, self.pace):
            return
        self._scale = self._scale or expected
        x, y, t = expected / self._scale, preempted / self._scale, elapsed / self._scale
        news = (x * x, x * y, y * y)
        self._squares = [KEEP * old + new for old, new in zip(self._squares, news, strict=True)]
        products = zip(self._products, (x * t, y * t), strict=True)
        self._products = [KEEP * old + new for old, new in products]
        xx, xy, yy = self._squares
        xt, yt = self._products
        prior = PRIOR_WINDOWS * 0.05
        xx, xt, yy, yt = xx + prior, xt + prior, yy + prior, yt + prior
        determinant = xx * yy - xy * xy
        pace = (xt * yy - yt * xy) / determinant
        factor = (yt * xx - xt * xy) / determinant
        self.pace = min(MOST_FACTOR, max(1 / MOST_FACTOR, pace))
        self.factor = min(MOST_FACTOR, max(0.0, factor))
