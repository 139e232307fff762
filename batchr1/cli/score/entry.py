"""`batchr1 score JOB|OUTPUT`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchr1.cli.options import JSON, JobOptions
from batchr1.cli.printing import echo, say
from batchr1.cli.score.words import document_of, progress_lines, text_of

if TYPE_CHECKING:
    from batchr1.storage.uri import StorageOptions


@click.command()
@click.argument("source", metavar="JOB|OUTPUT|FILES")
@click.option("--to", "dest", metavar="FOLDER", help="Folder of the scores; SOURCE-scores without.")
@click.option(
    "--model",
    metavar="NAME",
    help="Score with this variant, folder or repository; without it, the model that generated.",
)
@click.option(
    "--top-k",
    type=int,
    default=20,
    show_default=True,
    metavar="K",
    help="Keep the K likeliest tokens at each place, 0 to 128.",
)
@click.option("--prompt", metavar="COLUMN", help="Score data files: the column of user turns.")
@click.option("--completion", metavar="COLUMN", help="Score data files: their column of answers.")
@click.option("--id", "id_column", metavar="COLUMN", help="Their column of ids; id without it.")
@click.option("--sample", metavar="COLUMN", help="Their column of sample numbers; none without it.")
@click.option("--gpus", metavar="N|all|none", help="How many GPUs to use; all without it.")
@click.option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Pass this to vLLM; repeatable.",
)
@click.option(
    "--part-mib",
    type=float,
    default=256,
    show_default=True,
    metavar="MIB",
    help="Size of a part before compression, at most.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would take, and do nothing.")
@JSON
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    dest: str | None,
    model: str | None,
    top_k: int,
    prompt: str | None,
    completion: str | None,
    id_column: str | None,
    sample: str | None,
    gpus: str | None,
    engine_args: tuple[str, ...],
    part_mib: float,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Score rows that exist: log-probabilities of each token, and of the top k beside it.

    One prefill a row, raw: before temperature and top-p. May be killed and run again.
    """
    from batchr1.dataset.without_torch import keep_torch
    from batchr1.driver.signals import stop_signals
    from batchr1.scoring.score import plan_only, score
    from batchr1.scoring.target import Wish, columns_of, engine_argument

    columns = columns_of(prompt, completion, id_column, sample)
    place, options = _place(source, is_data=columns is not None)
    wish = Wish(
        source=place,
        dest=dest or f"{place.rstrip('/')}-scores",
        model=model,
        top_k=top_k,
        columns=columns,
        engine_args=dict(map(engine_argument, engine_args)),
        part_bytes=int(part_mib * 2**20),
        gpus=gpus,
        storage=options,
    )
    keep_torch()
    with stop_signals(quiet=as_json) as signals:
        if only_plan:
            target, plan = plan_only(wish)
            text = "\n".join(plan.lines(target.model.name, wish.top_k))
            say(plan.to_dict(), text, as_json=as_json)
            return

        def stopped() -> str | None:
            signals.is_polled = True
            return signals.reason

        found = score(wish, say=_say_lines, progress=progress_lines(quiet=as_json), stopped=stopped)
    say(document_of(found), text_of(found), as_json=as_json)
    ctx.exit(found.exit_code)


def _place(source: str, *, is_data: bool) -> tuple[str, StorageOptions | None]:
    """Find what SOURCE names: itself, or the output of a job file."""
    if is_data or not source.endswith((".yaml", ".yml")):
        return source, None
    spec = JobOptions().read(Path(source))
    return spec.output.path, spec.storage.options


def _say_lines(lines: list[str]) -> None:
    echo("\n".join(lines), err=True)
