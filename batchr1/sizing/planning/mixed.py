"""A plan for GPUs of several models."""

from __future__ import annotations

from dataclasses import replace

from batchr1.job.spec import JobSpec
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.estimate import Workload, estimate
from batchr1.sizing.fit import EngineConstraints, Fit, best_fit
from batchr1.sizing.machine import Machine
from batchr1.sizing.plan import Plan
from batchr1.sizing.planning.arguments import check_batch
from batchr1.sizing.planning.gpu import gpu_plan, runs_of


def kinds_of(machine: Machine) -> list[Machine]:
    """Sort the GPUs by model and size."""
    kinds: dict[tuple[str, int], list[Device]] = {}
    for device in machine.devices:
        kinds.setdefault((device.gpu.name, round(device.gpu.memory_gib)), []).append(device)
    return [Machine(tuple(devices)) for devices in kinds.values()]


def mixed_plan(
    spec: JobSpec,
    arch: Architecture,
    kinds: list[Machine],
    demand: Workload,
    wish: EngineConstraints,
    price: float | None,
) -> Plan | None:
    """Plan for each model of GPU that holds the job by itself.

    None where none does, and they must work together.

    All engines get the same context: a row must not depend on where it runs.
    """
    quantization = spec.model.quantization
    found = _fits(arch, quantization, demand, wish, kinds)
    if not found:
        return None
    shared = min(fit.max_model_len for _, fit in found)
    found = _fits(arch, quantization, demand, replace(wish, max_model_len=shared), kinds)
    plans, left = [], spec.executor.replicas
    for kind, fit in found:
        batch, batched = fit.max_num_seqs, fit.max_num_batched_tokens
        check_batch(batch, batched, fit.max_model_len, chunked=wish.chunked_prefill)
        plan = gpu_plan(spec, arch, kind, demand, fit, price)
        if left is not None:
            plan = replace(plan, device_groups=plan.device_groups[:left])
            left -= plan.replicas
        plans += [plan] if plan.replicas else []
    used = [(fit, plan.replicas) for (_, fit), plan in zip(found, plans, strict=False)]
    rate = sum(fit.tokens_per_s * count for fit, count in used)  # each takes what it can do
    runs = [
        run
        for fit, count in used
        if fit.tokens_per_s
        for run in runs_of(fit, demand, count, of=rate / fit.tokens_per_s)
    ]
    notes = [_summary(kind, plan) for (kind, _), plan in zip(found, plans, strict=False)]
    notes += [_idle(kind) for kind in kinds if not any(kind is one for one, _ in found)]
    notes += dict.fromkeys(note for plan in plans for note in plan.notes)
    return replace(
        plans[0],
        device_groups=tuple(group for plan in plans for group in plan.device_groups),
        estimate=estimate(demand, runs, price=price),
        notes=tuple(notes),
        kinds=tuple(plans),
    )


def _fits(
    arch: Architecture,
    quantization: str | None,
    demand: Workload,
    wish: EngineConstraints,
    kinds: list[Machine],
) -> list[tuple[Machine, Fit]]:
    """Fit each kind of GPU by itself, those that hold the job."""
    fits = [(kind, best_fit(arch, quantization, demand, wish, kind.devices)) for kind in kinds]
    return [(kind, fit) for kind, fit in fits if fit is not None and fit.fits]


def _summary(kind: Machine, plan: Plan) -> str:
    return (
        f"{plan.replicas} × {kind.devices[0].gpu.name}: TP {plan.tensor_parallel} × PP "
        f"{plan.pipeline_parallel}, {plan.max_num_seqs:,} sequences, "
        f"{plan.kv_cache_tokens:,} tokens of KV cache"
    )


def _idle(kind: Machine) -> str:
    return f"{len(kind.devices)} × {kind.devices[0].gpu.name} left idle: the job does not fit them"
