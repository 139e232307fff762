"""The order of work: probes, then longest first; the same each time; and what the feeder makes of
it.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_tree import tree, until
from replay_job import (
    MODEL,
    feeder_of,
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    wanted_keys,
    write_job,
)

from batchr1.dataset.pending import Pending
from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.dataset.source import Source
from batchr1.driver.feed.feeder import Feeder
from batchr1.driver.feed.items import ItemMaker, Limits
from batchr1.driver.feed.schedule import Pick, RowSamples, Schedule
from batchr1.job import load_job
from batchr1.job.spec import InputSpec
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.storage.inputs import expand_inputs


def schedule_of(
    rows: int, n: int, *, longest_first: bool = True, expected: dict[int, float] | None = None
) -> Schedule:
    schedule = Schedule(longest_first=longest_first)
    known = expected or {}
    schedule.add(RowSamples(i, list(range(n)), known.get(i, math.nan)) for i in range(rows))
    return schedule


def picks(schedule: Schedule, count: int = 10**6) -> list[Pick]:
    found = []
    while len(found) < count and (pick := schedule.pick()) is not None:
        found.append(pick)
    return found


def said(found: list[Pick]) -> list[tuple[Any, tuple[int, ...]]]:
    return [(pick.group.row, pick.samples) for pick in found]


def test_fifo_is_the_order_of_the_input_with_all_samples_of_a_row_together() -> None:
    found = picks(schedule_of(3, 2, longest_first=False, expected={1: 900.0}))
    assert said(found) == [(0, (0, 1)), (1, (0, 1)), (2, (0, 1))]
    assert [pick.expected for pick in found[1:2]] == [900.0]


def begun(
    rows: dict[int, dict[int, int]], count: int, n: int, *, longest_first: bool, **more: Any
) -> Schedule:
    """`rows`: tokens that are saved, by row and sample."""
    schedule = Schedule(longest_first=longest_first)
    known = more.get("expected", {})
    schedule.add(
        RowSamples(i, list(range(n)), known.get(i, math.nan), rows.get(i, {})) for i in range(count)
    )
    return schedule


@pytest.mark.parametrize("longest_first", [False, True])
def test_what_was_begun_goes_first_and_the_other_samples_of_its_rows_in_their_turn(
    longest_first: bool,
) -> None:
    schedule = begun({1: {2: 7}, 3: {0: 5, 1: 9}}, 4, 3, longest_first=longest_first)
    found = said(picks(schedule))
    assert found[:2] == [(1, (2,)), (3, (1, 0))]
    if longest_first:  # they are the probes of their rows
        assert found[2:] == [(0, (0,)), (2, (0,)), (1, (0, 1)), (3, (2,)), (0, (1, 2)), (2, (1, 2))]
    else:
        assert found[2:] == [(0, (0, 1, 2)), (1, (0, 1)), (2, (0, 1, 2)), (3, (2,))]
    assert schedule.rows_left == 0


def test_what_was_begun_goes_first_even_where_others_are_known_to_be_longer() -> None:
    found = picks(
        begun({2: {0: 5}}, 3, 2, longest_first=True, expected={0: 50.0, 1: 90.0, 2: 10.0})
    )
    assert said(found) == [(2, (0,)), (1, (0, 1)), (0, (0, 1)), (2, (1,))]


def test_rows_whose_length_is_known_go_longest_first_and_equal_ones_as_in_the_input() -> None:
    found = picks(schedule_of(4, 2, expected={0: 10.0, 1: 30.0, 2: 20.0, 3: 30.0}))
    assert said(found) == [(1, (0, 1)), (3, (0, 1)), (2, (0, 1)), (0, (0, 1))]


def test_one_sample_of_each_row_goes_first_and_tells_the_order_of_the_others() -> None:
    schedule = schedule_of(3, 3)
    probes = picks(schedule, 3)
    assert said(probes) == [(0, (0,)), (1, (0,)), (2, (0,))]
    for pick, length in zip(probes, (10, 30, 20), strict=True):
        schedule.finished(pick.group, length)
    found = picks(schedule)
    assert said(found) == [(1, (1, 2)), (2, (1, 2)), (0, (1, 2))]
    assert [pick.expected for pick in found] == [30.0, 20.0, 10.0]


def test_nothing_waits_for_a_probe_and_the_oldest_one_under_way_is_taken_for_the_longest() -> None:
    schedule = schedule_of(4, 2)
    probes = picks(schedule, 4)
    schedule.finished(probes[2].group, 50)
    schedule.finished(probes[1].group, 20)
    found = picks(schedule)
    # 0 went before 2 and is not done: 50 tokens at least. 3 may be anything, and as long as the
    # mean of 35.
    assert said(found) == [(0, (1,)), (2, (1,)), (3, (1,)), (1, (1,))]
    assert [(pick.at_least, math.isnan(pick.expected)) for pick in found] == [
        (50, True),
        (0, False),
        (0, True),
        (0, False),
    ]


def test_samples_that_were_begun_go_first_and_the_one_that_is_furthest_is_its_rows_probe() -> None:
    schedule = Schedule(longest_first=True)
    third = RowSamples("c", [0, 1, 2], math.nan, {1: 7, 2: 9})
    schedule.add([RowSamples("a", [0], 100.0, {0: 60}), RowSamples("b", [0], 50.0), third])
    assert said(picks(schedule, 2)) == [("a", (0,)), ("c", (2, 1))]
    schedule.finished(third, 60)
    assert said(picks(schedule)) == [("c", (0,)), ("b", (0,))]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.one_of(st.none(), st.integers(1, 50))),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_sample_is_picked_once_whatever_is_told_when(
    rows: list[Any], random: Any, longest_first: bool
) -> None:
    schedule = Schedule(longest_first=longest_first)
    groups = [
        RowSamples(i, list(range(n)), math.nan if e is None else float(e))
        for i, (n, e) in enumerate(rows)
    ]
    half = len(groups) // 2
    schedule.add(groups[:half])
    schedule.add(groups[half:])
    found, under_way = list[tuple[int, int]](), list[RowSamples]()
    while (pick := schedule.pick()) is not None:
        found += [(pick.group.row, sample) for sample in pick.samples]
        under_way.append(pick.group)
        while under_way and random.random() < 0.4:
            group = under_way.pop(random.randrange(len(under_way)))
            schedule.finished(group if group.sent >= 0 else None, random.randrange(1, 60))
    assert sorted(found) == [(i, sample) for i, (n, _) in enumerate(rows) for sample in range(n)]
    assert schedule.rows_left == 0


# The feeder: reading and rendering are real.


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return PromptRenderer(load_tokenizer(MODEL))


def take(feeder: Feeder, worker: int, count: int) -> list[WorkItem]:
    """Exactly so many items, or what is left."""
    items: list[WorkItem | Failure] = []
    while len(items) < count and not feeder.ended:
        items += feeder.take(worker, count - len(items))
        time.sleep(0.001)
    assert not [item for item in items if isinstance(item, Failure)]
    return [item for item in items if isinstance(item, WorkItem)]


def test_the_feeder_goes_by_the_column_and_tells_the_worker_what_to_expect(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    inputs = questions(200).with_columns(hint=pl.Series([(i * 37) % 200 + 1 for i in range(200)]))
    found = [
        (item.prompt.id, item.expected_tokens)
        for item in take(feeder_of(tmp_path, inputs, renderer), 0, 200)
    ]
    wanted = sorted(
        zip(inputs["id"], inputs["hint"].cast(float), strict=True), key=lambda pair: -pair[1]
    )
    assert found == wanted


def test_the_first_batch_is_ready_when_engines_are_and_later_ones_are_decided_late(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    feeder = feeder_of(tmp_path, questions(200), renderer, ahead=8, first=120)
    until(lambda: feeder._num_ready == 120, 30, "the first batch, as while an engine loads")
    assert len(feeder.take(0, 200)) == 120
    while not (taken := feeder.take(0, 200)):
        time.sleep(0.001)
    assert len(taken) == 8


def test_what_is_left_is_counted_in_samples_and_unknown_where_verdicts_decide(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    feeder = feeder_of(tmp_path, questions(6), renderer, n=4, ahead=1)
    taken = len(take(feeder, 0, 3))
    assert not feeder.has_few_left(6 * 4 - taken - 1)
    assert feeder.has_few_left(6 * 4 - taken)
    waves = feeder_of(tmp_path, questions(6), renderer, n=4, ahead=1, enough=1)
    take(waves, 0, 1)
    assert not waves.has_few_left(1000)


def test_siblings_go_to_one_worker_together_when_their_probe_is_done(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    feeder = feeder_of(tmp_path, questions(6), renderer, n=4, ahead=1)
    probes = [item for _ in range(3) for worker in (0, 1) for item in take(feeder, worker, 1)]
    assert [item.key for item in probes] == [SampleKey(f"row/{i}", 0) for i in range(6)]
    feeder.finished([item.key for item in probes], [60, 50, 40, 30, 20, 10])
    shares: dict[int, list[str]] = {0: [], 1: []}
    while not feeder.ended:
        for worker in (0, 1):
            shares[worker] += [item.prompt.id for item in take(feeder, worker, 2)]
    assert sorted(shares[0] + shares[1]) == sorted(f"row/{i}" for i in range(6) for _ in range(3))
    assert not set(shares[0][:9]) & set(shares[1][:6]), (
        "a row is one worker's, but for the very last of them"
    )
    for ids in shares.values():
        assert ids[:9:3] == sorted(set(ids[:9]), key=ids.index), (
            "its samples come one after the other"
        )


def test_at_the_end_a_worker_takes_what_was_meant_for_another(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    feeder = feeder_of(tmp_path, questions(1), renderer, n=9, longest_first=False)
    assert len(take(feeder, 0, 2)) == 2
    assert len(take(feeder, 1, 7)) == 7
    assert feeder.ended


def test_finished_samples_of_earlier_runs_stand_in_for_the_probe(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    saved = {
        one.key: one
        for one in (
            GenerationCheckpoint(
                "row/1", 0, 1, b"?" * 16, array("i", range(40)), finish_reason="stop"
            ),
            GenerationCheckpoint("row/2", 1, 1, b"?" * 16, array("i", range(90))),
        )
    }
    feeder = feeder_of(tmp_path, questions(3), renderer, n=2, saved=saved, ahead=1)
    begun = [SampleKey("row/1", 0), SampleKey("row/2", 1)]
    assert [item.key for item in take(feeder, 0, 2)] == begun
    assert take(feeder, 0, 1)[0].key == SampleKey("row/0", 0), "its probe"
    assert take(feeder, 0, 1)[0].key == SampleKey("row/1", 1), (
        "its sibling was done: 40 tokens are expected"
    )


def test_the_order_is_the_same_each_time(tmp_path: Path, renderer: PromptRenderer) -> None:
    def run() -> list[SampleKey]:
        feeder, keys = feeder_of(tmp_path, questions(30), renderer, n=3, ahead=1), list[SampleKey]()
        while items := take(feeder, 0, 1):
            keys.append(items[0].key)
            time.sleep(0.002)  # the next one is rendered by now
            feeder.finished([items[0].key], [hash(items[0].prompt.token_ids[-9]) % 50 + 1])
        return keys

    first = run()
    assert first == run()
    assert len(set(first)) == 90


def test_what_is_looked_ahead_is_bounded_and_short_rows_that_were_put_off_come_last(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    rows = 4000
    hints = [1 + (i * 7919) % 1000 for i in range(rows)]
    inputs = questions(rows).with_columns(hint=pl.Series(hints))
    feeder = feeder_of(tmp_path, inputs, renderer, look_ahead_rows=400, row_group_size=100)
    found = [item.expected_tokens or 0 for item in take(feeder, 0, rows)]
    assert len(found) == rows
    tail = found[-100:]
    assert tail == sorted(tail, reverse=True)
    assert max(tail) < 300, "the last ones are the shortest of what was left"
    assert found[:100] == sorted(found[:100], reverse=True)


def test_the_look_ahead_lets_go_of_rows_that_were_picked(
    tmp_path: Path, renderer: PromptRenderer
) -> None:
    """Twenty times the look-ahead in long texts passes through; no more than a few look-aheads of
    it is ever held.
    """
    rows, width, ahead = 1000, 3000, 50
    texts = [f"{i:06d} " + "ab " * (width // 3) for i in range(rows)]
    hints = [1000.0 if i % 10 else 1.0 for i in range(rows)]  # one in ten is put off to the end
    path = tmp_path / "in.parquet"
    table = pa.table({"id": [str(i) for i in range(rows)], "problem": texts, "hint": hints})
    pq.write_table(table, path, row_group_size=10)
    del table, texts
    source = Source(
        InputSpec(path=str(path), id="id", prompt="problem", expected_tokens="hint"),
        [],
        expand_inputs(path),
    )
    pending = Pending(source, 1, ids_are_hashes=False)
    feeder = Feeder(
        pending,
        ItemMaker(source, renderer, Limits(10, 4096), None),
        ahead=8,
        longest_first=True,
        look_ahead_rows=ahead,
    )
    held, before = 0, pa.total_allocated_bytes()
    feeder.start()
    for _ in range(rows):
        take(feeder, 0, 1)
        held = max(held, pa.total_allocated_bytes() - before)
    assert feeder.ended
    assert held < 6 * ahead * width < rows * width / 3


# Whole runs.


@pytest.mark.parametrize(
    ("keys", "longest_first"),
    [
        ({}, False),
        ({"sampling": {"n": 2}}, True),
        ({"input": {"expected_tokens": "hint"}}, True),
        ({"sampling": {"n": 2}, "schedule": "fifo"}, False),
        ({"schedule": "longest_first"}, True),
    ],
)
def test_auto_is_longest_first_where_lengths_are_known(
    tmp_path: Path, keys: dict[str, Any], longest_first: bool
) -> None:
    assert load_job(write_job(tmp_path, **keys)).longest_first is longest_first


GROUPS = [[40, 44, 36, 48], [400, 440, 360, 420], [90, 80, 100, 85], [20, 22, 18, 26]]


def test_eight_samples_of_each_row_come_out_once_and_share_their_prompts_prefix(
    tmp_path: Path,
) -> None:
    questions(24).write_parquet(tmp_path / "in.parquet")
    job = write_job(
        tmp_path,
        sampling={"n": 8, "seed": 3, "max_tokens": 1000},
        executor={"kind": "local", "replicas": 2},
    )
    engine = replay(groups=GROUPS, max_num_seqs=16, kv_cache_tokens=4096, max_model_len=2048)
    summary = run_replay(job, engine)
    assert summary.exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == wanted_keys(questions(24), 8)
    assert set(rows["completion_tokens"]) <= {length for group in GROUPS for length in group}
    [record] = [
        json.loads(path.read_text()) for path in (tmp_path / "out/.batchr1/runs").glob("*.json")
    ]
    loads = record["loads"].values()  # an engine that came late may have had a few, or none
    found, sought = (sum(load[f"prefix_{what}"] for load in loads) for what in ("hits", "queries"))
    assert found > 0.4 * sought, "samples of a prompt met in one engine"


def test_a_run_that_goes_on_takes_the_lengths_of_samples_that_are_done(tmp_path: Path) -> None:
    questions(12).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, sampling={"n": 1, "seed": 3, "max_tokens": 1000})
    assert run_replay(job, replay(groups=GROUPS)).exit_code == 0
    more = write_job(
        tmp_path, sampling={"n": 3, "seed": 3, "max_tokens": 1000}, output={"rows_per_part": 1}
    )
    assert (
        run_replay(more, replay(groups=GROUPS, max_num_seqs=1, tokens_per_step=1000)).exit_code == 0
    )
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == wanted_keys(questions(12), 3)
    first = dict(rows.filter(pl.col("sample") == 0).select("id", "completion_tokens").iter_rows())
    later = rows.filter(pl.col("sample") > 0).sort("finished_at")["id"]
    assert [first[id] for id in later] == sorted((first[id] for id in later), reverse=True)


def test_a_run_of_eight_samples_that_is_killed_goes_on_and_makes_each_once(tmp_path: Path) -> None:
    questions(30).write_parquet(tmp_path / "in.parquet")
    sections: dict[str, Any] = {
        "sampling": {"n": 8, "seed": 3, "max_tokens": 1000},
        "checkpoint": {"every_s": 0.2},
    }
    job = write_job(tmp_path, output={"rows_per_part": 8}, **sections)
    script = {
        **replay(groups=GROUPS),
        "max_num_seqs": 16,
        "kv_cache_tokens": 4096,
        "max_model_len": 2048,
    }
    slow = tmp_path / "script.json"
    slow.write_text(
        json.dumps({"groups": GROUPS, "max_num_seqs": 16, "max_model_len": 2048, "step_s": 0.05})
    )
    with tree(
        [str(Path(__file__).parents[1] / "helpers/replay_job.py"), str(slow), "run", str(job)],
        tmp_path,
    ) as killed:
        until(lambda: len(list((tmp_path / "out/data").glob("*.parquet"))) >= 3, 120.0)
        assert killed.kill()
    before = keys_of(rows_of(tmp_path / "out"))
    assert 0 < len(before) < 240
    assert run_replay(job, replay(**script)).exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert keys_of(rows) == wanted_keys(questions(30), 8)
    assert rows["resumed_at"].list.len().sum() > 0, "what was under way went on from its tokens"
