"""Oddities of Parquet files, as Apache's test files have them: read right, or refused with why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchr1.dataset.source import Source
from batchr1.dataset.types import misfit
from batchr1.dataset.values import python_values
from batchr1.errors import InputError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs

ROWS = 3000
TEXTS = [f"What is {i % 700} + {i}? é東" for i in range(ROWS)]
TABLE = pa.table(
    {
        "id": pa.array(range(ROWS)),
        "q": TEXTS,
        "at": pa.array([dt.datetime(2024, 2, 29)] * ROWS, pa.timestamp("us")),
        "x": pa.array([i / 7 for i in range(ROWS)], pa.float32()),
        "m": pa.array(
            [[("k", [i, None])] for i in range(ROWS)], pa.map_(pa.string(), pa.list_(pa.int64()))
        ),
        "n": pa.array(
            [{"a": {"b": [{"c": None}]}}] * ROWS,
            pa.struct([("a", pa.struct([("b", pa.list_(pa.struct([("c", pa.string())])))]))]),
        ),
    }
)
KEPT = ["at", "x", "m", "n"]
WRITERS: dict[str, dict[str, Any]] = {
    "version 1.0": {"version": "1.0"},
    "pages of version 2": {"data_page_version": "2.0"},
    "INT96": {"use_deprecated_int96_timestamps": True},
    "no dictionaries": {"use_dictionary": False},
    "a dictionary that overflows": {"dictionary_pagesize_limit": 100},
    "byte stream split": {"use_dictionary": False, "column_encoding": {"x": "BYTE_STREAM_SPLIT"}},
    "delta encodings": {
        "use_dictionary": False,
        "column_encoding": {"id": "DELTA_BINARY_PACKED", "q": "DELTA_BYTE_ARRAY"},
    },
    "delta lengths": {"use_dictionary": False, "column_encoding": {"q": "DELTA_LENGTH_BYTE_ARRAY"}},
    "page index": {"write_page_index": True},
    "page checksums": {"write_page_checksum": True},
    "no statistics": {"write_statistics": False},
    "tiny pages": {"data_page_size": 64, "write_batch_size": 7},
    "tiny row groups": {"row_group_size": 11},
    "lists of the old kind": {"use_compliant_nested_type": False},
    "no schema of Arrow": {"store_schema": False},
    **{
        f"compressed by {name}": {"compression": name} for name in ("gzip", "brotli", "lz4", "zstd")
    },
}


def source_of(path: Path, keep: Any = (), **spec: Any) -> Source:
    wanted = {"id": "id", "prompt": "q", **spec}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    return Source(InputSpec(path=str(path), **wanted), list(keep), expand_inputs(path))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_read_right_however_it_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(TABLE, path, **WRITERS[name])
    source = source_of(path, KEPT, where="id % 2 = 0")
    ids, contents, kept = [], [], []
    for _, batch in source.batches(source.row_columns):
        ids += source.ids(batch)
        contents += source.contents(batch)
        kept.append(source.kept(batch))
    assert ids == [str(i) for i in range(0, ROWS, 2)]
    assert contents == TEXTS[::2]
    found = pa.Table.from_batches(kept)
    for column in KEPT:
        assert python_values(found[column]) == python_values(TABLE[column])[::2], column


def corrupted_page(path: Path) -> None:
    pq.write_table(TABLE, path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    at = data.index(b"What is 5")
    data[at - 4 : at] = b"\xff\xff\xff\x7f"  # the length of a text
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    pq.write_table(TABLE, path)
    path.write_bytes(path.read_bytes()[:-100])


def encrypted_footer(path: Path) -> None:
    pq.write_table(TABLE, path)
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


def footer_of_nonsense(path: Path) -> None:
    pq.write_table(TABLE, path)
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[: -8 - size] + b"\x15" * size + data[-8:])


def no_bytes(path: Path) -> None:
    path.write_bytes(b"")


def no_parquet(path: Path) -> None:
    path.write_text("id,q\n1,What?\n")


def no_columns(path: Path) -> None:
    pq.write_table(pa.table({}), path)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a page whose text ends outside of it": (corrupted_page, "not a readable Parquet file ("),
    "a cut file": (cut, "not a readable Parquet file (Parquet magic bytes not found in footer"),
    "an encrypted footer": (encrypted_footer, "not a readable Parquet file ("),
    "a footer of nonsense": (footer_of_nonsense, "not a readable Parquet file ("),
    "no bytes": (no_bytes, "not a readable Parquet file (Parquet file size is 0 bytes"),
    "another format": (no_parquet, "not a readable Parquet file (Parquet magic bytes not found"),
    "no columns": (no_columns, "not a readable data file (no row, no column)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_why(tmp_path: Path, name: str) -> None:
    lay, line = BROKEN[name]
    path = tmp_path / "in.parquet"
    lay(path)
    with pytest.raises(InputError) as caught:
        source = source_of(path)
        for _, batch in source.batches(source.row_columns):
            source.contents(batch)
    assert str(caught.value).startswith(f"{path}: {line}")
    assert "\n" not in str(caught.value)


def test_the_whole_old_files_of_arrow_are_read() -> None:
    """Files of 2017 and the like, which come with pyarrow's own tests where they are installed."""
    folder = Path(pa.__file__).parent / "tests/data/parquet"
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        pytest.skip("pyarrow came without its tests")
    for path in paths:
        schema = pq.read_schema(path)
        [text, *_] = [f.name for f in schema if misfit("input.prompt", f.type) is None]
        keep = [f.name for f in schema if misfit("output.keep", f.type) is None]
        source = source_of(path, keep, id=None, prompt=text)
        rows = [row for _, b in source.batches(source.row_columns) for row in source.contents(b)]
        assert rows == pq.read_table(path)[text].to_pylist()
