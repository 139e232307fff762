"""Snapshots: what goes in comes out, what is torn is noticed, and of two the further one counts."""

from __future__ import annotations

import datetime as dt
from array import array
from pathlib import Path

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
