"""Kept columns of any type: `check` takes one exactly where every reader gets it back as it was.

Types are drawn, nested up to three deep, with nulls everywhere; values are drawn from pools of
awkward ones. A column is written with the writer of parts and read with the libraries that people
read outputs with.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchr1.dataset.types import misfit, plain_type, unread_by
from batchr1.dataset.values import python_values, to_plain
from batchr1.output.parts import write_parquet

D = decimal.Decimal
ROWS = 7
DAY_US = 86_400_000_000
# Leaf types, and values of theirs as `pa.array` takes them.
LEAVES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None]),
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.uint16(), [0, 65535]),
    (pa.int32(), [1, -(2**31)]),
    (pa.int64(), [-(2**63), 2**63 - 1, 2**53 + 1]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float16(), [0.5, float("inf")]),
    (pa.float32(), [1.5, float("-inf")]),
    (pa.float64(), [0.1, float("nan"), -0.0, 1e308]),
    (pa.decimal128(38, 10), [D("1.5"), D(10) ** 27]),
    (pa.decimal128(5, 0), [D(-99999), D(0)]),
    (pa.decimal256(20, 3), [D("0.001")]),
    (pa.decimal256(76, 38), [D("1.5"), D(10) ** 37]),
    (pa.string(), ["", "a\0b", "é東\N{GRINNING FACE}", "x" * 300]),
    (pa.large_string(), ["", "text"]),
    (pa.string_view(), ["short", "longer than twelve bytes"]),
    (pa.binary(), [b"", b"\xff\0"]),
    (pa.large_binary(), [b"\xfe"]),
    (pa.binary_view(), [b"b" * 20]),
    (pa.binary(3), [b"abc", b"\0\0\0"]),
    (pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), 2932897 + 400]),
    (pa.date64(), [dt.date(2024, 2, 29)]),
    (pa.time32("ms"), [0, DAY_US // 1000 - 1]),
    (pa.time64("us"), [dt.time(23, 59, 59, 999999)]),
    (pa.time64("ns"), [1, DAY_US * 1000 - 1]),
    (pa.timestamp("ms"), [-1, 253402300800000]),
    (pa.timestamp("us"), [dt.datetime(1, 1, 1), 253402300800000000 + 10**15]),
    (pa.timestamp("us", "Europe/Berlin"), [0, 1]),
    (pa.timestamp("ns"), [-1, 1709164800123456789]),
    (pa.timestamp("ns", "UTC"), [1]),
    (pa.duration("ns"), [-1, 10**18]),
    (pa.month_day_nano_interval(), [(1, 2, 3)]),
]
EXTENSIONS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.uuid(), [bytes(16), bytes(range(16))]),
    (pa.json_(), ['{"a":1}', "null"]),
    (pa.bool8(), [0, 1]),
    (pa.opaque(pa.binary(), "geometry", "somebody"), [b"\x01"]),
    (pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2]]),
]
POOLS = {str(kind): values for kind, values in [*LEAVES, *EXTENSIONS]}
NAMES = st.sampled_from(["a", "b", "key", "value", "element", "list", "a.b", "é", "A", "ß", ""])


def _structs(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    pairs = st.lists(st.tuples(NAMES, inner), max_size=3, unique_by=lambda pair: pair[0])
    return pairs.map(pa.struct)


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    keys = st.sampled_from([pa.string(), pa.int32(), pa.date32(), pa.binary()])
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(pa.list_view),
        _structs(inner),
        st.builds(pa.map_, keys, inner),
    )


LEAF = st.sampled_from([kind for kind, _ in [*LEAVES, *EXTENSIONS]]) | st.sampled_from(
    [
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.timestamp("ns")),
        pa.dictionary(pa.int8(), pa.binary()),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.dense_union([pa.field("x", pa.int64())]),
    ]
)
KINDS = LEAF | _nested(LEAF) | _nested(_nested(LEAF))


def column(kind: pa.DataType, size: int, chance: random.Random) -> pa.Array:
    """A column of this type with `size` drawn values, about one in four null."""
    nulls = [chance.random() < 0.25 for _ in range(size)]
    if str(kind) in POOLS:
        pool = POOLS[str(kind)]
        values = [None if null else chance.choice(pool) for null in nulls]
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
        return pa.array(values, kind)
    if pa.types.is_dictionary(kind):
        values = column(kind.value_type, 3, chance).drop_null()
        indices = [None if null or not len(values) else 0 for null in nulls]
        return pa.DictionaryArray.from_arrays(pa.array(indices, kind.index_type), values)
    if pa.types.is_struct(kind):
        parts = [column(field.type, size, chance) for field in kind]
        if not parts:
            return pa.array([None if null else {} for null in nulls], kind)
        return pa.StructArray.from_arrays(
            parts, fields=list(kind), mask=pa.array(nulls, pa.bool_())
        )
    if pa.types.is_run_end_encoded(kind):
        ends = pa.array([size] if size else [], pa.int32())
        return pa.RunEndEncodedArray.from_arrays(ends, pa.array(["x"] * len(ends), pa.string()))
    if pa.types.is_union(kind):
        types, offsets = pa.array([0] * size, pa.int8()), pa.array(range(size), pa.int32())
        return pa.UnionArray.from_dense(types, offsets, [pa.array([1] * size, pa.int64())], ["x"])
    if pa.types.is_fixed_size_list(kind):
        inner = column(kind.value_type, 2 * size, chance)
        return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=pa.array(nulls, pa.bool_()))
    return _lists(kind, nulls, chance)


def _lists(kind: pa.DataType, nulls: list[bool], chance: random.Random) -> pa.Array:
    """A column of lists, list views or maps; the keys of a map differ."""
    sizes = [0 if null else chance.randint(0, 2) for null in nulls]
    ends, total = [sum(sizes[: i + 1]) for i in range(len(sizes))], sum(sizes)
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    offsets = [None if null else start for null, start in zip(nulls, starts, strict=True)]
    if pa.types.is_map(kind):
        keys = [1, 2] if pa.types.is_int32(kind.key_type) else ["k", "l"]
        keys = [dt.date(1, 1, 1), dt.date(1, 1, 2)] if pa.types.is_date(kind.key_type) else keys
        drawn = pa.array([key for size in sizes for key in keys[:size]], kind.key_type)
        items = column(kind.item_type, total, chance)
        all_offsets = pa.array([*offsets, total], pa.int32())
        return pa.MapArray.from_arrays(all_offsets, drawn, items)
    inner = column(kind.value_type, total, chance)
    if pa.types.is_list_view(kind):
        mask = pa.array(nulls, pa.bool_())
        return pa.ListViewArray.from_arrays(
            pa.array(starts, pa.int32()), pa.array(sizes, pa.int32()), inner, mask=mask
        )
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array([*offsets, total], pa.int64()), inner)
    return pa.ListArray.from_arrays(pa.array([*offsets, total], pa.int32()), inner)


def _by_pyarrow(path: Path) -> pa.Table:
    return pq.read_table(path)


def _by_polars(path: Path) -> pa.Table:
    return pl.read_parquet(path).to_arrow()


def _by_duckdb(path: Path) -> pa.Table:
    import duckdb

    return duckdb.connect().read_parquet(str(path)).to_arrow_table()


def _by_pandas(path: Path) -> pa.Table:
    import pandas

    frame = pandas.read_parquet(path, dtype_backend="pyarrow")
    return pa.table({name: pa.array(frame[name]) for name in frame.columns})


def _by_datasets(path: Path) -> pa.Table:
    import datasets

    datasets.disable_progress_bars()
    cache = path.parent / "cache"
    return datasets.Dataset.from_parquet(str(path), cache_dir=str(cache)).data.table


READERS: dict[str, Callable[[Path], pa.Table]] = {
    "pyarrow": _by_pyarrow,
    "polars": _by_polars,
    "duckdb": _by_duckdb,
    "pandas": _by_pandas,
    "datasets": _by_datasets,
}


def unlike(given: pa.Array, folder: Path) -> list[str]:
    """The readers that do not get this column back, and why; all of them if it is not written."""
    path = folder / f"{os.urandom(8).hex()}.parquet"
    if "union<" in str(given.type):  # pyarrow aborts where a null struct holds one
        return [f"{name}: Parquet has no unions" for name in READERS]
    try:
        plain = to_plain(given)
        plain.validate(full=True)
        write_parquet(pa.table({"x": plain}), path)
    except (pa.ArrowException, TypeError, ValueError) as exc:
        return [f"{name}: not written ({exc})" for name in READERS]
    wanted, found = repr(python_values(given_as_plain(given, plain))), []
    for name, read in READERS.items():
        try:
            got = repr(python_values(read(path).column("x"))).replace("Etc/UTC", "UTC")
        except BaseException as exc:  # a panic of Rust is no Exception
            if isinstance(exc, KeyboardInterrupt):
                raise
            found.append(f"{name}: {type(exc).__name__} {exc}")
            continue
        if got != wanted:
            found.append(f"{name}: {got} instead of {wanted}")
    return found


def given_as_plain(given: pa.Array, plain: pa.Array) -> pa.Array:
    """The column to compare with, whose values must be those that were given."""
    if not _is_rewritten(given.type):
        assert repr(python_values(given)) == repr(python_values(plain))
    return plain


def _is_rewritten(kind: pa.DataType) -> bool:
    """Whether the plain type says the same values in other words: another zone, or a number."""
    return any(word in str(kind) for word in ("duration", "tz=", "bool8"))


WRAPPERS: list[Callable[[pa.DataType], pa.DataType]] = [
    pa.list_,
    pa.large_list,
    lambda kind: pa.list_(kind, 2),
    pa.list_view,
    lambda kind: pa.struct([("a", kind)]),
    lambda kind: pa.map_(pa.string(), kind),
]


@pytest.mark.parametrize("leaf", [pa.uuid(), pa.json_(), pa.timestamp("ns"), pa.null()], ids=str)
def test_values_below_null_rows_reach_no_other_row(leaf: pa.DataType) -> None:
    for outer, middle, inner in itertools.product(WRAPPERS, WRAPPERS, WRAPPERS):
        kind = outer(middle(inner(leaf)))
        given = column(kind, ROWS, random.Random(4))
        wanted = python_values(given)
        for part, rows in ((given, wanted), (given.slice(2, 3), wanted[2:5])):
            plain = to_plain(part)
            plain.validate(full=True)
            assert python_values(part) == python_values(plain) == rows, kind


@settings(
    max_examples=int(os.environ.get("KEPT_TYPES_EXAMPLES", "60")),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(kind=KINDS, seed=st.integers(0, 2**32))
@example(kind=pa.list_view(pa.int32()), seed=0)
@example(kind=pa.list_view(pa.list_(pa.uuid())), seed=44)
@example(kind=pa.list_(pa.list_view(pa.null()), 2), seed=1)
@example(kind=pa.struct([("a", pa.map_(pa.string(), pa.uuid()))]), seed=2)
@example(kind=pa.list_(pa.map_(pa.date32(), pa.null()), 2), seed=0)
@example(kind=pa.struct([("a", pa.int64()), ("A", pa.int64())]), seed=0)
@example(kind=pa.struct([("", pa.int64())]), seed=0)
@example(kind=pa.list_(pa.decimal256(76, 38)), seed=0)
@example(kind=pa.map_(pa.string(), pa.map_(pa.string(), pa.float16())), seed=0)
def test_a_kept_column_is_taken_exactly_where_every_reader_gets_it_back(
    tmp_path: Path, kind: pa.DataType, seed: int
) -> None:
    given = column(kind, ROWS, random.Random(seed))
    given.validate(full=True)
    failed = unlike(given, tmp_path)
    if misfit("output.keep", kind) is None:
        excused = tuple(f"{name}: " for name in unread_by(kind))
        assert [why for why in failed if not why.startswith(excused or "\0")] == []
    else:
        assert failed, f"{kind} is refused, but every reader gets it back"


@pytest.mark.parametrize(
    ("kind", "readers"),
    [
        (pa.map_(pa.string(), pa.int64()), ["datasets"]),
        (pa.decimal256(76, 2), ["duckdb", "polars"]),
    ],
)
def test_a_type_is_excused_only_for_readers_that_lack_it(
    tmp_path: Path, kind: pa.DataType, readers: list[str]
) -> None:
    value: Any = [("k", 1)] if pa.types.is_map(kind) else D(10) ** 60
    failed = unlike(pa.array([value], kind), tmp_path)
    assert sorted(why.partition(":")[0] for why in failed) == readers
    assert sorted(unread_by(kind)) == readers
    assert sorted(unread_by(plain_type(pa.struct([("a", pa.list_(kind))])))) == readers
