"""Earlier outputs: rows of the input that are done there.

A job with dated outputs asks each night for what no night before has done. By id, that is a
comparison of columns. By prompt, the input is rendered as the model will see it, and rows whose
prompt was answered, under whatever id, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from batchr1.dataset.pending import Pending
from batchr1.dataset.source import Source
from batchr1.driver.feed.items import prompts_in
from batchr1.errors import OutputError
from batchr1.job.spec import JobSpec
from batchr1.output.find import is_glob, matching_folders
from batchr1.output.folder import Output
from batchr1.records import Prompt
from batchr1.storage.base import open_storage

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer

Digests = np.ndarray[Any, np.dtype[np.bytes_]]

_DIGEST = "S16"  # 128 bits; the zeros at an end that NumPy leaves out make no two of them equal


def earlier_outputs(spec: JobSpec, own: Output) -> tuple[Output, ...]:
    """Open the outputs that `input.exclude` names, each once.

    Never the job's own, which a glob may match too. A glob takes the outputs of batchr1 among the
    folders that it matches, none on the first night. Raises `OutputError` for a path without glob
    that is no output, `InputError` when storage cannot be listed.
    """
    options = spec.storage.options
    found: dict[str, Output] = {}
    for uri in spec.input.exclude:
        named = Output(open_storage(uri, options))
        if named.uri == own.uri:
            continue
        if named.exists():
            found[named.uri] = named
        elif not is_glob(uri):
            raise OutputError(
                f"{uri}: input.exclude names no output of batchr1. Give the folder of an "
                f"earlier "
                f"output."
            )
        else:
            matches = (
                Output(open_storage(folder, options))
                for folder in matching_folders(uri, options, what="input.exclude")
            )
            found |= {
                output.uri: output
                for output in matches
                if output.uri != own.uri and output.exists()
            }
    return tuple(found.values())


def exclude_earlier(
    source: Source,
    pending: Pending,
    earlier: tuple[Output, ...],
    *,
    make_renderer: Callable[[], Renderer] | None,
) -> None:
    """Take out rows that are done in earlier outputs.

    By id, or with a renderer by prompt. A row counts as done there with its first sample.
    """
    if make_renderer is None:
        for output in earlier:
            for table in output.tables(["id"]):
                pending.exclude(table.column("id"))
        return
    answered = _answered(earlier)
    if not answered.size:
        return
    renderer, row = make_renderer(), 0
    for _, batch in source.batches(source.prompt_columns):
        prompts = prompts_in(source, renderer, batch)
        # A row that cannot become a prompt has nothing that an answered one has.
        digests = np.array(
            [p.digest if isinstance(p, Prompt) else b"none" for p in prompts], dtype=_DIGEST
        )
        pending.exclude_rows(np.flatnonzero(np.isin(digests, answered)) + row)
        row += batch.num_rows


def _answered(earlier: tuple[Output, ...]) -> Digests:
    """Collect the hashes of all prompts in earlier outputs, each once.

    16 bytes of each.
    """
    found: list[Digests] = [np.empty(0, dtype=_DIGEST)]
    for output in earlier:
        for table in output.tables(["prompt_hash"]):
            texts = table.column("prompt_hash").unique().to_pylist()
            found.append(np.frombuffer(bytes.fromhex("".join(texts)), dtype=_DIGEST))
    answered: Digests = np.unique(np.concatenate(found))
    return answered
