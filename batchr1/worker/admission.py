"""Admission: as many samples at once as bring most tokens a second.

A decode step reads the weights once, however many sequences are in it, so one more sequence adds
tokens and hardly any time. But sequences grow, and a cache that runs full makes vLLM preempt the
newest: it loses its cache and is prefilled again. A sample is admitted if the tokens that it adds
until then are worth more seconds than its share of preemptions costs. Both are reckoned with the
step time that the plan's estimate uses, corrected by what steps and preemptions are seen to take.

How long the newest keeps its place follows from what is in flight: at each of 24 later moments, the
expected need of the older ones and its variance, from survival functions. Known is a sample's
expected length (a column, or its finished siblings), else how long this job's completions are: the
plan's guess at first, more and more what has finished. To look at the future need of a batch is the
idea of the Past-Future Scheduler (Gong et al., ASPLOS 2025).

On a GPU a batch that was full is filled up again several samples at a time. A step that prefills
runs outside vLLM's CUDA graphs, and the whole batch waits for it; left alone, vLLM fills each slot
as it falls free, which is in two of five steps with 512 sequences of 1,000 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from batchr1.engine.protocol import EngineLoad
from batchr1.executors.setup import most_in_flight
from batchr1.records import CompletionLengths
from batchr1.sizing.timing.step_time import StepTime
from batchr1.worker.length_model import Floats, LengthModel
from batchr1.worker.preemption_cost import PreemptionCost

MOST_EMPTY = 16  # a refill is at most one slot of so many
BLOCK_TOKENS = 16  # a sequence's last block of cache is half empty on average
STEPS = 24  # moments at which the need is looked at
REFRESH_SHARE = 64  # the need is computed anew when so small a part of the cache was filled since
ALIKE = 0.7  # correlation of samples of one prompt: they are long or short together
MOST_ENDED = 1024  # completions that wait to be learnt from
# of ln(length / expectation) before any was seen: samples of one prompt differ about so much
RATIO_SIGMA = 0.5
# of a preempted sequence's tokens, those that the prefix cache has lost when it is taken up again
LOST_SHARE = 0.5
# Where the plan knows no step time (a CPU, a GPU without a known bandwidth): that of an H200 with
# a model of 7 billion weights. Only ratios of it matter, and they are corrected during the run.
DEFAULT_STEP_TIME = StepTime(15.2e9, 57_344, 4.8e12, 15.2e9, 989e12)


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


@dataclass(slots=True)
class _Siblings:
    """Samples of one prompt, of which some are in flight."""

    in_flight: int = 0
    most: int = 0  # that were in flight at once
    reached: int = 0  # tokens, by the longest


@dataclass(frozen=True, slots=True)
class Balance:
    """Seconds that one more sequence gains and costs."""

    gain_s: float
    cost_s: float


def refill_share(mean: float, mixed_step_cost: float) -> float:
    """Choose the share of a batch that falls free before refills.

    `mean`: tokens of a completion.

    `mixed_step_cost` is what a prefill adds to a step, as a share of it. Of N slots, N / mean fall
    free in a step. If k are filled at a time, k / 2 are empty on average and every (k · mean / N)th
    step is a mixed one: k / 2N + cost · N / (k · mean) of the time is lost, which is least at k = N
    · √(2 · cost / mean).
    """
    return min(1 / MOST_EMPTY, math.sqrt(2 * mixed_step_cost / mean))


class Admission:
    """Judge of whether one more sample may go into the engine.

    Report to it what starts and ends, and what the engine did.
    """

    def __init__(
        self,
        *,
        kv_cache_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        expected: CompletionLengths | None = None,
        mixed_step_cost: float = 0.0,
        step_time: StepTime | None = None,
    ) -> None:
        """Begin with what the plan expects.

        `kv_cache_tokens` 0: not known, and only `max_num_seqs` counts. `mixed_step_cost`: see
        `refill_share`. `step_time`: as the plan estimates it.
        """
        self._capacity = float(kv_cache_tokens) or math.inf
        self._step_time = step_time or DEFAULT_STEP_TIME
        mean = max(1.0, expected.mean) if expected else max_model_len / 4
        self._refill_share = refill_share(mean, mixed_step_cost)
        refills_at_once = (
            self._refill(max_num_seqs) <= 1
        )  # then some wait in the engine for the next slot
        self.window = most_in_flight(max_num_seqs) if refills_at_once else max_num_seqs
        self._max_num_seqs = max_num_seqs
        self._full_at = (
            0  # so many were in flight when one was refused; 0: none was since one was admitted
        )
        sigma = math.sqrt(math.log(max(1.0, expected.mean_square / mean**2))) if expected else 1.0
        self._lengths = LengthModel(mean, max(sigma, RATIO_SIGMA))
        self._ratios = LengthModel(1.0, RATIO_SIGMA)
        first = min(8.0, max_model_len / 2)
        self._moments = np.concatenate([[0.0], np.geomspace(first, max_model_len, STEPS - 1)])
        self.cost = PreemptionCost()
        self._preempted = 0
        self._worst = 0.0  # tokens in flight if all went to their caps
        self._held = 0.0  # tokens in flight
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
        fits = not flying or (flying < self.window and self._pays(sequence))
        self._full_at = 0 if fits else self._full_at or flying
        return fits

    def _refill(self, full: int) -> int:
        """Count the slots that fall free before a refill."""
        return round(self._refill_share * full)

    def _pays(self, sequence: Sequence) -> bool:
        if sequence is self._refused:
            return False
        if self._worst + _most(sequence) <= self._capacity:
            return True
        held = sequence.prompt_len + sequence.generated + BLOCK_TOKENS * (1 + len(self._in_flight))
        if self._held + held > self._capacity:
            return False  # it would wait in the engine
        balance = self.balance(sequence)
        if balance.gain_s >= balance.cost_s:
            return True
        self._refused = sequence
        return False

    def balance(self, sequence: Sequence) -> Balance:
        """Weigh one more sequence: gain against preemptions.

        It would be the newest, and so the first to be preempted.

        It runs as long as what was there before it leaves it room. Each token of it is worth its
        share of a step less what it adds to the step. If it is preempted before its end, tokens
        that the prefix cache has lost are prefilled again, in a step that becomes a mixed one.
        """
        if math.isinf(self._grown):
            self._refresh()
        alive, held = self._survival([sequence])
        alive, own = alive[0], held[0]
        deviation = np.sqrt(self._variance) + 1e-9
        room = (self._capacity - self._mean - self._grown - own) / deviation
        keeps = np.minimum.accumulate(_normal(room))
        running = alive * keeps
        steps = np.diff(self._moments)
        tokens = float(((running[1:] + running[:-1]) / 2 * steps).sum())
        lost = alive[1:] * -np.diff(keeps)
        again = float((lost * own[1:]).sum()) * LOST_SHARE
        sequences = min(len(self._in_flight), self._max_num_seqs)
        context = min(self._held, self._capacity)
        step_s = self._step_time.seconds(sequences=sequences, context=context)
        one_more_s = self._step_time.seconds(
            sequences=sequences + 1, context=context + float(own[0])
        )
        added_s = one_more_s - step_s
        mixed_s = self._step_time.mixed_step_cost * step_s * float(lost.sum())
        cost_s = self._step_time.prefill_s(again) + mixed_s
        gain_s = tokens * max(0.0, step_s / sequences - added_s)
        return Balance(self.cost.pace * gain_s, self.cost.factor * cost_s)

    def started(self, sequence: Sequence) -> None:
        self._worst += _most(sequence)
        self._held += sequence.prompt_len + sequence.generated
        siblings = self._siblings.setdefault(sequence.prompt_id, _Siblings())
        siblings.in_flight += 1
        siblings.most = max(siblings.most, siblings.in_flight)
        self._in_flight[sequence] = None
        if math.isfinite(self._grown):
            mean, variance = self._need([sequence])
            self._in_flight[sequence] = mean[0], variance[0]
            self._mean, self._variance = self._mean + mean[0], self._variance + variance[0]

    def ended(self, sequence: Sequence, *, cut: bool = False) -> None:
        """Release a sample; `cut`: by a limit, not by itself."""
        added = self._in_flight.pop(sequence)
        if added is not None:
            self._mean = self._mean - added[0]
            self._variance = np.maximum(self._variance - added[1], 0.0)
        self._worst -= _most(sequence)
        self._held = max(0.0, self._held - sequence.prompt_len - sequence.generated)
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

    def stepped(self, tokens: int, load: EngineLoad, now: float | None = None) -> None:
        """Note that the engine generated so many tokens.

        From time to time the need is computed anew.

        `now`: seconds on any clock, to learn what steps and preemptions take; None: not known.
        """
        self._held += tokens
        preempted, self._preempted = load.preempted - self._preempted, load.preempted
        if now is not None:
            self._watch(now, tokens, preempted, load)
        self._grown += tokens
        if self._worst <= self._capacity:
            self._grown = math.inf  # whatever happens, it fits: computed when it is needed again
        elif self._grown * REFRESH_SHARE >= self._capacity:
            self._refresh()

    def _watch(self, now: float, tokens: int, preempted: int, load: EngineLoad) -> None:
        if not self._in_flight:
            self.cost.pause()
            return
        sequences = load.running or len(self._in_flight)
        context = min(self._held, self._capacity)
        step_s = self._step_time.seconds(sequences=sequences, context=context)
        preempted_s = 0.0
        if preempted:
            again = LOST_SHARE * self._held / len(self._in_flight)
            mixed_s = self._step_time.mixed_step_cost * step_s
            preempted_s = preempted * (self._step_time.prefill_s(again) + mixed_s)
        expected_s = step_s * tokens / sequences
        self.cost.stepped(now, expected_s=expected_s, preempted_s=preempted_s)

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
        self._held = float(sum(s.prompt_len + s.generated for s in sequences))

    def _learn(self) -> None:
        """Learn from a sample that ended.

        Its length counts, or how far its expectation was off where it had one. Samples that had one
        were chosen for it, so that their lengths say nothing of other samples.
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
        """Compute mean and variance of each sequence's tokens at each moment.

        Shape (sequences, moments).
        """
        alive, held = self._survival(sequences)
        siblings = [self._siblings.get(s.prompt_id, _Siblings()) for s in sequences]
        others = np.array([max(0, one.in_flight - 1) for one in siblings], dtype=np.float64)
        variance = alive * (1.0 - alive) * held**2 * (1.0 + ALIKE * others[:, None])
        return alive * held, variance

    def _survival(self, sequences: list[Sequence]) -> tuple[Floats, Floats]:
        """Compute each sequence's survival at each moment, and what it holds.

        Shape (sequences, moments); held in tokens.
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
        return alive, prompts + np.minimum(later, caps) + BLOCK_TOKENS / 2


def _most(sequence: Sequence) -> float:
    return float(sequence.prompt_len + sequence.max_tokens + BLOCK_TOKENS)


def _normal(z: Floats) -> Floats:
    """Approximate the normal distribution within 0.01 (logistic)."""
    probability: Floats = 1.0 / (1.0 + np.exp(-1.702 * np.clip(z, -30.0, 30.0)))
    return probability
