"""A job, looked at before anything is touched: its model, its input, its output, and what is still
to do.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchr1.backends.openai import check_server_job, served_model
from batchr1.dataset.pending import Pending
from batchr1.dataset.source import Source
from batchr1.driver.resume.exclude import earlier_outputs, exclude_earlier
from batchr1.engine.vllm.arguments import check_engine_args, require_vllm
from batchr1.errors import JobError
from batchr1.executors.base import check_executor, machine_of
from batchr1.executors.messages import BudgetSetup, EngineSpec
from batchr1.job.fingerprint import check_same, continued_digest, fingerprint
from batchr1.job.spec import JobSpec
from batchr1.models.bucket import download_to_cache, is_bucket, is_cached
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import CATALOGUE, ModelSource, resolve_model
from batchr1.output.checkpoints import FoundCheckpoints, consolidate, read_checkpoints
from batchr1.output.folder import Output
from batchr1.reasoning.verify import Verify
from batchr1.records import SampleKey
from batchr1.sizing.alternatives import Alternative, alternatives
from batchr1.sizing.devices import choose_devices
from batchr1.sizing.machine import Machine
from batchr1.sizing.plan import MisfitError, Plan, check_arguments, make_plan, server_plan
from batchr1.storage.base import StorageOptions, expand_inputs, open_storage
from batchr1.verifier.pool import check_verifier

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer

log = logging.getLogger("batchr1.run")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a job.

    `stop_after_s`, `stop_at`: leave, resumably, after this long or then.
    """

    fresh: bool = False
    retry_failed: bool = False
    continue_truncated: bool = False
    stop_after_s: float | None = None
    window_began: float | None = None  # on the monotonic clock; None: with the run
    stop_at: dt.datetime | None = None  # with its time zone
    date: dt.date | None = None  # what {{ ds }} stands for; None: today
    grace_s: float | None = (
        None  # after a signal, for saving and committing; None: the driver's default
    )
    gpus: str | None = None
    devices: tuple[str, ...] | None = None
    elsewhere: bool = False  # only planned, for a machine that need not be here
    engine: EngineSpec | None = None  # instead of vLLM: the replay engine of tests and benchmarks
    show_progress: bool = True
    log_json: bool = False  # stderr belongs to the log, as JSON
    metrics_file: Path | None = None
    metrics_address: tuple[str, int] | None = None  # host, port
    confirm_fresh: Callable[[str], bool] = lambda message: False


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job whose input, model and output were looked at; nothing was changed."""

    spec: JobSpec
    output: Output
    source: Source
    model: ModelSource
    devices: tuple[str, ...]  # ids of the GPUs to use; empty: the CPU
    semantic: dict[str, Any]
    earlier: tuple[Output, ...] = ()  # what input.exclude names


DEFAULTS = RunOptions()


def prepare(
    spec: JobSpec,
    options: RunOptions = DEFAULTS,
    *,
    resolve: Callable[..., ModelSource] = resolve_model,
) -> JobContext:
    """Look at everything that a job names.

    Raises a `UsageError` for what cannot work, before any model loads.
    """
    storage_options = StorageOptions(
        spec.storage.endpoint, spec.storage.region, spec.storage.profile
    )
    if spec.engine.is_server:
        model, devices = _server_model(spec, options)
    else:
        model, devices = _local_model(spec, options, storage_options, resolve)
    output = Output(open_storage(spec.output.path, storage_options))
    files = expand_inputs(spec.input.paths, storage_options)
    output.refuse_overlap(spec.input.paths, files)
    source = Source(spec.input, spec.output.keep, files)
    kept = {f.name: str(f.type) for f in source.kept_schema}
    verifier = check_verifier(verify_setup(spec), has_gold=spec.input.gold is not None)
    semantic = fingerprint(spec, model_identity=model.identity, kept=kept, verifier=verifier)
    return JobContext(spec, output, source, model, devices, semantic, earlier_outputs(spec, output))


def _server_model(spec: JobSpec, options: RunOptions) -> tuple[ModelSource, tuple[str, ...]]:
    check_server_job(spec, gpus=options.gpus, devices=options.devices)
    return served_model(spec), ()


def _local_model(
    spec: JobSpec, options: RunOptions, storage: StorageOptions, resolve: Callable[..., ModelSource]
) -> tuple[ModelSource, tuple[str, ...]]:
    """The model, and the GPUs to use, of a job whose engines batchr1 starts."""
    model = resolve(spec.model, storage=storage)
    is_local = not spec.output.path.startswith("s3://")
    if not options.elsewhere:
        check_executor(spec, gpus=options.gpus, devices=options.devices, is_local_output=is_local)
    is_cached = spec.executor.kind == "local" and not options.elsewhere
    devices = choose_devices(options.gpus, options.devices) if is_cached else ()
    check_arguments(spec, model, num_gpus=len(devices))
    if options.engine is None:
        check_engine_args(spec.model.engine_args)
    return model, devices


def verify_setup(spec: JobSpec) -> Verify:
    """What workers are told about verification."""
    return Verify(**spec.verify.model_dump())


def budgets_of(spec: JobSpec) -> BudgetSetup | None:
    """What workers are told about budgets; None without any."""
    s = spec.sampling
    if not s.has_budget:
        return None
    return BudgetSetup(s.thinking_budget, s.answer_budget, s.max_tokens, s.closing_sentence)


def make_renderer(prepared: JobContext, options: RunOptions = DEFAULTS) -> Renderer:
    """The model's tokenizer and chat template; raises `ModelError` when they, or vLLM, cannot be
    used.
    """
    if options.engine is None and not prepared.spec.engine.is_server:
        require_vllm()
    return _renderer(prepared.spec, *prepared.model.loads_from)


def note_uncached(prepared: JobContext, options: RunOptions) -> None:
    """Say that vLLM will have to download the weights, and what would have done it better."""
    model = prepared.model
    if model.folder is None and options.engine is None and prepared.spec.executor.kind == "local":
        log.warning(
            "model %s: its weights are not in the cache, and vLLM downloads them as it starts, on "
            "a GPU's time. "
            "`%s` does it beforehand, and goes on where it was interrupted.",
            model.location,
            fetch_command(model),
        )


def has_weights(model: ModelSource) -> bool:
    """Whether a run on this machine would not have to fetch any."""
    return is_cached(str(model.revision)) if is_bucket(model.location) else model.folder is not None


def fetch_command(model: ModelSource) -> str:
    """What brings its weights to this machine."""
    revision = "" if is_bucket(model.location) else f" --revision {model.revision}"
    return f"batchr1 fetch {model.location}{revision}"


def download_weights(prepared: JobContext, options: RunOptions) -> None:
    """Weights that lie on S3, before the engines on this machine start; those elsewhere bring their
    own.
    """
    model, executor = prepared.model, prepared.spec.executor.kind
    if is_bucket(model.location) and executor == "local":
        say = log.info if options.log_json else None
        download_to_cache(
            model.location, prepared.output.storage.options, digest=model.revision, say=say
        )


def planning_renderer(prepared: JobContext) -> tuple[Renderer, tuple[str, ...]]:
    """A renderer for a plan that may be made far from the model, and what to note about it.

    Where only the catalogue knows the model, r1-tiny's tokenizer stands in: its vocabulary is
    small, so that it takes more tokens for a text, and the plan errs on the safe side.
    """
    model = prepared.model
    if model.identity != CATALOGUE:
        return _renderer(prepared.spec, *model.loads_from), ()
    note = (
        f"{model.location} is not in the cache: prompts measured with r1-tiny's tokenizer, "
        f"longer than they will be"
    )
    return _renderer(prepared.spec, str(VARIANTS["r1-tiny"].path), None), (note,)


def _renderer(spec: JobSpec, location: str, revision: str | None) -> Renderer:
    if spec.engine.is_server:
        from batchr1.dataset.chat_prompts import ChatRenderer

        return ChatRenderer(instruction=spec.prompting.instruction)
    from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
    from batchr1.reasoning.formats import ThinkTags

    tokenizer = load_tokenizer(
        location, revision=revision, trust_remote_code=spec.model.trust_remote_code
    )
    tags = ThinkTags.of(tokenizer)
    if spec.sampling.has_budget and tags.close_id is None:
        raise JobError(
            f"sampling: budgets need a model whose think tags are single tokens ({location} "
            f"spells {tags.format.close} out). "
            "Remove thinking_budget and answer_budget, or choose another model."
        )
    return PromptRenderer(
        tokenizer,
        instruction=spec.prompting.instruction,
        think=spec.prompting.think,
        format=tags.format,
    )


def plan_job(
    prepared: JobContext,
    renderer: Renderer,
    options: RunOptions = DEFAULTS,
    *,
    machine: Machine | None = None,
    price: float | None = None,
) -> Plan:
    """Measure the prompts, expect the completions, and size the engines for this machine or a named one.

    Raises `JobError` when nothing fits, with what is missing and what would fit.
    """
    from batchr1.driver.lengths import expected_completions, measure_prompts

    spec, model = prepared.spec, prepared.model
    if spec.engine.is_server:
        return server_plan(spec)
    machine = machine or machine_of(spec, prepared.devices)
    prompts = measure_prompts(prepared.source, renderer)
    earlier = [*([] if options.fresh else [prepared.output]), *prepared.earlier]
    completions = expected_completions(spec, prepared.source, earlier, model)
    try:
        plan = make_plan(spec, model, machine, prompts, completions, price=price)
        return replace(plan, completions=completions)
    except MisfitError as exc:
        raise NoFitError(exc, alternatives(spec, model, machine, prompts, completions)) from exc


class NoFitError(JobError):
    """The job does not fit; `ways` would."""

    def __init__(self, misfit: MisfitError, ways: tuple[Alternative, ...]) -> None:
        offers = "; ".join(f"{way.flags} ({way.what})" for way in ways)
        super().__init__(
            f"{misfit} " + (f"Add one of: {offers}." if ways else "Choose a smaller variant.")
        )
        self.missing_gib = misfit.missing_gib
        self.ways = ways


def find_pending(prepared: JobContext, *, retry_failed: bool = False) -> Pending:
    """Match the input's ids against what the output holds."""
    pending = read_ids(prepared)
    take_out_done(prepared, pending)
    if not retry_failed:
        take_out_failed(prepared, pending)
    take_out_unneeded(prepared, pending)
    return pending


def read_ids(prepared: JobContext) -> Pending:
    """One pass over the input's ids, without those that earlier outputs hold.

    Raises `InputError` when an id is null or comes twice, or nothing is there.
    """
    spec = prepared.spec
    pending = Pending(
        prepared.source,
        spec.sampling.n,
        ids_are_hashes=spec.input.id is None,
        allow_empty=spec.input.allow_empty,
    )

    def renderer() -> Renderer:
        return _renderer(spec, *prepared.model.loads_from)

    by_prompt = renderer if spec.input.exclude_by == "prompt" else None
    exclude_earlier(prepared.source, pending, prepared.earlier, make_renderer=by_prompt)
    return pending


def take_out_done(prepared: JobContext, pending: Pending) -> None:
    """Take out what the output holds. A run must hold the lock."""
    spec = prepared.spec
    siblings = spec.longest_first and spec.sampling.n > 1
    columns = [
        "id",
        "sample",
        *(["completion_tokens"] if siblings else []),
        *(["correct"] if spec.stop_when else []),
    ]
    for table in prepared.output.tables(columns):
        pending.mark_done(table.column("id"), table.column("sample"))
        if siblings:
            pending.learn_lengths(table.column("id"), table.column("completion_tokens"))
        if spec.stop_when:
            pending.learn_right(table.column("id"), table.column("correct"))


def take_out_failed(prepared: JobContext, pending: Pending) -> None:
    """Take out what failed; call after `take_out_done`."""
    for table in prepared.output.failed_tables(["id", "sample"]):
        pending.mark_failed(table.column("id"), table.column("sample"))


def take_out_unneeded(prepared: JobContext, pending: Pending) -> None:
    """Take out what `stop_when` needs no more; call last, so that what failed stays failed."""
    if prepared.spec.stop_when:
        pending.spare(prepared.spec.stop_when.correct)


def take_over_checkpoints(prepared: JobContext, pending: Pending, run: str) -> FoundCheckpoints:
    """What earlier runs saved of samples that are still to do, brought into snapshots of this run.

    What it is not asked for is still to do by another, wider run; the other rows go first. Call
    with the lock held, after `take_out_done`.
    """
    storage, job = prepared.output.storage, continued_digest(prepared.semantic)
    found = read_checkpoints(storage, job=job)
    keys, aside = list(found.saved), set[SampleKey]()
    if keys:
        ids, samples = (
            pa.array([k.id for k in keys], pa.string()),
            pa.array([k.sample for k in keys], pa.int32()),
        )
        for key, is_asked, is_done in zip(keys, *pending.states(ids, samples), strict=True):
            if is_done:
                del found.saved[key]
            elif not is_asked:
                aside.add(key)
    consolidate(storage, run, found, job=job, aside=aside)
    pending.begin_with(pa.array([key.id for key in found.saved if key not in aside], pa.string()))
    return found


def check_fingerprint(prepared: JobContext, *, continue_truncated: bool = False) -> None:
    """Raise `FingerprintError` when the output was made by a job that would give other answers."""
    before = prepared.output.job() if prepared.output.exists() else None
    if before is not None:
        check_same(
            before["fingerprint"],
            prepared.semantic,
            output=prepared.output.uri,
            continue_truncated=continue_truncated,
        )
