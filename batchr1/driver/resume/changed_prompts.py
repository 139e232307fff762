"""Changed prompts under done ids: refused, run again or kept.

Each committed row carries the hash of the prompt that it answers. To compare, prompts have to be
rendered anew, which takes minutes for millions of rows. So `.batchr1/inputs.json` names the
versions of the input files that all committed rows agree with, and only rows of other files are
looked at. A run that is narrowed looks at fewer rows, so its versions say which, and stand for no
other run. Memory: 8 bytes per input row, and one part at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchr1.dataset.pending import Bools, Numbers, Pending
from batchr1.driver.feed.items import prompts_in
from batchr1.errors import InputError
from batchr1.output.replace import replace_part
from batchr1.records import Prompt

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.context import JobContext

log = logging.getLogger("batchr1.changed")

_NOT_LOOKED_AT, _NO_PROMPT = 0, 1  # instead of a hash: 64 random bits are neither

Digests = np.ndarray[Any, np.dtype[np.uint64]]


def files_to_check(job: JobContext, pending: Pending) -> set[str]:
    """List input files that committed rows may disagree with.

    None where nothing is committed, or the job keeps changed prompts.
    """
    spec = job.spec.input
    is_asked = (
        spec.on_changed_prompt != "keep" and spec.id is not None
    )  # without an id, another prompt is another row
    if not is_asked or not pending.num_rows:
        return set()
    changed = changed_files(job, pending)
    if not changed or not job.output.parts():
        return set()
    return changed


def changed_files(job: JobContext, pending: Pending) -> set[str]:
    """Find input files that committed rows may not agree with, by URI."""
    known = job.output.inputs()
    versions = _versions(job, pending, known)
    return {uri for uri, version in versions.items() if known.get(uri) != version}


def agrees_with_input(job: JobContext, pending: Pending) -> None:
    """Note that this run's committed rows answer the input's prompts."""
    if job.spec.input.on_changed_prompt != "keep":
        job.output.write_inputs(_versions(job, pending, job.output.inputs()))


def _versions(job: JobContext, pending: Pending, known: dict[str, str]) -> dict[str, str]:
    """Give each input file's version, by URI, with its samples.

    A file whose version is `known` to be looked at as a whole stays so.
    """
    spec, rows = job.spec, pending.rows_by_file()
    cut = pending.num_rows == spec.input.limit
    last = next(reversed(rows), None)  # the one that the limit may have cut
    found = {}
    for uri, version in job.source.versions.items():
        found[uri] = whole = f"{version} n={spec.sampling.n}"
        if known.get(uri) == whole:
            continue
        if cut and (uri == last or uri not in rows):
            found[uri] += f" rows={rows.get(uri, 0)}"
        if spec.input.where is not None:
            found[uri] += f" where={spec.input.where}"
    return found


def check_prompts(
    job: JobContext,
    pending: Pending,
    renderer: Renderer,
    files: set[str],
    *,
    run: str,
) -> None:
    """Refuse changed prompts, or make their samples pending again.

    Call with the lock held, after `take_out_done`. Raises `InputError`, with nothing changed, when
    the job says refuse and there is one.
    """
    digests, looked_at = prompt_digests(
        job, renderer, pending.done_rows(job.source, files), pending.num_rows
    )
    log.info("%d files have changed: compared the prompts of %d done rows", len(files), looked_at)
    again = job.spec.input.on_changed_prompt == "rerun"
    count, first = 0, None
    for rel, mask in _changed(job, pending, digests):
        if again:
            if not count:
                job.output.begin()
            table = job.output.read_part(rel, None)
            gone = table.filter(pa.array(mask))
            replace_part(job.output, rel, table.filter(pa.array(~mask)), run)
            pending.reopen(gone)
        elif first is None:
            ids = job.output.read_part(rel, ["id"]).column("id")
            first = ids[int(np.flatnonzero(mask)[0])].as_py()
        count += int(mask.sum())
    if count and not again:
        raise InputError(
            f"{job.output.uri}: the input has another prompt for samples that are done (got "
            f"{count} of them, one "
            f"with id {first!r}; need none). Set input.on_changed_prompt to rerun (they are "
            f"generated anew) or "
            "keep (they stay as they are), or give a new output.path."
        )
    if count:
        log.warning("%d samples are generated anew: the input has another prompt for them", count)


def prompt_digests(
    job: JobContext,
    renderer: Renderer,
    rows_at: Iterable[tuple[Numbers, pa.RecordBatch]],
    num_rows: int,
) -> tuple[Digests, int]:
    """Hash the input's prompts: 64 bits each, by row number.

    Also gives the number of rows that were hashed.
    """
    digests: Digests = np.full(num_rows, _NOT_LOOKED_AT, dtype=np.uint64)
    count = 0
    for numbers, batch in rows_at:
        count += len(numbers)
        digests[numbers] = [
            int.from_bytes(prompt.digest[:8], "little")
            if isinstance(prompt, Prompt)
            else _NO_PROMPT
            for prompt in prompts_in(job.source, renderer, batch)
        ]
    return digests, count


def _changed(job: JobContext, pending: Pending, digests: Digests) -> Iterator[tuple[str, Bools]]:
    """Find parts with changed prompts, and their rows as masks."""
    for rel in job.output.parts():
        table = job.output.read_part(rel, ["id", "prompt_hash"])
        mask = have_changed(table, pending, digests)
        if mask.any():
            yield rel, mask


def have_changed(table: pa.Table, pending: Pending, digests: Digests) -> Bools:
    """Mask committed rows that answer another prompt than the input's.

    Rows that were not looked at are not in it.
    """
    rows = pending.find(table.column("id"))
    hashes = np.frombuffer(
        bytes.fromhex("".join(table.column("prompt_hash").to_pylist())), dtype="<u8"
    )
    now = np.where(rows >= 0, digests[rows], _NOT_LOOKED_AT)
    mask: Bools = (now != _NOT_LOOKED_AT) & (now != hashes[::2])
    return mask
