"""The renderer of a job's prompts and the plan of its engines."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchr1.backends.base import Measured, backend_of
from batchr1.backends.renderers import day_of
from batchr1.driver.context import DEFAULTS, JobContext, RunOptions
from batchr1.driver.feed.lengths import expected_completions, measure_prompts
from batchr1.driver.feed.samples import RUN_FILES, check_samples
from batchr1.errors import JobError
from batchr1.executors.base import machine_of
from batchr1.job.fingerprint import same_lengths
from batchr1.job.prompting import PromptingSpec
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import CATALOGUE
from batchr1.output.folder import Output
from batchr1.sizing.machine import Machine
from batchr1.sizing.offers.alternatives import Alternative, alternatives
from batchr1.sizing.offers.choices import Choice, choices
from batchr1.sizing.plan import MisfitError, Plan

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer


@dataclass(frozen=True, slots=True)
class EngineInputs:
    """The renderer of the engines' prompts, and their plan."""

    renderer: Renderer
    plan: Plan


def plan_engines(job: JobContext, options: RunOptions) -> EngineInputs:
    """Make the renderer and the plan of a job.

    Raises `UsageError` when one cannot be made.
    """
    backend_of(job.spec).require(job.spec)
    renderer = make_renderer(job, options)
    check_samples(job, None, files=RUN_FILES)
    plan = plan_job(job, renderer, options)
    return EngineInputs(renderer, backend_of(job.spec).with_seed(job.spec, plan))


def make_renderer(job: JobContext, options: RunOptions = DEFAULTS) -> Renderer:
    """Load the model's tokenizer and chat template.

    Raises `ModelError` when they cannot be used.
    """
    day = day_of(job.output, fresh=options.fresh, today=options.date)
    return renderer_of(job.spec, *job.model.loads_from, day=day)


def planning_renderer(job: JobContext) -> tuple[Renderer, tuple[str, ...]]:
    """Make a renderer for a plan, even without the model.

    Also gives notes about it. Where only the catalogue knows the model, r1-tiny's tokenizer stands
    in: its vocabulary is small, so that it takes more tokens for a text, and the plan errs on the
    safe side.
    """
    model = job.model
    if model.identity != CATALOGUE:
        day = day_of(job.output)
        return renderer_of(job.spec, *model.loads_from, day=day), ()
    note = (
        f"{model.location} is not in the cache: prompts measured with r1-tiny's tokenizer, "
        f"longer than they will be"
    )
    # Its template has none of the model's switches.
    prompting = PromptingSpec(instruction=job.spec.prompting.instruction)
    spec = job.spec.model_copy(update={"prompting": prompting})
    return renderer_of(spec, str(VARIANTS["r1-tiny"].path), None), (note,)


def renderer_of(
    spec: JobSpec, location: str, revision: str | None, *, day: dt.date | None = None
) -> Renderer:
    """Make the renderer of rows, with a tokenizer that may be another's.

    `day`: told to a template that asks for the date; None: today.
    """
    return backend_of(spec).renderer(spec, location, revision, day=day)


def plan_job(
    job: JobContext,
    renderer: Renderer,
    options: RunOptions = DEFAULTS,
    *,
    machine: Machine | None = None,
    price: float | None = None,
) -> Plan:
    """Size the engines of a job for a machine.

    `machine`: None is this one. Prompts are measured and completions expected. Raises `JobError`
    when nothing fits, with what is missing and what would fit.
    """
    return _plan(job, _measurer(job, renderer, options, machine), price)


def plan_with_choices(
    job: JobContext,
    renderer: Renderer,
    options: RunOptions,
    *,
    machine: Machine | None = None,
    price: float | None = None,
) -> tuple[Plan, tuple[Choice, ...]]:
    """Plan as `plan_job` does, and list a buyer's choices."""
    measure = _measurer(job, renderer, options, machine)
    plan = _plan(job, measure, price)
    if plan.device != "cuda":
        return plan, ()
    known = measure()
    device = known.machine.devices[0]
    sizes = known.prompts, known.completions
    return plan, choices(job.spec, job.model, device, *sizes, price=price)


def _measurer(
    job: JobContext, renderer: Renderer, options: RunOptions, machine: Machine | None
) -> Callable[[], Measured]:
    """Make what measures prompts and completions once."""
    spec = job.spec

    @functools.cache
    def measure() -> Measured:
        earlier = list(job.earlier)
        if not options.fresh:
            earlier.insert(0, job.output)
        earlier = [output for output in earlier if _writes_alike(output, job)]
        return Measured(
            machine or machine_of(spec, job.devices),
            measure_prompts(job.source, renderer),
            expected_completions(spec, job.source, earlier, job.model),
        )

    return measure


def _plan(job: JobContext, measure: Callable[[], Measured], price: float | None) -> Plan:
    spec, model = job.spec, job.model
    try:
        return backend_of(spec).plan(spec, model, measure, price=price)
    except MisfitError as exc:
        known = measure()
        ways = alternatives(spec, model, known.machine, known.prompts, known.completions)
        raise NoFitError(exc, ways) from exc


def _writes_alike(output: Output, job: JobContext) -> bool:
    """Tell whether an output's rows foretell this job's lengths."""
    before = output.job()
    return before is not None and same_lengths(before["fingerprint"], job.semantic)


class NoFitError(JobError):
    """The job does not fit; `ways` would."""

    def __init__(self, misfit: MisfitError, ways: tuple[Alternative, ...]) -> None:
        advice = "Choose a smaller variant."
        if ways:
            offers = "; ".join(f"{way.flags} ({way.what})" for way in ways)
            advice = f"Add one of: {offers}."
        super().__init__(f"{misfit} {advice}")
        self.missing_gib = misfit.missing_gib
        self.ways = ways
