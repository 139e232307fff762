"""Snapshots: what goes in comes out, what is torn is noticed, and of two the further one counts."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchr1.executors.setup import Assignment
from batchr1.output.checkpoints import (
    INFLIGHT_DIR,
    CheckpointError,
    FoundCheckpoints,
    GenerationCheckpoint,
    add,
    carried_name,
    checkpoint_name,
    consolidate,
    decode,
    encode,
    read_checkpoints,
    read_worker,
    reopened_name,
    write_checkpoint,
)
from batchr1.records import SampleKey
from batchr1.seeds import resumed_seed
from batchr1.storage.base import Storage, open_storage
from batchr1.worker.checkpointer import Checkpointer

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
RUN = "20261125T120000000Z-abcd"


def one(id: str = "a", tokens: int = 3, **fields: object) -> GenerationCheckpoint:
    values = {
        "sample": 0,
        "attempt": 1,
        "prompt_hash": b"p" * 16,
        "tokens": array("i", range(tokens)),
        **fields,
    }
    return GenerationCheckpoint(id, **values)  # type: ignore[arg-type]


TABLE = [
    one("a", 3),
    one("ü/東", 100_000, sample=7, attempt=2, resumed_at=(1, 2)),
    one("", 1, finish_reason="stop", finished_at=NOON),
    one("z", 0, finish_reason="length", finished_at=NOON),
]


def test_what_was_saved_comes_back() -> None:
    assert decode(encode(TABLE, job="j"), job="j") == TABLE
    assert decode(encode([], job="j")) == []


@given(
    st.lists(
        st.builds(
            one,
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            st.integers(0, 40),
            sample=st.integers(0, 9),
            resumed_at=st.lists(st.integers(0, 99), max_size=3).map(tuple),
            finish_reason=st.sampled_from([None, "stop", "length"]),
        ),
        max_size=6,
    )
)
def test_any_generations_come_back(saved: list[GenerationCheckpoint]) -> None:
    assert decode(encode(saved, job="")) == saved


@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "longer", "other"])
def test_a_torn_snapshot_is_noticed(damage: str) -> None:
    data = bytearray(encode(TABLE, job="j"))
    match damage:
        case "half":
            data = data[: len(data) // 2]
        case "empty":
            data = bytearray()
        case "flipped":
            data[len(data) // 2] ^= 1
        case "longer":
            data += b"\0"
        case "other":
            data = bytearray(b"PAR1" * 100)
    with pytest.raises(CheckpointError, match="torn, or not a snapshot"):
        decode(bytes(data))


def test_another_jobs_snapshot_is_not_taken() -> None:
    with pytest.raises(CheckpointError, match="of a job that gives other answers"):
        decode(encode(TABLE, job="j"), job="k")


@pytest.mark.parametrize(
    ("old", "new", "stays"),
    [
        (one(tokens=3), one(tokens=5), 5),
        (one(tokens=5), one(tokens=3), 5),
        (one(tokens=5, finish_reason="stop"), one(tokens=9), 5),
        (one(tokens=9), one(tokens=5, finish_reason="stop"), 5),
        (one(tokens=9), one(tokens=2, attempt=2), 2),
        (one(tokens=9), one(tokens=2, prompt_hash=b"q" * 16), 2),
    ],
)
def test_of_one_sample_the_further_state_counts(
    old: GenerationCheckpoint, new: GenerationCheckpoint, stays: int
) -> None:
    known: dict[SampleKey, GenerationCheckpoint] = {}
    add(known, [old])
    add(known, [new])
    assert len(known[old.key].tokens) == stays


def names(storage: Storage) -> list[str]:
    return [file.rel.removeprefix(f"{INFLIGHT_DIR}/") for file in storage.list_files(INFLIGHT_DIR)]


def checkpointer(storage: Storage, state: list[GenerationCheckpoint]) -> Checkpointer:
    return Checkpointer(
        storage,
        every_s=3600,
        job="j",
        assignment=Assignment(RUN, 0, epoch=1),
        collect=lambda: list(state),
    )


def test_the_old_snapshot_goes_when_the_new_one_is_there(tmp_path: Path) -> None:
    storage, state = open_storage(tmp_path), [one("a", 2)]
    saver = checkpointer(storage, state)
    saver.save()
    state.append(one("b", 1))
    saver.save()
    assert names(storage) == [f"snap-{RUN}-000-001-0000002.bin"]
    assert read_checkpoints(storage, job="j").saved == {s.key: s for s in state}
    state.clear()
    saver.save()
    assert names(storage) == []


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage, state = open_storage(tmp_path), [one("a", 2)]
    saver = checkpointer(storage, state)
    saver.save()
    [before] = names(storage)
    real, storage.write_bytes = storage.write_bytes, _full  # type: ignore[method-assign]
    saver.save()
    assert "worker 0: no snapshot: the disk is full" in caplog.text
    assert names(storage) == [before]
    storage.write_bytes = real  # type: ignore[method-assign]
    saver.save()
    assert names(storage) != [before]
    assert len(names(storage)) == 1


def _full(rel: str, data: bytes) -> None:
    from batchr1.errors import StorageError

    raise StorageError("the disk is full")


def test_what_runs_left_becomes_one_file_and_torn_ones_are_reported(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    write_checkpoint(storage, checkpoint_name(RUN, 0, 0, 4), [one("a", 4), one("b", 2)], job="j")
    write_checkpoint(
        storage, checkpoint_name(RUN, 1, 0, 9), [one("c", 1, finish_reason="stop")], job="j"
    )
    storage.write_bytes(checkpoint_name(RUN, 2, 0, 1), b"torn")
    assert set(read_worker(storage, RUN, 0, 0, job="j")) == {SampleKey("a", 0), SampleKey("b", 0)}
    assert read_worker(storage, RUN, 2, 0, job="j") == {}
    found = read_checkpoints(storage, job="j")
    assert (found.tokens, found.finished, found.unreadable) == (
        7,
        1,
        {checkpoint_name(RUN, 2, 0, 1): "torn, or not a snapshot"},
    )
    consolidate(storage, "next", found, job="j")
    assert [f.rel for f in storage.list_files(INFLIGHT_DIR)] == [carried_name("next")]
    assert read_checkpoints(storage, job="j").saved == found.saved
    consolidate(storage, "last", FoundCheckpoints(files=[carried_name("next")]), job="j")
    assert names(storage) == []


def test_what_a_run_is_not_asked_for_is_told_apart(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes(carried_name("before"), encode([one("asked"), one("other")], job="j"))
    found = read_checkpoints(storage, job="j")
    consolidate(storage, "next", found, job="j", aside={SampleKey("other", 0)})
    found = read_checkpoints(storage)
    assert {key.id for key in found.saved} == {"asked", "other"}
    assert found.aside == {SampleKey("other", 0)}
    storage.write_bytes(checkpoint_name("next", 0, 0, 1), encode([one("other")], job="j"))
    assert not read_checkpoints(storage).aside, "a run that asks for it has gone on with it"


@pytest.mark.parametrize("name", [carried_name(RUN), reopened_name(RUN, 3)])
def test_what_a_worker_saved_is_newer_than_what_its_run_took_over(
    tmp_path: Path, name: str
) -> None:
    storage = open_storage(tmp_path)
    write_checkpoint(storage, name, [one("a", 9), one("b", 9), one("c", 9)], job="j")
    newer = [one("a", 2, prompt_hash=b"q" * 16), one("b", 3, attempt=2), one("c", 4)]
    write_checkpoint(storage, checkpoint_name(RUN, 0, 0, 1), newer, job="j")
    saved = read_checkpoints(storage, job="j").saved
    assert {key.id: len(one.tokens) for key, one in saved.items()} == {"a": 2, "b": 3, "c": 9}


def test_a_resumed_generation_has_a_seed_of_its_own() -> None:
    seeds = {resumed_seed(seed, offset) for seed in (0, 1, 2**62) for offset in (1, 2, 50)}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds if seed is not None)
    assert resumed_seed(5, 0) == 5
    assert resumed_seed(None, 9) is None


def forged(**columns: pa.Array | None) -> bytes:
    """A checkpoint with a right digest, of which some columns are other ones (None: not there)."""
    good = encode(TABLE, job="j")
    start = len(b"batchr1 snapshot 1\n") + 16
    with pa.ipc.open_stream(pa.py_buffer(good)[start:]) as reader:
        table = reader.read_all()
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        if column is None:
            table = table.drop_columns([name])
        elif at < 0:
            table = table.append_column(name, column)
        else:
            table = table.set_column(at, name, column)
    return sealed(stream(table.replace_schema_metadata({"job": "j"})))


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def sealed(body: bytes) -> bytes:
    """A checkpoint of this body, with a right digest."""
    return b"batchr1 snapshot 1\n" + hashlib.blake2b(body, digest_size=16).digest() + body


def cells(value: Any, kind: pa.DataType) -> pa.Array:
    """A column of this value in every row."""
    return pa.array([value] * len(TABLE), kind)


def reply(**fields: Any) -> pa.Array:
    good = {"content": "a", "reasoning": None, "finish_reason": "stop"}
    return cells(json.dumps(good | fields), pa.large_string())


I32, TEXT = pa.int32(), pa.string()
FORGED: dict[str, Callable[[], bytes]] = {
    "an empty body": lambda: sealed(b""),
    "no Arrow": lambda: sealed(b"PAR1" * 50),
    "zeros": lambda: sealed(bytes(5000)),
    "half a stream": lambda: sealed(encode(TABLE, job="j")[35:600]),
    "a length of 2 GiB": lambda: sealed(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"a" * 100),
    "a negative length": lambda: sealed(b"\xff\xff\xff\xff\x00\x00\x00\x80" + b"a" * 100),
    "a bit of the schema flipped": lambda: sealed(flipped(60)),
    "a bit of the columns flipped": lambda: sealed(flipped(-200)),
    "metadata that is no text": lambda: sealed(
        stream(pa.table({"id": ["a"]}).replace_schema_metadata({"job": b"\xff\xfe"}))
    ),
    "no columns": lambda: sealed(stream(pa.table({}).replace_schema_metadata({"job": "j"}))),
    "no id": lambda: forged(id=None),
    "no tokens": lambda: forged(tokens=None),
    "no resumed_at": lambda: forged(resumed_at=None),
    "a column too many": lambda: forged(more=cells(1, I32)),
    "a null id": lambda: forged(id=cells(None, TEXT)),
    "an id that is a number": lambda: forged(id=cells(7, pa.int64())),
    "a negative sample": lambda: forged(sample=cells(-1, I32)),
    "a sample that is text": lambda: forged(sample=cells("0", TEXT)),
    "a null attempt": lambda: forged(attempt=cells(None, I32)),
    "attempt 0": lambda: forged(attempt=cells(0, I32)),
    "a hash that is text": lambda: forged(prompt_hash=cells("p", TEXT)),
    "a null hash": lambda: forged(prompt_hash=cells(None, pa.binary())),
    "null tokens": lambda: forged(tokens=cells(None, pa.large_list(I32))),
    "a null among tokens": lambda: forged(tokens=cells([1, None], pa.large_list(I32))),
    "tokens that are text": lambda: forged(tokens=cells(["a"], pa.large_list(TEXT))),
    "tokens of 64 bits": lambda: forged(tokens=cells([2**40], pa.large_list(pa.int64()))),
    "a negative token": lambda: forged(tokens=cells([-5], pa.large_list(I32))),
    "resumed before the start": lambda: forged(resumed_at=cells([-1], pa.list_(I32))),
    "a null among resumed_at": lambda: forged(resumed_at=cells([1, None], pa.list_(I32))),
    "a null resumed_at": lambda: forged(resumed_at=cells(None, pa.list_(I32))),
    "an unknown finish": lambda: forged(finish_reason=cells("exploded", TEXT)),
    "a time that is text": lambda: forged(finished_at=cells("noon", TEXT)),
    "more injected than there is": lambda: forged(injected=cells(10**6, I32)),
    "a negative injected": lambda: forged(injected=cells(-1, I32)),
    "a reply that is no JSON": lambda: forged(reply=cells("{", pa.large_string())),
    "a reply that is a list": lambda: forged(reply=cells("[]", pa.large_string())),
    "a reply nested without end": lambda: forged(reply=cells("[" * 10**5, pa.large_string())),
    "a reply with a key too many": lambda: forged(reply=reply(more=1)),
    "a reply that counts in text": lambda: forged(reply=reply(completion_tokens="9")),
    "a reply that counts below 0": lambda: forged(reply=reply(completion_tokens=-9)),
    "a reply with an absurd count": lambda: forged(reply=reply(prompt_tokens=10**30)),
    "a reply whose text is a number": lambda: forged(reply=reply(content=7)),
    "a reply with an unknown finish": lambda: forged(reply=reply(finish_reason="no")),
}


def flipped(at: int) -> bytes:
    body = bytearray(encode(TABLE, job="j")[35:])
    body[at] ^= 0xFF
    return bytes(body)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_snapshot_costs_tokens_and_never_a_run(name: str, tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    other = [one("mine", 5)]
    write_checkpoint(storage, carried_name(RUN), other, job="j")
    storage.write_bytes(checkpoint_name(RUN, 0, 1, 1), FORGED[name]())
    found = read_checkpoints(storage, job="j")
    assert list(found.saved.values()) == other
    assert list(found.unreadable) == [checkpoint_name(RUN, 0, 1, 1)]
    assert read_worker(storage, RUN, 0, 1, job="j") == {}
    consolidate(storage, f"{RUN}-next", found, job="j")
    assert [f.rel for f in storage.list_files(INFLIGHT_DIR)] == [carried_name(f"{RUN}-next")]


def test_forging_nothing_gives_a_good_snapshot() -> None:
    assert decode(forged(), job="j") == TABLE
