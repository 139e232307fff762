"""`retry.on`: outcomes that are not wanted are tried again, with a new seed, and the kept row says
how often.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from killed_runs import record, started, wait_for_saved
from process_tree import until
from replay_job import (
    MODEL,
    keys_of,
    questions,
    replay,
    replay_engine,
    rows_of,
    run_replay,
    setup_of,
    token_ids,
    wanted_keys,
    write_job,
)

from batchr1.dataset.prompts import PromptRenderer
from batchr1.engine.protocol import ModelFiles
from batchr1.errors import JobError
from batchr1.executors.messages import (
    CancelSamples,
    Drain,
    FromWorker,
    Lease,
    PartStaged,
    SamplesCancelled,
    ToWorker,
)
from batchr1.job import load_job
from batchr1.records import SampleKey, WorkItem
from batchr1.seeds import derive_seed
from batchr1.storage.base import open_storage
from batchr1.worker.collector import Collector
from batchr1.worker.engine_life import model_tags, result_maker
from batchr1.worker.engine_worker import EngineWorker

ROWS = 40
# Six completions of each prompt, two of them too long for max_tokens: unclosed. A sample's seed
# picks one.
SCRIPT: dict[str, Any] = {"groups": [[20, 30, 400, 25, 35, 400]], "tokens_per_step": 4}


def job_of(folder: Path, **sections: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    given = {
        "sampling": {"max_tokens": 100, "seed": 5},
        "retry": {"on": ["unclosed"], "attempts": 4},
    }
    return write_job(folder, **(given | {"checkpoint": {"every_s": 0.25}} | sections))


def failed_of(output: Path) -> list[tuple[str, int, str]]:
    tables = [pl.read_parquet(path) for path in (output / ".batchr1/failed").glob("*.parquet")]
    return sorted(pl.concat(tables).select("id", "sample", "reason").iter_rows()) if tables else []


def test_what_is_not_wanted_is_tried_again_and_the_last_try_is_kept(tmp_path: Path) -> None:
    plain, again = tmp_path / "plain", tmp_path / "again"
    for folder in (plain, again):
        folder.mkdir()
    run_replay(job_of(plain, retry={}), replay(**SCRIPT))
    summary = run_replay(job_of(again), replay(**SCRIPT))
    before, after = rows_of(plain / "out"), rows_of(again / "out")
    assert keys_of(after) == wanted_keys(questions(ROWS))
    cut = before.filter(pl.col("reasoning_status") == "unclosed")
    assert 5 < cut.height < ROWS, "the script has both"
    assert set(before["attempts"]) == {1}
    retried = after.filter(pl.col("attempts") > 1)
    assert set(retried["id"]) == set(cut["id"]), "those and no others"
    assert (retried.filter(pl.col("reasoning_status") == "unclosed")["attempts"] == 4).all(), (
        "kept when all were so"
    )
    assert retried.filter(pl.col("reasoning_status") == "closed").height > retried.height // 2
    for row in after.iter_rows(named=True):
        assert row["seed"] == derive_seed(5, row["id"], 0, row["attempts"])
    assert summary.tally.discarded == 100 * int((after["attempts"] - 1).sum()), (
        "each thrown away at 100 tokens"
    )
    assert summary.exit_code == 0


def test_tries_are_counted_across_kills(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        folder.mkdir()
        job_of(folder, output={"rows_per_part": ROWS})  # nothing is committed before a kill
    run_replay(calm / "job.yaml", replay(**SCRIPT))
    assert rows_of(calm / "out")["completion_tokens"].sum() > 1000
    slow = SCRIPT | {"tokens_per_step": 1, "step_s": 0.01, "max_num_seqs": 8}
    for kill in range(2):
        with started(killed / "job.yaml", **slow) as run:
            wait_for_saved(run, killed / "out", 400 * (kill + 1))
            run.kill()
    summary = run_replay(killed / "job.yaml", replay(**SCRIPT))
    assert summary.exit_code == 0
    what = ["id", "attempts", "seed", "reasoning", "answer", "completion_tokens"]
    assert rows_of(killed / "out").select(what).equals(rows_of(calm / "out").select(what))


def test_drawing_again_needs_a_draw(tmp_path: Path) -> None:
    job = job_of(tmp_path, sampling={"temperature": 0})
    with pytest.raises(
        JobError, match=r"retry\.on draws again, and at sampling\.temperature 0 nothing is drawn"
    ):
        load_job(job)


def test_a_row_whose_second_try_kills_the_engine_fails_alone(tmp_path: Path) -> None:
    """Its first one was saved whole: that does not make it a row that came through."""
    texts = token_ids()["num_text_ids"] - 1
    seed = next(
        s
        for s in range(100)
        if [(derive_seed(s, "row/4", 0, a) or 0) % texts % 2 for a in (1, 2)] == [0, 1]
    )
    job = job_of(tmp_path, input={"limit": 5}, sampling={"max_tokens": 100, "seed": seed})
    # One at a time: between its tries others run, while the first is in snapshots.
    script = {"groups": [[400, 20]], "poison_every": 29, "poison_at": 10, "poison_up_to": 20}
    with started(job, **script, max_num_seqs=1, tokens_per_step=1, step_s=0.005) as run:
        code = run.wait(150)
    assert (code, failed_of(tmp_path / "out")) == (3, [("row/4", 0, "killed_engine")]), run.stdout
    assert record(tmp_path / "out")["tally"]["restarts"] <= 4


class Line:
    """A channel whose other end is the test."""

    def __init__(self) -> None:
        self.to_worker: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.said: list[FromWorker] = []

    def receive(self, timeout_s: float) -> ToWorker | None:
        try:
            return self.to_worker.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def send(self, message: FromWorker) -> None:
        self.said.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


def test_what_is_called_back_is_not_tried_again(tmp_path: Path) -> None:
    """The row has enough right samples before this one's retry is decided."""
    script = replay(**SCRIPT | {"groups": [[400]]})
    setup = setup_of(
        open_storage(tmp_path / "out"),
        engine={"script": script},
        input={"gold": "answer"},
        output={"rows_per_part": 10},
        sampling={"n": 2, "seed": 5},
        retry={"attempts": 4, "on": ["unclosed"]},
        stop_when={"correct": 1},
    )
    tags, tokenizer = model_tags(setup, ModelFiles(MODEL, None))
    make, is_seen = result_maker(setup, tags, tokenizer), threading.Event()

    def slow(*args: Any) -> Any:
        is_seen.wait(60)
        return make(*args)

    line, engine = Line(), replay_engine(script)
    collector = Collector(setup, slow, line.send)
    worker = EngineWorker(setup, engine, collector, line)
    thread = threading.Thread(target=worker.run, args=(0.0,))
    thread.start()
    prompt = PromptRenderer(tokenizer).render("a", "1 + 1")
    line.to_worker.put(Lease((WorkItem(prompt, 0, 100, "max_tokens", seed=1),)))
    until(collector.uncommitted, 20)
    line.to_worker.put(CancelSamples((SampleKey("a", 0),)))
    until(lambda: line.of(SamplesCancelled), 20)
    is_seen.set()
    line.to_worker.put(Drain())
    thread.join(60)
    assert not thread.is_alive()
    assert [(m.keys, m.tokens) for m in line.of(SamplesCancelled)] == [
        ((), 0),
        ((SampleKey("a", 0),), 100),
    ]
    assert not collector.uncommitted() and not line.of(PartStaged)
