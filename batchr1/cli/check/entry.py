"""`batchr1 check JOB`"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.check.text import as_text
from batchr1.cli.options import JOB, JSON, JobOptions, job_options, named
from batchr1.cli.printing import beside, echo, echo_json

if TYPE_CHECKING:
    from batchr1.dataset.pending import Counts
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.context import JobContext
    from batchr1.driver.feed.samples import Samples
    from batchr1.job.spec import JobSpec
    from batchr1.records import Prompt
    from batchr1.sizing.plan import Plan

SAMPLE_ROWS = 2000
SAMPLE_CHARS = 2**24
"""Characters of prompts after which no more rows are rendered."""
RENDER_ROWS = 50


@click.command()
@JOB
@job_options(devices=True)
@click.option(
    "--show-prompt", is_flag=True, help="Print the first prompt as the model will see it."
)
@click.option(
    "--decontaminate",
    metavar="FILE,…",
    help="Look all prompts up in these benchmarks, and name those that overlap.",
)
@click.option(
    "--benchmark-column",
    metavar="NAME",
    help="The benchmarks' prompts; without it prompt, problem, question and the like.",
)
@JSON
def command(
    job: Path,
    options: JobOptions,
    show_prompt: bool,
    decontaminate: str | None,
    benchmark_column: str | None,
    as_json: bool,
) -> None:
    """Look at everything that JOB names, without loading the model or writing anything.

    Reads the whole id column and renders the first prompts; says what `run` would do, or what is
    wrong.
    """
    from batchr1.export.options import file_names

    files = file_names(decontaminate, benchmark_column)
    found = examine(job, options, benchmarks=files, benchmark_column=benchmark_column)
    if as_json:
        echo_json(found.document)
        return
    echo(as_text(found.document))
    if beyond := {reason: n for reason, n in found.samples.bad.items() if reason not in found.bad}:
        shown = ", ".join(f"{count:,} {reason}" for reason, count in beyond.items())
        echo(f"note     of {found.samples.rows:,} rows of all files, some will fail: {shown}")
    if show_prompt and found.prompts:
        prompt = found.prompts[0]
        marked = ", special tokens in ⟦ ⟧" if prompt.token_ids else ""
        echo(f"first prompt{marked}:\n{found.renderer.show(prompt)}")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot become a prompt.

    `number` counts the input's rows from 0, within `where`.
    """

    number: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Examined:
    """A job that was looked at.

    `document` is what --json prints; `bad` counts unusable rows among the first ones.
    """

    document: dict[str, Any]
    renderer: Renderer
    samples: Samples
    prompts: list[Prompt]
    bad: dict[str, int]


def examine(
    job: Path,
    options: JobOptions,
    *,
    benchmarks: Sequence[str] = (),
    benchmark_column: str | None = None,
) -> Examined:
    """Look at everything that a job names.

    Prompts are looked up in `benchmarks`. Raises `UsageError` for what is wrong.
    """
    spec = options.read(job)
    from batchr1.backends.base import backend_of
    from batchr1.driver.context import RunOptions, open_job
    from batchr1.driver.feed.samples import check_samples
    from batchr1.driver.planning import make_renderer, plan_job
    from batchr1.driver.signals import stop_signals

    with named(job), stop_signals():
        run_options = RunOptions(gpus=options.gpus, devices=options.device_ids)
        context = open_job(spec, run_options)
        spec = context.spec
        context.output.refuse_foreign()
        context.output.storage.check_takes_files()
        renderer = make_renderer(context, run_options)
        counts = _count(context, renderer)
        samples = check_samples(context, renderer)
        plan = plan_job(context, renderer, run_options)
        server = None
        if backend_of(spec).is_server:
            server = _look_at_server(spec, context.model.location)
        prompts, bad_rows = _first_prompts(context, renderer)
        bad = Counter(row.reason for row in bad_rows)
        overlaps = None
        if benchmarks:
            from batchr1.export.inputs import input_overlaps

            overlaps = input_overlaps(context.source, benchmarks, benchmark_column)
    document = _document(context, counts, plan) | _prompt_figures(prompts, bad, plan)
    document["bad_examples"] = _bad_examples(context, bad_rows)
    document |= _prompting(context, renderer)
    if overlaps is not None:
        document["contamination"] = overlaps
    document["notes"] += _missing(spec)
    if counts.beside:
        document["notes"].append(beside(counts.beside))
    for name, readers in context.source.unread_kept.items():
        document["notes"].append(
            f"kept column {name!r}: {', '.join(readers)} cannot read its type as it is"
        )
    if server is not None:
        model = {name: document["model"][name] for name in ("name", "identity")}
        document |= {"server": server, "prompt_tokens": None, "model": model}
        if server["state"] == "reached" and not server["ready"]:
            document["notes"].append(
                "some servers answer to any name: rows of such a one are recorded as "
                f"{model['name']!r}, whatever model it has"
            )
        del document["engine_args"], document["too_long"]
    return Examined(document, renderer, samples, prompts, bad)


def _count(context: JobContext, renderer: Renderer) -> Counts:
    """Count samples by state.

    Raises what a run would refuse the output for.
    """
    from batchr1.driver.preflight import check_fingerprint
    from batchr1.driver.resume.changed_golds import check_golds
    from batchr1.driver.resume.changed_prompts import check_prompts, files_to_check
    from batchr1.driver.resume.pending_rows import read_ids, take_out_done, take_out_failed

    check_fingerprint(context)
    pending = read_ids(context)
    rejudges = context.spec.input.on_changed_gold == "rejudge"
    if not rejudges:
        check_golds(context, pending, run=None)
    take_out_done(context, pending)
    if context.spec.input.on_changed_prompt == "refuse":
        files = files_to_check(context, pending)
        if files:  # refuses, or does nothing
            check_prompts(context, pending, renderer, files, run="")
    if rejudges:
        check_golds(context, pending, run=None)
    take_out_failed(context, pending)
    return pending.counts()


def _first_prompts(context: JobContext, renderer: Renderer) -> tuple[list[Prompt], list[BadRow]]:
    """Render the first SAMPLE_ROWS rows, and list those that cannot be."""
    from batchr1.dataset.values import gathered
    from batchr1.driver.feed.items import render_batch
    from batchr1.records import Prompt

    prompts: list[Prompt] = []
    bad: list[BadRow] = []
    source = context.source
    seen = num_chars = 0
    batches = (batch for _, batch in source.batches(source.row_columns))
    for batch in gathered(batches, RENDER_ROWS):
        for start in range(0, min(batch.num_rows, SAMPLE_ROWS - seen), RENDER_ROWS):
            rows = batch.slice(start, min(RENDER_ROWS, SAMPLE_ROWS - seen))
            for number, prompt in enumerate(render_batch(source, renderer, rows), seen):
                if isinstance(prompt, Prompt):
                    prompts.append(replace(prompt, kept=None))  # it may be large
                    num_chars += len(prompt.text)
                else:
                    bad.append(BadRow(number, prompt.reason, prompt.message))
            seen += rows.num_rows
            if num_chars > SAMPLE_CHARS:
                return prompts, bad
        if seen >= SAMPLE_ROWS:
            break
    return prompts, bad


def _bad_examples(context: JobContext, bad: list[BadRow]) -> list[dict[str, Any]]:
    """Name the first bad row of each reason by file and row."""
    firsts = {row.reason: row for row in reversed(bad)}
    found = []
    for row in reversed(firsts.values()):
        place, _ = context.source.describe(row.number)
        found.append(
            {
                "reason": row.reason,
                "file": place.file,
                "row": place.row,
                "message": row.message,
            }
        )
    return found


def _document(context: JobContext, counts: Counts, plan: Plan) -> dict[str, Any]:
    """The job and its plan, as `check --json` prints them."""
    from batchr1.driver.feed.golds import gold_column
    from batchr1.driver.preflight import fetch_command, has_weights

    model, verify = context.model, {"kind": context.spec.verify.kind}
    if (column := gold_column(context)) is not None:
        verify |= {"chosen": column.kind, "why": column.why}
    return {
        "job": context.spec.name,
        "model": {
            "name": model.name,
            "identity": model.identity,
            "context_len": model.context_len,
            "fetch": None if has_weights(model) else fetch_command(model),
        },
        "device": plan.device,
        "replicas": plan.replicas,
        "engine_args": plan.engine_args,
        "counts": counts.to_dict(),
        "limit": context.spec.input.limit,
        "verify": verify,
        "output": context.output.uri,
    }


def _prompt_figures(prompts: list[Prompt], bad: dict[str, int], plan: Plan) -> dict[str, Any]:
    """Measure the first prompts in tokens, and count bad rows."""
    lengths = [len(prompt.token_ids) for prompt in prompts]
    tokens = None
    if lengths:
        tokens = {"min": min(lengths), "mean": statistics.fmean(lengths), "max": max(lengths)}
    return {
        "prompt_tokens": tokens,
        "sampled": len(prompts) + sum(bad.values()),
        "too_long": sum(length >= plan.max_model_len for length in lengths),
        "bad_rows": bad,
    }


def _prompting(context: JobContext, renderer: Renderer) -> dict[str, Any]:
    """List think tags, the prompts' day, recommended sampling, oddities."""
    from batchr1.models.recommended import recommended_sampling

    format, day = renderer.format, renderer.prompt_day
    tags = None
    if format is not None:
        tags = {"format": format.name, "open": format.open, "close": format.close}
    return {
        "think_tags": tags,
        "prompt_day": None if day is None else day.isoformat(),
        "recommended_sampling": recommended_sampling(context.model) or None,
        "notes": [*renderer.notes, *renderer.warnings],
    }


def _missing(spec: JobSpec) -> list[str]:
    """Name what a run needs and this machine lacks.

    A job may be checked on a laptop that has no vLLM. A server's key is another matter.
    """
    from batchr1.backends.base import backend_of
    from batchr1.errors import UsageError

    backend = backend_of(spec)
    if not backend.is_server:
        try:
            backend.require(spec)
        except UsageError as exc:
            return [str(exc)]
    return []


def _look_at_server(spec: JobSpec, model: str) -> dict[str, Any]:
    """Ask the server for its models.

    A server that is not there now may be there when the job runs.
    """
    import asyncio

    from batchr1.backends.base import backend_of
    from batchr1.engine.openai.client import ChatClient
    from batchr1.engine.openai.faults import AccessError, CertificateError, ServerFault
    from batchr1.engine.openai.server import access_problem, key_of
    from batchr1.errors import UsageError

    backend_of(spec).require(spec)
    server = spec.engine

    async def look() -> tuple[str, str, bool]:
        async with ChatClient(server, model, spec.sampling) as client:
            try:
                served = await client.models()
            except ServerFault as exc:
                return "not reached", str(exc), False
            except AccessError as exc:
                certificate = isinstance(exc, CertificateError)
                what = access_problem(server.key_env, str(exc), is_certificate=certificate)
                what = what or f"it lets nothing through ({exc}). See to that."
                raise UsageError(f"engine.base_url {server.base_url}: {what}") from exc
        if served.names is None:
            return "reached", "it gives no list of its models", True
        if model in served.names:
            return "reached", f"it serves {model}", True
        return "reached", f"its list has no {model!r}. {served.hint(model)}", False

    state, words, is_ready = asyncio.run(look())
    return {
        "base_url": server.base_url,
        "state": state,
        "says": words,
        "ready": is_ready,
        "key": server.key_env if key_of(server.key_env) else None,
        "concurrency": server.concurrency,
    }
