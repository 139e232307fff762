"""SIGKILL of the whole tree at random moments; then the output is what an oracle says.

Thirteen kinds of job on the replay engine, in real processes. The oracle computes rows from the
input and the script alone. A seed decides the job and the moments. The long leg goes on until
BATCHR1_RANDOM_KILLS happened, from the seed BATCHR1_KILL_SEED on.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from oracle_jobs import KINDS, KilledJob

KILLS = int(os.environ.get("BATCHR1_RANDOM_KILLS", "500"))
FIRST = int(os.environ.get("BATCHR1_KILL_SEED", "0"))
AGAIN = (
    "BATCHR1_KILL_SEED={seed} BATCHR1_RANDOM_KILLS=1 python -m pytest -s -m slow "
    "tests/crash/test_oracle.py -k hundreds"
)


def kill_and_check(folder: Path, seed: int, most: int) -> KilledJob:
    """Make, kill and end the job of a seed; a failure says how to repeat it."""
    job = None
    try:
        job = KilledJob(folder, seed)
        job.kill_at_random(most)
        print(f"KILLED {seed} {job.name}: {job.end()}", flush=True)
    except Exception as error:
        name, kills = (job.name, job.kills) if job else ("", [])
        again = AGAIN.format(seed=seed)
        error.add_note(f"seed {seed}, {name}, killed at {kills}. Again: {again}")
        raise
    return job


SLOW_KINDS = {"samples", "fewer", "two-workers"}  # CI has the time for ten kinds, killed twice


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW_KINDS else []) for k in KINDS],
)
def test_a_job_killed_at_a_random_moment_ends_as_the_oracle_says(tmp_path: Path, kind: str) -> None:
    seed = 3 * len(KINDS) + list(KINDS).index(kind)  # moments well before the ends of their runs
    job = kill_and_check(tmp_path, seed, most=2)
    assert job.kills, "the run ended before it could be killed"


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_jobs_killed_hundreds_of_times_end_as_the_oracle_says(tmp_path: Path) -> None:
    kills: Counter[str] = Counter()
    seed = FIRST
    while kills.total() < KILLS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        job = kill_and_check(folder, seed, most=2 + seed // len(KINDS) % 7)
        kills[job.name] += len(job.kills)
        shutil.rmtree(folder)
        seed += 1
    print(f"KILLS {kills.total()} in {seed - FIRST} jobs from seed {FIRST}: {dict(kills)}")
