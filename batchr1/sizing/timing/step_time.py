"""Seconds of one step of an engine, by the decode roofline.

    step = (max(weights ÷ bandwidth, operations ÷ peak) + cache ÷ bandwidth) ÷ efficiency
           + STEP_S + STEP_S_PER_SEQ × sequences

The matrix products read the weights once, or compute longer than that; attention then reads every
running sequence's cache (Williams, Waterman and Patterson, Roofline, 2009). The constants are
fitted to an H200 with vLLM 0.26 (docs/sizing.md); on other GPUs they are an assumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchr1.sizing.architecture import Architecture
from batchr1.sizing.gpus import Gpu

EFFICIENCY = 0.75  # share of the datasheet's bandwidth and arithmetic that a step reaches
STEP_S = 0.0018  # scheduling and launching a step
STEP_S_PER_SEQ = 8e-6  # and per sequence in it: scheduling, sampling, handing over
PARALLEL_LOSS = 0.08  # of the throughput, for each doubling of the GPUs that share a model
# of a decode step on a GPU, added by the first prefill in it: docs/benchmarks.md
MIXED_STEP_COST = 0.1
ALL_REDUCE_S = 12e-6  # of GPUs that share a model, twice a layer; an assumption


@dataclass(frozen=True, slots=True)
class StepTime:
    """Arithmetic of a step of one replica.

    In bytes, operations and seconds.

    `expert_bytes`: of routed experts, read as far as the batch chooses them, `chosen_share` by each
    sequence. `mixed_step_cost`: what a prefill adds to a step, as a share of it. `slowdown`: factor
    on all of it, for GPUs that wait for one another.
    """

    weight_bytes: float
    kv_bytes_per_token: float
    bandwidth: float
    operations_per_token: float
    peak: float
    efficiency: float = EFFICIENCY
    step_s: float = STEP_S
    step_s_per_seq: float = STEP_S_PER_SEQ
    expert_bytes: float = 0.0
    chosen_share: float = 0.0
    mixed_step_cost: float = 0.0
    slowdown: float = 1.0

    def seconds(
        self, *, sequences: float, context: float, prefilled: float = 0.0, steps: int = 1
    ) -> float:
        """Time `steps` decode steps, of which the first also prefills.

        `context`: tokens of all sequences together.
        """
        attention = context * self.kv_bytes_per_token / self.bandwidth / self.efficiency
        fixed = self.step_s + self.step_s_per_seq * sequences
        decode = self._products(sequences) + attention + fixed
        total = steps * decode
        if prefilled:
            total += self._products(sequences + prefilled) - self._products(sequences)
            total += self.mixed_step_cost * decode
        return total * self.slowdown

    def prefill_s(self, tokens: float) -> float:
        """Time so many tokens of prefill beside a decode step."""
        return self.operations_per_token * tokens / self.peak / self.efficiency * self.slowdown

    def _products(self, tokens: float) -> float:
        touched = 1.0 - (1.0 - self.chosen_share) ** tokens if self.expert_bytes else 0.0
        reading = (self.weight_bytes + touched * self.expert_bytes) / self.bandwidth
        computing = self.operations_per_token * tokens / self.peak
        return max(reading, computing) / self.efficiency


def step_time_of(
    arch: Architecture,
    quantization: str | None,
    gpu: Gpu,
    *,
    kv_bytes_per_token: float,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    dtype_bytes: int = 2,
    eager: bool = False,
) -> StepTime | None:
    """Compute the step time of one replica.

    `kv_bytes_per_token`: of one GPU. None where the GPU's bandwidth is not known.
    """
    if not gpu.bandwidth_gb_s:
        return None
    width = tensor_parallel * pipeline_parallel
    per_weight = arch.bytes_per_weight(quantization, dtype_bytes=dtype_bytes)
    per_expert = arch.bytes_per_weight(quantization, dtype_bytes=dtype_bytes, of_experts=True)
    shared, experts = arch.parameters(), 0
    if arch.num_experts:
        shared = arch.active_parameters()
        experts = arch.parameters() - shared
    return StepTime(
        weight_bytes=shared * per_weight / width,
        kv_bytes_per_token=kv_bytes_per_token,
        bandwidth=gpu.bandwidth_gb_s * 1e9,
        operations_per_token=2 * arch.active_parameters() / width,
        peak=gpu.bf16_tflops * 1e12,
        step_s=STEP_S + (2 * arch.num_layers * ALL_REDUCE_S if tensor_parallel > 1 else 0.0),
        expert_bytes=experts * per_expert / width,
        chosen_share=arch.experts.per_token / arch.experts.count if arch.num_experts else 0.0,
        mixed_step_cost=0.0 if eager else MIXED_STEP_COST,
        slowdown=(1 - PARALLEL_LOSS) ** -math.log2(width),
    )
