"""How many samples may be in the engine at once: as many as its KV cache will hold while they grow.

A cache that runs full makes vLLM preempt: a sequence loses its cache and is prefilled again. So a
sample is admitted only if at every later moment, by all that is known of lengths, what is in flight
fits. Known is its expected length (a column, or its finished siblings), else how long this job's
completions are: the plan's guess at first, more and more what has finished. To admit by the future
need of a batch, as its sequences grow and end, is the rule of the Past-Future Scheduler (Gong et
al., ASPLOS 2025); here the need is computed from survival functions, with its variance.

On a GPU a batch that was full is filled up again several samples at a time. A step that prefills
runs outside vLLM's CUDA graphs, and the whole batch waits for it; left alone, vLLM fills each slot
as it falls free, which is in two of five steps with 512 sequences of 1,000 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from batchr1.engine.protocol import EngineLoad
from batchr1.records import CompletionLengths

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

# one waiting request for this many running: a slot that falls free is filled in the same step
WAITING_SHARE = 8
MIXED_STEP_COST = (
    0.1  # of a decode step on a GPU, added by the first prefill in it: docs/benchmarks.md
)
MOST_EMPTY = 16  # a refill is at most one slot of so many
DEVIATIONS = 2.5  # of the sum of lengths, left free; as the plan does
BLOCK_TOKENS = 16  # a sequence's last block of cache is half empty on average
STEPS = 24  # moments at which the need is looked at
REFRESH_SHARE = 200  # the need is computed anew when so small a part of the cache was filled since
ALIKE = 0.7  # correlation of samples of one prompt: they are long or short together
BACK_OFF = 0.95  # of the cache, after a preemption
RECOVER = 0.01  # of the cache, given back for each RECOVER_ROWS that went through without one
RECOVER_ROWS = 64
LEAST_SHARE = 0.7
PRIOR_ROWS = 16.0  # the plan's guess counts like so many finished rows
DOUBT = 1.0  # standard errors by which a length model's rates may be too high as a whole
MOST_ENDED = 1024  # completions that wait to be learnt from
# of ln(length / expectation) before any was seen: samples of one prompt differ about so much
RATIO_SIGMA = 0.5
_EDGES = 64  # of a length model's table


class Sequence(Protocol):
    """A sample in flight.

    Lengths in tokens; `at_least`: what a sibling of it has reached elsewhere, 0 if unknown.
    """

    @property
    def prompt_len(self) -> int: ...

    @property
    def generated(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def expected(self) -> float | None: ...

    @property
    def at_least(self) -> int: ...

    @property
    def prompt_id(self) -> str: ...


class LengthModel:
    """How likely a completion ends after so many tokens: a life table (Böhmer 1912), to which a prior was added.

    By interval of length: how many ended in it, over how much time was spent in it. Completions
    still under way count for the time they have spent, so that the table is not short-sighted while
    only the short ones have finished.
    """

    def __init__(self, mean: float, sigma: float) -> None:
        """Log-normal with this mean and standard deviation of the logarithm, until more is known."""
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
        """ln P(length > l), on the safe side. Beyond the table the last interval's rate goes on.

        A rate that was found from r rows is known to a relative standard error of 1 / √r.
        """
        inside = np.interp(lengths, self._edges, self._hazard)
        beyond = np.maximum(lengths - self._edges[-1], 0.0) * self._rates[-1]
        survival: Floats = -(inside + beyond) * (1.0 - DOUBT / math.sqrt(self.rows))
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


@dataclass(slots=True)
class _Siblings:
    """Samples of one prompt, of which some are in flight."""

    in_flight: int = 0
    most: int = 0  # that were in flight at once
    reached: int = 0  # tokens, by the longest


def most_in_flight(max_num_seqs: int) -> int:
    """A full batch, and those that wait in the engine for the next slot that falls free."""
    return max_num_seqs + max(4, max_num_seqs // WAITING_SHARE)


def refill_share(mean: float, mixed_step_cost: float) -> float:
    """How much of a full batch should fall free before it is filled up again, for completions of `mean` tokens.

    `mixed_step_cost` is what a prefill adds to a step, as a share of it. Of N slots, N / mean fall
    free in a step. If k are filled at a time, k / 2 are empty on average and every (k · mean / N)th
    step is a mixed one: k / 2N + cost · N / (k · mean) of the time is lost, which is least at k = N
    · √(2 · cost / mean).
    """
    return min(1 / MOST_EMPTY, math.sqrt(2 * mixed_step_cost / mean))


class Admission:
    """Says whether one more sample may go into the engine.

    Tell it what starts and ends, and what the engine did.
    """

    def __init__(
        self,
        *,
        kv_cache_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        expected: CompletionLengths | None = None,
        mixed_step_cost: float = 0.0,
    ) -> None:
        """`kv_cache_tokens` 0: not known, and only `max_num_seqs` counts. `mixed_step_cost`: see
        `refill_share`.
        """
        self._capacity = float(kv_cache_tokens) or math.inf
        mean = max(1.0, expected.mean) if expected else max_model_len / 4
        self._refill_share = refill_share(mean, mixed_step_cost)
        refills_at_once = (
            self._refill(max_num_seqs) <= 1
        )  # then some wait in the engine for the next slot
        self.window = most_in_flight(max_num_seqs) if refills_at_once else max_num_seqs
        self._full_at = (
            0  # so many were in flight when one was refused; 0: none was since one was admitted
        )
        sigma = math.sqrt(math.log(max(1.0, expected.mean_square / mean**2))) if expected else 1.0
        self._lengths = LengthModel(mean, max(sigma, RATIO_SIGMA))
        self._ratios = LengthModel(1.0, RATIO_SIGMA)
        self._moments = np.concatenate(
            [[0.0], np.geomspace(max_model_len / 1024, max_model_len, STEPS - 1)]
        )
        self.share = 1.0  # of the cache that may be planned for
        self._preempted = 0
        self._calm = 0  # samples that ended since a preemption, or since `share` was raised
        self._ended_since = 0  # since it was lowered
        self._worst = 0.0  # tokens in flight if all went to their caps
        self._in_flight: dict[
            Sequence, tuple[Floats, Floats] | None
        ] = {}  # what each adds to the need
        self._siblings: dict[str, _Siblings] = {}  # by prompt, while one is in flight
        self._mean, self._variance = np.zeros((2, STEPS))  # of the need, at each moment
        self._ended: list[
            tuple[float, float, float, bool]
        ] = []  # length, expectation or 0, weight, cut: to learn from
        self._grown = math.inf  # tokens generated since the need was computed
        self._refused: Sequence | None = None  # and nothing has changed since

    def admits(self, sequence: Sequence) -> bool:
        """Whether this one may start now. With nothing in flight, always."""
        flying = len(self._in_flight)
        if flying and self._full_at and flying > self._full_at - self._refill(self._full_at):
            return False
        fits = not flying or (flying < self.window and self._fits(sequence))
        self._full_at = 0 if fits else self._full_at or flying
        return fits

    def _refill(self, full: int) -> int:
        """How many of so many slots fall free before they are filled again."""
        return round(self._refill_share * full)

    def _fits(self, sequence: Sequence) -> bool:
        if sequence is self._refused:
            return False
        limit = self._capacity * self.share
        if self._worst + _most(sequence) <= limit:
            return True
        if math.isinf(self._grown):
            self._refresh()
        mean, variance = self._need([sequence])
        need = self._mean + mean[0] + DEVIATIONS * np.sqrt(self._variance + variance[0])
        if need.max() > limit:
            self._refused = sequence
            return False
        return True

    def started(self, sequence: Sequence) -> None:
        self._worst += _most(sequence)
        siblings = self._siblings.setdefault(sequence.prompt_id, _Siblings())
        siblings.in_flight += 1
        siblings.most = max(siblings.most, siblings.in_flight)
        self._in_flight[sequence] = None
        if math.isfinite(self._grown):
            mean, variance = self._need([sequence])
            self._in_flight[sequence] = mean[0], variance[0]
            self._mean, self._variance = self._mean + mean[0], self._variance + variance[0]

    def ended(self, sequence: Sequence, *, cut: bool = False) -> None:
        """It is through; `cut`: by a limit, not by itself."""
        added = self._in_flight.pop(sequence)
        if added is not None:
            self._mean = self._mean - added[0]
            self._variance = np.maximum(self._variance - added[1], 0.0)
        self._worst -= _most(sequence)
        siblings = self._siblings[sequence.prompt_id]
        siblings.in_flight -= 1
        if not siblings.in_flight:
            del self._siblings[sequence.prompt_id]
        self._refused = None
        if sequence.expected or not sequence.at_least:  # others were chosen for being long
            self._ended.append(
                (sequence.generated, sequence.expected or 0.0, 1 / siblings.most, cut)
            )
        if len(self._ended) >= MOST_ENDED:
            self._learn()
        self._calm += 1
        self._ended_since += 1
        if self._calm >= RECOVER_ROWS:
            self._calm = 0
            self.share = min(1.0, self.share + RECOVER)

    def stepped(self, tokens: int, load: EngineLoad) -> None:
        """The engine generated so many tokens. From time to time the need is computed anew."""
        if load.preempted > self._preempted:
            self._preempted = load.preempted
            if self._ended_since * 4 >= len(
                self._in_flight
            ):  # else the last cut has not worked yet
                self._ended_since = 0
                self.share = max(LEAST_SHARE, self.share * BACK_OFF)
            self._calm = 0
        self._grown += tokens
        if self._worst <= self._capacity * self.share:
            self._grown = math.inf  # whatever happens, it fits: computed when it is needed again
        elif self._grown * REFRESH_SHARE >= self._capacity:
            self._refresh()

    def _refresh(self) -> None:
        self._grown, self._refused = 0.0, None
        sequences = list(self._in_flight)
        self._learn()
        for sequence in sequences:
            siblings = self._siblings[sequence.prompt_id]
            siblings.reached = max(siblings.reached, sequence.generated)
        reached = np.array([s.generated for s in sequences], dtype=np.float64)
        expected = np.array([s.expected or 0.0 for s in sequences])
        weights = np.array([1 / self._siblings[s.prompt_id].most for s in sequences])
        known, chosen = expected > 0, np.array([s.at_least > 0 for s in sequences], dtype=bool)
        self._lengths.refresh(reached[~known & ~chosen], weights[~known & ~chosen])
        self._ratios.refresh(reached[known] / expected[known], weights[known])
        means, variances = self._need(sequences)
        self._in_flight = {s: (m, v) for s, m, v in zip(sequences, means, variances, strict=True)}
        self._mean, self._variance = means.sum(axis=0), variances.sum(axis=0)

    def _learn(self) -> None:
        """From what has ended: lengths, or how far the expectation was off where there was one.

        Samples that had one were chosen for it, so that their lengths say nothing of other samples.
        """
        if self._ended:
            lengths, expected, weights = np.array(
                [entry[:3] for entry in self._ended], dtype=np.float64
            ).T
            cut = np.array([entry[3] for entry in self._ended])
            known = expected > 0
            self._lengths.finished(lengths[~known], cut[~known], weights[~known])
            self._ratios.finished(lengths[known] / expected[known], cut[known], weights[known])
            self._ended = []

    def _need(self, sequences: list[Sequence]) -> tuple[Floats, Floats]:
        """Mean and variance of the tokens that each holds at each moment from now: shape
        (sequences, moments).
        """
        generated = np.array([s.generated for s in sequences], dtype=np.float64)[:, None]
        caps = np.array([s.max_tokens for s in sequences], dtype=np.float64)[:, None]
        prompts = np.array([s.prompt_len for s in sequences], dtype=np.float64)[:, None]
        later = generated + self._moments[None, :]
        siblings = [self._siblings.get(s.prompt_id, _Siblings()) for s in sequences]
        expected = np.array([s.expected or 0.0 for s in sequences])
        # Of a sample of unknown length: it is as long, at least, as its siblings have become by
        # now.
        floor = np.array(
            [max(s.at_least, one.reached) for s, one in zip(sequences, siblings, strict=True)],
            dtype=float,
        )
        floor, known = np.where(expected > 0, 0.0, floor)[:, None], expected > 0
        scale = np.where(known, expected, 1.0)[:, None]
        alive = np.empty_like(later)
        for model, rows in ((self._lengths, ~known), (self._ratios, known)):
            if rows.any():
                now = np.maximum(generated[rows], floor[rows]) / scale[rows]
                then = np.maximum(later[rows], floor[rows]) / scale[rows]
                alive[rows] = np.exp(model.log_survival(then) - model.log_survival(now))
        alive[later >= caps] = 0.0
        alive[:, 0] = 1.0
        held = prompts + np.minimum(later, caps) + BLOCK_TOKENS / 2
        others = np.array([max(0, one.in_flight - 1) for one in siblings], dtype=np.float64)[
            :, None
        ]
        return alive * held, alive * (1.0 - alive) * held**2 * (1.0 + ALIKE * others)


def _most(sequence: Sequence) -> float:
    return float(sequence.prompt_len + sequence.max_tokens + BLOCK_TOKENS)
