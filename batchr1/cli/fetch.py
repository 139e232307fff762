"""`batchr1 fetch MODEL`"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchr1.cli.options import JSON, duration

if TYPE_CHECKING:
    from batchr1.models.fetch import Fetched


@click.command()
@click.argument("model")
@click.option("--to", metavar="DIR", help="Into this folder, for model.path, instead of the hub's cache.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit; the main branch without it.")
@click.option("--verify", is_flag=True, help="Read again what is here already, and fetch anew what is damaged.")
@click.option("--stall", metavar="30s", help="Try again when no byte came for so long; 30s.")
@click.option("--tries", type=click.IntRange(1), metavar="N", help="Give up after so many in a row without a byte; 8.")
@JSON
def command(
    model: str,
    to: str | None,
    revision: str | None,
    verify: bool,
    stall: str | None,
    tries: int | None,
    as_json: bool,
) -> None:
    """Fetch the weights of MODEL, a variant or a repository of the hub, before a run wants them.

    Goes on where an earlier fetch ended, verifies checksums, and says which commit it is.
    """
    from batchr1.models.fetch import PATIENCE, Patience, fetch
    from batchr1.sizing.catalogue import repository_named

    repo = repository_named(model)
    patience = Patience(duration(stall, "--stall") or PATIENCE.stall_s, tries or PATIENCE.tries)
    folder = Path(to).expanduser().absolute() if to is not None else None
    fetched = fetch(repo, revision, to=folder, verify=verify, patience=patience)
    click.echo(json.dumps({"model": model} | fetched.document()) if as_json else as_text(model, fetched, to=folder))


def as_text(model: str, fetched: Fetched, *, to: Path | None) -> str:
    """What is here, and how a job names it."""
    from batchr1.models.files import size_text

    how = "here already" if not fetched.fetched else f"{size_text(fetched.fetched)} fetched in {fetched.seconds:,.0f} s"
    how += ", all checksums computed" if fetched.verified else ""
    how += ", the hub was not asked (HF_HUB_OFFLINE)" if fetched.offline else ""
    key = "repo" if "/" in model else "variant"
    name = f"path: {fetched.folder}" if to is not None else f"{key}: {model}, revision: {fetched.commit}"
    return "\n".join(
        [
            f"{fetched.repo} at {fetched.commit}: {fetched.num_files} files, {size_text(fetched.size)}, {how}",
            f"folder: {shlex.quote(str(fetched.folder))}",
            f"job:    model: {{{name}}}",
        ]
    )
