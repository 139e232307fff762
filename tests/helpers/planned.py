"""Plans of made-up jobs on named machines."""

from __future__ import annotations

from typing import Any

from batchr1.job.spec import InputSpec, JobSpec, ModelSpec, OutputSpec, SamplingSpec
from batchr1.models.resolve import ModelSource, catalogue_source, resolve_model
from batchr1.records import PromptLengths
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import Machine, named_machine
from batchr1.sizing.offers.alternatives import Alternative, alternatives
from batchr1.sizing.plan import Plan
from batchr1.sizing.planning.make import make_plan

PROMPTS = PromptLengths(500, 500, 512, 128.0)


def job(
    variant: str = "r1-distill-qwen-7b",
    *,
    quantization: Any = None,
    max_tokens: int | None = 32768,
    n: int = 1,
    seed: int | None = None,
    **engine_args: Any,
) -> JobSpec:
    return JobSpec(
        name="x",
        model=ModelSpec(variant=variant, quantization=quantization, engine_args=engine_args),
        input=InputSpec(path="/in", prompt="p"),
        output=OutputSpec(path="/out"),
        sampling=SamplingSpec(max_tokens=max_tokens, n=n, seed=seed),
    )


def source_of(spec: JobSpec) -> ModelSource:
    source = catalogue_source(spec.model)
    return source if source is not None else resolve_model(spec.model)


def plan(spec: JobSpec, machine: Machine, prompts: PromptLengths = PROMPTS, **options: Any) -> Plan:
    model = source_of(spec)
    completions = default_lengths(
        "math", min(spec.sampling.max_tokens or model.context_len, model.context_len)
    )
    return make_plan(spec, model, machine, prompts, completions, **options)


def gpus(name: str, count: int = 1) -> Machine:
    return named_machine(name, count=count)


def offered(
    spec: JobSpec, machine: Machine, prompts: PromptLengths = PROMPTS
) -> tuple[Alternative, ...]:
    """What is offered when a job does not fit. Each is tried: it must fit."""
    model = source_of(spec)
    completions = default_lengths("math", spec.sampling.max_tokens or model.context_len)
    ways = alternatives(spec, model, machine, prompts, completions)
    for way in ways:
        assert applied(spec, machine, prompts, way.flags).kv_cache_tokens > 0
    return ways


def applied(spec: JobSpec, machine: Machine, prompts: PromptLengths, flags: str) -> Plan:
    if flags.startswith("--gpus ") and machine.devices[0].gpu.name not in GPUS:
        return plan(
            spec,
            named_machine(None, vram_gib=machine.devices[0].gpu.memory_gib, count=int(flags[7:])),
            prompts,
        )
    if flags.startswith("--gpus "):
        return plan(
            spec, gpus(machine.devices[0].gpu.name, int(flags.removeprefix("--gpus "))), prompts
        )
    document = spec.model_dump()
    for setting in flags.removeprefix("--set ").split(" --set "):
        path, _, value = setting.partition("=")
        *parents, key = path.split(".")
        node = document
        for parent in parents:
            node = node[parent]
        node[key] = int(value) if value.isdecimal() else None if value == "null" else value
    return plan(JobSpec.model_validate(document), machine, prompts)
