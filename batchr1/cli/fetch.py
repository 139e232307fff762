"""`batchr1 fetch MODEL`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchr1.cli.options import JSON, duration
from batchr1.cli.printing import say
from batchr1.errors import UsageError

if TYPE_CHECKING:
    from batchr1.models.fetch import Fetched


@click.command()
@click.argument("model")
@click.option(
    "--to", metavar="DIR", help="A folder or s3://… for model.path, instead of the hub's cache."
)
@click.option(
    "--revision", metavar="REV", help="A branch, tag or commit; the main branch without it."
)
@click.option(
    "--verify",
    is_flag=True,
    help="Read again what is here already, and fetch anew what is damaged.",
)
@click.option("--stall", metavar="30s", help="Try again when no byte came for so long; 30s.")
@click.option(
    "--tries",
    type=click.IntRange(1),
    metavar="N",
    help="Give up after so many in a row without a byte; 8.",
)
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
    """Fetch the weights of MODEL before a run wants them: a variant, a repository of the hub, or
    s3://….

    Goes on where an earlier fetch ended, verifies checksums, and says which commit it is.
    """
    from batchr1.models.bucket import is_bucket
    from batchr1.models.catalogue import repository_named
    from batchr1.models.fetch import PATIENCE, Patience, fetch, fetch_bucket

    if is_bucket(model):
        if to is not None or revision is not None or verify:
            raise UsageError(
                f"model {model}: --to, --revision and --verify are for the hub's. Leave them out."
            )
        fetched = fetch_bucket(model)
    else:
        repo = repository_named(model)
        patience = Patience(duration(stall, "--stall") or PATIENCE.stall_s, tries or PATIENCE.tries)
        fetched = fetch(repo, revision, to=to, verify=verify, patience=patience)
    in_path = None
    if is_bucket(model):
        in_path = model
    elif to is not None:
        in_path = fetched.folder
    document = {"model": model} | fetched.to_dict()
    say(document, as_text(model, fetched, in_path), as_json=as_json)


def as_text(model: str, fetched: Fetched, in_path: str | None) -> str:
    """Format where the model lies, and how a job names it."""
    from batchr1.models.files import size_text

    how = "here already"
    if fetched.fetched:
        how = f"{size_text(fetched.fetched)} fetched in {fetched.seconds:,.0f} s"
    if fetched.verified:
        how += ", all checksums computed"
    if fetched.offline:
        how += ", the hub was not asked (HF_HUB_OFFLINE)"
    if fetched.copied is not None:
        how += f", {size_text(fetched.copied)} copied to the bucket"
    name = f"variant: {model}, revision: {fetched.commit}"
    if in_path is not None:
        name = f"path: {in_path}"
    elif "/" in model:
        name = f"repo: {model}, revision: {fetched.commit}"
    return "\n".join(
        [
            (
                f"{fetched.repo} at {fetched.commit}: {fetched.num_files} files, "
                f"{size_text(fetched.size)}, {how}"
            ),
            f"folder: {fetched.folder}",
            f"job:    model: {{{name}}}",
        ]
    )
