"""Data of public bug reports: each situation is read right, or refused in one exact line.

Every entry names the reports that it comes from. The real command line runs in this process, and
the replay engine stands in for vLLM. What needs a bucket is in tests/storage/test_many_objects.py
and test_virtual_host.py, what needs an odd file system in tests/storage/test_file_systems.py.
"""

from __future__ import annotations

import decimal
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click.testing
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replay_job import replay, rows_of, run_replay, set_engine, write_job

from batchr1.cli.main import main

TWO = {"id": ["a", "b"], "problem": ["1 + 1?", "2 + 2?"]}
Sections = dict[str, Any]


class Report(NamedTuple):
    """A situation: who reported it, what lies in the folder, and what `check` says of it."""

    source: str
    lay: Callable[[Path], Sections]
    line: str


def batchr1(*words: str | Path) -> click.testing.Result:
    runner = click.testing.CliRunner()
    return runner.invoke(main, [str(word) for word in words], catch_exceptions=False)


def checked(folder: Path, sections: Sections) -> click.testing.Result:
    return batchr1("check", set_engine(write_job(folder, **sections), replay()), "--show-prompt")


def columns(sections: Sections | None = None, **more: Any) -> Callable[[Path], Sections]:
    """Lay a Parquet file of two rows with these columns, beside or instead of its own."""

    def lay(folder: Path) -> Sections:
        table = {name: values for name, values in {**TWO, **more}.items() if values is not None}
        pq.write_table(pa.table(table), folder / "in.parquet", row_group_size=1)
        return sections or {}

    return lay


def lines(*rows: str, **sections: Any) -> Callable[[Path], Sections]:
    """Lay a file of JSON lines."""

    def lay(folder: Path) -> Sections:
        (folder / "in.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        return {**sections, "input": {"path": "in.jsonl", **sections.get("input", {})}}

    return lay


def columns_of_one_name(folder: Path) -> Sections:
    values = [pa.array(["a"]), pa.array(["b"]), pa.array(["1"])]
    table = pa.Table.from_arrays(values, names=["id", "id", "problem"])
    pq.write_table(table, folder / "in.parquet")
    return {}


def name_in_latin_1(folder: Path) -> Sections:
    (folder / "t").mkdir()
    columns()(folder)
    name = os.fsdecode(b"r\xe9sum\xe9.parquet")
    (folder / "in.parquet").rename(folder / "t" / name)
    return {"input": {"path": "t"}}


def table_folder(log: str) -> Callable[[Path], Sections]:
    def lay(folder: Path) -> Sections:
        (folder / "t/data").mkdir(parents=True)
        for name in ("part-0", "part-1", "00000-0-deletes"):
            pq.write_table(pa.table(TWO), folder / f"t/data/{name}.parquet")
        (folder / "t" / log).parent.mkdir()
        (folder / "t" / log).write_text("{}")
        return {"input": {"path": "t"}}

    return lay


def long_lines(last: str) -> Callable[[Path], Sections]:
    """Lay 20 MB of JSON lines, more than a reader looks at in one go."""
    row = json.dumps({"problem": "p" * 1000, "hint": None, "n": 1})
    rows = [f'{{"id": "{i}", {row[1:]}' for i in range(20_000)]
    return lines(*rows, last, input={"gold": "answer"}, output={"keep": ["hint", "n"]})


ONE = decimal.Decimal(1)
WIDE = pa.decimal256(76, 38)
STRUCT = pa.array([{"lang": "en", "x": ONE}] * 2, pa.struct([("lang", pa.string()), ("x", WIDE)]))
MAP = pa.array([[("k", ONE)]] * 2, pa.map_(pa.string(), WIDE))
NOT_UTF_8 = pa.array([b"fine", b"\xff\xfe\xe9"]).view(pa.string())
WINDOW = "row_number() over (partition by problem order by id) = 1"

REFUSED = {
    "kept metadata that is {} in every row": Report(
        "apache/arrow#9886, pola-rs/polars#24856, argilla-io/argilla#1176",
        lines('{"id": "a", "problem": "1?", "meta": {}}', output={"keep": ["meta"]}),
        "TMP/in.jsonl: output.keep: column 'meta' holds objects without any key (got struct<>, "
        "need at least one key: Parquet has none). Name another column, or convert it.",
    ),
    "a condition on text that is not UTF-8": Report(
        "apache/datafusion#25509, apache/arrow#29635",
        columns({"input": {"where": "upper(src) LIKE 'F%'"}}, src=NOT_UTF_8),
        "TMP/in.parquet: not a readable Parquet file (In column 0: Invalid: Invalid UTF8 sequence "
        "at string index 0). Write it again, or take it out.",
    ),
    "a condition on a decimal of 76 digits": Report(
        "apache/parquet-testing ARROW-GH-41317.parquet, kaushiksrini/parqeye#21",
        columns({"input": {"where": "price > 1"}}, price=pa.array([ONE, ONE], WIDE)),
        "TMP/in.parquet: input.where: column 'price' has a type that cannot be compared (got "
        "decimal256(76, 38), need a type that can be compared). Name another column, or convert "
        "it.",
    ),
    "a condition on a field beside such a decimal": Report(
        "as the decimal itself",
        columns({"input": {"where": "st.lang = 'en'"}}, st=STRUCT),
        "TMP/in.parquet: input.where: column 'st' has a type that cannot be compared (got "
        "decimal256(76, 38), need a type that can be compared). Name another column, or convert "
        "it.",
    ),
    "a condition on a map of such decimals": Report(
        "as the decimal itself",
        columns({"input": {"where": "mp IS NOT NULL"}}, mp=MAP),
        "TMP/in.parquet: input.where: column 'mp' has a type that cannot be compared (got "
        "decimal256(76, 38), need a type that can be compared). Name another column, or convert "
        "it.",
    ),
    "a kept Answer beside answer": Report(
        "duckdb/duckdb#13053, duckdb/duckdb#10543",
        columns({"output": {"keep": ["Answer"]}}, Answer=["204", "25"]),
        "TMP/job.yaml: output.keep: 'Answer' and 'answer' differ in case only, and many readers "
        "know none. Rename it: keep: {input_Answer: Answer}.",
    ),
    "a condition with a window": Report(
        "duckdb/duckdb#22794, databricks/databricks-agent-skills#230",
        columns({"input": {"where": WINDOW}}),
        f"TMP/job.yaml: input.where: row_number() needs more than one row (got '{WINDOW}', need a "
        "condition on each row by itself). Write its result as a column of the input, and name "
        "that.",
    ),
    "a template over bytes": Report(
        "apache/spark#1855, apache/druid#3381, Bears-R-Us/arkouda#1195",
        columns({"input": {"prompt": None, "template": "{x} {problem}"}}, x=[b"Tom has", b"3"]),
        "TMP/in.parquet: input.template: column 'x' has the wrong type (got binary, need text, "
        "numbers, booleans, dates or times). Name another column, or convert it.",
    ),
    "a file name in Latin-1": Report(
        "rsnitsch/py3createtorrent#33, Ellerhold/fs2es-indexer#22",
        name_in_latin_1,
        "TMP/t/r\\udce9sum\\udce9.parquet: the file's name is not UTF-8 (got other bytes). Rename "
        "it.",
    ),
    "a trailing comma in line 20,001": Report(
        "wandb/rai-toolkit#88",
        long_lines('{"id": "bad", "problem": "q",}'),
        "TMP/in.jsonl: line 20,001: not a readable JSON lines file (Expecting property name "
        "enclosed in double quotes). Correct the line, or take it out.",
    ),
    "the folder of a Delta table": Report(
        "AllenInstitute/biofile-finder#911, ClickHouse/ClickHouse#115043",
        table_folder("_delta_log/00000000000000000000.json"),
        "TMP/t: the folder of a Delta table (got _delta_log/, which says which files and rows "
        "live; need plain files). Write its live rows to Parquet files of their own (in Spark: "
        "spark.read.table(…).write.parquet(…)), and name that folder.",
    ),
    "the folder of an Iceberg table": Report(
        "duckdb/ducklake#33",
        table_folder("metadata/v1.metadata.json"),
        "TMP/t: the folder of an Iceberg table (got metadata/, which says which files and rows "
        "live; need plain files). Write its live rows to Parquet files of their own (in Spark: "
        "spark.read.table(…).write.parquet(…)), and name that folder.",
    ),
    "two columns of one name": Report(
        "found by trying",
        columns_of_one_name,
        "TMP/in.parquet: input.id: column 'id' is there twice (got 2 columns of this name, need "
        "one). Rename one of them.",
    ),
}

EMPTY: list[Any] = []
MESSAGE = {"role": "user", "content": "1 + 1?", "tool_calls": EMPTY, "annotations": EMPTY}
OPENAI = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("tool_calls", pa.list_(pa.struct([("id", pa.string())]))),
            ("annotations", pa.list_(pa.string())),
            ("refusal", pa.string()),
        ]
    )
)
SHARED = [[{"from": "human", "value": "1 + 1?"}], [{"from": "human", "value": "2 + 2?"}]]
NANOSECONDS = pa.array([1709164800123456789, 0], pa.timestamp("ns"))

READ = {
    "a template over nanoseconds": Report(
        "apache/arrow#34614, apache/parquet-testing int96_from_spark.parquet",
        columns({"input": {"prompt": None, "template": "{t}: {problem}"}}, t=NANOSECONDS),
        "2024-02-29 00:00:00.123456789: 1 + 1?",
    ),
    "messages with empty tool_calls": Report(
        "vllm-project/vllm#14054, vllm-project/vllm#30648",
        columns({"input": {"prompt": None, "messages": "m"}}, m=pa.array([[MESSAGE]] * 2, OPENAI)),
        "input    2 rows × 1: 0 done, 0 failed, 2 pending\n",
    ),
    "messages of ShareGPT": Report(
        "mosaicml/llm-foundry#1098, InternScience/GraphGen#43",
        columns({"input": {"prompt": None, "messages": "s"}}, s=SHARED, problem=None),
        "1 + 1?",
    ),
    "a row cut in the middle of an emoji": Report(
        "delexw/claude-code-trace#85, StarRocks/starrocks#400",
        lines('{"id": "a", "problem": "1?"}', '{"id": "b", "problem": "cut \\ud83d"}'),
        "bad rows 1 not_text",
    ),
    "an unused field of several types": Report(
        "huggingface/datasets#6460, NVIDIA/cudf#14572",
        lines(
            '{"id": "a", "problem": "1?", "meta": {"src": 1}}',
            '{"id": "b", "problem": "2?", "meta": {"src": "x"}}',
        ),
        "input    2 rows × 1: 0 done, 0 failed, 2 pending\n",
    ),
    "types that are known after 20 MB": Report(
        "windmill-labs/windmill#10728, huggingface/datasets#6460",
        long_lines('{"id": "last", "problem": "q", "hint": "h", "n": 1.5, "answer": "4"}'),
        "input    20,001 rows × 1: 0 done, 0 failed, 20,001 pending\n",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_reported_situation_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    report = REFUSED[name]
    result = checked(tmp_path, report.lay(tmp_path))
    got = result.stderr.replace(str(tmp_path), "TMP").splitlines()
    assert got == [f"batchr1: {report.line}"]
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", READ)
def test_a_reported_situation_is_read_right(tmp_path: Path, name: str) -> None:
    report = READ[name]
    result = checked(tmp_path, report.lay(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert report.line in result.stdout


class Kept(NamedTuple):
    """A kept column of three rows: as it is given, as the output has it, and as others write it."""

    source: str
    given: pa.Array
    rows: list[Any]
    in_json: list[Any]
    by: str | None = None


FAR = 253402300800000000 + 10**15
KEPT = {
    "json": Kept(
        "duckdb/duckdb#13446, apache/arrow#43807",
        pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}', None, "null"])),
        ['{"a":1}', None, "null"],
        ['{"a":1}', None, "null"],
    ),
    "nanoseconds": Kept(
        "apache/arrow#34614",
        pa.array([1709164800123456789, None, -1], pa.timestamp("ns")),
        [1709164800123456789, None, -1],
        ["2024-02-29T00:00:00.123456789", None, "1969-12-31T23:59:59.999999999"],
        "2024-02-29 00:00:00.123456789",
    ),
    "day": Kept(
        "apache/arrow#34614",
        pa.array([2932897 + 400, None, 0], pa.date32()),
        [2932897 + 400, None, 0],
        ["10001-02-04", None, "1970-01-01"],
        "10001-02-04",
    ),
    "microseconds": Kept(
        "apache/arrow#34614",
        pa.array([FAR, None, 0], pa.timestamp("us")),
        [FAR, None, 0],
        ["10031-09-09T01:46:40", None, "1970-01-01T00:00:00"],
        "10031-09-09 01:46:40",
    ),
    "map": Kept(
        "docs/export.md: datasets loads each form unchanged",
        pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        [[("k", 1)], None, []],
        [[["k", 1]], None, []],
    ),
    "score": Kept(
        "ray-project/ray#49338, ray-project/ray#48102, benseverndev-oss/goldenmatch#383",
        pa.array([5, None, None]),
        [5, None, None],
        [5, None, None],
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run over A.PARQUET and b.parquet, with every column of KEPT.

    `score` is null throughout the second file, and its gold is NaN.
    """
    folder = tmp_path_factory.mktemp("kept")
    (folder / "in").mkdir()
    for name, rows in (("A.PARQUET", slice(0, 1)), ("b.parquet", slice(1, 3))):
        table = {"id": ["a", "b", "c"][rows], "problem": ["1?", "2?", "3?"][rows]}
        kept = {key: column.given[rows] for key, column in KEPT.items()}
        if name == "b.parquet":
            kept["score"] = pa.nulls(2)
        gold = [2.0, float("nan"), float("nan")][rows]
        pq.write_table(pa.table({**table, **kept, "gold": gold}), folder / "in" / name)
    job = write_job(
        folder, input={"path": "in", "gold": "gold"}, output={"keep": list(KEPT)}, max_failed=0
    )
    assert run_replay(job).exit_code == 0
    return folder


def test_files_are_read_whatever_the_case_of_their_ending(finished: Path) -> None:
    """Reported as lakehq/sail#1823 and duckdb/duckdb#2543."""
    assert rows_of(finished / "out")["id"].to_list() == ["a", "b", "c"]


def test_a_gold_that_is_nan_leaves_accuracy_alone(finished: Path) -> None:
    """Reported as vibrantlabsai/ragas#1773, NVIDIA-NeMo/Evaluator#1094 and zzc-1998/Q-Eval#6."""
    result = batchr1("status", finished / "out")
    assert "correct    0 of 1 = 0.0%" in result.stdout


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_column_is_in_the_output_as_it_was(finished: Path, name: str) -> None:
    parts = [pq.read_table(part) for part in (finished / "out/data").glob("*.parquet")]
    column = pa.concat_tables(parts).sort_by("id").column(name)
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if pa.types.is_date(column.type) else pa.int64())
    assert column.to_pylist() == KEPT[name].rows
    if name == "json":
        assert rows_of(finished / "out")[name].dtype == pl.String


def test_kept_columns_are_exported_as_json_lines(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    result = batchr1("export", finished / "out", out, "--to", "raw", "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    texts = [path.read_text(encoding="utf-8") for path in out.rglob("*.jsonl")]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    rows.sort(key=lambda row: row["id"])
    assert {name: [row[name] for row in rows] for name in KEPT} == {
        name: column.in_json for name, column in KEPT.items()
    }


@pytest.mark.parametrize("name", [name for name, column in KEPT.items() if column.by])
def test_status_groups_by_a_value_that_python_lacks(finished: Path, name: str) -> None:
    result = batchr1("status", finished / "out", "--by", name)
    assert result.exit_code == 0, result.stderr
    assert str(KEPT[name].by) in result.stdout


def test_an_output_with_a_map_is_exported_in_a_form_that_datasets_loads(
    finished: Path, tmp_path: Path
) -> None:
    import datasets  # type: ignore[import-untyped]

    result = batchr1("export", finished / "out", tmp_path / "e", "--to", "sft")
    assert result.exit_code == 0, result.stderr
    loaded = datasets.load_dataset(str(tmp_path / "e"), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) > 0


def test_a_window_is_refused_in_an_export_too(finished: Path, tmp_path: Path) -> None:
    result = batchr1("export", finished / "out", tmp_path / "e", "--to", "raw", "--where", WINDOW)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"batchr1: --where: row_number() needs more than one row (got '{WINDOW}', need a condition "
        "on each row by itself). Write its result as a column of the input, and name that."
    ]
