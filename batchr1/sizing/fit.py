"""Fit of a model on so many GPUs, and its batch.

One candidate of a plan, by arithmetic alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from batchr1.sizing.adapters import AdapterRoom
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import Workload, best_batch
from batchr1.sizing.gpus import Gpu
from batchr1.sizing.graphs import LARGEST, grid, grid_ceil, grid_floor
from batchr1.sizing.memory import (
    GIB,
    OTHER_BYTES,
    Memory,
    activation_bytes,
    counts_graphs,
    cuda_graph_bytes,
    outside_bytes,
)
from batchr1.sizing.shape.layers import KvCache
from batchr1.sizing.timing.step_time import StepTime, step_time_of

MAX_NUM_SEQS = LARGEST  # sequences at a time, at most: larger steps have no CUDA graph
# A GPU whose bandwidth nobody knows is planned as this one, and its time is not estimated.
NOMINAL_GPU = Gpu("unknown", 24.0, 1000.0, (8, 0), 150.0, fp8=False, bf16=True)
BATCHED_TOKENS = (16384, 8192, 4096, 2048)
FEWEST_BATCHED_TOKENS = 512  # where one sequence does not fit beside more
# of the GPU's memory, at most, while a smaller number of batched tokens is left to choose
ACTIVATION_SHARE = 0.025
MARGIN_BYTES = (
    GIB // 2
)  # left free on every GPU: fragments, and what a display or a driver may want
UTILIZATION_MAX = 0.95
MAX_WIDTH_IN_NODE = 8
# of the expected time, or of the cache, given up for a wider batch: lengths may turn out shorter,
# and nobody knows better
WIDTH_COST = 0.005
NEARLY = 0.95  # of the fastest split's rate: as fast, as far as anybody knows


@dataclass(frozen=True, slots=True)
class EngineConstraints:
    """Engine arguments that the user set; None where a plan is free.

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
    adapters: AdapterRoom | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to put a model on GPUs.

    Lengths in tokens, rates in output tokens per second of one replica.

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
    step_time: StepTime | None = None  # None: the GPU's bandwidth is not known
    sequence_bytes: int = 0  # of the cache, for one sequence of `max_model_len`
    adapter_bytes: int = 0  # of the weights

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
    """Divide GPUs among replicas.

    Tensor parallel within a node, the stages of a pipeline over one or several.
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
    """Choose the fastest split of all GPUs.

    If none fits, it is the one that lacks least.

    Of several that are about as fast the narrowest: its GPUs wait for one another the least. None
    when no split is possible at all.
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

    def together(f: Fit) -> float:
        replicas = len(groups_of(devices, f.tensor_parallel, f.pipeline_parallel))
        return f.tokens_per_s * replicas

    fastest = max(map(together, good))
    near = [f for f in good if together(f) >= NEARLY * fastest]
    return min(near, key=lambda f: (f.width, -f.kv_cache_tokens))


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
    replicas = max(1, len(groups_of(devices, tensor_parallel, pipeline_parallel)))
    tp, pp = tensor_parallel, pipeline_parallel
    weights = arch.weight_bytes(
        quantization,
        dtype_bytes=wish.dtype_bytes,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        capability=smallest.gpu.capability,
    )
    weights += arch.absorbed_bytes(tensor_parallel=tp, pipeline_parallel=pp)
    adapters = 0
    if wish.adapters is not None:
        adapters = wish.adapters.bytes_in(
            arch, dtype_bytes=wish.dtype_bytes, tensor_parallel=tp, pipeline_parallel=pp
        )
    cache = arch.kv_cache(
        kv_dtype_bytes=wish.kv_dtype_bytes, tensor_parallel=tp, pipeline_parallel=pp
    )
    candidate = _Candidate(
        arch, quantization, demand, wish, smallest, tp, pp, replicas, weights + adapters, cache
    )
    return replace(candidate.fit(), adapter_bytes=adapters)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Split whose memory is divided.

    `smallest`: the GPU with the least memory.
    """

    arch: Architecture
    quantization: str | None
    demand: Workload
    wish: EngineConstraints
    smallest: Device
    tensor_parallel: int
    pipeline_parallel: int
    replicas: int
    weights: int
    cache: KvCache

    def fit(self) -> Fit:
        wish, demand = self.wish, self.demand
        known = self._step_time(self.smallest.gpu)
        num_seqs = wish.max_num_seqs or self._widest(known or self._step_time(NOMINAL_GPU))
        batched, memory, utilization = self._divided(num_seqs)
        max_model_len = self._longest
        tokens = self._tokens(memory, max_model_len, in_flight=batched)
        if demand.prompts.sampled and wish.max_model_len is None:
            # a longer prompt may come: let it, as far as memory goes
            max_model_len = max(self._longest, min(demand.context_len, tokens))
            tokens = self._tokens(memory, max_model_len, in_flight=batched)
        rate = 0.0
        if known is not None:
            output = demand.samples / self.replicas * demand.completions.mean
            typical = self._tokens(memory, self._typical)
            rate = output / demand.seconds(
                known, num_seqs=num_seqs, kv_tokens=max(1, typical), replicas=self.replicas
            )
        return Fit(
            self.tensor_parallel,
            self.pipeline_parallel,
            max_model_len,
            num_seqs,
            batched,
            tokens,
            utilization,
            memory,
            rate,
            self._missing(memory, max_model_len, utilization, batched),
            known,
            self.cache.bytes_of(max_model_len, in_flight=batched),
        )

    def _widest(self, step_time: StepTime | None) -> int:
        """Choose the batch, as an upper bound.

        Admission goes by what is learnt of lengths: where completions turn out shorter than
        expected, more of them run at a time. So the batch is as wide as costs next to nothing, in
        time or of the cache.
        """
        most = _most_sequences(self.demand, self.wish, self.replicas)
        tokens = cache(self._tokens_with)
        seconds = cache(self._seconds_with(step_time, tokens))
        best = best_batch(most, seconds)
        if not tokens(best):
            return best
        bound, enough = (1 + WIDTH_COST) * seconds(best), (1 - WIDTH_COST) * tokens(best)
        return next(
            size
            for size in reversed(grid(most))
            if size == best or seconds(size) <= bound or tokens(size) >= enough
        )

    @property
    def _total(self) -> int:
        """Bytes of the GPU."""
        return int(self.smallest.gpu.memory_gib * GIB)

    @property
    def _longest(self) -> int:
        return self.wish.max_model_len or self.demand.longest

    @property
    def _typical(self) -> int:
        """Tokens of a sequence as most of them are."""
        return max(1, min(self._longest, round(self.demand.running_context)))

    def _tokens(self, memory: Memory, length: int, *, in_flight: int = 0) -> int:
        return self.cache.tokens_in(memory.kv, length=length, in_flight=in_flight)

    def _step_time(self, gpu: Gpu) -> StepTime | None:
        whole = self.arch.kv_cache(
            kv_dtype_bytes=self.wish.kv_dtype_bytes, tensor_parallel=self.tensor_parallel
        )
        return step_time_of(
            self.arch,
            self.quantization,
            gpu,
            tensor_parallel=self.tensor_parallel,
            pipeline_parallel=self.pipeline_parallel,
            dtype_bytes=self.wish.dtype_bytes,
            kv_bytes_per_token=whole.per_token(self._typical) / self.pipeline_parallel,
            eager=self.wish.eager,
        )

    def _tokens_with(self, num_seqs: int) -> int:
        """Count the cache's tokens where sequences are typical.

        0 where the longest does not fit. More sequences leave the cache less memory.
        """
        batched, memory, utilization = self._divided(num_seqs)
        if self._missing(memory, self._longest, utilization, batched):
            return 0
        return self._tokens(memory, self._typical)

    def _seconds_with(
        self, step_time: StepTime | None, tokens: Callable[[int], int]
    ) -> Callable[[int], float]:
        def seconds_with(num_seqs: int) -> float:
            typical = tokens(num_seqs)
            if not typical or step_time is None:
                return math.inf
            return self.demand.seconds(
                step_time, num_seqs=num_seqs, kv_tokens=typical, replicas=self.replicas
            )

        return seconds_with

    def _divided(self, num_seqs: int) -> tuple[int, Memory, float]:
        """Divide the memory for so many sequences.

        Returns batched tokens, memory and share of the GPU.
        """
        batched = self.wish.max_num_batched_tokens or _batched_tokens(
            self.arch, self._total, num_seqs, self._longest, self.tensor_parallel, self.wish
        )
        memory, utilization = self._divide(num_seqs, batched)
        free = self.wish.max_num_batched_tokens is None and self.wish.chunked_prefill
        fewest = max(FEWEST_BATCHED_TOKENS, num_seqs)
        if free and batched > fewest and self._tokens(memory, self._longest) < self._longest:
            batched = fewest
            memory, utilization = self._divide(num_seqs, batched)
        return batched, memory, utilization

    def _divide(self, num_seqs: int, batched: int) -> tuple[Memory, float]:
        wish, tp = self.wish, self.tensor_parallel
        outside = outside_bytes(
            self.arch,
            num_seqs=num_seqs,
            tensor_parallel=tp,
            capability=self.smallest.gpu.capability,
        )
        graphs = cuda_graph_bytes(num_seqs, eager=wish.eager)
        activation = activation_bytes(
            self.arch,
            num_batched_tokens=batched,
            num_seqs=num_seqs,
            tensor_parallel=tp,
            dtype_bytes=wish.dtype_bytes,
            max_model_len=self._longest,
            first_start=not wish.eager,
        )
        within = counts_graphs(self.arch)
        empty = Memory(self.weights, activation, OTHER_BYTES, 0, outside, graphs, within)
        if wish.kv_cache_memory_bytes is not None:
            share = wish.gpu_memory_utilization or 0.9
            return replace(empty, kv=wish.kv_cache_memory_bytes), share
        free = min(self._total, int(self.smallest.free_gib * GIB)) - empty.beside
        share = math.floor((free - MARGIN_BYTES) / self._total * 100) / 100
        utilization = wish.gpu_memory_utilization or max(0.01, min(UTILIZATION_MAX, share))
        kv = int(utilization * self._total) - empty.counted
        return replace(empty, kv=kv), utilization

    def _missing(self, memory: Memory, max_model_len: int, utilization: float, batched: int) -> int:
        """Count the bytes that a GPU lacks.

        For one sequence, or for the user's wish.
        """
        needed = self.cache.bytes_of(max_model_len, in_flight=batched)
        missing = max(0, needed - memory.kv)
        if self.wish.gpu_memory_utilization is not None:
            asked = int(utilization * self._total) + memory.beside
            missing = max(missing, asked - min(self._total, int(self.smallest.free_gib * GIB)))
        if self.wish.kv_cache_memory_bytes is not None:
            missing = max(missing, memory.counted + memory.beside - self._total)
        return missing


def _most_sequences(demand: Workload, wish: EngineConstraints, replicas: int) -> int:
    """Bound the batch by the samples and by a step's tokens."""
    samples = min(MAX_NUM_SEQS, max(1, math.ceil(demand.samples / replicas)))
    most = grid_ceil(samples)
    if wish.max_num_batched_tokens is not None:
        most = min(most, grid_floor(wish.max_num_batched_tokens))
    return most


def _batched_tokens(
    arch: Architecture,
    total: int,
    num_seqs: int,
    longest: int,
    tensor_parallel: int,
    wish: EngineConstraints,
) -> int:
    """Choose tokens a step within a small share of the memory.

    Prefill is quick work beside long generations.
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
