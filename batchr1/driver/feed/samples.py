"""Real rows of every input file, tried before a model loads.

They are rendered, written and read back.

What would end a run when its first part is written ends it here, in seconds.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.dataset.values import gathered, python_values
from batchr1.driver.context import JobContext
from batchr1.driver.feed.items import RENDER_ROWS, render_batch
from batchr1.errors import InputError
from batchr1.output.parts import write_parquet
from batchr1.storage.errors import mapped

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.dataset.source import Source

log = logging.getLogger("batchr1.run")

ROWS_OF_A_PLACE = 2
"""Rows of each place of a file that is looked at."""
RUN_FILES = 16
"""Files that a run looks at, evenly spread; `check` looks at all."""
WRITE_BYTES = 2**26
"""Kept values that are written at a time."""


@dataclass(slots=True)
class Samples:
    """Rows that were looked at; `bad` counts unusable ones by reason."""

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)


def check_samples(
    job: JobContext, renderer: Renderer | None, *, files: int | None = None
) -> Samples:
    """Render, write and read back some rows of every file.

    `files`: of so many files only.

    Raises `InputError` for a file that cannot be read, and for a kept column that does not come
    back as it went in. A row that cannot become a prompt counts: it would fail alone.
    """
    source, found = job.source, Samples()
    with tempfile.TemporaryDirectory(prefix="batchr1-") as folder:
        for uri, batches in _pieces(source.samples(ROWS_OF_A_PLACE, files=files)):
            if len(source.kept_schema):
                kept = [source.kept(_without_bad_texts(source, batch)) for batch in batches]
                _write_and_read(kept, source.kept_schema, Path(folder), uri)
            for batch in gathered(batches, RENDER_ROWS):
                found.rows += batch.num_rows
                if renderer is None:
                    continue
                for prompt in render_batch(source, renderer, batch):
                    reason = getattr(prompt, "reason", None)
                    found.bad.update([] if reason is None else [reason])
    return found


def _pieces(
    batches: Iterator[tuple[str, pa.RecordBatch]],
) -> Iterator[tuple[str, list[pa.RecordBatch]]]:
    """Gather batches, so that no file is written for each.

    Each piece comes with its first file.
    """
    piece: list[pa.RecordBatch] = []
    first, size = "", 0
    for uri, batch in batches:
        first = first if piece else uri
        piece.append(batch)
        size += batch.nbytes
        if size >= WRITE_BYTES or len(piece) >= 1000:
            yield first, piece
            piece, size = [], 0
    if piece:
        yield first, piece


def _without_bad_texts(source: Source, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that do not fail alone."""
    bad = source.bad_texts(batch)
    if not bad:
        return batch
    return batch.take(
        pa.array([row for row in range(batch.num_rows) if row not in bad], pa.int64())
    )


def _write_and_read(kept: list[pa.RecordBatch], schema: pa.Schema, folder: Path, uri: str) -> None:
    """Raise `InputError` for a column that comes back changed."""
    table = pa.Table.from_batches(kept, schema=schema)
    path = folder / "sample.parquet"
    for name in table.column_names:
        column = table.select([name])
        try:
            with mapped(str(path)):
                write_parquet(column, path)
                back = pq.read_table(path).column(name).cast(schema.field(name).type)
            is_same = back.equals(column.column(name)) or repr(python_values(back)) == repr(
                python_values(column.column(name))
            )
            why = "other values came back"
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as exc:
            is_same, why = False, str(exc).partition("\n")[0].rstrip(".")
        if not is_same:
            raise InputError(
                f"{uri}: output.keep: column {name!r} cannot be written as Parquet ({why}; got "
                f"{schema.field(name).type}). Convert it, or do not keep it."
            )
