"""`batchr1 schema job|output|run|log`"""

from __future__ import annotations

import json
from typing import Any

import click

from batchr1.cli.printing import echo


@click.command()
@click.argument("what", type=click.Choice(["job", "output", "run", "log"]))
def command(what: str) -> None:
    """Print the JSON schema of job files, run records or log lines, or the columns of outputs."""
    echo(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


def schema_of(what: str) -> dict[str, object]:
    """Build `schemas/<what>.schema.json`."""
    if what == "job":
        from batchr1.job.spec import JobSpec

        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **_unwrapped(JobSpec.model_json_schema()),
        }
    if what == "run":
        from batchr1.output import run_record

        return run_record.schema_document()
    if what == "log":
        from batchr1 import events

        return events.schema_document()
    from batchr1.columns import schema_document

    return schema_document()


def _unwrapped(node: Any) -> Any:
    """Put each description on one line, whatever the code's wrapping."""
    if isinstance(node, list):
        return [_unwrapped(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _unwrapped(value) for key, value in node.items()}
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    return found
