"""What is still to do: wanted less what is done, failed or excluded, for any of them."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchr1.dataset.pending import Counts, Pending
from batchr1.dataset.source import Source
from batchr1.errors import InputError
from batchr1.job.spec import InputSpec
from batchr1.storage.inputs import expand_inputs

Keys = set[tuple[str, int]]
State = tuple[list[str], int, Keys, Keys, set[str]]


def source_of(
    path: Path, *, id: str | None = "id", where: str | None = None, limit: int | None = None
) -> Source:
    spec = InputSpec(path=str(path), id=id, prompt="q", where=where, limit=limit)
    return Source(spec, [], expand_inputs(path))


def pending_of(source: Source, n: int = 1) -> Pending:
    return Pending(source, n, ids_are_hashes="id" not in source.id_columns)


def write(
    path: Path, ids: list[str], prompts: list[str] | None = None, row_group_size: int = 3
) -> Path:
    table = pa.table({"id": pa.array(ids, pa.string()), "q": prompts or ["?"] * len(ids)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def columns_of(keys: Keys) -> tuple[pa.Array, pa.Array]:
    pairs = sorted(keys)
    return pa.array([id for id, _ in pairs], pa.string()), pa.array(
        [sample for _, sample in pairs], pa.int32()
    )


def left(source: Source, pending: Pending) -> list[tuple[str, int]]:
    """Every (id, sample) that `rows` hands out, in its order."""
    found: list[tuple[str, int]] = []
    for batch, samples in pending.rows(source):
        for id, numbers in zip(source.ids(batch), samples, strict=True):
            assert numbers
            found += [(str(id), number) for number in numbers]
    return found


IDS = st.text(st.characters(codec="utf-8"), max_size=6)


@st.composite
def states(draw: st.DrawFn) -> State:
    """Input ids, n, done keys, failed keys, excluded ids; some of each are not in the input, or
    beyond n.
    """
    ids = draw(st.lists(IDS, min_size=1, max_size=12, unique=True))
    n = draw(st.sampled_from([1, 2, 7, 8, 9, 16, 63, 64, 65, 70]))
    known = st.sampled_from([*ids, "not in the input"])
    keys = st.sets(st.tuples(known, st.integers(0, n + 3)), max_size=40)
    return ids, n, draw(keys), draw(keys), draw(st.sets(known, max_size=4))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(states())
def test_pending_is_wanted_less_done_failed_and_excluded(tmp_path: Path, state: State) -> None:
    ids, n, done, failed, excluded = state
    source = source_of(write(tmp_path / "in.parquet", ids))
    pending = pending_of(source, n)
    pending.exclude(pa.array(sorted(excluded), pa.string()))
    pending.mark_done(*columns_of(done))
    pending.mark_done(*columns_of(done))  # a part that is read twice changes nothing
    pending.forget_learned()
    pending.mark_done(*columns_of(done))  # nor do all parts that are read again
    pending.mark_failed(*columns_of(failed))
    counts = pending.counts()
    pending.free()
    rows = [id for id in ids if id not in excluded]
    wanted = {(id, sample) for id in rows for sample in range(n)}
    handed_out = left(source, pending)
    assert sorted(handed_out) == sorted(wanted - done - failed)
    assert [id for id, _ in handed_out] == sorted((id for id, _ in handed_out), key=ids.index), (
        "input order"
    )
    assert counts == Counts(
        rows=len(rows),
        n=n,
        done=len(wanted & done),
        failed=len(wanted & failed - done),
        duplicates=len(ids) - len(rows),
        beside=len(done - wanted),
    )
    assert counts.samples == counts.done + counts.failed + counts.pending
    assert counts.pending == len(handed_out)


@given(states(), st.integers(1, 4))
@settings(max_examples=40)
def test_rows_that_were_begun_come_first_and_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, state: State, group_size: int
) -> None:
    ids, n, done, _, chosen = state
    source = source_of(
        write(tmp_path_factory.mktemp("in") / "in.parquet", ids, row_group_size=group_size)
    )
    pending = pending_of(source, n)
    pending.mark_done(*columns_of(done))
    pending.begin_with(pa.array(sorted(chosen), pa.string()))
    handed_out = left(source, pending)
    assert sorted(handed_out) == sorted({(id, sample) for id in ids for sample in range(n)} - done)
    order = sorted(handed_out, key=lambda key: (key[0] not in chosen, ids.index(key[0])))
    assert [id for id, _ in handed_out] == [id for id, _ in order]


def test_pending_follows_where_and_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", [f"row/{i}" for i in range(10)])
    source = source_of(path, where="id <> 'row/1'", limit=4)
    pending = pending_of(source)
    pending.mark_done(pa.array(["row/2", "row/9"]), pa.array([0, 0], pa.int32()))
    assert left(source, pending) == [("row/0", 0), ("row/3", 0), ("row/4", 0)]
    assert pending.counts() == Counts(rows=4, n=1, done=1, failed=0, duplicates=0, beside=1)
    pending.forget_learned()
    assert pending.counts().beside == 0, "counted anew when parts are read again"


def test_a_larger_n_wants_the_new_samples_only_and_a_smaller_one_nothing(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "in.parquet", ["a", "b"]))
    done = columns_of({(id, sample) for id in "ab" for sample in range(3)})
    for n, expected in [(5, [("a", 3), ("a", 4), ("b", 3), ("b", 4)]), (3, []), (2, [])]:
        pending = pending_of(source, n)
        pending.mark_done(*done)
        assert left(source, pending) == expected
        counts = pending.counts()
        assert (counts.done, counts.beside) == (2 * min(n, 3), 2 * max(0, 3 - n))


def test_without_an_id_column_equal_prompts_are_one_row(tmp_path: Path) -> None:
    prompts = ["one", "two", "one", "one", "é", "two"]
    source = source_of(
        write(tmp_path / "in.parquet", list("abcdef"), prompts, row_group_size=2), id=None
    )
    pending = pending_of(source, 2)
    found = [
        (text, numbers)
        for batch, samples in pending.rows(source)
        for text, numbers in zip(source.contents(batch), samples, strict=True)
    ]
    assert found == [("one", (0, 1)), ("two", (0, 1)), ("é", (0, 1))]
    assert pending.counts() == Counts(rows=3, n=2, done=0, failed=0, duplicates=3)


def test_a_repeated_id_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "in.parquet", ["a", "b", "c", "d", "b", "a"]))
    with pytest.raises(
        InputError, match=r"/in\.parquet: row 4: the id 'b' came before, in row 1 \(2 in all"
    ):
        pending_of(source)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a", "b", None], "row 11: the id is null"),
        (["a", "b", "b"], "row 11: the id 'b' came before, in row 6"),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_are_counted_as_they_stand_in_the_file_whatever_where_leaves_out(
    tmp_path: Path, ids: list[str | None], said: str, form: str
) -> None:
    """Rows 1, 6 and 11 of the second file pass."""
    everything = [ids[i // 5] if i % 5 == 1 else f"out {i}" for i in range(15)]
    for number, column in enumerate((["first"], everything)):
        table = pa.table(
            {"id": column, "q": ["?"] * len(column), "level": [i % 5 for i in range(len(column))]}
        )
        path = tmp_path / f"{number}.{form}"
        if form == "parquet":
            pq.write_table(table, path, row_group_size=4)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    spec = InputSpec(path=str(tmp_path), id="id", prompt="q", where="level = 1 OR id = 'first'")
    source = Source(spec, [], expand_inputs(tmp_path))
    with pytest.raises(InputError) as refused:
        pending_of(source)
    assert str(refused.value).startswith(f"{tmp_path}/1.{form}: {said} ")


def test_ids_that_differ_only_in_their_type_are_repeated(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7], "q": ["?"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["7"], "q": ["?"]}), tmp_path / "b.parquet")
    source = Source(InputSpec(path=str(tmp_path), id="id", prompt="q"), [], expand_inputs(tmp_path))
    with pytest.raises(InputError, match="the id '7' came before"):
        pending_of(source)


def test_a_null_id_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": ["a", "b", "c", None], "q": ["?"] * 4}),
        tmp_path / "in.parquet",
        row_group_size=3,
    )
    with pytest.raises(InputError, match=r"/in\.parquet: row 3: the id is null"):
        pending_of(source_of(tmp_path / "in.parquet"))


def test_an_input_without_rows_is_an_error(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "in.parquet", ["a"]), where="id = 'b'")
    with pytest.raises(InputError, match="no rows"):
        pending_of(source)


def test_memory_is_a_few_bytes_per_row_and_a_bit_per_sample(tmp_path: Path) -> None:
    rows = 100_000
    ids = [f"dataset/{i:09d}/{random.Random(i).getrandbits(64):x}" for i in range(rows)]
    source = source_of(write(tmp_path / "in.parquet", ids, row_group_size=10_000))
    pending_of(source_of(write(tmp_path / "warm.parquet", ["a"])))
    tracemalloc.start()
    try:
        pending = pending_of(source, 64)
        matching = tracemalloc.get_traced_memory()[0]
        pending.mark_done(pa.array(ids), pa.array([5] * rows, pa.int32()))
        pending.free()
        running = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert matching / rows < 16 + 8 + 8 + 2
    assert running / rows < 8 + 2
