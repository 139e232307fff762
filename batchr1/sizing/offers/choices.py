"""Hours and cost by number of GPUs and precision of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device
from batchr1.sizing.machine import Machine
from batchr1.sizing.planning.make import make_plan

COUNTS = (1, 2, 4, 8)  # GPUs
FOUR_BITS = ("w4a16", "awq", "gptq")


@dataclass(frozen=True, slots=True)
class Choice:
    """Hours and cost of one choice.

    `quantization` None: bf16, or as the weights are stored.
    """

    gpus: int
    quantization: str | None
    tokens_per_s: float
    hours: float
    gpu_hours: float
    cost_usd: float | None
    is_cheapest: bool = False


def choices(
    spec: JobSpec,
    model: ModelSource,
    device: Device,
    prompts: PromptLengths,
    completions: CompletionLengths,
    *,
    price: float | None = None,
) -> tuple[Choice, ...]:
    """Plan the job on 1, 2, 4 and 8 GPUs.

    For each precision there is. What does not fit has no row. `price`: USD per GPU-hour.
    """
    found = []
    for quantization in _precisions(spec, model, device):
        settings = spec.model.model_copy(update={"quantization": quantization})
        for count in COUNTS:
            devices = tuple(
                replace(device, id=str(i), free_gib=device.gpu.memory_gib, holders=(), node=0)
                for i in range(count)
            )
            one = spec.model_copy(update={"model": settings})
            try:
                plan = make_plan(one, model, Machine(devices), prompts, completions, price=price)
            except JobError:
                continue  # it does not fit, or the GPUs cannot share it
            if plan.estimate is not None:
                e = plan.estimate
                rate, hours = e.tokens_per_s, (e.hours, e.gpu_hours)
                found.append(Choice(count, quantization, rate, *hours, e.cost_usd))
    if not found:
        return ()
    cheapest = min(found, key=lambda choice: choice.gpu_hours)
    return tuple(replace(choice, is_cheapest=choice is cheapest) for choice in found)


def _precisions(spec: JobSpec, model: ModelSource, device: Device) -> list[str | None]:
    """List the precisions that the weights can have.

    As they are stored, FP8, and 4 bits if published.
    """
    arch = Architecture.of_config(model.config)
    entry = VARIANTS.get(spec.model.variant or "")
    published: Sequence[str] = tuple(entry.quantized) if entry is not None else ()
    precisions: list[str | None] = [None]
    converts = arch.stored is None and arch.num_experts == 0  # vLLM does as it loads
    if device.gpu.capability >= (8, 0) and (converts or "fp8" in published):
        precisions.append("fp8")
    if device.gpu.capability >= (7, 5):
        precisions += [name for name in FOUR_BITS if name in published][:1]
    if spec.model.quantization not in precisions:
        precisions.append(spec.model.quantization)
    return precisions


def choices_table(found: Sequence[Choice], *, stored: str = "bf16") -> list[str]:
    """Lay the choices out, a line each.

    The cheapest is marked; without a price that of the fewest GPU-hours.
    """
    lines = [
        f"{'GPUs':>4}  {'weights':8} {'tokens/s':>9} {'hours':>9} {'GPU-hours':>10} {'USD':>9}"
    ]
    for choice in found:
        cost = "–"
        if choice.cost_usd is not None:
            cost = f"{choice.cost_usd:,.2f}"
        mark = ""
        if choice.is_cheapest:
            mark = "  ← fewest" if choice.cost_usd is None else "  ← cheapest"
        lines.append(
            f"{choice.gpus:>4}  {choice.quantization or stored:8} {choice.tokens_per_s:>9,.0f} "
            f"{choice.hours:>9,.2f} {choice.gpu_hours:>10,.2f} {cost:>9}{mark}"
        )
    return lines
