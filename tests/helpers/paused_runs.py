"""Outputs that a run is paused or killed on: kinds of run, and what has to hold afterwards."""

from __future__ import annotations

import datetime as dt
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from kills import kill_driver, kill_worker
from pauses import Pause, first_and_step
from replay_job import keys_of, questions, replay, run_replay, wanted_keys, write_job

from batchr1.errors import BatchError, FingerprintError
from batchr1.output.folder import Output
from batchr1.output.parts import failures_table
from batchr1.records import Failure
from batchr1.rejudge.output import GoldFile, judge_again
from batchr1.storage.base import Storage, StorageOptions, open_storage
from batchr1.storage.local import LocalStorage

ROWS = 12
QUICK = replay(mean_len=40.0, sigma=0.6)
SAVING = replay(mean_len=40.0, sigma=0.6, tokens_per_step=4, step_s=0.02)  # with snapshots
SMALL, LARGE = 30, 90
COLUMNS = ["id", "sample", "truncated", "answer"]


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


class Case:
    """An output, a run of it, and the run that takes over meanwhile."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        uri: str,
        options: StorageOptions | None = None,
        *,
        script: dict[str, Any] = QUICK,
    ) -> None:
        self.folder, self.kind, self.script = folder, kind, script
        self.uri, self._options = uri, options
        self.inputs = questions(ROWS)
        self.inputs.write_parquet(folder / "in.parquet")
        os.utime(folder / "in.parquet", (1e9, 1e9))
        self.job = self._job()
        getattr(self, f"_prepare_{kind.replace('-', '_')}")()
        storage = self.storage()
        self._before = {
            info.rel: storage.read_bytes(info.rel) for info in storage.list_files(recursive=True)
        }

    def storage(self) -> Storage:
        return open_storage(self.uri, self._options)

    def rows(self) -> pl.DataFrame:
        tables = [pl.DataFrame(table) for table in Output(self.storage()).tables(COLUMNS)]
        return pl.concat(tables).sort("id", "sample")

    def _job(self, max_tokens: int = LARGE, **sections: Any) -> Path:
        return write_job(
            self.folder,
            sampling={"max_tokens": max_tokens},
            output={"path": self.uri, "rows_per_part": 4},
            storage={"endpoint": self._options.endpoint} if self._options else {},
            checkpoint={"every_s": 0.1},
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
        assert self.rows()["truncated"].sum() > 2
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
        Output(self.storage()).commit_failed(table, "part-r-failed-00001.parquet")
        self.run = self.other = lambda: self._run(self._job, retry_failed=True)

    def _prepare_fresh(self) -> None:
        self._run()
        self.run = lambda: self._run(fresh=True, confirm_fresh=lambda _: True)
        self.other = lambda: self._run()

    def _prepare_verify(self) -> None:
        self._run()
        golds = self.folder / "golds.parquet"
        self.rows().select("id", gold=pl.col("answer")).write_parquet(golds)
        source = GoldFile(str(golds), "id", "gold")

        def judge() -> int:
            judge_again(Output(self.storage()), {"kind": "exact"}, source)
            return 0

        self.run = self.other = judge

    def _run(self, job: Callable[[], Path] | None = None, **options: Any) -> int:
        if job is not None:
            job()
        return run_replay(self.job, self.script, **options).exit_code

    def reset(self) -> None:
        storage = self.storage()
        if isinstance(storage, LocalStorage):
            shutil.rmtree(storage.path(), ignore_errors=True)
        for info in storage.list_files(recursive=True):
            storage.delete(info.rel)
        for rel, data in self._before.items():
            storage.write_bytes(rel, data)

    def seen(self) -> dict[str, bytes]:
        """What a reader sees of it."""
        storage = self.storage()
        names = [info.rel for info in storage.list_files("data")]
        found = {rel: storage.read_bytes(rel) for rel in names}
        return found | {"_SUCCESS": storage.find_bytes("_SUCCESS") or b""}

    def check(self) -> None:
        """Every key once, and `_SUCCESS` right."""
        assert keys_of(self.rows()) == wanted_keys(self.inputs)
        assert Output(self.storage()).is_complete()

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

        with Pause(self.uri, at, meanwhile, changes_only=changes_only).armed() as pause:
            try:
                code = self.run()
            except BatchError as error:
                code = error.exit_code
        if code == 0:
            self.check()
        else:
            assert code in (4, 75), (at, pause.place)
            seen = self.seen()
            if pause.place == "delete_object _SUCCESS" and not seen["_SUCCESS"]:
                # The one request that a store may carry out late: Ceph ignores the condition of a
                # deletion (docs/durability.md). The output counts as not complete then.
                assert self.run() == 0
                self.check()
                seen["_SUCCESS"] = after["_SUCCESS"]
            assert pause.reached and seen == after, (at, pause.place)
        return pause

    def undisturbed(self) -> pl.DataFrame:
        """The rows of a run that nothing happens to."""
        self.reset()
        assert self.run() == 0
        return self.content()

    def content(self) -> pl.DataFrame:
        """All columns but those that say how a row came to be."""
        storage = self.storage()
        parts = [storage.read_bytes(info.rel) for info in storage.list_files("data", ".parquet")]
        rows = pl.concat([pl.read_parquet(io.BytesIO(part)) for part in parts])
        return rows.drop("run", "finished_at", "resumed_at").sort("id", "sample")

    def kill_everywhere(self, whose: str) -> None:
        """Kill a run at each change that the sweep wants, and say where."""
        undisturbed = self.undisturbed()
        at, step = first_and_step()
        while place := self.kill(whose, at, undisturbed):
            print(f"KILLED {whose} of {self.kind} at {at}: {place}", flush=True)
            at += step
        print(f"KILLS {whose} of {self.kind}: it changes fewer than {at} times", flush=True)

    def kill(self, whose: str, at: int, undisturbed: pl.DataFrame) -> str:
        """Kill a run at its change `at`, end another and then the same one, and check both.

        `whose` change: the driver's, or its worker's, which dies alone or as one of the `tree`.
        Returns where it was killed, or nothing if it ended before.
        """
        self.reset()
        mark = self.folder / "killed"
        mark.unlink(missing_ok=True)
        if whose == "driver":
            code = kill_driver(self.uri, at, mark, self.run)
        else:
            code = kill_worker(self.uri, at, mark, self.run, whole_tree=whose == "tree")
        place = mark.read_text() if mark.exists() else ""
        assert code == (-9 if place and whose != "worker" else 0), (at, place)
        try:
            assert self.other() == 0
            self.check()
        except FingerprintError:  # the killed run has begun to be another job
            assert self.kind == "continue-plain"
        self.leaves_nothing()
        assert self.content().equals(undisturbed), (at, place)
        return place

    def leaves_nothing(self) -> None:
        """The same run once more is right, and sweeps."""
        assert self.run() == 0
        self.check()
        names = [info.rel for info in self.storage().list_files(recursive=True)]
        if self.storage().kind == "local":
            names = [str(path) for path in Path(self.uri).rglob("*") if path.is_file()]
        assert [
            n for n in names if n.endswith(".tmp") or "/staging/" in n or "/inflight/" in n
        ] == []
        assert [n for n in names if "/probe-" in n] == []
