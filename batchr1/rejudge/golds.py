"""Right answers from another file, by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from batchr1.dataset.source import Source
from batchr1.errors import InputError, UsageError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs
from batchr1.storage.uri import StorageOptions

_OPTIONS = {"input.id": "--id-column", "input.gold": "--gold-column"}


@dataclass(frozen=True, slots=True)
class GoldCounts:
    """Ids with a right answer in the file.

    `found` ones are in the output, `other` ones had another right answer there. `missing` is an
    example of the rest.
    """

    read: int
    found: int
    other: int
    missing: str | None


def read_golds(
    path: str, *, id: str | list[str], gold: str, storage: StorageOptions | None = None
) -> dict[str, str | None]:
    """Read right answers from Parquet or JSON lines.

    The path is a file, a folder or a glob.

    Raises `UsageError` where there is no such file or column, or one is named twice, `InputError`
    where an id is null or comes twice.
    """
    columns = [id] if isinstance(id, str) else id
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--id-column: {twice!r} is named twice (need each once). Correct it.")
    # Ids and right answers have no prompt, which a job's input must have.
    spec = InputSpec.model_construct(path=path, id=id, gold=gold)
    source = _open(spec, path, storage)
    found: dict[str, str | None] = {}
    for position, batch in source.batches(tuple(dict.fromkeys([*columns, gold]))):
        for name, right in zip(source.ids(batch), source.golds(batch), strict=True):
            if name is None or name in found:
                what = "is null" if name is None else f"{name!r} came before"
                raise InputError(f"{position}: the id {what} (need unique ids). Correct the file.")
            found[name] = right
    return found


def count_golds(golds: Mapping[str, str | None], tables: Iterable[pa.Table]) -> GoldCounts:
    """Count the ids that parts hold, and other right answers."""
    found, other = set(), set()
    for table in tables:
        ids, before = (table.column(name).to_pylist() for name in ("id", "gold"))
        for name, gold in zip(ids, before, strict=True):
            if name in golds:
                found.add(name)
                if golds[name] != gold:
                    other.add(name)
    missing = next((name for name in golds if name not in found), None)
    return GoldCounts(len(golds), len(found), len(other), missing)


def _open(spec: InputSpec, path: str, storage: StorageOptions | None) -> Source:
    """Open the file; errors name options, not the job's keys."""
    try:
        return Source(spec, [], expand_inputs((path,), storage))
    except InputError as exc:
        said = str(exc)
        for key, option in _OPTIONS.items():
            said = said.replace(f" {key}: there is no column", f" {option}: there is no column")
        raise InputError(said) from exc
