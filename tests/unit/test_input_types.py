"""Arrow types of input columns: each use of each type is taken, or refused in exact words."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchr1.dataset.chat_prompts import ChatRenderer
from batchr1.dataset.source import Source
from batchr1.dataset.types import type_table
from batchr1.dataset.values import python_values
from batchr1.driver.feed.items import render_batch
from batchr1.errors import InputError, JobError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs

ROOT = Path(__file__).parents[2]


def source_of(path: Path, keep: Any = (), **spec: Any) -> Source:
    wanted = {"id": "id", "prompt": "q", **spec}
    inputs = InputSpec(
        path=str(path), **{key: value for key, value in wanted.items() if value is not None}
    )
    return Source(inputs, keep or [], expand_inputs(path))


def write(path: Path, table: pa.Table | dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)
    return path


def refusal(error: type[Exception], path: Path, keep: Any = (), **spec: Any) -> str:
    with pytest.raises(error) as caught:
        list((source := source_of(path, keep, **spec)).batches(source.row_columns))
    return str(caught.value).replace(str(path.parent), "TMP")


TWO = {"id": ["a", "b"], "q": ["1 + 1?", "2 + 2?"]}
BIG = pa.array([decimal.Decimal(1), None], pa.decimal256(60, 2))


def test_the_table_of_the_docs_is_the_one_of_the_code() -> None:
    page = (ROOT / "docs/inputs.md").read_text(encoding="utf-8")
    table = page.partition("<!-- types -->\n")[2].partition("\n<!-- /types -->")[0]
    assert table == type_table()


@pytest.mark.parametrize(
    ("column", "spec", "keep", "message"),
    [
        (
            pa.array([{}, {}], pa.struct([])),
            {},
            ["x"],
            "output.keep: column 'x' holds objects without any key (got struct<>, need at least "
            "one key: Parquet has none)",
        ),
        (
            pa.array([[{}], None], pa.list_(pa.struct([]))),
            {},
            ["x"],
            "output.keep: column 'x' holds objects without any key (got struct<>, need at least "
            "one key: Parquet has none)",
        ),
        (
            BIG,
            {"where": "x > 1"},
            (),
            "input.where: column 'x' has a type that cannot be compared (got decimal256(60, 2), "
            "need a type that can be compared)",
        ),
        (
            pa.array([b"x", b"y"]),
            {"prompt": None, "template": "{x} {q}"},
            (),
            "input.template: column 'x' has the wrong type (got binary, need text, numbers, "
            "booleans, dates or times)",
        ),
        (
            pa.array([["x"], ["y"]]),
            {"prompt": None, "template": "{x} {q}"},
            (),
            "input.template: column 'x' has the wrong type (got list<element: string>, need text, "
            "numbers, booleans, dates or times)",
        ),
        (
            pa.array([[{"speaker": "u"}], []]),
            {"prompt": None, "messages": "x"},
            (),
            "input.messages: column 'x' has no role and content (got speaker, need a list of "
            "{role, content})",
        ),
    ],
)
def test_a_type_that_does_not_fit_is_refused_by_key_and_column(
    tmp_path: Path, column: pa.Array, spec: dict[str, Any], keep: Any, message: str
) -> None:
    if pa.types.is_struct(column.type) or "struct<>" in str(column.type):
        path = tmp_path / "in.jsonl"  # Parquet itself has no such type
        value = "{}" if pa.types.is_struct(column.type) else "[{}]"
        path.write_text(f'{{"id": "a", "q": "1", "x": {value}}}\n')
    else:
        path = write(tmp_path / "in.parquet", {**TWO, "x": column})
    got = refusal(InputError, path, keep, **spec)
    assert got == f"TMP/{path.name}: {message}. Name another column, or convert it."


@pytest.mark.parametrize(
    ("condition", "what"),
    [
        ("row_number() over (partition by q order by level) = 1", "row_number()"),
        ("sum(level) over (partition by q) > 1", "sum()"),
        ("level = max(level)", "max()"),
        ("count(*) > 1", "count()"),
        ("level > (SELECT 1)", "SELECT"),
        ("first(level) = 1", "first()"),
        ('"max"(level) = level', "max()"),
        ("max /* of all */ (level) = level", "max()"),
        ("coalesce(abs(level), min(level)) = 1", "min()"),
        ("abs(level) OVER (PARTITION BY q) = 1", "over()"),
        ("EXISTS (SELECT 1)", "exists()"),
        ("$$'$$ = q AND max(level) = level OR q = 'x'", "it"),
    ],
)
def test_a_condition_that_needs_other_rows_is_refused(
    tmp_path: Path, condition: str, what: str
) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "level": [1, 2]}, row_group_size=1)
    assert refusal(JobError, path, where=condition) == (
        f"input.where: {what} needs more than one row (got {condition!r}, need a condition on each "
        "row by itself). Write its result as a column of the input, and name that."
    )


@pytest.mark.parametrize("clock", ["current_timestamp", "now", "CURRENT_DATE"])
def test_a_condition_on_the_clock_is_refused(tmp_path: Path, clock: str) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "at": pa.array([0, 1], pa.timestamp("us"))})
    condition = f"at < {clock}" + ("()" if clock == "now" else "")
    assert refusal(JobError, path, where=condition) == (
        f"input.where: {clock.lower()} tells another time in each run (got {condition!r}, need a "
        "condition on the row alone). Write the time itself."
    )


@pytest.mark.parametrize("condition", ["over < 2", "st.over < 2", '"max" < 2', "max < 2"])
def test_columns_may_have_the_names_of_windows_and_aggregates(
    tmp_path: Path, condition: str
) -> None:
    columns = {"over": [1, 2], "max": [1, 2], "st": [{"over": 1}, {"over": 2}]}
    source = source_of(write(tmp_path / "in.parquet", {**TWO, **columns}), where=condition)
    assert [i for _, b in source.batches(source.row_columns) for i in source.ids(b)] == ["a"]


@pytest.mark.parametrize(
    "condition",
    [
        "upper(q) LIKE '1%'",
        "level IN (1, 7) AND (q <> 'sum(x)')",
        "CASE WHEN level > 1 THEN false ELSE true END",
        "CAST(level AS varchar(3)) = '1'",
        "coalesce(level, 0) BETWEEN 0 AND 1",
    ],
)
def test_a_condition_on_one_row_is_taken(tmp_path: Path, condition: str) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "level": [1, 2]}, row_group_size=1)
    source = source_of(path, where=condition)
    assert [i for _, b in source.batches(source.row_columns) for i in source.ids(b)] == ["a"]


def test_text_that_is_not_utf_8_in_a_condition_is_an_error_and_no_crash(tmp_path: Path) -> None:
    bad = pa.array([b"fine", b"\xff\xfe\xe9"]).view(pa.string())
    path = write(tmp_path / "in.parquet", {**TWO, "src": bad})
    got = refusal(InputError, path, where="upper(src) LIKE 'F%'")
    assert got.startswith("TMP/in.parquet: not a readable Parquet file (In column 0: Invalid: ")


@pytest.mark.parametrize("keep", [["Answer"], {"ANSWER": "Answer"}, {"x": "q", "X": "Answer"}])
def test_kept_names_that_differ_in_case_only_are_refused(tmp_path: Path, keep: Any) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "Answer": ["1", "2"]})
    got = refusal(JobError, path, keep)
    assert re.fullmatch(
        r"output\.keep: '\w+' and '\w+' differ in case only, and many readers know none\. Rename "
        r"it: keep: \{input_\w+: \w+\}\.",
        got,
    )


def test_keep_all_renames_what_differs_in_case_only(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "Answer": ["1", "2"]})
    assert source_of(path, "all").kept_names == {"q": "q", "input_Answer": "Answer"}


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["1"])]
    path = write(tmp_path / "in.parquet", pa.Table.from_arrays(columns, names=["id", "id", "q"]))
    assert refusal(InputError, path) == (
        "TMP/in.parquet: input.id: column 'id' is there twice (got 2 columns of this name, need "
        "one). Rename one of them."
    )


@pytest.mark.parametrize(
    ("column", "golds"),
    [
        (pa.array([2.0, float("nan")]), ["2.0", None]),
        (pa.array(["", "  \n"]), [None, None]),
        (pa.array(["nan", "x"]), ["nan", "x"]),
        (pa.nulls(2), [None, None]),
        (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    ],
)
def test_a_gold_that_is_no_answer_is_none(
    tmp_path: Path, column: pa.Array, golds: list[str | None]
) -> None:
    source = source_of(write(tmp_path / "in.parquet", {**TWO, "g": column}), gold="g")
    assert [g for _, b in source.batches(source.row_columns) for g in source.golds(b)] == golds


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (
            pa.array([1709164800123456789, 0], pa.timestamp("ns")),
            ["2024-02-29 00:00:00.123456789", "1970-01-01 00:00:00"],
        ),
        (pa.array([2932897 + 400, 0], pa.date32()), ["10001-02-04", "1970-01-01"]),
        (pa.array([5, 0], pa.time64("ns")), ["00:00:00.000000005", "00:00:00"]),
        (pa.array([float("nan"), 2.0]), [None, "2.0"]),
        (pa.array([float("inf"), 1e300]), [None, "1e+300"]),
        (pa.array([True, False]), ["True", "False"]),
    ],
)
def test_a_template_writes_values_that_python_lacks(
    tmp_path: Path, column: pa.Array, texts: list[str | None]
) -> None:
    path = write(tmp_path / "in.parquet", {**TWO, "x": column}, version="2.6")
    source = source_of(path, prompt=None, template="{x}")
    assert [c for _, b in source.batches(source.row_columns) for c in source.contents(b)] == texts


def test_an_old_timestamp_beyond_nanoseconds_is_kept_as_it_is(tmp_path: Path) -> None:
    days = [dt.datetime(9999, 12, 31), dt.datetime(2024, 2, 29)]
    table = {**TWO, "until": pa.array(days, pa.timestamp("us"))}
    path = write(tmp_path / "in.parquet", table, use_deprecated_int96_timestamps=True)
    source = source_of(path, ["until"])
    kept = [source.kept(batch) for _, batch in source.batches(source.row_columns)]
    assert kept[0].column("until").to_pylist() == days
    source.keep_as({"until": pa.timestamp("ns")})  # an output made before has it so
    with pytest.raises(InputError, match=r"output\.keep: column 'until' holds a value that "):
        [source.kept(batch) for _, batch in source.batches(source.row_columns)]


def test_arrows_boolean_of_8_bits_is_no_number(tmp_path: Path) -> None:
    truths = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8()))
    path = write(tmp_path / "in.parquet", {**TWO, "x": truths})
    source = source_of(path, prompt=None, template="{x}")
    assert [c for _, b in source.batches(source.row_columns) for c in source.contents(b)] == [
        "True",
        "False",
    ]
    for spec in ({"id": "x"}, {"max_tokens": "x"}, {"gold": "x"}):
        assert "column 'x' has the wrong type (got extension<arrow.bool8>" in refusal(
            InputError, path, **spec
        )


def test_a_row_group_with_fewer_rows_than_its_footer_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in.parquet", TWO)
    iter_batches = pq.ParquetFile.iter_batches

    def short(self: pq.ParquetFile, *args: Any, **more: Any) -> Any:
        for batch in iter_batches(self, *args, **more):
            yield batch.slice(1)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", short)
    for spec in ({}, {"where": "q <> ''"}):
        assert refusal(InputError, path, **spec) == (
            "TMP/in.parquet: not a readable Parquet file (row group 0 has 1 rows, its footer says "
            "2). Write it again, or take it out."
        )


def test_json_and_uuids_are_kept_as_text_and_uuids_are_ids(tmp_path: Path) -> None:
    raw = [bytes(range(16)), bytes(range(1, 17))]
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array(raw, pa.binary(16)))
    texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}', None]))
    path = write(tmp_path / "in.parquet", {"id": uuids, "q": TWO["q"], "m": texts})
    source = source_of(path, ["m"], id="id")
    [(_, batch)] = source.batches(source.row_columns)
    assert source.ids(batch) == [
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "01020304-0506-0708-090a-0b0c0d0e0f10",
    ]
    assert source.kept(batch).schema == pa.schema([("m", pa.string())])
    assert source.kept(batch).column("m").to_pylist() == ['{"a":1}', None]


@pytest.mark.parametrize("first", ["null", "typed"])
def test_a_column_that_is_null_in_one_file_fits_any_type(tmp_path: Path, first: str) -> None:
    null, typed = ("a", "b") if first == "null" else ("b", "a")
    write(
        tmp_path / f"in/{null}.parquet",
        {"id": ["x"], "q": ["1"], "score": pa.nulls(1), "cap": pa.nulls(1)},
    )
    write(tmp_path / f"in/{typed}.parquet", {"id": ["y"], "q": ["2"], "score": [[5]], "cap": [9]})
    write(tmp_path / "in/c.parquet", pa.table({"id": pa.array([], pa.float64())}))  # no row
    source = source_of(tmp_path / "in", ["score"], max_tokens="cap")
    found = {}
    for _, batch in source.batches(source.row_columns):
        kept = source.kept(batch).column("score").to_pylist()
        found[source.ids(batch)[0]] = (kept[0], source.caps(batch)[0])
    assert found == {"x": (None, None), "y": ([5], 9)}


def test_messages_of_sharegpt_and_empty_keys_are_understood(tmp_path: Path) -> None:
    empty: list[Any] = []
    message = {"role": "user", "content": "1?", "tool_calls": empty, "weight": 1, "name": None}
    kind = pa.list_(
        pa.struct(
            [
                ("role", pa.string()),
                ("content", pa.string()),
                ("tool_calls", pa.list_(pa.string())),
                ("weight", pa.int64()),
                ("name", pa.string()),
            ]
        )
    )
    shared = [[{"from": "human", "value": "1?"}, {"from": "gpt", "value": "2"}]]
    table = {"id": ["a"], "m": pa.array([[message]], kind), "s": shared}
    path = write(tmp_path / "in.parquet", table)

    def contents(column: str) -> list[Any]:
        source = source_of(path, prompt=None, messages=column)
        return [c for _, b in source.batches(source.row_columns) for c in source.contents(b)]

    assert contents("m") == [[{"role": "user", "content": "1?"}]]
    assert contents("s") == [
        [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]
    ]


@pytest.mark.parametrize(
    ("lines", "spec", "message"),
    [
        (['{"id":"a","q":"1"}', '{"id":"b","q":"2",}'], {}, "line 2: not a readable JSON lines "),
        (['{"id":"a","q":"1"}', "", "[1]"], {}, "line 3: not a readable JSON lines file (got a "),
        (
            ['{"id":"a","q":"1"}', '{"id":2,"q":"2"}'],
            {},
            "line 2: 'id' has another type than before (got a number, need text). Give ",
        ),
        (
            [f'{{"id":"a","q":"1","x":{"[" * 20000}{"]" * 20000}}}'],
            {},
            "line 1: nested too deep (got about as many brackets as 20,001, need at most 64 ",
        ),
    ],
)
def test_a_bad_line_of_json_is_named_by_its_number(
    tmp_path: Path, lines: list[str], spec: dict[str, Any], message: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert refusal(InputError, path, **spec).startswith(f"TMP/in.jsonl: {message}")


def test_fields_of_json_that_no_key_names_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"id":"a","q":"cut \\ud83d","x":1}\n{"id":"b","q":"2","x":"text","gold":3}\n'
        '{"id":"c","q":"3","x":{},"gold":"three"}\n'
    )
    source = source_of(path, gold="gold")
    rows = [
        row
        for _, batch in source.batches(source.row_columns)
        for row in zip(source.ids(batch), source.contents(batch), source.golds(batch), strict=True)
    ]
    assert rows == [("a", "cut \ud83d", None), ("b", "2", "3"), ("c", "3", "three")]


def test_bad_text_beside_the_prompt_fails_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"id":"a","q":"1","g":"1","k":{"t":"cut \\ud83d"},"\\ud83d":1}\n'
        '{"id":"b","q":"2","g":"cut \\ud83d","k":{"t":"x"},"n":' + "9" * 5000 + "}\n"
        '{"id":"c","q":"3","g":"3","k":{"t":"y"}}\n'
    )
    source = source_of(path, ["k"], gold="g")
    rendered = [
        row
        for _, batch in source.batches(source.row_columns)
        for row in render_batch(source, ChatRenderer(), batch)
    ]
    assert [(row.id, getattr(row, "message", None)) for row in rendered] == [
        ("a", "column 'k' is not valid Unicode (a lone surrogate)"),
        ("b", "column 'g' is not valid Unicode (a lone surrogate)"),
        ("c", None),
    ]
    [kept] = [row.kept.to_pylist() for row in rendered if row.id == "c"]
    assert kept == [{"k": {"t": "y"}}]


def test_an_id_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":"cut \\ud83d","q":"1"}\n')
    source = source_of(path)
    with pytest.raises(InputError, match=r"input\.id: column 'id' holds an id that is not valid U"):
        [source.ids(batch) for _, batch in source.batches(source.row_columns)]


def test_values_that_python_lacks_are_text_in_nested_columns_too() -> None:
    kind = pa.list_(pa.struct([("t", pa.timestamp("ns")), ("d", pa.date32())]))
    column = pa.array([[{"t": 1, "d": 2932897}], None], kind)
    assert python_values(column) == [
        [{"t": "1970-01-01T00:00:00.000000001", "d": "10000-01-01"}],
        None,
    ]
