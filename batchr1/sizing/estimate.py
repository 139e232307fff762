"""How long a batch will take: the decode roofline, with what a real engine loses against it.

A decode step reads the weights once and every running sequence's KV cache; it cannot be shorter
than those bytes over the memory bandwidth, nor than its multiplications over the arithmetic peak
(Williams, Waterman and Patterson, Roofline, 2009). On top comes what a step costs the host and the
sampler, per sequence. The three constants are fitted to an H200 with vLLM 0.26 (docs/sizing.md); on
other GPUs they are an assumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.gpus import Gpu

EFFICIENCY = 0.75  # share of the datasheet's bandwidth and arithmetic that a step reaches
STEP_S = 0.002  # scheduling and launching a step
STEP_S_PER_SEQ = 24e-6  # and per sequence in it: scheduling, sampling, handing over
_STEPS = 64  # of eight mean lengths, in which `Demand.peak_tokens` follows a run
PARALLEL_LOSS = 0.08  # of the throughput, for each doubling of the GPUs that share a model


@dataclass(frozen=True, slots=True)
class Workload:
    """What a job asks of an engine.

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
        """Tokens that a running sequence holds on average, once starts and ends are mixed; long sequences run longer.

        The mean age m₂ / 2m₁ of a renewal process. Sequences that start together and are equally
        long grow together, to m₁: the larger of the two counts.
        """
        c = self.completions
        return self.prompts.mean + max(c.mean, c.mean_square / (2 * c.mean))

    @property
    def context_deviation(self) -> float:
        """Standard deviation of those, in tokens: from the age's second moment m₃ / 3m₁, with a
        log-normal's m₃.
        """
        c = self.completions
        third = (c.mean_square / c.mean) ** 3
        age = c.mean_square / (2 * c.mean)
        most = float(self.max_tokens or self.context_len)
        return math.sqrt(max(0.0, min(third / (3 * c.mean), most * age) - age**2))

    def sequences_within(self, kv_tokens: int) -> int:
        """How many sequences may run side by side in so many tokens of KV cache; at least one."""
        low, high = 1, max(1, min(self.samples, int(kv_tokens / (self.prompts.mean + 1))))
        while low < high:
            middle = (low + high + 1) // 2
            if self.fit_within(kv_tokens, num_seqs=middle):
                low = middle
            else:
                high = middle - 1
        return low

    def fit_within(self, kv_tokens: int, *, num_seqs: int) -> bool:
        """Whether so many sequences hardly ever preempt one another.

        What they hold together as the run unfolds, and three and a half standard deviations of it,
        must always fit: the run is many moments, and at two and a half a 7B shape preempted 32 of
        512 requests (docs/sizing.md).
        """
        return num_seqs == 1 or self.peak_tokens(num_seqs, deviations=3.5) <= kv_tokens

    def peak_tokens(self, num_seqs: int, *, deviations: float = 0.0) -> float:
        """Tokens that so many running sequences hold at most: on average over runs, and so many deviations above it.

        All start at once; each that ends makes room for the next sample, until none is left. A few
        steps of a renewal process with the lengths' survival function: a short job never reaches
        the mean that a long one settles at. The deviation is that of `num_seqs` independent slots,
        each with a sequence of some age in it, or none.
        """
        survival, step = self._survival()
        started: list[float] = []
        left, peak = float(self.samples), 0.0
        for now in range(3 * len(survival)):
            first = max(0, now - len(survival) + 1)
            alive = [started[i] * survival[now - i] for i in range(first, now)]
            new = min(left, (num_seqs - sum(alive)) / survival[0])
            started.append(new)
            left -= new
            alive.append(new * survival[0])
            contexts = [self.prompts.mean + (now - i + 0.5) * step for i in range(first, now + 1)]
            held = sum(n * context for n, context in zip(alive, contexts, strict=True))
            squares = sum(n * context**2 for n, context in zip(alive, contexts, strict=True))
            peak = max(peak, held + deviations * math.sqrt(max(0.0, squares - held**2 / num_seqs)))
        return peak

    def _survival(self) -> tuple[list[float], float]:
        """P(length > (i + ½) × step) for a log-normal with the expected mean and mean square; the
        step in tokens.
        """
        c = self.completions
        variance = math.log(max(1.0, c.mean_square / c.mean**2))
        center = math.log(c.mean) - variance / 2
        step = 8 * c.mean / _STEPS
        middles = [(i + 0.5) * step for i in range(_STEPS)]
        if variance < 1e-4:
            return [1.0 if middle < c.mean else 0.0 for middle in middles], step
        return [
            math.erfc((math.log(m) - center) / math.sqrt(2 * variance)) / 2 for m in middles
        ], step


def tokens_per_s(
    arch: Architecture,
    quantization: str | None,
    gpu: Gpu,
    demand: Workload,
    *,
    num_seqs: int,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    dtype_bytes: int = 2,
    kv_dtype_bytes: int = 2,
) -> float:
    """Output tokens per second of one replica with a full batch; 0 where the GPU's bandwidth is not
    known.
    """
    if not gpu.bandwidth_gb_s:
        return 0.0
    width = tensor_parallel * pipeline_parallel
    read = arch.parameters()
    if (
        arch.num_experts
    ):  # every sequence picks its own experts: the more sequences, the more of them are read
        touched = 1 - (1 - arch.experts_per_token / arch.num_experts) ** num_seqs
        read = int(
            arch.active_parameters() + touched * (arch.parameters() - arch.active_parameters())
        )
    weights = read * arch.bytes_per_weight(quantization, dtype_bytes=dtype_bytes) / width
    per_token = arch.kv_bytes_per_token(
        kv_dtype_bytes=kv_dtype_bytes, tensor_parallel=tensor_parallel
    )
    cache = num_seqs * demand.mean_context * per_token / pipeline_parallel
    reading_s = (weights + cache) / (gpu.bandwidth_gb_s * 1e9)
    computing_s = 2 * arch.active_parameters() * num_seqs / width / (gpu.bf16_tflops * 1e12)
    step_s = max(reading_s, computing_s) / EFFICIENCY + STEP_S + STEP_S_PER_SEQ * num_seqs
    return float(num_seqs / step_s * (1 - PARALLEL_LOSS) ** math.log2(width))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job will take, all replicas together; loading and the tail of the last rows come on
    top.
    """

    tokens_per_s: float
    output_tokens: float
    hours: float
    gpu_hours: float
    cost_usd: float | None
    lengths: str
    efficiency: float = EFFICIENCY


def estimate(
    demand: Workload, *, rate: float, num_gpus: int, price: float | None = None
) -> Estimate | None:
    """`rate`: output tokens per second of all replicas; `price`: USD per GPU-hour. None where there
    is no rate.
    """
    if rate <= 0:
        return None
    output = demand.samples * demand.completions.mean
    hours = output / rate / 3600
    cost = None if price is None else hours * num_gpus * price
    return Estimate(rate, output, hours, hours * num_gpus, cost, demand.completions.source)
