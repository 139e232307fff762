"""The dataset reader: what it finds, what it reads of it, and what it makes of each column."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchr1.dataset.source import Source
from batchr1.errors import InputError, JobError, StorageError
from batchr1.job.spec import InputSpec
from batchr1.output.parts import write_parquet
from batchr1.storage.base import StorageOptions
from batchr1.storage.errors import Retry
from batchr1.storage.inputs import InputFile, expand_inputs
from batchr1.storage.local import LocalStorage

Keep = list[str] | dict[str, str] | str


def write(path: Path, columns: dict[str, Any], row_group_size: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def source_of(paths: Path | Sequence[Path], keep: Keep = (), **spec: Any) -> Source:  # type: ignore[assignment]
    listed = [paths] if isinstance(paths, Path) else list(paths)
    files = expand_inputs(listed)
    return Source(InputSpec(path=[str(p) for p in listed], **spec), keep or [], files)


def read(source: Source) -> list[tuple[str | None, Any, str | None, int | None]]:
    """(id, content, gold, cap) of every row."""
    rows: list[tuple[str | None, Any, str | None, int | None]] = []
    for _, batch in source.batches(source.row_columns):
        columns = source.ids(batch), source.contents(batch), source.golds(batch), source.caps(batch)
        rows += zip(*columns, strict=True)
    return rows


def ids_of(source: Source) -> list[str | None]:
    return [row[0] for row in read(source)]


def test_a_file_a_glob_a_folder_and_a_list_give_their_rows_in_the_order_of_names(
    tmp_path: Path,
) -> None:
    for name, id in [
        ("b.parquet", "2"),
        ("a.parquet", "1"),
        ("deep/c.parquet", "3"),
        ("_tmp/d.parquet", "4"),
    ]:
        write(tmp_path / "in" / name, {"id": [id], "q": ["?"]})
    (tmp_path / "in" / "notes.txt").write_text("no data")

    def ids(*paths: str) -> list[str | None]:
        return ids_of(source_of([tmp_path / "in" / path for path in paths], id="id", prompt="q"))

    assert ids("b.parquet") == ["2"]
    assert ids("*.parquet") == ["1", "2"]
    assert ids("**/*.parquet") == ["1", "2", "3"]
    assert ids("") == ["1", "2", "3"]
    assert ids("deep", "a.parquet", "*.parquet") == ["1", "2", "3"]


def test_parquet_and_json_lines_of_the_same_rows_are_the_same_source(tmp_path: Path) -> None:
    rows = [
        {
            "id": "tree/1",
            "q": "Wie groß?",
            "gold": 4,
            "cap": 7,
            "m": [{"role": "user", "content": "é"}],
        },
        {
            "id": "東京",
            "q": "½?",
            "gold": None,
            "cap": None,
            "m": [{"role": "user", "content": "2024-01-02"}],
        },
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    for spec in ({"prompt": "q"}, {"messages": "m"}, {"template": "{q} {gold}"}):
        wanted: dict[str, Any] = {"id": "id", "gold": "gold", "max_tokens": "cap", **spec}
        found = [read(source_of(tmp_path / name, **wanted)) for name in ("in.parquet", "in.jsonl")]
        assert found[0] == found[1]
        assert [row[0] for row in found[0]] == ["tree/1", "東京"]
        assert [row[2:] for row in found[0]] == [("4", 7), (None, None)]


def test_text_in_json_lines_that_looks_like_a_date_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"id": "2024-01-01", "q": "2024-01-01T10:00:00", "day": "2024-01-02 03:04:05"}\n'
    )
    source = source_of(path, ["day"], id="id", prompt="q", gold="day")
    assert read(source) == [("2024-01-01", "2024-01-01T10:00:00", "2024-01-02 03:04:05", None)]
    assert source.kept_schema == pa.schema([("day", pa.string())])


def test_a_template_is_filled_from_columns_and_a_null_in_one_gives_no_prompt(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "in.parquet", {"id": ["1", "2"], "a": [1, None], "b": ["x", "y"]})
    source = source_of(path, id="id", template="{a} and {b}: {{literal}}")
    assert [content for _, content, *_ in read(source)] == ["1 and x: {literal}", None]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{a", "input.template: braces do not match"),
        ("{a.b}", "input.template: {a.b} is not a plain column name"),
        ("{}", "input.template: {} is not a plain column name"),
        ("{0}", "input.template: {0} is not a plain column name"),
        ("no column", "input.template: names no column"),
    ],
)
def test_a_template_that_cannot_be_filled_is_an_error(
    tmp_path: Path, template: str, message: str
) -> None:
    path = write(tmp_path / "in.parquet", {"id": ["1"], "a": ["x"]})
    with pytest.raises(JobError, match=re.escape(message)):
        source_of(path, id="id", template=template)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([7, -1, 2**62]), ["7", "-1", str(2**62)]),
        (pa.array([7, 2**64 - 1, 0], pa.uint64()), ["7", str(2**64 - 1), "0"]),
        (pa.array(["a/b", "é ", "東"]), ["a/b", "é ", "東"]),
        (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
        (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["a", None, "c"]), ["a", None, "c"]),
    ],
    ids=lambda value: str(value.type).partition("<")[0] if isinstance(value, pa.Array) else "",
)
def test_ids_and_prompts_of_every_text_and_number_type_are_read_as_text(
    tmp_path: Path, column: pa.Array, ids: list[str | None]
) -> None:
    text = column if not pa.types.is_integer(column.type) else pa.array(["p", "q", "r"])
    path = write(tmp_path / "in.parquet", {"id": column, "q": text})
    assert [row[:2] for row in read(source_of(path, id="id", prompt="q"))] == list(
        zip(ids, text.to_pylist(), strict=True)
    )


def test_without_an_id_column_equal_prompts_have_equal_ids_and_others_differ(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "in.parquet", {"q": ["one", "two", "one", "é"]})
    first, second, third, fourth = ids_of(source_of(path, prompt="q"))
    assert first == third
    assert len({first, second, fourth}) == 3
    assert all(
        id is not None and len(id) == 32 and int(id, 16) >= 0 for id in (first, second, fourth)
    )


def test_the_id_of_a_prompt_never_changes(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "Wie groß?"}]]
    path = write(tmp_path / "in.parquet", {"q": ["Wie groß?"], "m": messages})
    assert ids_of(source_of(path, prompt="q")) == ["d4e77163fa467b0526edfb21b803f8a4"]
    assert ids_of(source_of(path, messages="m")) == ["10a03e31556414eb1c6a39900add6c77"]


def test_messages_may_hold_values_that_json_does_not_know(tmp_path: Path) -> None:
    message = {"role": "user", "content": "?", "at": dt.datetime(2024, 2, 29)}
    [first] = ids_of(source_of(write(tmp_path / "a.parquet", {"m": [[message]]}), messages="m"))
    [other] = ids_of(
        source_of(
            write(tmp_path / "b.parquet", {"m": [[{**message, "content": "!"}]]}), messages="m"
        )
    )
    assert first != other


def test_json_lines_that_are_not_utf_8_are_an_input_error_without_their_text(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"q": "secret \xff"}\n')
    with pytest.raises(InputError, match="not a readable JSON lines file") as caught:
        read(source_of(path, prompt="q"))
    assert "secret" not in str(caught.value)


def test_gold_answers_of_every_type_become_text(tmp_path: Path) -> None:
    numbers = [decimal.Decimal("1.50"), None]
    columns = {
        "id": ["1", "2"],
        "q": ["?", "?"],
        "i": [-3, None],
        "f": [0.5, 2.0],
        "d": numbers,
        "s": ["x", None],
    }
    path = write(tmp_path / "in.parquet", columns)

    def golds(column: str) -> list[str | None]:
        return [row[2] for row in read(source_of(path, id="id", prompt="q", gold=column))]

    assert (golds("i"), golds("f"), golds("d"), golds("s")) == (
        ["-3", None],
        ["0.5", "2.0"],
        ["1.50", None],
        ["x", None],
    )


MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
NOW = dt.datetime(2024, 2, 3, 4, 5, 6, 789_000)


@pytest.mark.parametrize(
    ("values", "kind", "kept_as"),
    [
        (["a", None], pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (["a", None], pa.large_string(), pa.string()),
        (["a", None], pa.string_view(), pa.string()),
        ([b"a", None], pa.large_binary(), pa.binary()),
        ([b"ab", None], pa.binary(2), pa.binary(2)),
        ([1, None], pa.uint8(), pa.uint8()),
        ([2**64 - 1, None], pa.uint64(), pa.uint64()),
        ([1.5, None], pa.float16(), pa.float16()),
        ([True, None], pa.bool_(), pa.bool_()),
        ([None, None], pa.null(), pa.string()),
        ([NOW, None], pa.timestamp("ns"), pa.timestamp("ns")),
        ([NOW, None], pa.timestamp("us"), pa.timestamp("us")),
        (
            [NOW.astimezone(dt.UTC), None],
            pa.timestamp("us", "Europe/Berlin"),
            pa.timestamp("us", "UTC"),
        ),
        ([NOW.date(), None], pa.date32(), pa.date32()),
        ([NOW.time(), None], pa.time64("ns"), pa.time64("ns")),
        ([decimal.Decimal("-1.25"), None], pa.decimal128(20, 2), pa.decimal128(20, 2)),
        ([decimal.Decimal("-1.25"), None], pa.decimal256(60, 2), pa.decimal256(60, 2)),
        ([[1, None], None], pa.list_(pa.int32()), pa.list_(pa.int32())),
        ([["a", None], []], pa.large_list(pa.large_string()), pa.list_(pa.string())),
        ([[1, 2], None], pa.list_(pa.int16(), 2), pa.list_(pa.int16())),
        ([[["x"]], [None]], pa.list_(pa.list_(pa.large_string())), pa.list_(pa.list_(pa.string()))),
        (
            [{"a": 1, "b": "x"}, None],
            pa.struct([("a", pa.int8()), ("b", pa.large_string())]),
            pa.struct([("a", pa.int8()), ("b", pa.string())]),
        ),
        ([[{"role": "user", "content": "é"}], []], pa.large_list(MESSAGE), pa.list_(MESSAGE)),
        (
            [[("k", "v")], None],
            pa.map_(pa.large_string(), pa.large_string()),
            pa.map_(pa.string(), pa.string()),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)
def test_kept_columns_come_back_from_parquet_as_they_went_in(
    tmp_path: Path, values: list[Any], kind: pa.DataType, kept_as: pa.DataType
) -> None:
    path = write(
        tmp_path / "in.parquet", {"id": ["1", "2"], "q": ["?", "?"], "x": pa.array(values, kind)}
    )
    source = source_of(path, {"new name": "x"}, id="id", prompt="q")
    assert source.kept_schema == pa.schema([("new name", kept_as)])
    [(_, batch)] = source.batches(source.row_columns)
    write_parquet(pa.Table.from_batches([source.kept(batch)]), tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet")
    assert back.schema.field("new name").type == kept_as
    assert back.column("new name").to_pylist() == pq.read_table(path).column("x").to_pylist()


def test_a_kept_duration_is_a_number_in_its_own_unit_because_parquet_has_none(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "in.parquet", {"id": ["1"], "q": ["?"], "x": pa.array([1500], pa.duration("ms"))}
    )
    source = source_of(path, ["x"], id="id", prompt="q")
    [(_, batch)] = source.batches(source.row_columns)
    assert source.kept(batch) == pa.record_batch({"x": [1500]})


def test_keep_all_takes_every_column_but_the_id_and_moves_names_of_ours_out_of_the_way(
    tmp_path: Path,
) -> None:
    path = write(
        tmp_path / "in.parquet", {"id": ["1"], "prompt": ["?"], "answer": ["4"], "level": [2]}
    )
    source = source_of(path, "all", id="id", prompt="prompt")
    assert source.kept_names == {
        "input_prompt": "prompt",
        "input_answer": "answer",
        "level": "level",
    }
    assert source.row_columns == ("id", "prompt", "answer", "level")


def test_a_kept_column_cannot_take_the_name_of_one_of_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"id": ["1"], "q": ["?"], "answer": ["4"]})
    with pytest.raises(JobError, match=r"output\.keep: 'answer' is a column of the output already"):
        source_of(path, ["answer"], id="id", prompt="q")


def test_a_kept_column_must_have_one_type_in_all_files(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet", {"id": ["1"], "q": ["?"], "x": pa.array(["1"], pa.large_string())}
    )
    write(tmp_path / "b.parquet", {"id": [2], "q": ["?"], "x": pa.array(["2"]).dictionary_encode()})
    source = source_of(tmp_path / "*.parquet", ["x"], id="id", prompt="q")
    assert ids_of(source) == ["1", "2"]
    write(tmp_path / "c.parquet", {"id": ["3"], "q": ["?"], "x": [3]})
    message = (
        r"c\.parquet: output\.keep: column 'x' has another type than in the first file \(got int64"
    )
    with pytest.raises(InputError, match=message):
        source_of(tmp_path / "*.parquet", ["x"], id="id", prompt="q")


def test_where_and_then_limit_choose_rows_over_files_and_row_groups(tmp_path: Path) -> None:
    for name, start in [("a", 0), ("b", 10)]:
        numbers = list(range(start, start + 10))
        columns = {
            "id": numbers,
            "q": ["?"] * 10,
            "level": [None if i == 4 else i % 5 for i in numbers],
        }
        write(tmp_path / f"{name}.parquet", columns, row_group_size=3)
    everything = source_of(tmp_path / "*.parquet", id="id", prompt="q", where="level >= 3")
    assert ids_of(everything) == ["3", "8", "9", "13", "14", "18", "19"]
    some = source_of(
        tmp_path / "*.parquet", id="id", prompt="q", where="level >= 3 AND id <> 8", limit=4
    )
    assert ids_of(some) == ["3", "9", "13", "14"]
    assert ids_of(source_of(tmp_path / "*.parquet", id="id", prompt="q", limit=0)) == []


def test_positions_name_the_file_and_the_row_in_it(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"id": list(range(7)), "q": ["?"] * 7}, row_group_size=3)
    write(tmp_path / "b.parquet", {"id": list(range(7, 9)), "q": ["?"] * 2})
    source = source_of(tmp_path, id="id", prompt="q")
    assert [str(position) for position, _ in source.batches(["id"])] == [
        f"{tmp_path}/a.parquet: row 0",
        f"{tmp_path}/a.parquet: row 3",
        f"{tmp_path}/a.parquet: row 6",
        f"{tmp_path}/b.parquet: row 0",
    ]


class CountingStorage(LocalStorage):
    """Notes which bytes are read of the files that it opens."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, StorageOptions(), Retry())
        self.ranges: list[tuple[int, int]] = []

    def open_input(self, rel: str) -> Any:
        return CountingFile(self, self.path(rel))


class CountingFile(io.FileIO):
    def __init__(self, storage: CountingStorage, path: str) -> None:
        super().__init__(path)
        self._storage = storage

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(-1 if size is None else size)
        self._storage.ranges.append((start, start + len(data)))
        return data

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        self._storage.ranges.append((start, start + count))
        return count


def chunks_read(path: Path, ranges: list[tuple[int, int]]) -> set[tuple[int, str]]:
    """The column chunks, (row group, column), of which bytes were read."""
    metadata = pq.read_metadata(path)
    found = set()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            start = column.dictionary_page_offset or column.data_page_offset
            end = start + column.total_compressed_size
            if any(low < end and start < high for low, high in ranges):
                found.add((group, column.path_in_schema))
    return found


def test_only_the_columns_of_the_job_are_read_and_only_where_a_row_passes(tmp_path: Path) -> None:
    rng, rows = random.Random(5), 400
    # Random bytes in every column, so that no chunk is small; `last` covers what Arrow reads to
    # find the footer.
    columns = {
        "unused": [rng.randbytes(600).hex() for _ in range(rows)],
        "level": [i // 100 for i in range(rows)],
        "q": [rng.randbytes(600).hex() for _ in range(rows)],
        "id": [f"{i} {rng.randbytes(600).hex()}" for i in range(rows)],
        "gold": [rng.randbytes(600).hex() for _ in range(rows)],
        "last": [rng.randbytes(600).hex() for _ in range(rows)],
    }
    path = write(tmp_path / "in.parquet", columns, row_group_size=100)
    [file] = expand_inputs(path)
    storage = CountingStorage("/")
    counted: list[InputFile] = [replace(file, storage=storage)]
    spec = InputSpec(path=str(path), id="id", prompt="q", where="level = 1 OR level = 2")
    source = Source(spec, [], counted)
    storage.ranges.clear()
    assert sum(batch.num_rows for _, batch in source.batches(source.row_columns)) == 200
    footer = {(3, "last")}
    levels = {(group, "level") for group in range(4)}
    assert chunks_read(path, storage.ranges) - footer == levels | {
        (g, c) for g in (1, 2) for c in ("id", "q")
    }
    storage.ranges.clear()
    assert sum(batch.num_rows for _, batch in source.batches(source.id_columns)) == 200
    assert chunks_read(path, storage.ranges) - footer == levels | {(1, "id"), (2, "id")}


def test_opening_a_source_reads_no_column(tmp_path: Path) -> None:
    columns = {
        "q": [random.Random(i).randbytes(400).hex() for i in range(300)],
        "id": list(range(300)),
    }
    columns["last"] = columns["q"]
    path = write(tmp_path / "in.parquet", columns, row_group_size=100)
    [file] = expand_inputs(path)
    storage = CountingStorage("/")
    Source(InputSpec(path=str(path), id="id", prompt="q"), [], [replace(file, storage=storage)])
    assert chunks_read(path, storage.ranges) <= {(2, "last")}


def test_memory_stays_at_a_row_group_however_long_the_file_is(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "in.parquet"
    with pq.ParquetWriter(path, pa.schema([("id", pa.int64()), ("q", pa.string())])) as writer:
        for group in range(40):
            text = [rng.randbytes(250).hex() for _ in range(1000)]
            writer.write_table(
                pa.table({"id": range(group * 1000, group * 1000 + 1000), "q": text})
            )
    group_bytes = pq.read_metadata(path).row_group(0).total_byte_size
    source = source_of(path, id="id", prompt="q", where="id >= 0")
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in source.batches(source.row_columns)]
    assert len(held) == 40
    assert max(held[20:]) <= max(held[:20]) < 6 * group_bytes < path.stat().st_size / 6


def test_a_file_that_is_replaced_after_its_ids_were_read_stops_the_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"id": ["1", "2"], "q": ["?", "?"]})
    source = source_of(path, id="id", prompt="q")
    assert ids_of(source) == ["1", "2"]
    write(tmp_path / "new.parquet", {"id": ["2", "1"], "q": ["?", "?"]}).replace(path)
    with pytest.raises(StorageError) as error:
        ids_of(source)
    assert str(error.value) == (
        f"{path}: changed since this command began (got another version, need the one that its ids "
        "were read from). Run the same command again."
    )
    path.unlink()
    with pytest.raises(
        StorageError, match=r"changed since this command began \(got no file, need "
    ):
        ids_of(source)
