"""`batchr1 plan JOB`"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import (
    JOB,
    JSON,
    PRICE,
    JobOptions,
    checked_price,
    job_options,
    named,
)
from batchr1.cli.printing import echo_json, say
from batchr1.errors import UsageError

if TYPE_CHECKING:
    from batchr1.driver.planning import NoFitError
    from batchr1.sizing.machine import Machine
    from batchr1.sizing.plan import Plan


@click.command()
@JOB
@job_options(devices=True)
@click.option(
    "--gpu",
    metavar="NAME",
    help='Plan for this GPU ("RTX 4090"), --gpus N of them; it need not be here.',
)
@click.option(
    "--vram",
    type=float,
    metavar="GIB",
    help="Plan for a GPU with so much memory, --gpus N of them.",
)
@PRICE
@JSON
@click.pass_context
def command(
    ctx: click.Context,
    job: Path,
    options: JobOptions,
    gpu: str | None,
    vram: float | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Say how JOB would run: replicas, batch, memory line by line, hours and cost. Loads no
    model, writes nothing.

    For the GPUs of this machine, or for others with --gpu or --vram. Reads and tokenises the
    prompts.
    """
    spec = options.read(job)
    from batchr1.backends.base import backend_of
    from batchr1.driver.context import RunOptions, open_job
    from batchr1.driver.planning import NoFitError, plan_with_choices, planning_renderer
    from batchr1.driver.signals import stop_signals
    from batchr1.models.resolve import resolve_or_catalogue

    is_server = backend_of(spec).is_server
    machine = _machine(gpu, vram, options)
    checked_price(price)
    run_options = RunOptions(
        gpus=options.gpus, devices=options.device_ids, elsewhere=machine is not None
    )
    with named(job), stop_signals():
        if is_server:
            _refuse_gpus(gpu=gpu, vram=vram, price=price)
        context = open_job(spec, run_options, resolve=resolve_or_catalogue)
        if is_server:
            from batchr1.driver.server_plan import plan_server_job, server_plan_text

            found = plan_server_job(context)
            say(found, server_plan_text(found), as_json=as_json)
            return
        renderer, notes = planning_renderer(context)
        try:
            plan, choices = plan_with_choices(
                context, renderer, run_options, machine=machine, price=price
            )
        except NoFitError as exc:
            if not as_json:
                raise
            echo_json(_misfit(exc))
            ctx.exit(exc.exit_code)
    document = plan.to_dict() | {"model": context.model.name, "notes": [*notes, *plan.notes]}
    document["is_whole_context"] = plan.max_model_len == context.model.context_len
    document["choices"] = [dataclasses.asdict(choice) for choice in choices]
    text = as_text(plan, document)
    if choices:
        from batchr1.sizing.offers.choices import choices_table

        text = "\n".join([text, "", *choices_table(choices)])
    say(document, text, as_json=as_json)


def _machine(gpu: str | None, vram: float | None, options: JobOptions) -> Machine | None:
    """The machine that --gpu or --vram names; None: this one."""
    from batchr1.sizing.machine import named_machine

    if gpu is not None and vram is not None:
        raise UsageError("--vram: cannot be given together with --gpu. Give one of them.")
    if gpu is None and vram is None:
        return None
    machine = named_machine(gpu, vram_gib=vram, count=_count(options.gpus))
    if options.devices is not None:
        raise UsageError(
            "--devices: names GPUs of this machine, and the plan is for others. Leave it out."
        )
    return machine


def _misfit(error: NoFitError) -> dict[str, Any]:
    """A job that does not fit, as `plan --json` prints it."""
    return {
        "fits": False,
        "error": str(error),
        "missing_gib": round(error.missing_gib, 2),
        "ways_out": [{"flags": way.flags, "what": way.what} for way in error.ways],
    }


def _refuse_gpus(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            note = ""
            if name == "price":
                note = " (engine.price is the server's)"
            raise UsageError(
                f"--{name}: is about GPUs, and engine.kind is openai. Leave it out{note}."
            )


def _count(gpus: str | None) -> int:
    if gpus is None:
        return 1
    if not gpus.isdecimal() or int(gpus) == 0:
        raise UsageError(
            f"--gpus: not a number of GPUs (got {gpus!r}, need 1 or more with --gpu or "
            f"--vram). "
            f"Correct it."
        )
    return int(gpus)


def _context_is(document: dict[str, Any]) -> str:
    if document.get("is_whole_context"):
        return "the model's limit"
    return "longest prompt + max_tokens"


def as_text(plan: Plan, document: dict[str, Any]) -> str:
    """Format the plan as lines: engines, memory, time and cost."""
    where = f"{plan.replicas} × {plan.device}"
    if plan.device == "cuda":
        where += f", TP {plan.tensor_parallel} × PP {plan.pipeline_parallel}"
    m = plan.memory
    within = ""
    if plan.gpu_memory_utilization is not None:
        within = f" (utilisation {plan.gpu_memory_utilization:.2f})"
    lines = [
        f"model    {document['model']}",
        f"engines  {where}",
        f"context  {plan.max_model_len:,} tokens ({_context_is(document)})",
        f"batch    {plan.max_num_seqs:,} sequences, {plan.max_num_batched_tokens:,} tokens a step",
        f"memory   {m.weights_gib:8.2f} GiB weights",
        f"         {m.activation_gib:8.2f} GiB activation peak",
        f"         {m.cuda_graph_gib:8.2f} GiB CUDA graphs",
        f"         {m.other_gib:8.2f} GiB other",
        f"         {m.kv_gib:8.2f} GiB KV cache = {plan.kv_cache_tokens:,} tokens{within}",
    ]
    if plan.estimate is None:
        lines.append("time     not estimated: the memory bandwidth of this device is not known")
    else:
        e = plan.estimate
        cost = ""
        if e.cost_usd is not None:
            cost = f", {e.cost_usd:,.2f} USD"
        lines += [
            f"time     {e.hours:,.2f} h, {e.gpu_hours:,.2f} GPU-hours{cost}: "
            f"{e.output_tokens:,.0f} output tokens at "
            f"{e.tokens_per_s:,.0f} tokens/s (decode roofline × {e.efficiency:g}, less the cost "
            f"of a step), with {e.batch:,.0f} sequences at a time",
            f"         loading {e.load_s:,.0f} s of it; the longest sample {e.longest_s / 60:,.0f} "
            f"min at least",
            f"lengths  {e.lengths}",
        ]
    return "\n".join(lines + [f"note     {note}" for note in document["notes"]])
