"""`batchr1 export`, without the command line: select, shape, split, describe, publish."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from batchr1.errors import BatchError, UsageError
from batchr1.export.card import card
from batchr1.export.columns import common_schema, with_columns
from batchr1.export.decontaminate import REPORT, write_report
from batchr1.export.options import ExportOptions
from batchr1.export.publish import CARD, Destination
from batchr1.export.push import Push
from batchr1.export.rows import RowWriter, json_features, sft_columns, sft_table
from batchr1.export.select import SPLITS, Selection, select
from batchr1.output.find import no_output
from batchr1.output.folder import Output
from batchr1.reasoning.formats import Format
from batchr1.storage.base import Storage
from batchr1.version import __version__

MAX_FILE_BYTES = 400 * 2**20  # the hub advises against Parquet files of more than 500 MB


def export_outputs(
    outputs: Sequence[Output], dest: Storage, options: ExportOptions
) -> dict[str, Any]:
    """Export outputs to `dest`. Returns the numbers that `export --json` prints.

    Raises `UsageError` where that cannot be, before anything is written.
    """
    found = {output.uri: _job_of(output) for output in outputs}
    jobs = {uri: job for uri, job in found.items() if job}  # none where no engine came up
    destination = Destination(dest, overwrite=options.overwrite)
    for output in outputs:
        destination.check(output.uri)
    push = None
    if options.push is not None:
        push = Push(options.push, overwrite=options.overwrite)
        push.check()
    formats = {uri: Format.of_record(job.get("format")) for uri, job in jobs.items()}
    _refuse_mixed_tags(formats, options)
    selection = select(outputs, options)
    common = common_schema(selection.parts) if len(outputs) > 1 else None
    summary = _summary(outputs, dest, options, selection)
    with destination.staging() as folder:
        schema = _write_rows(options, selection, folder / "data", (common, formats))
        summary["digest"] = _name_by_content(folder / "data")
        features = json_features(schema) if options.format == "jsonl" else None
        text = card(summary, list(jobs.values()), features=features)
        (folder / CARD).write_text(text, encoding="utf-8")
        if selection.hits is not None:
            write_report(folder / REPORT, selection.hits)
        summary["bytes"] = sum(path.stat().st_size for path in (folder / "data").iterdir())
        if push is not None and dest.kind != "local":  # where publishing moves the files away
            summary["push"] = push.send(folder)
        destination.publish(folder, {"batchr1": __version__, "export": summary})
        if push is not None and dest.kind == "local":
            summary["push"] = _send(push, dest)
    return summary


def _job_of(output: Output) -> dict[str, Any]:
    job = output.job()
    if job is None and (output.parts() or not output.was_tried()):
        raise no_output(output.uri)
    return job or {}


def _refuse_mixed_tags(formats: dict[str, Format], options: ExportOptions) -> None:
    """Raise `UsageError` where one file would hold two kinds of think tags."""
    for first, uri in itertools.pairwise(formats):
        if options.is_inline and formats[uri] != formats[first]:
            raise UsageError(
                f"--reasoning inline: the think tags of {uri} are others than those of {first} "
                f"(got {formats[uri].open}, need {formats[first].open}). Leave it out, or export "
                "them apart."
            )


def _send(push: Push, dest: Storage) -> dict[str, Any]:
    """Push what was published. Raises `UsageError` or `HubError`."""
    try:
        return push.send(Path(dest.uri))
    except BatchError as error:
        hint = f"{dest.uri} is written: add --overwrite."
        raise type(error)(f"{error} {hint}") from error


def _summary(
    outputs: Sequence[Output], dest: Storage, options: ExportOptions, selection: Selection
) -> dict[str, Any]:
    rows = selection.rows
    splits = {}
    for name in SPLITS:
        mine = rows.filter(pl.col("is_test") == (name == "test"))
        if mine.height:
            splits[name] = _count(mine)
    started = [run.started[:10] for output in outputs for run in output.runs()]
    each = [
        {
            "output": output.uri,
            "rows": given,
            "complete": output.is_complete(),
            "failed": _only_failed(output, given),
        }
        for output, given in zip(outputs, selection.given, strict=True)
    ]
    return {
        "output": outputs[0].uri if len(outputs) == 1 else None,
        "outputs": each,
        "dest": dest.uri,
        "batchr1": __version__,
        "form": options.form,
        "format": options.format,
        "reasoning": options.layout,
        "test_share": options.test_share,
        "rows_in": selection.total,
        "other_prompts": selection.renamed,
        "steps": [
            {"name": step.name, "keeps": step.keeps, "rows": step.rows} for step in selection.steps
        ],
        "contamination": _contamination(selection, options),
        "near_duplicates": _near_duplicates(selection),
        "verdicts": selection.verdicts,
        "push": None,
        **_count(rows),
        "splits": splits,
        "incomplete": _incomplete(each),
        "generated": " to ".join(dict.fromkeys([min(started), max(started)])) if started else None,
        "exported": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _only_failed(output: Output, rows: int) -> int | None:
    """Count failed samples of an output where nothing else is wanting.

    By its last run. None where some are pending, or a part is gone since.
    """
    last = next(iter(reversed(output.runs())), None)
    if last is None or last.counts is None:
        return None
    if last.counts.pending or rows < last.counts.done:
        return None
    return last.counts.failed


def _incomplete(outputs: Sequence[dict[str, Any]]) -> str | None:
    """Say what the outputs lack; None where all are complete."""
    partial = [one["failed"] for one in outputs if not one["complete"]]
    if not partial:
        return None
    if all(partial):
        failed = sum(partial)
        return f"complete but for {failed:,} failed sample{'s' * (failed > 1)}"
    return "not complete"


def _contamination(selection: Selection, options: ExportOptions) -> dict[str, Any] | None:
    """Count hits of benchmarks."""
    if selection.hits is None:
        return None
    return {
        "benchmarks": [
            {"file": b.uri, "column": b.column, "prompts": b.texts.len()}
            for b in selection.benchmarks
        ],
        "hits": selection.hits.height,
        "prompts": selection.hits["prompt_key"].n_unique(),
        "rows": options.contaminated or "drop",
        "report": REPORT,
    }


def _near_duplicates(selection: Selection) -> int | None:
    """Count the prompts that are marked."""
    rows = selection.rows
    if "near_duplicate_of" not in rows.columns:
        return None
    return rows.filter(pl.col("near_duplicate_of").is_not_null())["prompt_key"].n_unique()


def _name_by_content(folder: Path) -> str:
    """Put a digest of all files into each name, and return it.

    `datasets` keeps what it read under the names of files: another export of the same folder would
    be taken for the first.
    """
    files = sorted(folder.iterdir())
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    digest = whole.hexdigest()[:12]
    for path in files:
        split, _, rest = path.name.partition("-")
        path.rename(folder / f"{split}-{digest}-{rest}")
    return digest


def _plain(labels: pl.Series) -> pa.Array:
    """Give labels in the types of an output's columns."""
    found = labels.to_arrow()
    return found.cast(pa.string() if labels.dtype == pl.String else pa.float64())


def _count(rows: pl.DataFrame) -> dict[str, int]:
    return {
        "rows": rows.height,
        "prompts": rows["prompt_key"].n_unique(),
        "completion_tokens": int(rows["completion_tokens"].cast(pl.Int64).sum()),
    }


def _write_rows(
    options: ExportOptions,
    selection: Selection,
    folder: Path,
    shape: tuple[pa.Schema | None, dict[str, Format]],
) -> pa.Schema:
    """Write the selected rows in the order of the parts.

    `shape`: the columns of all outputs, where there are several, and their think tags by URI.
    Returns the schema that was written.
    """
    common, formats = shape
    folder.mkdir()
    writers: dict[str, RowWriter] = {}
    numbers = dict.fromkeys(SPLITS, 0)
    schema = pa.schema([])
    try:
        for output, rel, wanted in selection.by_part():
            table = _read(output, rel, options, common)
            for split, rows in wanted.items():
                taken = table.take(rows["row"].to_arrow())
                if split not in writers:
                    path = folder / f"{split}-{numbers[split]:05d}.{options.format}"
                    writers[split] = RowWriter(path, options.format)
                    numbers[split] += 1
                shaped = taken
                if options.form == "sft":
                    tags = formats[output.uri]
                    shaped = sft_table(taken, inline=options.is_inline, format=tags)
                for name in options.added:
                    shaped = shaped.append_column(name, _plain(rows[name]))
                writers[split].write(shaped)
                schema = shaped.schema
                if writers[split].size() >= MAX_FILE_BYTES:
                    writers.pop(split).close()
    finally:
        for writer in writers.values():
            writer.close()
    return schema


def _read(output: Output, rel: str, options: ExportOptions, common: pa.Schema | None) -> pa.Table:
    """Read a part in the columns of its form, and of `common`."""
    have = list(output.part_columns(rel))
    columns = sft_columns(have) if options.form == "sft" else None
    table = output.read_part(rel, columns)
    if common is None:
        return table
    names = sft_columns(common.names) if options.form == "sft" else common.names
    return with_columns(table, pa.schema([common.field(name) for name in names]))
