"""Message of a misfit, with figures that add up."""

from __future__ import annotations

from batchr1.models.resolve import ModelSource
from batchr1.sizing.fit import EngineConstraints, Fit
from batchr1.sizing.machine import Machine
from batchr1.sizing.memory import GIB


def misfit(model: ModelSource, found: Fit, wish: EngineConstraints, machine: Machine) -> str:
    """Say what a GPU must hold, and how much it lacks.

    What is missing is missing within vLLM's share, or beside a share or cache that the job sets.
    """
    gpu = machine.devices[0].gpu
    count = f"{len(machine.devices)} × {gpu.name}" if len(machine.devices) > 1 else gpu.name
    split = f", TP {found.tensor_parallel}" if found.tensor_parallel > 1 else ""
    split += f" × PP {found.pipeline_parallel}" if found.pipeline_parallel > 1 else ""
    in_share = max(0, found.sequence_bytes - found.memory.kv)
    if in_share < found.missing_bytes and wish.kv_cache_memory_bytes is None:
        figures = _beside_the_share(found, gpu.memory_gib)
    elif in_share < found.missing_bytes:
        figures = _with_a_cache(found)
    else:
        held_gib = max(0.0, gpu.memory_gib - min(device.free_gib for device in machine.devices))
        figures = _in_the_share(found, gpu.memory_gib, held_gib)
    held = [h for device in machine.devices for h in device.holders]
    holders = ", ".join(
        f"process {h.pid} ({h.name or '?'}) holds {h.memory_gib:.1f} GiB" for h in held
    )
    return (
        f"model {model.name}: does not fit {count}{split} ({gpu.memory_gib:.1f} GiB each: "
        f"{figures}; {_gib(found.missing_bytes)} GiB per GPU are "
        f"missing{'; ' + holders if holders else ''})."
    )


def _in_the_share(found: Fit, total_gib: float, held_gib: float) -> str:
    """List what adds up to the GPU and what it lacks.

    What stays free is what the others leave, so that rounded figures add up too.
    """
    memory = found.memory
    taken = memory.activation + memory.other + memory.outside + memory.cuda_graph
    parts = [memory.weights / GIB, taken / GIB, found.sequence_bytes / GIB]
    weights, engine, sequence = (round(part, 1) for part in parts)
    missing = float(_gib(found.missing_bytes))
    left = round(total_gib, 1) + missing - weights - engine - sequence - round(held_gib, 1)
    figures = (
        f"{weights:.1f} weights, {engine:.1f} activations and engine, {sequence:.1f} for one "
        f"sequence of {found.max_model_len:,} tokens, {max(0.0, left):.1f} left free"
    )
    if held_gib >= 0.1:
        figures += f", {held_gib:.1f} held by others"
    return figures


def _beside_the_share(found: Fit, total_gib: float) -> str:
    memory = found.memory
    outside = memory.beside / GIB
    return (
        f"vLLM's share at gpu_memory_utilization {found.utilization:g} is "
        f"{found.utilization * total_gib:.1f}, and {outside:.1f} are taken outside of it, by CUDA, "
        f"communication{'' if memory.graphs_counted else ' and CUDA graphs'}"
    )


def _with_a_cache(found: Fit) -> str:
    memory = found.memory
    taken = memory.activation + memory.other + memory.outside + memory.cuda_graph
    return (
        f"{memory.weights / GIB:.1f} weights, {taken / GIB:.1f} activations and engine, "
        f"{memory.kv / GIB:.1f} of KV cache by kv_cache_memory_bytes"
    )


def _gib(size: int) -> str:
    """Write an amount, of which a little is still something."""
    digits = 1
    if size < GIB // 20:
        digits = 3
    return f"{size / GIB:.{digits}f}"
