"""Data that cannot be read as a job wants it: one line that says where, what and what to do.

Each case is a set of files and keys of `input` and `output.keep`, with the whole message. TMP
stands for their folder.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from batchr1.dataset.pending import Pending
from batchr1.dataset.source import Source
from batchr1.errors import BatchError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs

PAIR = ["id", "sample"]


@dataclass(frozen=True)
class Case:
    message: str
    files: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    keep: Any = ()


def rows(**columns: Any) -> dict[str, Any]:
    """Columns of two good rows; None takes one out."""
    good = {"id": ["a", "a"], "sample": [0, 1], "q": ["?", "?"], **columns}
    return {name: values for name, values in good.items() if values is not None}


CASES = {
    "ids: a null in one of two columns": Case(
        "TMP/in.parquet: row 1: the id is null (got id 'a', sample null, need a unique id). Fill "
        "it, or drop input.id.",
        {"in.parquet": rows(sample=[0, None])},
        {"id": PAIR},
    ),
    "ids: the same pair twice": Case(
        "TMP/in.parquet: row 1: the id of id 'a', sample '0' came before (got 1 repeated ids, need "
        "unique ones). Give input.id columns that are unique together, or leave it out to use a "
        "hash of the prompt.",
        {"in.parquet": rows(sample=[0, 0])},
        {"id": PAIR},
    ),
    "ids: one of two columns is not there": Case(
        "TMP/in.parquet: input.id [id, sample]: there is no column 'sample' (the file has: id, "
        "q). Name one of these.",
        {"in.parquet": rows(sample=None)},
        {"id": PAIR},
    ),
    "ids: a column of another type": Case(
        "TMP/in.parquet: input.id [id, sample]: column 'sample' has the wrong type (got double, "
        "need text or whole numbers). Name another column, or convert it.",
        {"in.parquet": rows(sample=[0.5, 1.5])},
        {"id": PAIR},
    ),
    "ids: a kept column takes the name of one of them": Case(
        "output.keep: 'input_id' is the column of input.id's 'id' already. Rename it: keep: "
        "{kept_input_id: q}.",
        {"in.parquet": rows()},
        {"id": PAIR},
        {"input_id": "q"},
    ),
    "ids: two of them would have one name in the output": Case(
        "input.id: columns 'id' and 'input_id' would both be 'input_id' in the output. Give one "
        "a name: output.keep: {input_id_of_input: input_id}.",
        {"in.parquet": rows(input_id=["x", "y"])},
        {"id": ["id", "input_id"]},
    ),
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
        return
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused_with_one_line(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    for rel, content in case.files.items():
        write(tmp_path / rel, content)
    keys = {"path": str(tmp_path), "prompt": "q", **case.input}
    with pytest.raises((BatchError, ValidationError)) as refused:
        spec = InputSpec(**keys)
        source = Source(spec, case.keep or [], expand_inputs(spec.paths))
        Pending(source, 1, ids_are_hashes=spec.id is None)
        for _, batch in source.batches(source.row_columns):
            source.kept(batch)

    assert str(refused.value).replace(str(tmp_path), "TMP") == case.message
