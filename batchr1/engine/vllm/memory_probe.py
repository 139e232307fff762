"""Memory figures from vLLM's own workers.

vLLM adds a method to its workers (`worker_extension_cls`). The figures are those of its profiling
run. In 0.26 `Worker.determine_available_memory` keeps the activation peak and what is not torch's
separately; in 0.32 it keeps the sum. Imports nothing heavy: vLLM loads it in every worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from batchr1.engine.lifeline import follow_worker
from batchr1.engine.protocol import MeasuredMemory

follow_worker()  # every worker of vLLM loads this module, also where its plugins are switched off

PROBE_CLASS = "batchr1.engine.vllm.memory_probe.MemoryProbe"
PROBE_METHOD = "batchr1_memory"
_GIB = 2**30
# on by default: vLLM takes CUDA graphs from the KV cache
_ESTIMATE = "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"


class MemoryProbe:
    """Base class that vLLM gives its worker; `self` is that worker."""

    def batchr1_memory(self) -> dict[str, float | None]:
        """Measure memory by use, in GiB; None where unknown.

        Uses are weights, activation peak, CUDA graphs, other things and KV cache.
        """
        return {name: None if size is None else size / _GIB for name, size in _sizes(self).items()}


def measured(workers: Sequence[dict[str, float | None]]) -> MeasuredMemory:
    """Join the records of an engine's GPUs into one.

    It has the largest use of each kind over GPUs, and the smallest KV cache.
    """

    def of(name: str) -> list[float]:
        return [size for worker in workers if (size := worker.get(name)) is not None]

    return MeasuredMemory(
        weights_gib=_rounded(max(of("weights"), default=None)),
        activation_gib=_rounded(max(of("activation"), default=None)),
        cuda_graph_gib=_rounded(max(of("cuda_graph"), default=None)),
        other_gib=_rounded(max(of("other"), default=None)),
        kv_gib=_rounded(min(of("kv"), default=None)),
    )


def _rounded(gib: float | None) -> float | None:
    return None if gib is None else round(gib, 3)


def _sizes(worker: Any) -> dict[str, float | None]:
    """Bytes."""
    runner = getattr(worker, "model_runner", None)
    # The CPU's worker measures no weights, and the model's parameters do not show them: oneDNN
    # keeps packed copies.
    weights = _number(getattr(runner, "model_memory_usage", None))
    activation = _number(getattr(worker, "peak_activation_memory", None))
    estimate = _number(getattr(worker, "cudagraph_memory_estimate", None))
    consumed = _number(getattr(worker, "total_consumed", None))
    other = _number(getattr(worker, "non_torch_memory", None))
    if consumed is not None:  # 0.32
        other = None if weights is None else max(0.0, consumed - weights)
        if activation is not None and estimate and os.environ.get(_ESTIMATE, "1") != "0":
            activation -= estimate  # it was added to the peak there
    return {
        "weights": weights,
        "activation": activation,
        "cuda_graph": estimate or _graph_pool_bytes(worker),
        "other": other,
        "kv": _kv_bytes(worker, runner),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _graph_pool_bytes(worker: Any) -> float | None:
    """Sum the memory of CUDA graphs' own pools; 0 without captured graphs.

    What the driver keeps for them is left out.
    """
    config = getattr(getattr(worker, "vllm_config", None), "model_config", None)
    if getattr(config, "enforce_eager", False):
        return 0.0
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        segments = torch.cuda.memory_snapshot()
        return (
            float(sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) != (0, 0)))
            or None
        )
    except (AttributeError, KeyError, TypeError, RuntimeError):
        return None


def _kv_bytes(worker: Any, runner: Any) -> float | None:
    """Sum the KV cache's tensors, each storage once.

    Where they cannot be seen, vLLM's reservation for them counts.
    """
    storages: dict[int, int] = {}
    try:
        for cache in _tensors(getattr(runner, "kv_caches", None)):
            storage = cache.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    except (AttributeError, TypeError, RuntimeError):
        storages = {}
    if storages:
        return float(sum(storages.values()))
    reserved = getattr(worker, "available_kv_cache_memory_bytes", None)
    if reserved is None:
        reserved = getattr(getattr(worker, "cache_config", None), "kv_cache_memory_bytes", None)
    return _number(reserved)


def _tensors(caches: Any) -> list[Any]:
    """Walk `kv_caches`: tensors, or in some models lists of tensors."""
    if caches is None:
        return []
    if isinstance(caches, list | tuple):
        return [tensor for cache in caches for tensor in _tensors(cache)]
    return [caches]
