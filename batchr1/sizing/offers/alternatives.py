"""Ways out where a job does not fit, at most three.

Each is computed, and given as the flags to add. First comes an engine argument of the user's that
takes too much. Then what keeps answers long, cheapest first: published quantised weights, more GPUs
of the kind, a KV cache in FP8. A shorter `max_tokens` comes last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import Workload
from batchr1.sizing.fit import EngineConstraints, Fit, best_fit, groups_of
from batchr1.sizing.gpus import Gpu
from batchr1.sizing.machine import Machine
from batchr1.sizing.planning.arguments import constraints_of, workload_of
from batchr1.sizing.shape.weights import BYTES_PER_WEIGHT

MAX_WAYS = 3
MIN_USEFUL_TOKENS = 1024  # a reasoning model that is cut before this has said nothing
GPU_COUNTS = (2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way out.

    `flags` to add to the command; `what` says what they do, and what then fits.
    """

    flags: str
    what: str


def alternatives(
    spec: JobSpec,
    model: ModelSource,
    machine: Machine,
    prompts: PromptLengths,
    completions: CompletionLengths,
) -> tuple[Alternative, ...]:
    """Find changes with which the job fits, each tried."""
    if not machine.devices:
        return ()
    arch = Architecture.of_config(model.config)
    demand = workload_of(spec, model, prompts, completions)
    wish = constraints_of(spec.model.engine_args, adapter=spec.model.adapter)
    ways = sorted(_all(spec, arch, demand, wish, machine.devices), key=lambda way: way.rank)
    return tuple(way.alternative for way in ways[:MAX_WAYS])


@dataclass(frozen=True, slots=True)
class _Way:
    """Alternative and its place: what it gives up, then GPU-hours."""

    alternative: Alternative
    rank: tuple[int, float]


def _way(order: int, flags: str, what: str, cost: float = math.inf) -> _Way:
    hours = ""
    if math.isfinite(cost):
        hours = f", {cost:,.2f} GPU-hours"
    return _Way(Alternative(flags, what + hours), (order, cost))


def gpu_hours(fit: Fit, demand: Workload, devices: Sequence[Device]) -> float:
    """Estimate the GPU-hours of a job.

    Infinite where no step time is known.
    """
    replicas = len(groups_of(devices, fit.tensor_parallel, fit.pipeline_parallel))
    if not fit.tokens_per_s:
        return math.inf
    seconds = demand.samples * demand.completions.mean / (fit.tokens_per_s * replicas)
    return seconds / 3600 * replicas * fit.width


def _all(
    spec: JobSpec,
    arch: Architecture,
    demand: Workload,
    wish: EngineConstraints,
    devices: tuple[Device, ...],
) -> Iterator[_Way]:
    quantization, gpu = spec.model.quantization, devices[0].gpu
    for argument, freed in _without_one(spec):
        if fit := _fits(arch, quantization, demand, freed, devices):
            what = f"{argument} as planned: {_size(fit)}"
            yield _way(
                0,
                f"--set model.engine_args.{argument}=null",
                what,
                gpu_hours(fit, demand, devices),
            )
    yield from _smaller_weights(spec, arch, demand, wish, devices)
    yield from _more_gpus(spec, arch, demand, wish, devices)
    if gpu.capability >= (8, 9) and (
        fit := _fits(arch, quantization, demand, replace(wish, kv_dtype_bytes=1), devices)
    ):
        flags = "--set model.engine_args.kv_cache_dtype=fp8"
        what = f"a KV cache in FP8: {_size(fit)}"
        yield _way(1, flags, what, gpu_hours(fit, demand, devices))
    if shorter := _shorter(arch, quantization, demand, wish, devices):
        flags = f"--set sampling.max_tokens={shorter}"
        yield _way(2, flags, f"answers cut after {shorter:,} tokens")


def _smaller_weights(
    spec: JobSpec,
    arch: Architecture,
    demand: Workload,
    wish: EngineConstraints,
    devices: tuple[Device, ...],
) -> Iterator[_Way]:
    """Try quantised weights; if none fits, the smallest with a shorter `max_tokens`."""
    if wish.dtype_bytes != 2:  # vLLM's kernels for them take 16 bits
        return
    found, smaller = False, _smaller(spec, arch, devices[0].gpu)
    for name in smaller:
        if fit := _fits(arch, name, demand, wish, devices):
            found = True
            what = f"{_NAMES[name]} weights{_where(spec, name)}: {_size(fit)}"
            cost = gpu_hours(fit, demand, devices)
            yield _way(1, f"--set model.quantization={name}", what, cost)
    for name in sorted(smaller, key=lambda q: BYTES_PER_WEIGHT[q])[:1]:
        shorter = None if found else _shorter(arch, name, demand, wish, devices)
        if shorter:
            flags = f"--set model.quantization={name} --set sampling.max_tokens={shorter}"
            weights = f"{_NAMES[name]} weights{_where(spec, name)}"
            yield _Way(
                Alternative(flags, f"{weights}, answers cut after {shorter:,} tokens"), (2, 0.0)
            )


def _more_gpus(
    spec: JobSpec,
    arch: Architecture,
    demand: Workload,
    wish: EngineConstraints,
    devices: tuple[Device, ...],
) -> Iterator[_Way]:
    """Find the fewest GPUs of the kind that do."""
    gpu = devices[0].gpu
    for count in GPU_COUNTS:
        more = tuple(
            replace(devices[0], id=str(i), free_gib=gpu.memory_gib, holders=())
            for i in range(count)
        )
        fit = None
        if count > len(devices):
            fit = _fits(arch, spec.model.quantization, demand, wish, more)
        if fit is not None:
            split = f"TP {fit.tensor_parallel}"
            if fit.pipeline_parallel > 1:
                split += f" × PP {fit.pipeline_parallel}"
            what = f"{count} × {gpu.name}, {split}: {_size(fit)}"
            yield _way(1, f"--gpus {count}", what, gpu_hours(fit, demand, more))
            return


_ARGUMENTS = (
    "dtype",
    "kv_cache_memory_bytes",
    "gpu_memory_utilization",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_model_len",
    "tensor_parallel_size",
    "pipeline_parallel_size",
)


def _without_one(spec: JobSpec) -> Iterator[tuple[str, EngineConstraints]]:
    """The user's engine arguments, one of them left out at a time."""
    args = spec.model.engine_args
    for argument in _ARGUMENTS:
        if args.get(argument) is not None:
            others = {key: value for key, value in args.items() if key != argument}
            yield argument, constraints_of(others, adapter=spec.model.adapter)


_NAMES = {"fp8": "FP8", "w4a16": "4-bit", "awq": "4-bit (AWQ)", "gptq": "4-bit (GPTQ)"}


def _smaller(spec: JobSpec, arch: Architecture, gpu: Gpu) -> list[str]:
    """List published quantisations that are smaller and that the GPU can run.

    The mildest first. FP8 runs natively from compute capability 8.9 and as weights only from 8.0; 4
    bits from 7.5.
    """
    entry = VARIANTS.get(spec.model.variant or "")
    now = arch.bytes_per_weight(spec.model.quantization)
    published = [
        q for q in ("fp8", "w4a16", "awq", "gptq") if entry is not None and q in entry.quantized
    ]
    if "fp8" not in published and arch.stored is None and arch.num_experts == 0:
        published.insert(0, "fp8")  # vLLM converts 16-bit weights as it loads them
    return [
        q
        for q in published
        if BYTES_PER_WEIGHT[q] < now and gpu.capability >= ((8, 0) if q == "fp8" else (7, 5))
    ]


def _where(spec: JobSpec, quantization: str) -> str:
    entry = VARIANTS.get(spec.model.variant or "")
    repo = entry.quantized.get(quantization) if entry is not None else None
    return f" ({repo})" if repo else ""


def _fits(
    arch: Architecture,
    quantization: str | None,
    demand: Workload,
    wish: EngineConstraints,
    devices: tuple[Device, ...],
) -> Fit | None:
    found = best_fit(arch, quantization, demand, wish, devices)
    return found if found is not None and found.fits else None


def _shorter(
    arch: Architecture,
    quantization: str | None,
    demand: Workload,
    wish: EngineConstraints,
    devices: tuple[Device, ...],
) -> int | None:
    """Find the largest multiple of 1,024 new tokens that fits.

    By bisection; None below that.
    """
    if wish.max_model_len is not None:
        return None
    low, high = 0, (demand.longest - demand.prompts.longest) // MIN_USEFUL_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(
            arch,
            quantization,
            replace(demand, max_tokens=middle * MIN_USEFUL_TOKENS),
            wish,
            devices,
        ):
            low = middle
        else:
            high = middle - 1
    return low * MIN_USEFUL_TOKENS or None


def _size(fit: Fit) -> str:
    plural = "" if fit.max_num_seqs == 1 else "s"
    return f"room for {fit.kv_cache_tokens:,} tokens, {fit.max_num_seqs} sequence{plural} at a time"
