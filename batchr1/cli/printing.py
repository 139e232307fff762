"""Output of commands: a line of JSON, or text."""

from __future__ import annotations

import json

import click


def say(document: object, text: str, *, as_json: bool) -> None:
    """Print the document with --json, else the text."""
    if as_json:
        text = json.dumps(document)
    click.echo(text)
