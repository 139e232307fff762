"""`batchr1 export OUTPUT… DEST --to sft|raw`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchr1.cli.options import JSON
from batchr1.cli.printing import say

if TYPE_CHECKING:
    from batchr1.export.options import FileFormat


@click.command()
@click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
@click.argument("dest")
@click.option(
    "--to",
    "form",
    type=click.Choice(["sft", "raw"]),
    required=True,
    help=(
        "sft: chat messages of complete rows, to train on. raw: the output's own columns, every "
        "row."
    ),
)
@click.option(
    "--where",
    metavar="SQL",
    help='Only rows that pass, such as "level >= 4 AND reasoning_tokens < 8000".',
)
@click.option("--correct-only", is_flag=True, help="Only rows whose final answer is right.")
@click.option(
    "--verdicts",
    metavar="OUTPUT",
    help="Add the column verdict: a judge's final answers on these rows (jobs/judge.yaml).",
)
@click.option(
    "--verdict", metavar="TEXT", help="With --verdicts: only rows with this verdict, such as right."
)
@click.option(
    "--pass-rate",
    metavar="LOW..HIGH",
    help="Only prompts of whose samples such a share is right: 0.1..0.9.",
)
@click.option(
    "--agrees-with-majority",
    is_flag=True,
    help="Only rows whose final answer most samples of the prompt have.",
)
@click.option(
    "--drop-flag",
    "drop_flags",
    multiple=True,
    metavar="NAME",
    help="Not rows with this flag; repeatable.",
)
@click.option(
    "--max-tokens", type=int, metavar="N", help="Only rows of at most N completion tokens."
)
@click.option(
    "--dedupe",
    type=click.Choice(["exact", "none"]),
    help=(
        "exact: of rows with the same prompt, reasoning and answer, one. Default: exact for "
        "sft, "
        "none for raw."
    ),
)
@click.option(
    "--decontaminate",
    metavar="FILE,…",
    help=(
        "Not prompts that overlap with a prompt of these benchmarks: Parquet, .jsonl, .csv. "
        "DEST/contamination.jsonl names each."
    ),
)
@click.option(
    "--benchmark-column",
    metavar="NAME",
    help="The benchmarks' prompts; without it prompt, problem, question and the like.",
)
@click.option(
    "--contaminated",
    type=click.Choice(["drop", "mark"]),
    help="drop: leave them out (the default). mark: keep them, named in contaminated_by.",
)
@click.option(
    "--near-duplicates",
    type=click.Choice(["drop", "mark"]),
    help=(
        "Of prompts that nearly equal each other (MinHash, 80 %), drop all but the first, or mark "
        "them in near_duplicate_of."
    ),
)
@click.option(
    "--per-prompt",
    type=int,
    metavar="K",
    help="At most K rows of a prompt: the first samples that pass.",
)
@click.option(
    "--reasoning",
    type=click.Choice(["apart", "inline"]),
    help=(
        "In sft: apart, as reasoning_content (the default), or inline, in think tags before the "
        "answer."
    ),
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet", "jsonl"]),
    default="parquet",
    show_default=True,
)
@click.option(
    "--test-share",
    type=float,
    default=0.0,
    metavar="X",
    help="This share of the prompts goes to a test split, by a hash of their text; 0.02 is 2 %.",
)
@click.option(
    "--labels",
    is_flag=True,
    help="Add the columns majority_answer, majority_share and pass_rate of each prompt.",
)
@click.option(
    "--push",
    metavar="ORG/NAME",
    help="Push it to this data set on the hub too, in one commit; private if it is new.",
)
@click.option("--public", is_flag=True, help="With --push: the data set is public.")
@click.option("--tag", metavar="NAME", help="With --push: tag the commit.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export; never anything else.")
@JSON
def command(
    outputs: tuple[str, ...],
    dest: str,
    file_format: FileFormat,
    decontaminate: str | None,
    benchmark_column: str | None,
    pass_rate: str | None,
    push: str | None,
    public: bool,
    tag: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Write rows of outputs to the folder DEST as a data set with a card: to train on, to
    publish, to load anywhere.

    Several outputs, or a glob of their folders, become one data set. Of rows with the same model,
    id and sample the one that finished last is taken; columns that an output lacks are null.

    DEST appears whole or not at all (on S3: with its card last). With --to sft, rows whose think
    block was not closed, that have no answer or were cut are left out. Filters apply in the order
    of this list; the card counts them.
    """
    from batchr1.export.export import export_outputs
    from batchr1.export.options import ExportOptions, file_names, rate_range
    from batchr1.export.push import push_options
    from batchr1.output.find import find_outputs
    from batchr1.storage.base import open_storage

    options = ExportOptions(
        format=file_format,
        decontaminate=file_names(decontaminate, benchmark_column),
        benchmark_column=benchmark_column,
        pass_rate=rate_range(pass_rate),
        push=push_options(push, public=public, tag=tag),
        **given,
    )
    summary = export_outputs(find_outputs(outputs), open_storage(dest), options)
    say(summary, as_text(summary), as_json=as_json)


def as_text(s: dict[str, Any]) -> str:
    """Format the text that `export` prints."""
    lines = []
    if len(s["outputs"]) > 1:
        lines += [f"  {one['rows']:>9,} {one['output']}{_state(one)}" for one in s["outputs"]]
        lines.append(f"  {s['rows_in']:>9,} rows in {len(s['outputs'])} outputs")
    else:
        lines.append(f"  {s['rows_in']:>9,} rows in the output")
    lines += [f"  {step['rows']:>9,} {step['name']}: {step['keeps']}" for step in s["steps"]]
    for name, split in s["splits"].items():
        counts = (
            f"{split['rows']:,} rows, {split['prompts']:,} prompts, "
            f"{split['completion_tokens']:,} tokens"
        )
        lines.append(f"{name:<6} {counts}")
    lines += _notes(s)
    return "\n".join(
        [f"{s['dest']}: {s['rows']:,} rows, {s['format']}, {s['bytes'] / 1e6:.1f} MB", *lines]
    )


def _state(output: dict[str, Any]) -> str:
    """Say in brackets what an output lacks."""
    if output["complete"]:
        return ""
    if output["failed"]:
        return f" ({output['failed']:,} failed)"
    return " (not complete)"


def _notes(s: dict[str, Any]) -> list[str]:
    """List notes on the counts."""
    lines = []
    if found := s["contamination"]:
        note = "no prompt overlaps with the benchmarks"
        if found["hits"]:
            note = (
                f"{found['prompts']:,} prompts overlap with the benchmarks ({found['hits']:,} "
                f"hits): {found['report']} names them"
            )
        lines.append(f"note   {note}")
    if s["near_duplicates"] is not None:
        lines.append(f"note   {s['near_duplicates'] or 'no'} prompts are near duplicates of others")
    if s["other_prompts"]:
        lines.append(
            f"note   {s['other_prompts']:,} rows left out had another prompt than the row with "
            "their id that stays: if the inputs have nothing in common, export them apart"
        )
    if found := s["verdicts"]:
        counts = ", ".join(f"{count:,} {name}" for name, count in found["counts"].items())
        without = f"; {found['without']:,} without" if found["without"] else ""
        lines.append(f"note   {found['rows']:,} verdicts by {found['model']}: {counts}{without}")
    if s["test_share"] and "test" not in s["splits"]:
        lines.append(f"note   no prompt falls into a test split of {s['test_share']:g}")
    if found := s["push"]:
        kind = "private" if found["private"] else "public"
        tag = f", tag {found['tag']}" if found["tag"] else ""
        lines.append(f"pushed {found['url']} ({kind}), commit {found['commit'][:12]}{tag}")
    if s["incomplete"]:
        which = "the output is"
        if len(s["outputs"]) > 1:
            which = f"{sum(not one['complete'] for one in s['outputs'])} outputs are"
        lines.append(f"note   {which} {s['incomplete']}: what is done was exported")
    return lines
