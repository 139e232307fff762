"""Checks of a run before it touches anything, and its weights."""

from __future__ import annotations

import logging

from batchr1.backends.base import backend_of
from batchr1.driver.context import JobContext, RunOptions
from batchr1.errors import JobError, OutputError
from batchr1.job.fingerprint import check_same
from batchr1.models.bucket import download_to_cache, is_bucket, is_cached
from batchr1.models.resolve import ModelSource

log = logging.getLogger("batchr1.run")


def check_options(job: JobContext, options: RunOptions) -> None:
    """Raise `JobError` for options that the job's engine cannot follow."""
    if options.continue_truncated and backend_of(job.spec).is_server:
        raise JobError(
            "--continue-truncated: goes on from token ids, and engine.kind "
            f"{job.spec.engine.kind} gives none. Leave it out."
        )


def check_fingerprint(job: JobContext, *, continue_truncated: bool = False) -> None:
    """Raise `FingerprintError` when the output's job would answer otherwise."""
    if not job.output.exists():
        return
    before = job.output.job()
    if before is not None:
        check_same(
            before["fingerprint"],
            job.semantic,
            output=job.output.uri,
            continue_truncated=continue_truncated,
        )


def confirm_fresh(job: JobContext, options: RunOptions) -> None:
    """Ask before `--fresh` deletes results; raises `OutputError` without consent."""
    output = job.output
    if not options.fresh or not output.exists():
        return
    count = output.count_own()
    question = f"{output.uri}: delete {count} result files?"
    if count and not options.confirm_fresh(question):
        raise OutputError(
            f"{output.uri}: --fresh would delete {count} result files. Add --yes to agree."
        )


def note_uncached(job: JobContext, options: RunOptions) -> None:
    """Warn that vLLM will have to download the weights.

    The warning names the command that does it better.
    """
    model = job.model
    if not backend_of(job.spec).needs_weights:
        return
    if model.folder is None and job.spec.executor.kind == "local":
        log.warning(
            "model %s: its weights are not in the cache, and vLLM downloads them as it starts, on "
            "a GPU's time. "
            "`%s` does it beforehand, and goes on where it was interrupted.",
            model.location,
            fetch_command(model),
        )


def has_weights(model: ModelSource) -> bool:
    """Whether a run on this machine would not have to fetch any."""
    if is_bucket(model.location):
        return is_cached(str(model.revision))
    return model.folder is not None


def fetch_command(model: ModelSource) -> str:
    """Write the command that fetches a model's weights."""
    command = f"batchr1 fetch {model.location}"
    if not is_bucket(model.location):
        command += f" --revision {model.revision}"
    return command


def download_weights(job: JobContext, options: RunOptions) -> None:
    """Download weights from S3 before engines on this machine start.

    Engines elsewhere download their own.
    """
    model, executor = job.model, job.spec.executor.kind
    if not backend_of(job.spec).needs_weights:
        return
    if is_bucket(model.location) and executor == "local":
        say = log.info if options.log_json else None
        download_to_cache(
            model.location, job.output.storage.options, digest=model.revision, say=say
        )
