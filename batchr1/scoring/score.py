"""Scoring of all rows of a target.

It happens in one process, under the lock of the folder of scores.

    lock ─▶ void what others staged ─▶ done rows ─▶ engine ─▶ prefill, a part at a time ─▶ _SUCCESS

A row is done when a part holds it. A kill costs the rows since the last part.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batchr1.engine.vllm.engine import prepare_environment
from batchr1.engine.vllm.scorer import VllmScorer
from batchr1.errors import EngineError, InterruptedRun, RequestError
from batchr1.models.bucket import download_to_cache, is_bucket
from batchr1.output.run_record import FORMAT, RunRecord
from batchr1.records import Failure
from batchr1.scoring.columns import Row, ScoredRow, Scores, scores_table
from batchr1.scoring.folder import Key, ScoreFolder
from batchr1.scoring.planning import ScorePlan, longest_row, measure, plan_score, wanted
from batchr1.scoring.rows import Rows
from batchr1.scoring.target import Target, Wish, open_target
from batchr1.storage.base import StorageOptions, open_storage
from batchr1.storage.owner import owned
from batchr1.version import __version__

log = logging.getLogger("batchr1.score")

PART_EVERY_S = 60.0

Stopped = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Scored:
    """Outcome of a score. `plan` is None where nothing was to do."""

    output: str
    run: str
    plan: ScorePlan | None
    done: int
    failed: int
    tokens: int
    wall_s: float
    parts: tuple[str, ...] = ()
    exit_code: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of prefill a second, without loading; None of none."""
        return round(self.tokens / self.wall_s, 1) if self.tokens else None


def plan_only(wish: Wish) -> tuple[Target, ScorePlan]:
    """Plan a score. Loads no model and writes nothing."""
    target = open_target(wish)
    folder = ScoreFolder(open_storage(wish.dest, wish.storage))
    rows = Rows(target)
    folder.refuse_foreign(fingerprint(target, rows))
    return target, plan_score(target, measure(target, rows, folder.done()))


def score(
    wish: Wish,
    *,
    say: Callable[[list[str]], None] = lambda lines: None,
    progress: Callable[[int, int], None] = lambda done, rows: None,
    stopped: Stopped = lambda: None,
) -> Scored:
    """Score all rows that are not done yet.

    `say` gets the lines of the plan before anything loads. Raises `UsageError` for what cannot
    work, `InterruptedRun` once `stopped` gives a reason.
    """
    target = open_target(wish)
    folder = ScoreFolder(open_storage(wish.dest, wish.storage))
    rows = Rows(target)
    asked = fingerprint(target, rows)
    folder.refuse_foreign(asked)
    folder.storage.check_writable()
    now = dt.datetime.now(dt.UTC)
    run = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{secrets.token_hex(2)}"
    with owned(folder.storage, run=run):
        folder.refuse_foreign(asked)
        folder.output.clear_staging()
        done = folder.done()
        plan = plan_score(target, sizes) if (sizes := measure(target, rows, done)).rows else None
        if plan is not None:
            say(plan.lines(target.model.name, wish.top_k))
            folder.output.begin()
        folder.write(asked, {"scored": target.uri, "model": target.model.name})
        work = _Work(target, folder, rows, run, done, progress, stopped)
        return work.run_all(plan)


def fingerprint(target: Target, rows: Rows) -> dict[str, Any]:
    """List all that decides scores."""
    columns = target.wish.columns
    names = None
    if columns is not None:
        names = [columns.id, columns.sample, columns.prompt, columns.completion]
    args = target.spec.model.engine_args
    return {
        "scored": target.uri,
        "columns": names,
        "model": target.model.identity,
        "quantization": target.spec.model.quantization,
        "dtype": args.get("dtype"),
        "hf_overrides": args.get("hf_overrides"),
        "vocabulary": rows.vocabulary,
        "top_k": target.wish.top_k,
        "logprobs": "raw",
    }


@dataclass
class _Work:
    """Run over the rows of a target.

    A window of rows is in the engine, and a part in the making.
    """

    target: Target
    folder: ScoreFolder
    rows: Rows
    run: str
    done: dict[Key, str]
    progress: Callable[[int, int], None]
    stopped: Stopped
    under_way: dict[str, Row] = field(default_factory=dict)
    finished: list[ScoredRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    scored: int = 0
    committed_at: float = 0.0

    def run_all(self, plan: ScorePlan | None) -> Scored:
        """Score what is pending, and record how it went."""
        record = RunRecord(
            format=FORMAT,
            run=self.run,
            state="running",
            started=_now_text(),
            batchr1=__version__,
            job="score",
            model=self.target.model.identity,
        )
        self.folder.output.write_run(record)
        began = time.monotonic()
        try:
            if plan is None:
                self.failures = [row for row in self._pending() if isinstance(row, Failure)]
            else:
                began = self._with_engine(plan)
            self._end()
        except BaseException as exc:
            # A signal that came while the engine loaded is a KeyboardInterrupt.
            code = getattr(exc, "exit_code", 75 if isinstance(exc, KeyboardInterrupt) else 1)
            self._record(record, "stopped", code, time.monotonic() - began)
            raise
        wall_s = time.monotonic() - began
        code = 3 if self.failures else 0
        self._record(record, "ended", code, wall_s)
        return Scored(
            self.folder.uri,
            self.run,
            plan,
            len(self.done) + self.scored,
            len(self.failures),
            self.tokens,
            wall_s,
            tuple(self.parts),
            code,
        )

    def _with_engine(self, plan: ScorePlan) -> float:
        """Load the engine, and score. Gives the moment when it was loaded."""
        with _environment_kept():
            scorer = _load(self.target, plan)
            began = self.committed_at = time.monotonic()
            try:
                self._feed(scorer, plan)
                self._commit()
            except (EngineError, InterruptedRun):
                self._commit()  # what is finished is not scored again
                raise
            finally:
                scorer.close()
        return began

    def _feed(self, scorer: VllmScorer, plan: ScorePlan) -> None:
        """Keep two steps of tokens in the engine until the end."""
        window, waiting = 2 * plan.plan.max_num_batched_tokens, deque[Row]()
        pending, inside, number = self._pending(), 0, 0
        more = True
        while more or waiting or self.under_way:
            if (reason := self.stopped()) is not None:
                raise InterruptedRun(f"{reason}: stopped. Run the same command again.")
            while more and not waiting:
                row = next(pending, None)
                more = row is not None
                if isinstance(row, Failure):
                    self.failures.append(row)
                elif row is not None:
                    waiting.append(row)
            if waiting and (not self.under_way or inside < window):
                row = waiting.popleft()
                if self._submit(scorer, str(number), row):
                    inside += _length(row)
                number += 1
                continue
            if not self.under_way:
                continue
            for id, ids, logprobs in scorer.step():
                row = self.under_way.pop(id)
                inside -= _length(row)
                self._take(row, ids, logprobs)
            if self._is_due():
                self._commit()
            self.progress(self.scored, plan.sizes.rows)

    def _pending(self) -> Iterator[Row | Failure]:
        bound = longest_row(self.target)
        return wanted(self.rows.read(), self.done, longest=bound, where=self.target.uri)

    def _submit(self, scorer: VllmScorer, id: str, row: Row) -> bool:
        """Begin a row.

        False: it is through, as it has no token or was refused.
        """
        if not row.token_ids:
            nothing = np.zeros((0, self.target.wish.top_k + 1))
            self._take(row, nothing.astype(np.int32), nothing.astype(np.float32))
            return False
        try:
            scorer.submit(id, [*row.prompt_ids, *row.token_ids])
        except RequestError as exc:
            self.failures.append(Failure(row.id, row.sample, "refused", str(exc), 1))
            return False
        self.under_way[id] = row
        return True

    def _take(self, row: Row, ids: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> None:
        """Take a row's scores out of those of all its tokens."""
        count = len(row.token_ids)
        own, top = ids[len(ids) - count :], logprobs[len(logprobs) - count :]
        if own[:, 0].tolist() != list(row.token_ids):
            raise EngineError(f"row {row.id!r}: scored for other tokens. Run the command again.")
        scores = Scores(top[:, 0].copy(), own[:, 1:].copy(), top[:, 1:].copy())
        now = dt.datetime.now(dt.UTC)
        self.finished.append(ScoredRow(row, scores, self.rows.places(row), now))
        self.tokens += _length(row)
        self.scored += 1

    def _is_due(self) -> bool:
        size = sum(row.nbytes for row in self.finished)
        waited = time.monotonic() - self.committed_at
        return size >= self.target.wish.part_bytes or (waited > PART_EVERY_S and size > 0)

    def _commit(self) -> None:
        """Publish what is finished, as parts of a bounded size."""
        while self.finished:
            size = count = 0
            for row in self.finished:
                if count and size + row.nbytes > self.target.wish.part_bytes:
                    break
                size, count = size + row.nbytes, count + 1
            table = scores_table(self.finished[:count], self.run)
            self.parts.append(self.folder.commit(table, self.run))
            del self.finished[:count]
        self.committed_at = time.monotonic()

    def _end(self) -> None:
        """Publish the failed rows, or that all is there."""
        self.folder.commit_failed(self.failures, self.run, dt.datetime.now(dt.UTC))
        if not self.failures:
            samples = len(self.done) + self.scored
            self.folder.output.succeed(self.run, rows=None, samples=samples)

    def _record(self, record: RunRecord, state: str, code: int, wall_s: float) -> None:
        record.state, record.ended, record.exit_code = state, _now_text(), code
        record.wall_s = round(wall_s, 2)
        self.folder.output.write_run(record)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Leave no variable behind for what this process runs next."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _load(target: Target, plan: ScorePlan) -> VllmScorer:
    """Load the engine, on the plan's GPUs or the CPU."""
    sized = plan.plan
    if sized.device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(sized.device_groups[0])
    # Its stderr is the terminal, and its threads hold locks that a forked process would keep.
    prepare_environment(sized.device, log_level="ERROR", forks=False)
    location, revision = target.model.loads_from
    if is_bucket(target.model.location):
        options = target.wish.storage or StorageOptions()
        digest = target.model.revision
        location = str(
            download_to_cache(target.model.location, options, digest=digest, say=log.info)
        )
    args = {name: value for name, value in sized.engine_args.items() if name != "stream_interval"}
    return VllmScorer(
        location,
        revision=revision,
        trust_remote_code=target.spec.model.trust_remote_code,
        args=args,
        top_k=target.wish.top_k,
    )


def _length(row: Row) -> int:
    return len(row.prompt_ids) + len(row.token_ids)


def _now_text() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
