"""`batchr1 init DATA`"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchr1.cli.printing import echo, wrapped
from batchr1.errors import InputError, UsageError
from batchr1.events import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from batchr1.dataset.guess import Guess

LOOKED_AT = 1000
"""Rows of the first file that a guess rests on."""
FILLED_IN = re.compile(r"\{\{|\$\{")
TEMPLATE = """\
# Made by `batchr1 init`. Next: batchr1 check {file} --show-prompt
# All keys, with their defaults: `batchr1 schema job`.
# Relative paths start at this file's folder, wherever batchr1 is called.
name: {quoted_name}
model:
  variant: {variant}  # `batchr1 variants` lists them; or path: FOLDER, or repo: NAME on the hub
input:
  path: {data}
{input}output:
  path: out/{name}
  keep: [{keep}]  # columns of yours to carry along
prompting:
  instruction: {instruction}  # math: "Please reason step by step, …"; none; or a text of your own
sampling: {{n: 1, temperature: 0.6, top_p: 0.95, max_tokens: {max_tokens}}}  # DeepSeek's advice
"""


@click.command()
@click.argument("data")
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FILE", help="The job file; NAME.yaml."
)
@click.option(
    "--variant", default="r1-tiny", metavar="NAME", help="The model variant; r1-tiny without it."
)
def command(data: str, to: Path | None, variant: str) -> None:
    """Write a job file for DATA: a file of Parquet, .jsonl or .csv, a folder or a glob.

    Its columns are guessed from their names, types and first rows. Each guess is printed: look at
    them before you run the job.
    """
    from batchr1.dataset.guess import guess_columns
    from batchr1.job import load_job
    from batchr1.models.catalogue import variant as variant_of
    from batchr1.storage.errors import mapped

    if FILLED_IN.search(str(Path(data).absolute())):
        raise UsageError(
            f"{data}: {{{{ and ${{ are filled in where a job names a path. Rename the data."
        )
    max_tokens = variant_of(variant).generation_len
    name = job_name(data)
    path = to or Path(f"{name}.yaml")
    if path.exists():
        raise UsageError(f"{path}: is there already. Name another file with --to, or delete it.")
    rows = first_rows(data)
    guess = guess_columns(rows)
    if guess.prompt is None and guess.messages is None:
        raise InputError(
            f"{data}: no column will do as a prompt (the file has: "
            f"{', '.join(rows.column_names)}). A prompt is a column of text or of chat messages."
        )
    text = job_text(guess, name=name, file=path, data=data, variant=variant, max_tokens=max_tokens)
    with mapped(str(path), lasting=UsageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    load_job(path)
    for line in told(guess, rows):
        echo(line)
    echo(f"{path}: written\nnext: batchr1 check {path} --show-prompt")


def job_name(data: str) -> str:
    """Name a job after its data."""
    stem = Path(data.rstrip("/")).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "job"


def first_rows(data: str) -> pa.Table:
    """Read some rows of the first file.

    With all its columns but those whose name stands twice: nobody could choose one.
    """
    import pyarrow as pa

    from batchr1.dataset.readers import open_file
    from batchr1.storage.inputs import expand_inputs

    file = open_file(expand_inputs(data)[0], None)
    names = [name for name, count in Counter(file.schema.names).items() if count == 1]
    batch = next((batch for _, batch in file.read(names) if batch.num_rows), None)
    if batch is None:
        raise InputError(f"{file.uri}: no rows to guess columns from. Give a file with some.")
    return pa.Table.from_batches([batch.slice(0, LOOKED_AT)])


def job_text(
    guess: Guess, *, name: str, file: Path, data: str, variant: str, max_tokens: int
) -> str:
    """Write the job, with a line for each column that was found."""
    lines: list[str] = []
    if isinstance(guess.id, list):
        lines.append(f"id: [{', '.join(map(_quoted, guess.id))}]")
    elif guess.id is not None:
        lines.append(f"id: {_quoted(guess.id)}")
    else:
        column = "COLUMN" if guess.unique is None else _quoted(guess.unique)
        lines.append(f"# id: {column}  # unique; without it, a hash of the prompt")
    if guess.prompt is not None:
        lines.append(f'prompt: {_quoted(guess.prompt)}  # or template: "{{column}} …"')
    if guess.messages is not None:
        lines.append(f"messages: {_quoted(guess.messages)}")
    if guess.gold is not None:
        lines.append(f"gold: {_quoted(guess.gold)}  # the right answer: rows are judged by it")
    else:
        lines.append("# gold: COLUMN  # the right answer, if you have it")
    place = data
    if "://" not in data:
        place = os.path.relpath(data, file.resolve().parent)  # as a job file is read
    return TEMPLATE.format(
        file=file,
        name=name,
        quoted_name=_quoted(name),
        variant=_quoted(variant),
        data=_quoted(place),
        input="".join(f"  {line}\n" for line in lines),
        keep=", ".join(map(_quoted, guess.keep)),
        instruction="math" if guess.gold is not None else "none",
        max_tokens=max_tokens,
    )


def told(guess: Guess, rows: pa.Table) -> list[str]:
    """Say what each guess is, and which columns are not used."""
    ids = [guess.id] if isinstance(guess.id, str) else guess.id or []
    lines = [_example("id", name, rows) for name in ids] or [_line("id", _no_id(guess))]
    if guess.prompt is not None:
        lines.append(_example("prompt", guess.prompt, rows))
    if guess.messages is not None:
        lines.append(_example("messages", guess.messages, rows))
    if guess.gold is not None:
        lines.append(_example("gold", guess.gold, rows))
    else:
        lines.append(_line("gold", "none found: no answer is judged right or wrong"))
        lines.append(_line("instruction", "none: prompts are put to the model as they are"))
    if guess.keep:
        lines.append(_line("keep", ", ".join(guess.keep)))
    used = {*ids, guess.prompt, guess.messages, guess.gold, *guess.keep}
    if unused := [name for name in rows.column_names if name not in used]:
        lines.append(_line("not used", ", ".join(unused)))
    return lines


def _no_id(guess: Guess) -> str:
    """Say what stands for an id that was not found."""
    instead = "a hash of the prompt stands for it, and equal prompts are one row"
    found = "none found"
    if guess.unfit_id is not None:
        found = f"none: {guess.unfit_id} has a value twice, or a null"
    offer = ""
    if guess.unique is not None:
        offer = f". Or write `id: {_quoted(guess.unique)}`: no value of it stood twice"
    return f"{found}; {instead}{offer}"


def _example(use: str, column: str, rows: pa.Table) -> str:
    from batchr1.dataset.values import python_values

    [value] = python_values(rows[column].slice(0, 1))
    text = str(value).replace("\n", " ")[:50]
    return printable(f"{use:8} {column}: {text}")


def _line(use: str, text: str) -> str:
    return wrapped(f"{use:8} ", text)


def _quoted(text: str) -> str:
    """Write a YAML scalar, quoted where it needs it."""
    import yaml

    written: str = yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=10**6)
    return written.strip()[1:-1]
