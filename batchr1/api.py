"""Python API: what the commands do, as functions.

`batchr1.run(job)` is `batchr1 run job`, and so on. Errors are exceptions of `batchr1.errors` with
the line that the command line prints. docs/python.md has examples.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

if TYPE_CHECKING:
    import polars as pl

    from batchr1.cli.options import JobOptions
    from batchr1.driver.monitor.summary import Summary
    from batchr1.report.summary import OutputSummary
    from batchr1.report.totals import Totals
    from batchr1.sizing.plan import Plan


class JobChanges(TypedDict, total=False):
    """Changes of a job, as the options of the command line.

    `set`: keys of the job by their path, such as {"sampling.n": 4}.
    """

    variant: str
    output: str | Path
    limit: int
    date: str
    set: Mapping[str, object]
    gpus: int | str
    devices: str
    executor: str
    replicas: int


class RunChanges(JobChanges, total=False):
    """The same, and options of a run. `fresh` deletes results without asking."""

    fresh: bool
    retry_failed: bool
    continue_truncated: bool
    stop_after: str
    progress: bool


def run(job: str | Path, **changes: Unpack[RunChanges]) -> Summary:
    """Run a job file, or go on with it where it stopped.

    The summary's `exit_code` is that of the command: 75 where the run can go on. Raises
    `BatchError` where it could not begin.
    """
    import time

    from batchr1.cli.options import duration, named
    from batchr1.executors.worker_process import early_worker

    options = _options(changes, RunChanges)
    spec = options.read(Path(job))
    with early_worker(spec, options.gpus, options.device_ids) as early:
        from batchr1.driver.context import RunOptions
        from batchr1.driver.run_job import run_job

        given = RunOptions(
            fresh=changes.get("fresh", False),
            retry_failed=changes.get("retry_failed", False),
            continue_truncated=changes.get("continue_truncated", False),
            stop_after_s=duration(changes.get("stop_after"), "stop_after"),
            window_began=time.monotonic(),
            gpus=options.gpus,
            devices=options.device_ids,
            show_progress=changes.get("progress", True),
            confirm_fresh=lambda question: True,
            early=early,
        )
        with named(Path(job)):
            return run_job(spec, given)


def plan(job: str | Path, **changes: Unpack[JobChanges]) -> Plan:
    """Size the engines of a job for this machine.

    Loads no model, writes nothing. Raises `JobError` where nothing fits.
    """
    from batchr1.cli.options import named
    from batchr1.driver.context import RunOptions, open_job
    from batchr1.driver.planning import plan_job, planning_renderer
    from batchr1.models.resolve import resolve_or_catalogue

    options = _options(changes)
    spec = options.read(Path(job))
    given = RunOptions(gpus=options.gpus, devices=options.device_ids)
    with named(Path(job)):
        context = open_job(spec, given, resolve=resolve_or_catalogue)
        renderer, _ = planning_renderer(context)
        return plan_job(context, renderer, given)


def check(job: str | Path, **changes: Unpack[JobChanges]) -> dict[str, Any]:
    """Look at everything that a job names.

    Returns what `batchr1 check --json` prints. Raises `UsageError` for what is wrong.
    """
    from batchr1.cli.check import examine

    return examine(Path(job), _options(changes)).document


Outputs = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]


@overload
def status(target: str | Path, **changes: Unpack[JobChanges]) -> OutputSummary: ...


@overload
def status(target: Outputs) -> Totals: ...


def status(target: str | Path | Outputs, **changes: Unpack[JobChanges]) -> OutputSummary | Totals:
    """Summarise an output, a job file's, or a list of outputs.

    For a job file, pending rows are counted too. A list may hold globs of folders; its total
    counts each model, id and sample once.
    """
    from batchr1.errors import UsageError

    if not isinstance(target, str | Path):
        return _status_of_several([str(one) for one in target], changes)
    if changes and Path(target).suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"{target}: changes need a job file (got an output and {', '.join(changes)}). Leave "
            "them out, or give the job."
        )
    from batchr1.cli.status import look_up
    from batchr1.report.summary import summarise

    found, counts = look_up(str(target), _options(changes))
    return summarise(found, counts=counts)


def _status_of_several(uris: Sequence[str], changes: Mapping[str, Any]) -> Totals:
    """Summarise outputs, named by folders and globs."""
    from batchr1.errors import UsageError
    from batchr1.output.find import find_outputs
    from batchr1.report.totals import total_of

    if changes:
        raise UsageError(
            f"{', '.join(uris)}: changes need a job file (got outputs and {', '.join(changes)}). "
            "Leave them out."
        )
    if not uris:
        raise UsageError("status: no output is named (got an empty list, need one). Name one.")
    return total_of(find_outputs(uris))


def load(output: str | Path) -> pl.LazyFrame:
    """Open the committed rows of an output as they lie.

    Local files are read lazily; those on S3 at once. Raises `OutputError` where nothing is.
    """
    import polars as pl
    import pyarrow as pa

    from batchr1.errors import OutputError
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    found = Output(open_storage(str(output)))
    parts = found.parts()
    if not parts:
        raise OutputError(
            f"{found.uri}: there are no rows (got no part in data/, need one). Run the job, or "
            "correct the path."
        )
    if found.uri.startswith("s3://"):
        frames = [pl.DataFrame(pl.from_arrow(found.read_part(rel, None))) for rel in parts]
        return pl.concat(frames, how="diagonal").lazy()
    paths = [Path(found.uri) / rel for rel in parts]
    stored = pa.schema(list(found.part_columns(parts[0]).items()))  # with those that came later
    schema = pl.DataFrame(stored.empty_table()).schema
    return pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore")


def _options(changes: Mapping[str, Any], known: type = JobChanges) -> JobOptions:
    """Put changes into the options of the command line.

    None is no change. Raises `UsageError` for a name that is none of `known`.
    """
    from dataclasses import fields

    from batchr1.cli.options import SIMPLE_FLAGS, JobOptions
    from batchr1.errors import UsageError

    names = known.__annotations__
    for name in changes:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(names)}."
            raise UsageError(f"{name}: there is no such change. {hint}")
    changes = {name: value for name, value in changes.items() if value is not None}
    texts = {field.name for field in fields(JobOptions) if field.type == "str | None"}
    given: dict[str, Any] = {}
    for name in SIMPLE_FLAGS.keys() & changes.keys():
        value = changes[name]
        given[name] = str(value) if name in texts else value
    settings = tuple(f"{key}={_as_yaml(value)}" for key, value in changes.get("set", {}).items())
    return JobOptions(settings=settings, **given)


def _as_yaml(value: object) -> str:
    """Write a value as `--set` reads it: text as it is."""
    import yaml

    if isinstance(value, str):
        return value

    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return re.sub(r"\n(\.\.\.\n)?$", "", text)
