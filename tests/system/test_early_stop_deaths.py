"""`stop_when` when workers die: what they take along is wanted again, nothing waits for ever, the
sums are right.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_runs import started
from process_tree import until
from replay_job import MODEL, feeder_of, questions, replay, rows_of, run_replay
from solvable import LENGTHS, ROWS, Batch, N, solvable_job

from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.driver.context import open_job
from batchr1.driver.feed.early_stop import EarlyStop
from batchr1.driver.feed.feeder import Feeder
from batchr1.driver.feed.schedule import RowSamples
from batchr1.driver.resume.pending_rows import find_pending
from batchr1.job import load_job
from batchr1.records import SampleKey, WorkItem


class Fleet:
    """Workers that judge in any order, are told late what is not wanted, and die with what is not
    committed.
    """

    def __init__(self, sizes: list[int], enough: int, rng: random.Random) -> None:
        self.waves, self.rng = EarlyStop(enough), rng
        self.waves.add(RowSamples((Batch(), i), list(range(size))) for i, size in enumerate(sizes))
        self.out: list[set[tuple[int, int]]] = [set(), set(), set()]  # by worker: not judged yet
        self.judged: list[dict[tuple[int, int], bool]] = [{}, {}, {}]  # not committed yet
        self.drops: list[set[tuple[int, int]]] = [set(), set(), set()]  # under way to it
        self.committed: dict[tuple[int, int], bool] = {}

    def pick(self) -> None:
        while (pick := self.waves.pick()) is not None:
            assert pick.samples, "a wave of nothing"
            self.waves.out(str(pick.group.number), pick)
            for sample in pick.samples:
                key = (pick.group.number, sample)
                assert key not in self.committed and not any(
                    key in some for some in (*self.out, *self.judged)
                )
                self.out[self.rng.randrange(3)].add(key)

    def judge(self, worker: int) -> None:
        key = self.rng.choice(sorted(self.out[worker]))
        self.out[worker].discard(key)
        self.judged[worker][key] = right = self.rng.random() < 0.4  # drawn anew each time: no seed
        if self.waves.judged(str(key[0]), key[1], right=right):
            for drops, out in zip(self.drops, self.out, strict=True):
                drops |= {other for other in out if other[0] == key[0]}

    def drop(self, worker: int) -> None:
        for key in self.drops[worker] & self.out[worker]:
            self.out[worker].discard(key)
            self.waves.dropped(str(key[0]), [key[1]])
        self.drops[worker] = set()

    def commit(self, worker: int) -> None:
        for row, sample in self.judged[worker]:
            self.waves.committed(str(row), sample)
        self.committed |= self.judged[worker]
        self.judged[worker] = {}

    def die(self, worker: int) -> None:
        leased = [*self.out[worker], *self.judged[worker]]
        for row, sample in leased:
            self.waves.lost(str(row), sample)
        self.out[worker], self.judged[worker], self.drops[worker] = set(), {}, set()
        for row, sample in leased:
            if self.waves.has_enough(str(row)):
                self.waves.dropped(str(row), [sample])
            else:
                self.out[self.rng.randrange(3)].add((row, sample))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 3), st.integers(0, 10_000)
)
def test_whoever_dies_every_row_gets_enough_or_all_it_has(
    sizes: list[int], enough: int, seed: int
) -> None:
    rng = random.Random(seed)
    fleet = Fleet(sizes, enough, rng)
    deaths = 0
    while True:
        if rng.random() < 0.6:
            fleet.pick()
        moves: list[tuple[Callable[[int], None], int]] = []
        for worker in range(3):
            moves += [(fleet.judge, worker)] * 4 if fleet.out[worker] else []
            moves += [(fleet.drop, worker)] if fleet.drops[worker] else []
            moves += [(fleet.commit, worker)] if fleet.judged[worker] else []
            moves += (
                [(fleet.die, worker)]
                if deaths < 6 and (fleet.out[worker] or fleet.judged[worker])
                else []
            )
        if not moves:
            fleet.pick()
            if not any(fleet.out):
                break
            continue
        move, worker = rng.choice(moves)
        deaths += move == fleet.die
        move(worker)
    for row, size in enumerate(sizes):
        here = [right for (number, _), right in fleet.committed.items() if number == row]
        assert sum(here) >= enough or len(here) == size
    assert len(fleet.committed) + fleet.waves.spared == sum(sizes)
    assert not fleet.waves.waits and not fleet.waves.rows_left
    assert not fleet.waves._rows and not fleet.waves._between and not fleet.waves._waiting, (
        "nothing is kept"
    )


# The feeder: what is handed out, and to whom.


def take_all(
    feeder: Feeder, worker: int, count: int = 100, timeout_s: float = 0.5
) -> list[SampleKey]:
    """What comes until nothing has come for a while."""
    keys: list[SampleKey] = []
    end = time.monotonic() + timeout_s
    while len(keys) < count and time.monotonic() < end and not feeder.ended:
        new = feeder.take(worker, count - len(keys))
        keys += [item.key for item in new if isinstance(item, WorkItem)]
        end = end if not new else time.monotonic() + timeout_s
        time.sleep(0.005)
    return keys


@pytest.fixture
def waves_of(tmp_path: Path) -> Callable[..., Feeder]:
    renderer = PromptRenderer(load_tokenizer(MODEL))
    return lambda rows, n, enough: feeder_of(
        tmp_path, questions(rows), renderer, n=n, enough=enough
    )


def test_what_a_worker_left_of_a_wave_goes_to_another(waves_of: Callable[..., Feeder]) -> None:
    feeder = waves_of(1, 8, 2)
    [first] = take_all(feeder, 0, 1)
    assert [key.sample for key in take_all(feeder, 1)] == [1], (
        "worker 0 is given up, and asks for nothing any more"
    )
    assert not feeder.ended and feeder.stalls
    assert not feeder.judged(first, right=False) and not feeder.judged(
        SampleKey("row/0", 1), right=False
    )
    assert len(take_all(feeder, 1)) == 4, "the next wave"
    feeder.close()


def test_a_wave_that_waits_to_be_taken_may_be_called_back_whole(
    waves_of: Callable[..., Feeder],
) -> None:
    """Worker 0's verdict goes with it; while its sample runs again, the next wave lies rendered."""
    feeder = waves_of(3, 8, 1)
    keys = take_all(feeder, 0, 3)
    feeder.judged(keys[0], right=False)
    until(lambda: not feeder.stalls and len(feeder._ready) == 1)
    feeder.lost([keys[0]])
    assert feeder.judged(keys[0], right=True), "another verdict, this time"
    assert (feeder.spared, feeder.take(1, 5)) == (7, [])
    assert feeder.judged(keys[1], right=True) and feeder.judged(keys[2], right=True)
    assert feeder.ended
    feeder.close()


def test_right_samples_that_die_after_all_was_read_are_sought_again(
    waves_of: Callable[..., Feeder],
) -> None:
    feeder = waves_of(1, 8, 1)
    [key] = take_all(feeder, 0)
    assert feeder.judged(key, right=True) and feeder.ended
    feeder.lost([key])
    assert not feeder.ended and feeder.spared == 0
    feeder.judged(key, right=False)
    assert len(take_all(feeder, 0)) == 2
    feeder.close()


# Whole jobs.

POISON = {
    "groups": LENGTHS,
    "poison_every": 29,
    "poison_at": 10,
}  # of the questions here, that is row/4


def test_a_row_that_kills_the_engine_and_has_waves_left_fails_alone(tmp_path: Path) -> None:
    """Nobody comes through to prove the engine sound: all that is left waits for this row's
    verdicts.
    """
    job = solvable_job(
        tmp_path,
        input={"gold": "gold", "where": "id = 'row/4'"},
        sampling={"n": 3, "max_tokens": 100, "seed": 3},
        stop_when={"correct": 1},
    )
    with started(job, **POISON, step_s=0.001) as run:
        assert run.wait(120) == 3
    assert "3 samples (1 rows × 3) = 0 done + 3 failed + 0 pending" in run.stdout


def test_what_failed_stays_failed_when_its_row_is_solved(tmp_path: Path) -> None:
    """A row with enough right samples and a failed one: the next run, which has nothing to do, says
    the same.
    """
    job = solvable_job(tmp_path, stop_when={"correct": 1})
    assert run_replay(job, replay(groups=LENGTHS, max_num_seqs=4)).exit_code == 0
    solved = rows_of(tmp_path / "out").filter(pl.col("correct"))["id"][0]
    failed = pl.DataFrame(
        {
            "id": [solved],
            "sample": [N - 1],
            "reason": ["engine_refused"],
            "message": ["no"],
            "attempts": [3],
        }
    ).cast({"sample": pl.Int32, "attempts": pl.Int32})
    (tmp_path / "out/.batchr1/failed").mkdir(exist_ok=True)
    failed.write_parquet(tmp_path / "out/.batchr1/failed/part-x-failed-00001.parquet")
    again = run_replay(job, replay(groups=LENGTHS))
    assert (again.exit_code, again.counts.failed, again.counts.pending) == (3, 1, 0)
    assert find_pending(open_job(load_job(job))).counts() == again.counts, "check and status too"


def test_a_changed_prompt_needs_its_right_samples_again(tmp_path: Path) -> None:
    job = solvable_job(tmp_path)
    run_replay(job, replay(groups=LENGTHS))
    before = rows_of(tmp_path / "out")
    solved = [
        id
        for id, right in before.group_by("id").agg(pl.col("correct").sum()).iter_rows()
        if right >= 2
    ]
    other = questions(ROWS).with_columns(gold=pl.lit("^[a-i]"), problem=pl.col("problem") + " Now.")
    other.write_parquet(tmp_path / "in.parquet")
    job = solvable_job(tmp_path, input={"gold": "gold", "on_changed_prompt": "rerun"})
    other.write_parquet(tmp_path / "in.parquet")
    summary = run_replay(job, replay(groups=LENGTHS))
    assert (summary.exit_code, summary.counts.pending) == (0, 0)
    rows = rows_of(tmp_path / "out")
    assert len(solved) > 3 and rows["prompt"].str.contains("Now.").all()
    for right, count in (
        rows.group_by("id")
        .agg(pl.col("correct").sum(), pl.len())
        .select("correct", "len")
        .iter_rows()
    ):
        assert right >= 2 or count == N
    assert rows.height + summary.counts.spared == ROWS * N
    assert run_replay(job, replay(groups=LENGTHS)).tally.done == 0


def test_truncated_rows_of_solved_prompts_stay_where_they_are(tmp_path: Path) -> None:
    """--continue-truncated takes rows out of their parts to go on with them: not where nobody
    would.
    """
    mixed = replay(groups=[[20, 30, 80, 25, 24, 90]])
    job = solvable_job(tmp_path, sampling={"n": N, "max_tokens": 50, "seed": 3})
    run_replay(job, mixed)
    before = rows_of(tmp_path / "out")
    right = before.group_by("id").agg(pl.col("correct").sum())
    solved = right.filter(pl.col("correct") >= 2)["id"].to_list()
    kept = before.filter(pl.col("id").is_in(solved) & pl.col("truncated"))
    unsolved = before.filter(~pl.col("id").is_in(solved) & pl.col("truncated"))
    assert kept.height > 3 and unsolved.height > 3
    job = solvable_job(tmp_path, sampling={"n": N, "max_tokens": 100, "seed": 3})
    summary = run_replay(job, mixed, continue_truncated=True)
    rows = rows_of(tmp_path / "out")
    assert (
        rows.join(kept, on=["id", "sample"], how="semi")
        .select("token_ids")
        .equals(kept.select("token_ids"))
    )
    assert rows.filter(~pl.col("id").is_in(solved) & pl.col("truncated")).is_empty()
    assert rows.height + summary.counts.spared == ROWS * N and summary.counts.pending == 0
    assert run_replay(job, mixed).tally.done == 0
