"""An owner that is paused at any storage call and wakes late has no effect.

Another run takes over meanwhile and finishes, and a third one reads. Then the first goes on.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pauses import Pause, files_below, without_beats
from replay_job import keys_of, questions, replay, rows_of, run_replay, wanted_keys, write_job

from batchr1.errors import BatchError, FingerprintError
from batchr1.output.folder import Output
from batchr1.output.parts import failures_table
from batchr1.records import Failure
from batchr1.rejudge.output import GoldFile, judge_again
from batchr1.storage.base import open_storage

ROWS = 12
QUICK = replay(mean_len=40.0, sigma=0.6)
SMALL, LARGE = 30, 90


class Case:
    """An output, a run of it, and the run that takes over meanwhile."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.output = folder / "out"
        self.inputs = questions(ROWS)
        self.inputs.write_parquet(folder / "in.parquet")
        os.utime(folder / "in.parquet", (1e9, 1e9))
        self.job = self._job()
        getattr(self, f"_prepare_{kind.replace('-', '_')}")()
        if self.output.exists():
            shutil.copytree(self.output, folder / "before")

    def _job(self, max_tokens: int = LARGE, **sections: Any) -> Path:
        return write_job(
            self.folder,
            sampling={"max_tokens": max_tokens},
            output={"rows_per_part": 4},
            **sections,
        )

    def _prepare_plain(self) -> None:
        self.run = self.other = lambda: self._run()

    def _prepare_grown(self) -> None:
        """Complete, then the input grew: `_SUCCESS` goes and comes."""
        self._run()
        self.inputs = questions(ROWS + 4)
        self.inputs.write_parquet(self.folder / "in.parquet")
        self.run = self.other = lambda: self._run()

    def _prepare_continue(self) -> None:
        self._job(SMALL)
        self._run()
        assert rows_of(self.output)["truncated"].sum() > 2
        self.run = lambda: self._run(self._job, continue_truncated=True)
        self.other = self.run

    def _prepare_continue_plain(self) -> None:
        self._prepare_continue()
        self.other = lambda: self._run(lambda: self._job(SMALL))

    def _prepare_rerun(self) -> None:
        self._run()
        changed = pl.when(pl.int_range(ROWS) < 3).then(pl.col("problem") + " Now.")
        self.inputs.with_columns(problem=changed.otherwise(pl.col("problem"))).write_parquet(
            self.folder / "in.parquet"
        )
        self.run = self.other = lambda: self._run(
            lambda: self._job(input={"on_changed_prompt": "rerun"})
        )

    def _prepare_retry_failed(self) -> None:
        self._job(input={"limit": ROWS - 2})
        self._run()
        failures = [Failure(f"row/{i}", 0, "engine", "it broke", 1, b"") for i in (10, 11)]
        table = failures_table(failures, run="r", failed_at=dt.datetime.now(dt.UTC))
        Output(open_storage(self.output)).commit_failed(table, "part-r-failed-00001.parquet")
        self.run = self.other = lambda: self._run(self._job, retry_failed=True)

    def _prepare_fresh(self) -> None:
        self._run()
        self.run = lambda: self._run(fresh=True, confirm_fresh=lambda _: True)
        self.other = lambda: self._run()

    def _prepare_verify(self) -> None:
        self._run()
        golds = self.folder / "golds.parquet"
        rows_of(self.output).select("id", gold=pl.col("answer")).write_parquet(golds)
        source = GoldFile(str(golds), "id", "gold")

        def judge() -> int:
            judge_again(Output(open_storage(self.output)), {"kind": "exact"}, source)
            return 0

        self.run = self.other = judge

    def _run(self, job: Callable[[], Path] | None = None, **options: Any) -> int:
        if job is not None:
            job()
        return run_replay(self.job, QUICK, **options).exit_code

    def reset(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        if (self.folder / "before").exists():
            shutil.copytree(self.folder / "before", self.output)

    def seen(self) -> dict[str, bytes]:
        """What a reader sees of it."""
        found = files_below(self.output)
        return {k: v for k, v in found.items() if k.startswith("data/") or k == "_SUCCESS"}

    def check(self) -> None:
        """Every key once, and `_SUCCESS` right."""
        assert keys_of(rows_of(self.output)) == wanted_keys(self.inputs)
        assert Output(open_storage(self.output)).is_complete()

    def pause(self, at: int, *, changes_only: bool) -> Pause:
        """Run, paused at this call while the other takes over, to the end of both."""
        self.reset()
        after: dict[str, bytes] = {}

        def meanwhile() -> None:
            try:
                assert self.other() == 0
            except FingerprintError:  # the first run has begun to be another job: its owner stays
                assert self.kind == "continue-plain"
                return
            self.check()
            after.update(self.seen())

        with Pause(str(self.output), at, meanwhile, changes_only=changes_only).armed() as pause:
            try:
                code = self.run()
            except BatchError as error:
                code = error.exit_code
        if code == 0:
            self.check()
        else:
            assert code in (4, 75), (at, pause.place)
            assert pause.reached and self.seen() == after, (at, pause.place)
        return pause

    def leaves_nothing(self) -> None:
        """The same run once more is right, and sweeps."""
        assert self.run() == 0
        self.check()
        left = [
            path
            for path in self.output.rglob("*")
            if path.name.endswith(".tmp") or path.parent.name in ("staging", "inflight")
        ]
        assert left == []


KINDS = [
    "plain",
    "grown",
    "continue",
    "continue-plain",
    "rerun",
    "retry-failed",
    "fresh",
    "verify",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "calls",
    [
        "some",
        pytest.param("changes", marks=pytest.mark.slow),
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def test_an_owner_paused_at_a_storage_call_changes_nothing_when_it_wakes(
    tmp_path: Path, kind: str, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    case = Case(tmp_path, kind)
    case.reset()
    changes_only = calls != "all"
    with Pause(str(case.output), 0, lambda: None, changes_only=changes_only).armed() as count:
        assert case.run() == 0
    step = int(os.environ.get("BATCHR1_PAUSE_EVERY", "1"))
    numbers = list(range(1, count.count + 1, step))
    if calls == "some":  # one in the middle, another one for each kind
        numbers = [count.count // 2 + KINDS.index(kind)]
    for number in numbers:
        pause = case.pause(number, changes_only=changes_only)
        print(f"PAUSED {kind}: {number} of {count.count}: {pause.place}", flush=True)
    case.leaves_nothing()
