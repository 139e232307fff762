"""Course of a run: sequences at each moment, and its time.

A run is followed in moments of a twelfth of a mean length. Sequences that started together are
one cohort, which shrinks by the lengths' survival function. The cache is kept full: new sequences
start while they fit, and where the older ones have outgrown it, the newest cohort is preempted and
waits for room, as vLLM's scheduler has it. A long run is followed until it is settled, and goes on
as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from batchr1.records import CompletionLengths
from batchr1.sizing.timing.step_time import StepTime

_MOMENTS = 12  # of a mean length
_SPAN = 12  # mean lengths that the longest completion may have, without a cap
_LAST = 0.5  # fewer sequences than this are none
LOST_SHARE = 0.5  # of a preempted sequence's tokens, prefilled again; the prefix cache keeps others
_SETTLED = (4, 9)  # batches after which a run's pace is looked at


@dataclass(frozen=True, slots=True)
class Course:
    """Run of one replica.

    `tokens_per_s`: output tokens over all of `seconds`, start and tail included. `batch`: sequences
    that run at a time, on average over the tokens. `preempted`: preemptions of a sample.
    """

    seconds: float
    tokens_per_s: float
    batch: float
    preempted: float


@dataclass(slots=True)
class _Sums:
    seconds: float = 0.0
    tokens: float = 0.0
    batch_tokens: float = 0.0
    preempted: float = 0.0


def follow(
    step_time: StepTime,
    lengths: CompletionLengths,
    *,
    prompt_len: float,
    samples: int,
    max_num_seqs: int,
    kv_tokens: int,
    max_tokens: int | None,
) -> Course:
    """Follow a run on one replica. Lengths in tokens."""
    survival, step = _survival(lengths, max_tokens)
    run = _Run(step_time, survival, step, prompt_len, max_num_seqs, kv_tokens)
    typical = max(1.0, min(max_num_seqs, kv_tokens / (prompt_len + lengths.mean)))
    early, late = (round(batches * typical) + 1 for batches in _SETTLED)
    if samples <= late:
        sums = run.through(samples)
        scale = 1.0
    else:
        first, sums = run.through(early), run.through(late)
        more = (samples - late) / (late - early)
        sums.seconds += more * (sums.seconds - first.seconds)
        sums.batch_tokens += more * (sums.batch_tokens - first.batch_tokens)
        sums.preempted += more * (sums.preempted - first.preempted)
        sums.tokens += more * (sums.tokens - first.tokens)
        scale = 1.0
    output = samples * lengths.mean
    return Course(
        sums.seconds * scale,
        output / sums.seconds,
        sums.batch_tokens / max(1.0, sums.tokens),
        sums.preempted / samples,
    )


class _Run:
    def __init__(
        self,
        step_time: StepTime,
        survival: list[float],
        step: float,
        prompt_len: float,
        max_num_seqs: int,
        kv_tokens: int,
    ) -> None:
        self._time = step_time
        self._step = step
        self._most, self._room = float(max_num_seqs), float(kv_tokens)
        self._keeps = [b / a if a > 0 else 0.0 for a, b in pairwise(survival)]
        self._keeps.append(0.0)
        self._contexts = [prompt_len + (i + 0.5) * step for i in range(len(survival) + 1)]

    def through(self, samples: int) -> _Sums:
        """Follow so many samples to their end."""
        sums, left = _Sums(), float(samples)
        running: list[list[float]] = []  # cohorts, oldest first: sequences, age in moments
        waiting: list[list[float]] = []  # preempted ones, the next to be taken up last
        while True:
            alive = sum(cohort[0] for cohort in running) + sum(cohort[0] for cohort in waiting)
            if left + alive < _LAST:
                return sums
            sums.preempted += self._make_room(running, waiting)
            prefilled, left = self._start(running, waiting, left)
            number = sum(cohort[0] for cohort in running)
            context = sum(n * self._contexts[int(age)] for n, age in running)
            step_s = self._time.seconds(sequences=number, context=context)
            sums.seconds += self._step * step_s + self._time.prefill_s(prefilled)
            sums.tokens += number * self._step
            sums.batch_tokens += number * number * self._step
            self._grow(running)

    def _make_room(self, running: list[list[float]], waiting: list[list[float]]) -> float:
        """Preempt the newest until the others fit; how many were."""
        held, preempted = self._held(running), 0.0
        total = sum(cohort[0] for cohort in running)
        while held > self._room and total > 1.0:
            number, age = running[-1]
            context = self._contexts[int(age)]
            out = min(number, (held - self._room) / context, total - 1.0)
            total -= out
            running[-1][0] -= out
            waiting.append([out, age])
            held -= out * context
            preempted += out
            if running[-1][0] >= 1e-3:
                break
            running.pop()
        return preempted

    def _start(
        self, running: list[list[float]], waiting: list[list[float]], left: float
    ) -> tuple[float, float]:
        """Take up what was preempted, then start new ones.

        Returns tokens prefilled and samples left.
        """
        room = self._room - self._held(running)
        slots = self._most - sum(cohort[0] for cohort in running)
        prefilled = 0.0
        while waiting and room > 0 and slots > 0:
            number, age = waiting[-1]
            context = self._contexts[int(age)]
            taken = min(number, slots, room / context)
            if not running:
                taken = max(taken, min(number, 1.0))
            running.append([taken, age])
            prefilled += taken * context * LOST_SHARE
            room, slots = room - taken * context, slots - taken
            waiting[-1][0] -= taken
            if waiting[-1][0] >= 1e-3:
                break
            waiting.pop()
        if not waiting and left > 0:
            first = self._contexts[0]
            taken = min(left, slots, max(0.0, room / first))
            if not running:
                taken = max(taken, min(left, 1.0))
            if taken > 0:
                running.append([taken, 0])
                prefilled += taken * first
                left -= taken
        return prefilled, left

    def _grow(self, running: list[list[float]]) -> None:
        for cohort in running:
            age = int(cohort[1])
            cohort[0] *= self._keeps[min(age, len(self._keeps) - 1)]
            cohort[1] = age + 1
        running[:] = [c for c in running if c[0] > 1e-3 and c[1] < len(self._contexts)]

    def _held(self, running: list[list[float]]) -> float:
        return sum(number * self._contexts[int(age)] for number, age in running)


def _survival(lengths: CompletionLengths, max_tokens: int | None) -> tuple[list[float], float]:
    """Give P(length > i × step) of log-normal lengths.

    They have this mean and mean square. Also returns the step, in tokens.
    """
    variance = math.log(max(1.0, lengths.mean_square / lengths.mean**2))
    center = math.log(lengths.mean) - variance / 2
    step = max(1.0, lengths.mean / _MOMENTS)
    most = min(_SPAN * lengths.mean, max_tokens or math.inf)
    edges = [i * step for i in range(1, math.ceil(most / step))]
    if variance < 1e-4:
        return [1.0] + [1.0 if edge < lengths.mean else 0.0 for edge in edges], step
    tail = [math.erfc((math.log(e) - center) / math.sqrt(2 * variance)) / 2 for e in edges]
    return [1.0, *tail], step
