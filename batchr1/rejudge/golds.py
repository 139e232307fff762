"""Right answers from another file, by id."""

from __future__ import annotations

from batchr1.dataset.source import Source
from batchr1.errors import InputError, UsageError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs
from batchr1.storage.uri import StorageOptions


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
    source = Source(spec, [], expand_inputs((path,), storage))
    found: dict[str, str | None] = {}
    for position, batch in source.batches(tuple(dict.fromkeys([*columns, gold]))):
        for name, right in zip(source.ids(batch), source.golds(batch), strict=True):
            if name is None or name in found:
                what = "is null" if name is None else f"{name!r} came before"
                raise InputError(f"{position}: the id {what} (need unique ids). Correct the file.")
            found[name] = right
    return found
