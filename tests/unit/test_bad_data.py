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
        "TMP/in.parquet: row 1: the id of id 'a', sample '0' came before, in row 0 (1 in all; rows "
        "count from 0). Take repeated rows out, give input.id columns that are unique together, or "
        "leave it out: then equal prompts are one row.",
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
    "csv: a line with a field more": Case(
        "TMP/in.csv: line 4: another number of fields than in the header (got 3, need 2). Correct "
        "the line, and quote fields that hold separators or line breaks.",
        {"in.csv": 'id,q\na,"two\nlines"\nb,one,two\n'},
    ),
    "csv: a quote that is never closed": Case(
        "TMP/in.csv: line 3: not a readable CSV file (unexpected end of data). Correct the line: "
        "quote whole fields, double a quote within, and close each.",
        {"in.csv": 'id,q\na,?\nb,"?\nc,?\n'},
    ),
    "csv: text behind a closing quote": Case(
        "TMP/in.csv: line 2: not a readable CSV file (',' expected after '\"'). Correct the line: "
        "quote whole fields, double a quote within, and close each.",
        {"in.csv": 'id,q\na,"?"!\n'},
    ),
    "csv: bytes that are no UTF-8": Case(
        "TMP/in.csv: line 3: not UTF-8 (got other bytes). Save the file as UTF-8.",
        {"in.csv": b"id,q\na,?\nb,\xe9\n"},
    ),
    "csv: as spreadsheets write Unicode text": Case(
        "TMP/in.csv: line 1: not UTF-8 (got UTF-16). Save the file as UTF-8.",
        {"in.csv": "id,q\na,?\n".encode("utf-16")},
    ),
    "csv: semicolons": Case(
        "TMP/in.csv: line 1: its columns are not separated by commas (got 'id;q'). Write it as "
        ".csv with commas, or as .tsv with tabs.",
        {"in.csv": "id;q\na;?\n"},
    ),
    "csv: a column without a name": Case(
        "TMP/in.csv: line 1: column 1 has no name (got an empty field). Give it one, or list the "
        "columns to keep.",
        {"in.csv": ",q\n0,?\n"},
        keep="all",
    ),
    "csv: a column that is there twice": Case(
        "TMP/in.csv: input.prompt: column 'q' is there twice (got 2 columns of this name, need "
        "one). Rename one of them.",
        {"in.csv": "q,q\n?,?\n"},
    ),
    "csv: no line at all": Case(
        "TMP/in.csv: not a readable data file (no row, no column). Write it again, or take it out.",
        {"in.csv": ""},
    ),
    "csv: a value of another type than declared": Case(
        "TMP/in.csv: line 4: 'level' has another type than declared (got 'high', need int). "
        "Correct the value, or input.types.",
        {"in.csv": 'q,level\n"?\n",1\n?,high\n'},
        {"types": {"level": "int"}},
        ["level"],
    ),
    "csv: a declared column that is not there": Case(
        "TMP/in.csv: input.types: there is no column 'levle' (the file has: q, level). Did you "
        "mean level?",
        {"in.csv": "q,level\n?,1\n"},
        {"types": {"levle": "int"}},
    ),
    "csv: types for Parquet": Case(
        "TMP/in.parquet: input.types: is for CSV and TSV (got parquet, which has types of its "
        "own). Leave it out.",
        {"in.parquet": rows()},
        {"types": {"sample": "text"}},
    ),
    "csv: a kept column of two types": Case(
        "TMP/b.csv: output.keep: column 'code' has another type than in the first file (got "
        "string, need int64). Name its type in input.types, or do not keep it.",
        {"a.csv": "q,code\n?,12\n", "b.csv": "q,code\n!,007\n"},
        {},
        ["code"],
    ),
    "csv: words where numbers are needed": Case(
        "TMP/in.csv: input.max_tokens: column 'cap' has the wrong type (got string, need whole "
        "numbers). Name another column, or convert it.",
        {"in.csv": "q,cap\n?,many\n"},
        {"max_tokens": "cap"},
    ),
    "gzip: cut off": Case(
        "TMP/in.csv.gz: not a readable CSV file (Compressed file ended before the end-of-stream "
        "marker was reached). Write it again, or take it out.",
        {"in.csv.gz": gzip.compress(b"q\n?\n")[:-9]},
    ),
    "gzip: other bytes": Case(
        "TMP/in.tsv.gz: not a readable TSV file (Not a gzipped file (b'q\\n')). Write it again, or "
        "take it out.",
        {"in.tsv.gz": b"q\n?\n"},
    ),
    "gzip: Parquet": Case(
        "TMP/in.parquet.gz: no data files (got .gz, need .parquet, .jsonl, .csv or .tsv). Convert "
        "the data first.",
        {"in.parquet.gz": b""},
        {"path": "TMP/in.parquet.gz"},
    ),
    "address: not encrypted": Case(
        "http://example.org/…: not encrypted, so that anybody on the way may change it (got "
        "http:// to example.org, need https://, or http:// on this machine). Use https://.",
        input={"path": "http://example.org/in.csv"},
    ),
    "address: a password": Case(
        "https://…: the address holds credentials, and records repeat it. Take them out: they "
        "come from the environment.",
        input={"path": "https://user:hunter2@example.org/in.csv"},
    ),
    "address: a signature": Case(
        "https://example.org/…: the address has a query, which may hold a signature, and records "
        "repeat it (got ? or #). Name the file without, or copy it.",
        input={"path": "https://example.org/in.csv?X-Amz-Signature=hunter2"},
    ),
    "address: a server without a file": Case(
        "https://example.org: a web server has no list of its files (got a glob or a folder). "
        "Name each file.",
        input={"path": "https://example.org/"},
    ),
    "address: no data set": Case(
        "hf://org/in.csv: not a data set of the hub (need hf://datasets/ORG/NAME[@REVISION]/PATH). "
        "Correct the address.",
        input={"path": "hf://org/in.csv"},
    ),
    "address: one within another": Case(
        "simplecache::https://…: no such kind of address (got 'simplecache::https', need a path, "
        "s3://, hf://, https://, or another scheme that fsspec knows). Correct it.",
        input={"path": "simplecache::https://example.org/in.csv"},
    ),
    "address: an unknown scheme": Case(
        "htps://…: no such kind of address (got 'htps', need a path, s3://, hf://, https://, or "
        "another scheme that fsspec knows). Correct it.",
        input={"path": "htps://example.org/in.csv"},
    ),
    "address: a part that leads away": Case(
        "memory://in/../x.csv: not a usable address (got an empty part, `.` or `..`). Write it "
        "without.",
        input={"path": "memory://in/../x.csv"},
    ),
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        pq.write_table(pa.table(content), path)
        return
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused_with_one_line(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    for rel, content in case.files.items():
        write(tmp_path / rel, content)
    keys = {"path": "TMP", "prompt": "q", **case.input}
    keys["path"] = keys["path"].replace("TMP", str(tmp_path))
    with pytest.raises((BatchError, ValidationError)) as refused:
        spec = InputSpec(**keys)
        source = Source(spec, case.keep or [], expand_inputs(spec.paths))
        Pending(source, 1, ids_are_hashes=spec.id is None)
        for _, batch in source.batches(source.row_columns):
            source.kept(batch)

    assert str(refused.value).replace(str(tmp_path), "TMP") == case.message
