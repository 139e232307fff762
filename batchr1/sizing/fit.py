"""Whether a model fits so many GPUs, and with which batch: one candidate of a plan, by arithmetic
alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import Workload, tokens_per_s
from batchr1.sizing.memory import (
    BLOCK_TOKENS,
    GIB,
    OTHER_BYTES,
    Memory,
    activation_bytes,
    cuda_graph_bytes,
    kv_tokens,
    outside_bytes,
)

MAX_NUM_SEQS = (
    512  # the largest decode step that vLLM captures as a CUDA graph; larger ones run slower
)
BATCHED_TOKENS = (16384, 8192, 4096, 2048)
# of the GPU's memory, at most, while a smaller number of batched tokens is left to choose
ACTIVATION_SHARE = 0.025
MARGIN_BYTES = (
    GIB // 2
)  # left free on every GPU: fragments, and what a display or a driver may want
UTILIZATION_MAX = 0.95
MAX_WIDTH_IN_NODE = 8


@dataclass(frozen=True, slots=True)
class EngineConstraints:
    """Engine arguments that the user set, and that a plan is computed around; None where it is free.

    `dtype_bytes`: of a weight that is not quantised, and of an activation.
    """

    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    dtype_bytes: int = 2
    kv_dtype_bytes: int = 2
    eager: bool = False
    chunked_prefill: bool = True


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to put a model on GPUs. Lengths in tokens, rates in output tokens per second of one replica.

    `missing_bytes` is how much each GPU lacks for one sequence of `max_model_len`; 0: it fits.
    """

    tensor_parallel: int
    pipeline_parallel: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int
    utilization: float
    memory: Memory
    tokens_per_s: float
    missing_bytes: int

    @property
    def fits(self) -> bool:
        return self.missing_bytes == 0

    @property
    def width(self) -> int:
        """GPUs of a replica."""
        return self.tensor_parallel * self.pipeline_parallel


def groups_of(
    devices: Sequence[Device], tensor_parallel: int, pipeline_parallel: int
) -> tuple[tuple[Device, ...], ...]:
    """The GPUs of each replica: tensor parallel within a node, the stages of a pipeline over one or
    several.
    """
    stages: list[tuple[Device, ...]] = []
    for node in dict.fromkeys(device.node for device in devices):
        there = [device for device in devices if device.node == node]
        last = len(there) - tensor_parallel + 1
        stages += [tuple(there[i : i + tensor_parallel]) for i in range(0, last, tensor_parallel)]
    last = len(stages) - pipeline_parallel + 1
    return tuple(
        sum(stages[i : i + pipeline_parallel], ()) for i in range(0, last, pipeline_parallel)
    )


def splits(
    arch: Architecture, devices: Sequence[Device], wish: EngineConstraints
) -> Iterator[tuple[int, int]]:
    """(tensor, pipeline) parallel sizes that these GPUs allow.

    Pipelines only join whole nodes of eight.
    """
    for tp in (1, 2, 4, 8) if wish.tensor_parallel is None else (wish.tensor_parallel,):
        if not arch.divides_into(tp):
            continue
        stages = (1, 2, 4) if tp == MAX_WIDTH_IN_NODE else (1,)
        for pp in stages if wish.pipeline_parallel is None else (wish.pipeline_parallel,):
            if pp <= arch.num_layers and groups_of(devices, tp, pp):
                yield tp, pp


def best_fit(
    arch: Architecture,
    quantization: str | None,
    demand: Workload,
    wish: EngineConstraints,
    devices: Sequence[Device],
) -> Fit | None:
    """The split that gives all the GPUs together the most tokens per second; if none fits, the one that lacks least.

    None when no split is possible at all.
    """
    fits = [
        fit(arch, quantization, demand, wish, devices, tp, pp)
        for tp, pp in splits(arch, devices, wish)
    ]
    if not fits:
        return None
    good = [f for f in fits if f.fits]
    if not good:
        return min(fits, key=lambda f: f.missing_bytes * f.width)

    def worth(f: Fit) -> tuple[float, int, int]:
        replicas = len(groups_of(devices, f.tensor_parallel, f.pipeline_parallel))
        return f.tokens_per_s * replicas, f.kv_cache_tokens, -f.width

    return max(good, key=worth)


def fit(
    arch: Architecture,
    quantization: str | None,
    demand: Workload,
    wish: EngineConstraints,
    devices: Sequence[Device],
    tensor_parallel: int,
    pipeline_parallel: int,
) -> Fit:
    """Divide the memory of the GPU with the least of it."""
    smallest = min(devices, key=lambda d: (min(d.gpu.memory_gib, d.free_gib), d.id))
    total = int(smallest.gpu.memory_gib * GIB)
    per_token = arch.kv_bytes_per_token(
        kv_dtype_bytes=wish.kv_dtype_bytes,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )
    replicas = max(1, len(groups_of(devices, tensor_parallel, pipeline_parallel)))
    most = min(
        MAX_NUM_SEQS,
        max(1, math.ceil(demand.samples / replicas)),
        wish.max_num_batched_tokens or MAX_NUM_SEQS,
    )
    longest = wish.max_model_len or demand.longest
    weights = arch.weight_bytes(
        quantization,
        dtype_bytes=wish.dtype_bytes,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    ) + arch.absorbed_bytes(tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel)

    def divide(num_seqs: int, batched: int) -> tuple[Memory, float]:
        outside = outside_bytes(arch, num_seqs=num_seqs, tensor_parallel=tensor_parallel)
        graphs = cuda_graph_bytes(num_seqs, eager=wish.eager)
        activation = activation_bytes(
            arch,
            num_batched_tokens=batched,
            num_seqs=num_seqs,
            tensor_parallel=tensor_parallel,
            dtype_bytes=wish.dtype_bytes,
            eager=wish.eager,
        )
        if wish.kv_cache_memory_bytes is not None:
            utilization = wish.gpu_memory_utilization or 0.9
            return Memory(
                weights, activation, OTHER_BYTES, wish.kv_cache_memory_bytes, outside, graphs
            ), utilization
        room = min(total - outside, int(smallest.free_gib * GIB) - outside) - graphs - MARGIN_BYTES
        utilization = wish.gpu_memory_utilization or max(
            0.01, min(UTILIZATION_MAX, math.floor(room / total * 100) / 100)
        )
        kv = int(utilization * total) - weights - activation - OTHER_BYTES
        return Memory(weights, activation, OTHER_BYTES, kv, outside, graphs), utilization

    def attempt(num_seqs: int) -> tuple[int, Memory, float, int]:
        batched = wish.max_num_batched_tokens or _batched_tokens(
            arch, total, num_seqs, longest, tensor_parallel, wish
        )
        memory, utilization = divide(num_seqs, batched)
        return batched, memory, utilization, kv_tokens(memory.kv, per_token)

    low, high = (1, most) if wish.max_num_seqs is None else (wish.max_num_seqs, wish.max_num_seqs)
    while low < high:  # more sequences take memory from the cache that is to hold them
        middle = (low + high + 1) // 2
        if demand.fit_within(attempt(middle)[3], num_seqs=middle):
            low = middle
        else:
            high = middle - 1
    num_seqs = low
    batched, memory, utilization, tokens = attempt(num_seqs)
    max_model_len = longest
    if (
        demand.prompts.sampled and wish.max_model_len is None
    ):  # a longer prompt may come: let it, as far as memory goes
        max_model_len = max(longest, min(demand.context_len, tokens))
    needed = math.ceil(max_model_len / BLOCK_TOKENS) * BLOCK_TOKENS * per_token
    missing = max(0, needed - memory.kv)
    if wish.gpu_memory_utilization is not None:
        asked = int(utilization * total) + memory.outside + memory.cuda_graph
        missing = max(missing, asked - min(total, int(smallest.free_gib * GIB)))
    if wish.kv_cache_memory_bytes is not None:
        taken = (
            memory.weights
            + memory.activation
            + memory.other
            + memory.kv
            + memory.outside
            + memory.cuda_graph
        )
        missing = max(missing, taken - total)
    rate = tokens_per_s(
        arch,
        quantization,
        smallest.gpu,
        demand,
        num_seqs=num_seqs,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        dtype_bytes=wish.dtype_bytes,
        kv_dtype_bytes=wish.kv_dtype_bytes,
    )
    return Fit(
        tensor_parallel,
        pipeline_parallel,
        max_model_len,
        num_seqs,
        batched,
        tokens,
        utilization,
        memory,
        rate,
        missing,
    )


def _batched_tokens(
    arch: Architecture,
    total: int,
    num_seqs: int,
    longest: int,
    tensor_parallel: int,
    wish: EngineConstraints,
) -> int:
    """As many tokens a step as a small share of the memory allows: prefill is quick work beside
    long generations.
    """
    if not wish.chunked_prefill:
        return max(longest, num_seqs, BATCHED_TOKENS[-1])
    for batched in BATCHED_TOKENS:
        needed = activation_bytes(
            arch,
            num_batched_tokens=batched,
            num_seqs=num_seqs,
            tensor_parallel=tensor_parallel,
            dtype_bytes=wish.dtype_bytes,
            first_start=False,
        )
        if needed <= ACTIVATION_SHARE * total:
            break
    return max(batched, num_seqs)
