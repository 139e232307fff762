"""Output of commands: a line of JSON, or text."""

from __future__ import annotations

import json
import textwrap

import click

from batchr1.events import printable

WIDTH = 80


def say(document: object, text: str, *, as_json: bool) -> None:
    """Print the document with --json, else the text."""
    if as_json:
        echo_json(document)
    else:
        echo(text)


def echo_json(document: object) -> None:
    """Print a document as one line of JSON.

    Text in all scripts stays as it is.
    """
    echo(json.dumps(document, ensure_ascii=False, default=str))


def echo(text: str, *, err: bool = False) -> None:
    """Print lines; control characters of other kinds are escaped.

    Raises `OSError` that names the stream, where it takes nothing.
    """
    try:
        click.echo(printable(text, keep="\n\t"), err=err)
    except OSError as exc:
        name = "stderr" if err else "stdout"
        raise OSError(exc.errno, exc.strerror, name) from exc


def beside(samples: int) -> str:
    """Say that an output holds more than its input asks for."""
    what = "samples" if samples != 1 else "sample"
    return (
        f"beside: {samples:,} {what} in the output that this input does not ask for (other rows, "
        f"where, limit, n or exclude)"
    )


def wrapped(label: str, text: str) -> str:
    """Put a text behind its label, wrapped at 80 characters.

    Further lines are indented by the label. A word is never broken.
    """
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or label.rstrip()
