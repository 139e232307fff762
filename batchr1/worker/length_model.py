"""Model of completion lengths, learnt while they are under way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

PRIOR_ROWS = 16.0  # the plan's guess counts like so many finished rows
_EDGES = 64  # of the table


class LengthModel:
    """Life table of completion lengths (Böhmer 1912) with a prior.

    By interval of length: how many ended in it, over how much time was spent in it. Completions
    still under way count for the time they have spent, so that the table is not short-sighted while
    only the short ones have finished.
    """

    def __init__(self, mean: float, sigma: float) -> None:
        """Begin with a log-normal prior, until more is known.

        It is given by its mean, and by the standard deviation of the logarithm.
        """
        mu = math.log(max(mean, 1e-9)) - sigma**2 / 2
        self._edges = np.concatenate([[0.0], np.geomspace(mean / 64, mean * 64, _EDGES)])
        z = (np.log(np.maximum(self._edges, 1e-12)) - mu) / max(sigma, 0.05)
        alive = np.array([math.erfc(x / math.sqrt(2)) / 2 for x in z])
        alive[0] = 1.0
        self._widths = np.diff(self._edges)
        # An interval's average number alive, times its width: the time that one completion spends
        # in it.
        self._ended = PRIOR_ROWS * -np.diff(alive)
        self._spent = PRIOR_ROWS * (alive[:-1] + alive[1:]) / 2 * self._widths
        self._under_way = np.zeros(_EDGES)
        self.rows = PRIOR_ROWS  # that it knows of, samples of one prompt together counted as one
        self._fit()

    def finished(self, lengths: Floats, cut: Bools, weights: Floats) -> None:
        """Completions are through; those that were `cut` would have gone on.

        `weights`: as how many rows they count.
        """
        self._spent += self._time_in(lengths, weights)
        at = np.searchsorted(self._edges, lengths[~cut], side="left") - 1
        np.add.at(self._ended, np.clip(at, 0, _EDGES - 1), weights[~cut])
        self.rows += float(weights.sum())

    def refresh(self, under_way: Floats, weights: Floats) -> None:
        """These lengths were reached by what is under way."""
        self._under_way = self._time_in(under_way, weights)
        self._fit()

    def log_survival(self, lengths: Floats) -> Floats:
        """Compute ln P(length > l).

        Beyond the table the last interval's rate goes on.
        """
        inside = np.interp(lengths, self._edges, self._hazard)
        beyond = np.maximum(lengths - self._edges[-1], 0.0) * self._rates[-1]
        survival: Floats = -(inside + beyond)
        return survival

    def _fit(self) -> None:
        spent = self._spent + self._under_way
        self._rates = self._ended / np.maximum(spent, 1e-12)
        # In the far tail, where the prior has no rows left to speak of, nothing is known: as before
        # it.
        thin = spent < 1e-3 * self._widths
        last = int(np.flatnonzero(~thin)[-1]) if not thin.all() else 0
        self._rates[last + 1 :] = self._rates[last]
        self._hazard = np.concatenate([[0.0], np.cumsum(self._rates * self._widths)])

    def _time_in(self, lengths: Floats, weights: Floats) -> Floats:
        time: Floats = weights @ np.clip(
            lengths[:, None] - self._edges[None, :-1], 0.0, self._widths[None, :]
        )
        return time
