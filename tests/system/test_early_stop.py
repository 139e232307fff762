"""`stop_when`: no more samples of a prompt than it takes, and the same prompts solved."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_runs import started
from process_tree import until
from replay_job import replay, rows_of, run_replay
from solvable import LENGTHS, ROWS, Batch, N, solvable_job

from batchr1.cli.status.text import as_text
from batchr1.driver.context import open_job
from batchr1.driver.feed.early_stop import EarlyStop
from batchr1.driver.feed.schedule import RowSamples
from batchr1.driver.resume.pending_rows import find_pending
from batchr1.errors import JobError
from batchr1.job import load_job
from batchr1.output.folder import Output
from batchr1.report.summary import summarise
from batchr1.storage.base import open_storage


def play(
    verdicts: list[list[bool]], enough: int, rng: random.Random, *, deaths: float = 0.0
) -> dict[int, set[int]]:
    """Samples that were committed, by row, when workers judge in any order; now and then one dies
    with what it has.
    """
    waves = EarlyStop(enough)
    waves.add(RowSamples((Batch(), i), list(range(len(row)))) for i, row in enumerate(verdicts))
    out: list[tuple[int, int]] = []
    judged: list[tuple[int, int]] = []
    committed: dict[int, set[int]] = {i: set() for i in range(len(verdicts))}
    ids = {}
    while True:
        while (pick := waves.pick()) is not None:
            number = ids.setdefault(id(pick.group), pick.group.number)
            waves.out(str(number), pick)
            out += [(number, sample) for sample in pick.samples]
        if not out and not judged:
            return committed
        if judged and (not out or rng.random() < 0.2):
            for row, sample in judged:
                waves.committed(str(row), sample)
                committed[row].add(sample)
            judged = []
            continue
        if rng.random() < deaths:
            for row, sample in judged:
                waves.lost(str(row), sample)
            back, judged = judged, []
            out += [
                key
                for key in back
                if not waves.has_enough(str(key[0])) or waves.dropped(str(key[0]), [key[1]])
            ]
            continue
        row, sample = out.pop(rng.randrange(len(out)))
        judged.append((row, sample))
        if waves.judged(str(row), sample, right=verdicts[row][sample]):
            called = [s for r, s in out if r == row]
            out = [key for key in out if key[0] != row]
            waves.dropped(str(row), called)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=9), max_size=8),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_every_row_gets_enough_right_samples_or_all_it_has(
    rows: list[list[bool]], enough: int, seed: int
) -> None:
    committed = play(rows, enough, random.Random(seed))
    for number, verdicts in enumerate(rows):
        right = sum(verdicts[sample] for sample in committed[number])
        assert right >= enough or len(committed[number]) == len(verdicts)


def test_a_wave_is_as_many_as_are_wanted_then_twice_as_many() -> None:
    waves = EarlyStop(2)
    waves.add([RowSamples((Batch(), 0), list(range(16)))])
    sizes = []
    while (pick := waves.pick()) is not None:
        waves.out("a", pick)
        sizes.append(len(pick.samples))
        for sample in pick.samples:
            waves.judged("a", sample, right=False)
    assert sizes == [2, 4, 8, 2]


def test_what_a_dead_worker_took_along_is_wanted_again() -> None:
    waves = EarlyStop(1)
    waves.add([RowSamples((Batch(), 0), [0, 1, 2])])
    pick = waves.pick()
    assert pick is not None
    waves.out("a", pick)
    assert waves.judged("a", 0, right=True) and waves.spared == 2
    waves.lost("a", 0)
    assert waves.spared == 0 and not waves.has_enough("a")
    waves.judged("a", 0, right=False)
    assert waves.rows_left == 1, "the others are wanted after all"


def test_samples_stop_when_enough_are_right_and_the_same_prompts_are_solved(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    run_replay(solvable_job(whole, stop_when=None), replay(groups=LENGTHS))
    summary = run_replay(solvable_job(stopped), replay(groups=LENGTHS))
    everything, kept = rows_of(whole / "out"), rows_of(stopped / "out")
    right = Counter(everything.filter(pl.col("correct"))["id"].to_list())
    found = Counter(kept.filter(pl.col("correct"))["id"].to_list())
    assert len(right) > ROWS // 2 and any(
        count < 2 for count in (right[i] for i in everything["id"])
    )
    assert set(right) == set(found), "solved at all"
    assert {id for id, count in right.items() if count >= 2} == {
        id for id, count in found.items() if count >= 2
    }
    assert set(
        kept.filter(~pl.col("id").is_in([i for i, c in found.items() if c >= 2]))[
            "id"
        ].value_counts()["count"]
    ) == {N}
    assert kept.height + summary.counts.spared == ROWS * N
    assert (summary.exit_code, summary.counts.pending, summary.counts.done) == (0, 0, kept.height)
    assert kept.height < 0.8 * everything.height
    assert (stopped / "out/_SUCCESS").exists()
    again = run_replay(stopped / "job.yaml", replay(groups=LENGTHS))
    assert (again.exit_code, again.tally.done, again.counts.spared) == (0, 0, summary.counts.spared)
    spared = f"{kept.height} done, 0 failed, 0 pending, {summary.counts.spared} spared"
    assert spared in as_text(summarise(Output(open_storage(stopped / "out"))), None), (
        "status adds up"
    )
    same = kept.join(everything, on=["id", "sample"]).select(
        pl.col("reasoning") == pl.col("reasoning_right")
    )
    assert same.to_series().all()


def test_a_killed_run_goes_on_to_the_same_prompts(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run_replay(solvable_job(whole, stop_when=None), replay(groups=LENGTHS))
    job = solvable_job(killed, checkpoint={"every_s": 0.25}, output={"rows_per_part": 8})
    for kill in range(2):
        with started(
            job, mean_len=60.0, groups=LENGTHS, tokens_per_step=1, step_s=0.01, max_num_seqs=8
        ) as run:
            goal = 3 * (kill + 1)
            until(lambda goal=goal: len(list((killed / "out/data").glob("*.parquet"))) > goal)
            assert run.driver.poll() is None
            run.kill()
    seen = summarise(Output(open_storage(killed / "out")))
    counts = find_pending(open_job(load_job(job))).counts()
    assert (seen.pending, seen.spared) == (counts.pending, counts.spared), (
        "without the input, by rows alone"
    )
    assert counts.spared > 0
    summary = run_replay(job, replay(groups=LENGTHS))
    assert (summary.exit_code, summary.counts.pending) == (0, 0)
    rows = rows_of(killed / "out")
    assert rows.select("id", "sample").is_unique().all()
    right = Counter(rows_of(whole / "out").filter(pl.col("correct"))["id"].to_list())
    found = Counter(rows.filter(pl.col("correct"))["id"].to_list())
    assert set(right) == set(found)
    assert rows.height + summary.counts.spared == ROWS * N and summary.counts.spared > 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"verify": {"kind": "none"}},
            "stop_when.correct needs verdicts (set input.gold, and a verify.kind but none)",
        ),
        (
            {"sampling": {"n": 2}},
            "stop_when.correct stops nothing with sampling.n 2 (got 2, need less)",
        ),
        ({"stop_when": {"correct": 0}}, "stop_when.correct: "),
    ],
)
def test_stopping_that_cannot_be(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    job = solvable_job(tmp_path, **sections)
    with pytest.raises(JobError) as caught:
        load_job(job)
    assert message in str(caught.value)
