"""Hours and cost of a job, from its replicas' runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.graphs import grid
from batchr1.sizing.timing.course import Course, follow
from batchr1.sizing.timing.step_time import EFFICIENCY, StepTime

# From the start of the command to an engine that is ready, beside reading the weights: imports,
# compiling and capturing, on an H200 (docs/benchmarks.md).
START_S = 90.0
READ_GIB_S = 1.0  # of weights, from a local disk; an assumption


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows, lengths and limits that a job brings to an engine.

    Lengths in tokens; `max_tokens` None: to the end of the context.
    """

    prompts: PromptLengths
    completions: CompletionLengths
    samples: int
    max_tokens: int | None
    context_len: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that may come up, within the context."""
        wanted = (
            self.context_len if self.max_tokens is None else self.prompts.longest + self.max_tokens
        )
        return max(2, min(wanted, self.context_len))

    @property
    def mean_context(self) -> float:
        """Tokens that a running sequence holds on average, on the safe side.

        Once starts and ends are mixed, long sequences run longer: the mean age m₂ / 2m₁ of a
        renewal process. Sequences that start together and are equally long grow together, to m₁:
        the larger of the two counts.
        """
        c = self.completions
        return self.prompts.mean + max(c.mean, c.mean_square / (2 * c.mean))

    @property
    def context_deviation(self) -> float:
        """Standard deviation of those, in tokens.

        From the age's second moment m₃ / 3m₁, with a log-normal's m₃.
        """
        c = self.completions
        third = (c.mean_square / c.mean) ** 3
        age = c.mean_square / (2 * c.mean)
        most = float(self.max_tokens or self.context_len)
        return math.sqrt(max(0.0, min(third / (3 * c.mean), most * age) - age**2))

    @property
    def running_context(self) -> float:
        """Mean tokens of a running sequence while slots are refilled."""
        c = self.completions
        return self.prompts.mean + c.mean_square / (2 * c.mean)

    @property
    def longest_completion(self) -> float:
        """Tokens of the longest completion that is to be expected."""
        c = self.completions
        variance = math.log(max(1.0, c.mean_square / c.mean**2))
        z = NormalDist().inv_cdf(1 - 0.5 / max(1, self.samples))
        longest = math.exp(math.log(c.mean) - variance / 2 + z * math.sqrt(variance))
        return min(longest, float(self.max_tokens or self.context_len))

    def batch_within(self, kv_tokens: float) -> float:
        """Count the sequences that a KV cache holds.

        Once a run is settled. While the first of them waits for room, about half a sequence's worth
        lies empty.
        """
        return max(1.0, kv_tokens / self.running_context - 0.5)

    def seconds(
        self, step_time: StepTime, *, num_seqs: int, kv_tokens: int, replicas: int = 1
    ) -> float:
        """Estimate a replica's seconds in closed form, to compare plans.

        The cache is full of sequences, or the slots are, whichever is the fewer. How many the
        cache holds varies by about half. Until it is full for the first time, sequences start as
        many at a time as there are slots, which costs half of what it would if it were empty.
        """
        within = self.batch_within(kv_tokens)
        share = max(1.0, self.samples / replicas)
        batch, filling = float(num_seqs), 0.0
        if share > within / 2:  # else the cache is never full, by two standard deviations
            z = (num_seqs - within) / (0.5 * within)
            by_cache = NormalDist().cdf(z)  # share of the time in which slots are left empty
            # The mean of the smaller of the two (Clark, 1961).
            batch = (
                num_seqs * (1 - by_cache) + within * by_cache - 0.5 * within * NormalDist().pdf(z)
            )
            filling = by_cache * kv_tokens / (4 * num_seqs)
        batch = min(share, max(1.0, batch))  # no step holds more than there is
        context = min(batch * self.running_context, float(kv_tokens))
        step_s = step_time.seconds(sequences=batch, context=context)
        steps = share * self.completions.mean / batch
        return (steps + min(filling, steps)) * step_s

    def course(
        self, step_time: StepTime, *, num_seqs: int, kv_tokens: int, replicas: float = 1
    ) -> Course:
        """Follow the run of one of several replicas to its end."""
        half_a_sequence = min(0.5 * self.running_context, 0.2 * kv_tokens)
        return follow(
            step_time,
            self.completions,
            prompt_len=self.prompts.mean,
            samples=max(1, math.ceil(self.samples / replicas)),
            max_num_seqs=num_seqs,
            kv_tokens=int(kv_tokens - half_a_sequence),
            max_tokens=self.max_tokens,
        )


def best_batch(most: int, seconds_with: Callable[[int], float]) -> int:
    """Choose the grid's size with which the work takes least.

    The smallest of those within 0.1 %.

    `seconds_with`: infinite where the memory does not suffice.
    """
    found = {size: seconds_with(size) for size in grid(most)}
    least = min(found.values())
    return next(size for size, seconds in found.items() if seconds <= 1.001 * least)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and cost of a job, all replicas together.

    `hours` include loading, start and tail.

    `tokens_per_s`: over the time in which tokens are generated. `batch`: sequences that run at a
    time in one replica, on average. `longest_s`: what the longest sample takes at least.
    """

    tokens_per_s: float
    output_tokens: float
    hours: float
    gpu_hours: float
    cost_usd: float | None
    lengths: str
    efficiency: float = EFFICIENCY
    batch: float = 0.0
    load_s: float = 0.0
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaRun:
    """Course of one kind of replica.

    With how many there are, and of how many GPUs.
    """

    step_time: StepTime
    course: Course
    replicas: int
    width: int
    weight_bytes: int

    @property
    def load_s(self) -> float:
        """Seconds until the engine is ready.

        Each GPU reads its part of the weights.
        """
        return START_S + self.weight_bytes / 2**30 / READ_GIB_S


def estimate(
    demand: Workload, runs: Sequence[ReplicaRun], *, price: float | None = None
) -> Estimate | None:
    """Estimate a job from the runs of its replicas.

    `price`: USD per GPU-hour. None where no step time is known.
    """
    if not runs:
        return None
    rate = sum(run.course.tokens_per_s * run.replicas for run in runs)
    output = demand.samples * demand.completions.mean
    load_s = max(run.load_s for run in runs)
    longest_s = min(_longest_s(demand, run) for run in runs)
    # A replica that has no sample, or fewer than its neighbours, does not speed the others up.
    generating_s = max(output / rate, longest_s, min(run.course.seconds for run in runs))
    rate, seconds = output / generating_s, load_s + generating_s
    num_gpus = sum(run.replicas * run.width for run in runs)
    hours = seconds / 3600
    cost = None if price is None else hours * num_gpus * price
    return Estimate(
        tokens_per_s=rate,
        output_tokens=output,
        hours=hours,
        gpu_hours=hours * num_gpus,
        cost_usd=cost,
        lengths=demand.completions.source,
        batch=max(run.course.batch for run in runs),
        load_s=load_s,
        longest_s=longest_s,
    )


def _longest_s(demand: Workload, run: ReplicaRun) -> float:
    """Time the longest sample that is to be expected, alone."""
    tokens = demand.longest_completion
    context = demand.prompts.mean + tokens / 2
    return tokens * run.step_time.seconds(sequences=1, context=context)
