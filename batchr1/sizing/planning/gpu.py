"""A plan for GPUs of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from batchr1.job.spec import JobSpec
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import ReplicaRun, Workload, estimate
from batchr1.sizing.fit import Fit, groups_of
from batchr1.sizing.gpus import FP4_CAPABILITY, Gpu
from batchr1.sizing.graphs import CAPTURE_KEYS, compilation_for
from batchr1.sizing.machine import Machine
from batchr1.sizing.plan import STREAM_INTERVAL, Plan, in_gib
from batchr1.sizing.planning.arguments import asked_of, constraints_of

IN_USE_GIB = 1.0  # less in use is a display or an empty context


def gpu_plan(
    spec: JobSpec,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    found: Fit,
    price: float | None,
) -> Plan:
    """Give each replica its GPUs, and vLLM its arguments."""
    grouped = groups_of(machine.devices, found.tensor_parallel, found.pipeline_parallel)[
        : spec.executor.replicas
    ]
    groups = tuple(tuple(device.id for device in group) for group in grouped)
    asked = asked_of(spec)
    runs = runs_of(found, demand, len(groups))
    return Plan(
        device="cuda",
        device_groups=groups,
        tensor_parallel=found.tensor_parallel,
        pipeline_parallel=found.pipeline_parallel,
        max_model_len=found.max_model_len,
        max_num_seqs=found.max_num_seqs,
        max_num_batched_tokens=found.max_num_batched_tokens,
        kv_cache_tokens=found.kv_cache_tokens,
        gpu_memory_utilization=found.utilization,
        memory=in_gib(found.memory),
        estimate=estimate(demand, runs, price=price),
        engine_args=_arguments(spec, arch, found, grouped)
        | asked
        | _graphs(found.max_num_seqs, spec),
        fixed=tuple(asked),
        notes=tuple(_notes(spec, arch, machine, demand, found, len(groups))),
        step_time=found.step_time,
    )


def _arguments(
    spec: JobSpec, arch: Architecture, found: Fit, grouped: Sequence[Sequence[Device]]
) -> dict[str, Any]:
    args: dict[str, Any] = {
        "load_format": "safetensors",
        "max_model_len": found.max_model_len,
        "max_num_seqs": found.max_num_seqs,
        "max_num_batched_tokens": found.max_num_batched_tokens,
        "gpu_memory_utilization": found.utilization,
        "stream_interval": STREAM_INTERVAL,
    }
    if found.tensor_parallel > 1:
        args["tensor_parallel_size"] = found.tensor_parallel
    if found.pipeline_parallel > 1:
        args["pipeline_parallel_size"] = found.pipeline_parallel
    if any(device.node != group[0].node for group in grouped for device in group):
        args["distributed_executor_backend"] = "ray"  # vLLM's own way over nodes
    if spec.model.quantization == "fp8" and arch.stored is None:
        args["quantization"] = "fp8"  # vLLM converts 16-bit weights as it loads them
    return args


def _notes(
    spec: JobSpec,
    arch: Architecture,
    machine: Machine,
    demand: Workload,
    found: Fit,
    replicas: int,
) -> Iterator[str]:
    """Say what is odd about a model, its GPUs, and lengths."""
    if arch.note:
        yield arch.note
    gpu = machine.devices[0].gpu
    yield from _formats(gpu, spec.model.quantization or arch.stored)
    if adapters := constraints_of(spec.model.engine_args, adapter=spec.model.adapter).adapters:
        yield adapters.note(found.adapter_bytes)
    if left := len(machine.devices) - replicas * found.width:
        yield (
            f"{left} of {len(machine.devices)} GPUs left idle: replicas are {found.width} GPUs wide"
        )
    for device in machine.devices:
        if device.gpu.memory_gib - device.free_gib > IN_USE_GIB:
            held = [
                f"process {h.pid} ({h.name or '?'}) {h.memory_gib:.1f} GiB" for h in device.holders
            ]
            who = ", ".join(held) or "by what, the driver does not say"
            yield (
                f"GPU {device.id} is in use: {who}; planned with the {device.free_gib:.1f} GiB "
                f"that are free"
            )
    if demand.prompts.sampled:
        yield (
            f"prompt lengths from a sample of {demand.prompts.measured:,} of "
            f"{demand.prompts.rows:,} rows"
        )


def _formats(gpu: Gpu, stored: str | None) -> Iterator[str]:
    """Say which number formats a GPU has no arithmetic for."""
    if not gpu.fp8 and stored == "fp8":
        yield (
            f"{gpu.name} has no FP8 arithmetic: vLLM's Marlin kernels read the weights in FP8 and "
            f"compute in 16 bits; not measured there"
        )
    if gpu.capability < FP4_CAPABILITY and stored in ("nvfp4", "mxfp4"):
        yield (
            f"{gpu.name} has no FP4 arithmetic: the weights are read in 4 bits and computed in 16"
        )
    if not gpu.bf16:
        yield (
            f"{gpu.name} has no bf16: vLLM computes in float16, whose range some models leave; "
            f"many of its kernels want an A100 or newer"
        )


def runs_of(
    found: Fit, demand: Workload, replicas: int, *, of: float | None = None
) -> list[ReplicaRun]:
    """Follow a replica's run; none where no step time is known.

    `of`: how many like these would do the whole work, where there are others beside them.
    """
    if found.step_time is None:
        return []
    course = demand.course(
        found.step_time,
        num_seqs=found.max_num_seqs,
        kv_tokens=found.kv_cache_tokens,
        replicas=of or replicas,
    )
    return [ReplicaRun(found.step_time, course, replicas, found.width, found.memory.weights)]


def _graphs(num_seqs: int, spec: JobSpec) -> dict[str, Any]:
    """Give a batch off the grid a CUDA graph of its own."""
    asked = spec.model.engine_args
    if asked.get("enforce_eager") or CAPTURE_KEYS & set(asked):
        return {}
    config = compilation_for(num_seqs, asked.get("compilation_config"))
    return {} if config is None else {"compilation_config": config}
