"""Planning of a job, on whatever machine it has."""

from __future__ import annotations

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.resolve import ModelSource
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.fit import best_fit
from batchr1.sizing.machine import Machine
from batchr1.sizing.memory import GIB
from batchr1.sizing.plan import MisfitError, Plan
from batchr1.sizing.planning.arguments import check_arguments, check_batch, workload_of
from batchr1.sizing.planning.cpu import cpu_plan
from batchr1.sizing.planning.gpu import gpu_plan
from batchr1.sizing.planning.misfit import misfit
from batchr1.sizing.planning.mixed import kinds_of, mixed_plan


def make_plan(
    spec: JobSpec,
    model: ModelSource,
    machine: Machine,
    prompts: PromptLengths,
    completions: CompletionLengths,
    *,
    price: float | None = None,
) -> Plan:
    """Size the engines of a job. `price`: USD per GPU-hour.

    Raises `JobError` for engine arguments that cannot work, `MisfitError` when the memory does not
    suffice.
    """
    wish = check_arguments(spec, model, num_gpus=len(machine.devices))
    demand = workload_of(spec, model, prompts, completions)
    arch = Architecture.of_config(model.config)
    if not machine.devices:
        return cpu_plan(spec, model, arch, machine, demand, wish)
    if len(kinds := kinds_of(machine)) > 1:
        mixed = mixed_plan(spec, arch, kinds, demand, wish, price)
        if mixed is not None:
            return mixed
    found = best_fit(arch, spec.model.quantization, demand, wish, machine.devices)
    if found is None:
        raise JobError(
            f"model.engine_args: no split over {len(machine.devices)} GPUs is possible "
            f"({arch.num_heads} attention heads). Change tensor_parallel_size or the number of "
            f"GPUs."
        )
    if not found.fits:
        raise MisfitError(
            misfit(model, found, wish, machine), missing_gib=found.missing_bytes / GIB
        )
    check_batch(
        found.max_num_seqs,
        found.max_num_batched_tokens,
        found.max_model_len,
        chunked=wish.chunked_prefill,
    )
    return gpu_plan(spec, arch, machine, demand, found, price)
