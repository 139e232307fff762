"""Asks vLLM's own workers where the memory went: a method that vLLM adds to them (`worker_extension_cls`).

The figures are those of vLLM's profiling run: in 0.26 `Worker.determine_available_memory` keeps the
activation peak and what is not torch's apart; in 0.32 it keeps all that was consumed. Imports
nothing heavy: vLLM loads it in every worker.
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
    """Becomes a base class of vLLM's worker: its one method sees that worker as `self`."""

    def batchr1_memory(self) -> dict[str, float | None]:
        """GiB of weights, activation peak, CUDA graphs, other things and KV cache; None for what is
        not known.
        """
        return {name: None if size is None else size / _GIB for name, size in _sizes(self).items()}


def measured(workers: Sequence[dict[str, float | None]]) -> MeasuredMemory:
    """One record for all GPUs of an engine: the most that one of them gave to each thing, and the
    smallest KV cache.
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
    """Memory in CUDA graphs' own pools, without what the driver keeps for them; 0 where none are
    captured.
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
    """The KV cache's tensors, each storage once; where they cannot be seen, what vLLM reserved for
    them.
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
    """What is in `kv_caches`: tensors, or lists of tensors in some models."""
    if caches is None:
        return []
    if isinstance(caches, list | tuple):
        return [tensor for cache in caches for tensor in _tensors(cache)]
    return [caches]
