"""An owner that is paused at any storage call and wakes late has no effect.

Another run takes over meanwhile and finishes, and a third one reads. Then the first goes on.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from paused_runs import KINDS, Case
from pauses import Pause, chosen, without_beats
from process_tree import tree, until
from replay_job import replay, set_engine
from s3_fakes import S3

from batchr1.storage.lock import STALE_AFTER_S


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calls", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_an_owner_paused_at_a_storage_call_changes_nothing_when_it_wakes(
    tmp_path: Path, kind: str, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    case = Case(tmp_path, kind, str(tmp_path / "out"))
    case.reset()
    changes_only = calls == "some"
    with Pause(case.uri, 0, lambda: None, changes_only=changes_only).armed() as count:
        assert case.run() == 0
    numbers = chosen(count.count)
    if calls == "some":  # one in the middle, another one for each kind
        numbers = [count.count // 2 + KINDS.index(kind)]
    for number in numbers:
        pause = case.pause(number, changes_only=changes_only)
        print(f"PAUSED {kind}: {number} of {count.count}: {pause.place}", flush=True)
    case.leaves_nothing()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["disk", pytest.param("s3", marks=pytest.mark.s3)])
def test_an_owner_asleep_for_the_real_stale_time_changes_nothing_when_it_wakes(
    tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    uri, options = str(tmp_path / "out"), None
    if store == "s3":
        s3: S3 = request.getfixturevalue("s3_real")
        uri, options = f"s3://{s3.bucket}/out", s3.options
    case = Case(tmp_path, "plain", uri, options)
    command = ["-m", "batchr1", "run", str(case.job)]
    set_engine(case.job, replay(mean_len=40.0, tokens_per_step=1, step_s=0.1, max_num_seqs=4))
    with tree(command, tmp_path) as sleeper:
        until(lambda: case.storage().list_files("data"), 120, "the first part")
        stopped, began = sleeper.pids(), time.monotonic()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        set_engine(case.job, replay(mean_len=40.0, step_s=0.0))
        with tree(command, tmp_path) as other:
            assert other.wait(300) == 0, other.stderr
        assert time.monotonic() - began > STALE_AFTER_S, "it waited for the whole stale time"
        case.check()
        after = case.seen()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert sleeper.wait(120) == 75, sleeper.stderr
        slept_s = time.monotonic() - began
    assert case.seen() == after
    case.check()
    print(f"ASLEEP on {store} for {slept_s:.0f} s: exit code 75, {len(after) - 1} parts unchanged")
