"""Job context: a job with all that it names opened.

Model, input, output and GPUs are looked at; nothing is changed. A run that holds the output's lock
is a `RunContext`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchr1.backends.base import Place, backend_of
from batchr1.backends.renderers import check_format, template_digest
from batchr1.dataset.source import Source
from batchr1.driver.monitor.prometheus import MetricsExporter
from batchr1.driver.resume.exclude import earlier_outputs
from batchr1.driver.signals import StopSignals
from batchr1.errors import InputError
from batchr1.executors.worker_process import EarlyWorker
from batchr1.job.fingerprint import fingerprint
from batchr1.job.spec import JobSpec
from batchr1.models.recommended import with_card, with_preset
from batchr1.models.resolve import ModelSource, resolve_model
from batchr1.output.folder import Output
from batchr1.reasoning.verify import Verify
from batchr1.storage.base import StorageOptions, open_storage
from batchr1.storage.inputs import InputFile, expand_inputs
from batchr1.storage.lock import Lock
from batchr1.verifier.pool import check_verifier


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run, beside the job.

    `stop_after_s`, `stop_at`: leave, resumably, after this long or then. `early`: a worker's
    process that is there already.
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
    show_progress: bool = True
    log_json: bool = False  # stderr belongs to the log, as JSON
    metrics_file: Path | None = None
    metrics_address: tuple[str, int] | None = None  # host, port
    confirm_fresh: Callable[[str], bool] = lambda message: False
    early: EarlyWorker | None = None


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job with its input, model and output opened."""

    spec: JobSpec
    output: Output
    source: Source
    model: ModelSource
    devices: tuple[str, ...]  # ids of the GPUs to use; empty: the CPU
    semantic: dict[str, Any]
    earlier: tuple[Output, ...] = ()  # what input.exclude names


DEFAULTS = RunOptions()


@dataclass(frozen=True, slots=True)
class RunContext:
    """A run that holds the lock of its output.

    `name` is in its record, parts and log.
    """

    job: JobContext
    options: RunOptions
    name: str
    lock: Lock
    signals: StopSignals
    exporter: MetricsExporter


def open_job(
    spec: JobSpec,
    options: RunOptions = DEFAULTS,
    *,
    resolve: Callable[..., ModelSource] = resolve_model,
) -> JobContext:
    """Look at everything that a job names.

    Raises a `UsageError` for what cannot work, before any model loads.
    """
    check_format(spec)
    spec = with_card(spec)
    options_of_storage = spec.storage.options
    backend = backend_of(spec)
    model = backend.model(spec, options_of_storage, resolve)
    place = Place(options.gpus, options.devices, options.elsewhere)
    devices = backend.check(spec, model, place)
    spec = with_preset(spec, model)
    output = Output(open_storage(spec.output.path, options_of_storage))
    files = _list_inputs(spec, options_of_storage)
    output.refuse_overlap(spec.input.paths, files)
    source = Source(spec.input, spec.output.keep, files)
    if source.unsure_kept and (parts := output.parts()):
        source.keep_as(output.part_columns(parts[-1]))
    kept = {f.name: str(f.type) for f in source.kept_schema}
    verifier = check_verifier(
        Verify(**spec.verify.model_dump()), has_gold=spec.input.gold is not None
    )
    semantic = fingerprint(
        spec,
        model_identity=model.identity,
        kept=kept,
        verifier=verifier,
        template=template_digest(spec),
    )
    return JobContext(spec, output, source, model, devices, semantic, earlier_outputs(spec, output))


def _list_inputs(spec: JobSpec, options: StorageOptions) -> list[InputFile]:
    try:
        return expand_inputs(spec.input.paths, options)
    except InputError as exc:
        from batchr1.storage.s3 import explain_refusal

        raise explain_refusal(exc, spec.input.paths, options) from exc.__cause__
