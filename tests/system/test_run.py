"""A whole run: everything that was asked comes out once, whatever happens on the way.

The engine is the replay engine; driver, worker processes, tokenizer, splitting, Parquet and lock
are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from process_tree import tree, until
from replay_job import (
    MODEL,
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    token_ids,
    wanted_keys,
    write_job,
)

from batchr1.cli.main import main
from batchr1.driver.context import open_job
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.resume.pending_rows import find_pending
from batchr1.errors import OutputError
from batchr1.job import load_job
from batchr1.storage.base import open_storage
from batchr1.storage.lock import Lock

SECRET = "Zeppelin-7391"  # in every prompt, so in no log
HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
LOCKSTEP = {
    "sigma": 0.0,
    "mean_len": 16.0,
    "max_num_seqs": 8,
}  # eight rows end in the same step, every third step


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def parts_of(output: Path) -> list[str]:
    return (
        sorted(path.name for path in (output / "data").glob("*"))
        if (output / "data").exists()
        else []
    )


def run_records(output: Path) -> list[dict[str, Any]]:
    """Of runs that had something to do."""
    records = [
        json.loads(path.read_text()) for path in sorted((output / ".batchr1/runs").glob("*.json"))
    ]
    return [record for record in records if "plan" in record]


def without_run(rows: pl.DataFrame) -> pl.DataFrame:
    """What a row says, without when and by which run it was made."""
    return rows.drop("run", "finished_at", "attempts", strict=False)


def assert_sound(rows: pl.DataFrame, inputs: pl.DataFrame, n: int = 1) -> None:
    """What holds for every output."""
    assert keys_of(rows) == wanted_keys(inputs, n)
    tokens = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert (tokens == rows["completion_tokens"]).all()
    assert (rows["truncated"] == (rows["finish_reason"] == "length")).all()
    assert (rows["truncated"] == rows["truncated_in"].is_not_null()).all()
    assert (rows["truncated"] == rows["truncated_by"].is_not_null()).all()
    assert (
        rows["reasoning"].is_null() == rows["reasoning_status"].is_in(["empty", "missing"])
    ).all()
    assert (rows["answer"].is_null() == (rows["reasoning_status"] == "unclosed")).all()
    assert rows.filter(pl.col("truncated"))["token_ids"].is_not_null().all()


# One complete run, three samples a row, two replicas; many claims look at it.


def inputs_with_everything() -> pl.DataFrame:
    rows = questions(60).with_columns(
        problem=pl.col("problem") + f" {SECRET}",
        level=pl.int_range(60, dtype=pl.Int8) % 5,
        subject=pl.Series([None if i % 7 == 0 else f"Größe {i % 3}" for i in range(60)]),
        gold=pl.Series([str(i) for i in range(60)]),
        cap=pl.Series([None, 20, 1000] * 20, dtype=pl.Int32),
    )
    return rows.filter(pl.col("id") != "row/13")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("complete")
    inputs_with_everything().write_parquet(folder / "in.parquet", row_group_size=25)
    job = write_job(
        folder,
        model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 8}},
        input={"gold": "gold", "max_tokens": "cap"},
        output={"keep": {"subject": "subject", "hardness": "level"}, "token_ids": "always"},
        sampling={"n": 3, "seed": 5},
        executor={"replicas": 2},
    )
    engine = replay(max_num_seqs=8, tokens_per_step=1, step_s=0.008)
    return job, run_replay(job, engine)


@pytest.fixture
def copy_of_complete(complete: tuple[Path, Summary], tmp_path: Path) -> Path:
    """The job file of a copy that a test may change."""
    shutil.copytree(complete[0].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "job.yaml"


def test_a_run_makes_every_sample_once(complete: tuple[Path, Summary]) -> None:
    job, summary = complete
    rows = rows_of(job.parent / "out")
    assert_sound(rows, inputs_with_everything(), n=3)
    assert summary.exit_code == 0
    assert summary.stopped is None
    assert (summary.counts.rows, summary.counts.done, summary.counts.pending) == (59, 177, 0)
    assert (summary.tally.done, summary.tally.failed) == (177, 0)
    assert summary.tally.tokens == rows["completion_tokens"].sum()
    assert summary.tally.truncated == rows["truncated"].sum() > 0
    assert summary.output == str(job.parent / "out")
    assert json.loads((job.parent / "out/_SUCCESS").read_bytes())["samples"] == 177


def test_every_row_carries_its_input(complete: tuple[Path, Summary]) -> None:
    rows = rows_of(complete[0].parent / "out").join(inputs_with_everything(), on="id", suffix="_in")
    assert rows.height == 177
    assert rows["hardness"].dtype == pl.Int8
    assert (rows["hardness"] == rows["level"]).all()
    assert rows["subject"].equals(rows["subject_in"].rename("subject"))
    assert (rows["gold"] == rows["gold_in"]).all()
    instruction = "Please reason step by step, and put your final answer within \\boxed{}."
    assert (rows["prompt"] == rows["problem"] + f"\n\n{instruction}").all()
    assert rows.columns[:4] == ["id", "sample", "subject", "hardness"]


def test_what_the_engine_generated_is_in_the_row_token_for_token(
    complete: tuple[Path, Summary],
) -> None:
    from batchr1.dataset.prompts import load_tokenizer

    script = token_ids()
    tokenizer = load_tokenizer(MODEL)
    for row in rows_of(complete[0].parent / "out").iter_rows(named=True):
        ids = row["token_ids"]
        assert len(ids) == row["completion_tokens"]
        text = ids[: ids.index(script["close_id"])] if script["close_id"] in ids else ids
        assert row["reasoning"] == tokenizer.decode(text).strip()
        assert row["reasoning_tokens"] == len(text)
        assert (ids[-1] == script["end_id"]) == (row["finish_reason"] == "stop")


def test_a_row_stops_at_its_own_cap_or_at_the_jobs(complete: tuple[Path, Summary]) -> None:
    rows = rows_of(complete[0].parent / "out").join(
        inputs_with_everything().select("id", "cap"), on="id"
    )
    limit = rows["cap"].fill_null(100).clip(upper_bound=100)
    assert (rows["completion_tokens"] <= limit).all()
    cut = rows["completion_tokens"] == limit
    assert (rows["truncated"] == (cut & (rows["finish_reason"] == "length"))).all()
    assert {20, 100} <= set(rows.filter(pl.col("truncated"))["completion_tokens"])
    assert set(rows.filter(pl.col("truncated"))["truncated_by"]) == {"max_tokens"}


def test_each_sample_has_a_seed_of_its_own(complete: tuple[Path, Summary]) -> None:
    rows = rows_of(complete[0].parent / "out")
    assert rows["seed"].n_unique() == 177


def test_two_replicas_share_the_work_and_none_of_it_twice(complete: tuple[Path, Summary]) -> None:
    output = complete[0].parent / "out"
    shares: dict[str, list[tuple[str, int]]] = {}
    for name in parts_of(output):
        replica = name.split("-")[3]
        shares.setdefault(replica, []).extend(keys_of(pl.read_parquet(output / "data" / name)))
    assert sorted(shares) == ["0", "1"]
    assert not set(shares["0"]) & set(shares["1"])
    assert sorted(shares["0"] + shares["1"]) == wanted_keys(inputs_with_everything(), 3)


def test_parts_hold_no_more_rows_than_the_job_says(complete: tuple[Path, Summary]) -> None:
    output = complete[0].parent / "out"
    sizes = [
        pl.scan_parquet(output / "data" / name).select(pl.len()).collect().item()
        for name in parts_of(output)
    ]
    assert max(sizes) == 16
    assert sum(sizes) == 177


def test_the_record_of_a_run_says_what_it_did(complete: tuple[Path, Summary]) -> None:
    job, summary = complete
    [record] = run_records(job.parent / "out")
    assert record["run"] == summary.run
    assert (record["state"], record["exit_code"], record["stopped"]) == ("ended", 0, None)
    assert record["plan"]["device_groups"] == [[], []]
    assert record["counts_before"]["pending"] == 177
    assert (record["counts"]["done"], record["counts"]["pending"]) == (177, 0)
    assert record["tally"]["tokens"] == summary.tally.tokens
    assert sorted(record["tally"]["parts"]) == parts_of(job.parent / "out")
    assert record["tokens_per_s"] > 0
    assert sorted(record["engines"]) == ["0", "1"]


def test_the_job_of_an_output_is_recorded(complete: tuple[Path, Summary]) -> None:
    job, _ = complete
    document = json.loads((job.parent / "out/.batchr1/job.json").read_text())
    assert document["model"]["name"] == "r1-tiny"
    assert document["spec"]["sampling"]["n"] == 3
    assert document["fingerprint"]["model"].startswith("sha256:")
    assert len(document["digest"]) == 32


def test_a_run_leaves_no_temporary_file_and_no_lock(complete: tuple[Path, Summary]) -> None:
    output = complete[0].parent / "out"
    assert sorted(path.name for path in output.iterdir()) == [".batchr1", "_SUCCESS", "data"]
    assert list((output / ".batchr1/staging").glob("*")) == []
    assert [path for path in output.rglob("*") if path.name.endswith(".tmp")] == []
    Lock.acquire(open_storage(output), run="next").release()


def test_no_prompt_and_no_answer_is_in_a_log_or_record(complete: tuple[Path, Summary]) -> None:
    control = complete[0].parent / "out/.batchr1"
    texts = {path: path.read_text() for path in control.rglob("*") if path.is_file()}
    logs = [path for path in texts if path.suffix == ".log"]
    assert len(logs) == 1
    assert "2 times" not in texts[logs[0]]
    assert "committed part-" in texts[logs[0]]
    assert [path for path, text in texts.items() if SECRET in text] == []
    words = rows_of(complete[0].parent / "out")["reasoning"].drop_nulls()
    longest = max(words, key=len)
    assert len(longest) > 20
    assert [path for path, text in texts.items() if longest[:20] in text] == []


def test_running_it_again_finds_nothing_to_do(complete: tuple[Path, Summary]) -> None:
    job, _ = complete
    output = job.parent / "out"
    before = {path: path.stat().st_mtime_ns for path in (output / "data").iterdir()}
    result = cli("run", job)
    assert result.output == (
        "177 samples (59 rows × 3) = 177 done + 0 failed + 0 pending\n"
        "nothing to do\n"
        f"output: {output}\n"
        f"next: batchr1 status {output}\n"
    )
    assert result.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (output / "data").iterdir()} == before
    assert len(run_records(output)) == 1
    assert len(list(output.glob(".batchr1/runs/*.json"))) == 2, "that it was here is kept"
    assert (output / "_SUCCESS").exists()


def test_finding_nothing_to_do_loads_neither_torch_nor_vllm(complete: tuple[Path, Summary]) -> None:
    code = (
        "import sys, batchr1.cli.main\n"
        "try: batchr1.cli.main.main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'vllm', 'transformers'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", complete[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_more_rows_and_a_larger_n_generate_only_what_is_new(copy_of_complete: Path) -> None:
    folder = copy_of_complete.parent
    before = rows_of(folder / "out")
    more = pl.concat([questions(10, start=100), questions(5, start=200)])
    inputs = pl.concat([more, inputs_with_everything()], how="diagonal")
    inputs.write_parquet(folder / "in.parquet", row_group_size=7)
    text = copy_of_complete.read_text()
    copy_of_complete.write_text(text.replace("n: 3", "n: 4"))
    stopped = run_replay(copy_of_complete, stop_after_s=0.001)
    assert (stopped.exit_code, stopped.tally.done, stopped.counts.pending) == (75, 0, 15 * 4 + 59)
    assert stopped.stopped == "the time window of 0.001 s is over"
    assert not (folder / "out/_SUCCESS").exists(), "there is something to add now"
    summary = run_replay(copy_of_complete)
    assert summary.exit_code == 0
    assert summary.tally.done == 15 * 4 + 59
    rows = rows_of(folder / "out")
    assert_sound(rows, inputs, n=4)
    assert rows.filter(pl.col("run") != summary.run).equals(before)
    assert (folder / "out/_SUCCESS").exists()
    assert [record["exit_code"] for record in run_records(folder / "out")] == [0, 75, 0]


def test_another_temperature_is_refused_and_nothing_is_touched(copy_of_complete: Path) -> None:
    result = cli("run", copy_of_complete, "--set", "sampling.temperature=0.5")
    assert result.exit_code == 2
    assert "\n  sampling.temperature: 0.6 → 0.5\n" in result.output
    assert len(run_records(copy_of_complete.parent / "out")) == 1
    assert (copy_of_complete.parent / "out/_SUCCESS").exists()


def test_fresh_asks_first_and_deletes_only_what_is_ours(copy_of_complete: Path) -> None:
    output = copy_of_complete.parent / "out"
    own = parts_of(output)
    stranger = output / "data/part-stranger.parquet"
    shutil.copy(output / "data" / own[0], stranger)
    refused = cli("run", copy_of_complete, "--fresh")
    assert refused.exit_code == 2
    assert f"--fresh would delete {len(own)} result files" in refused.output
    assert parts_of(output) == [*own, stranger.name]
    warned = cli("run", copy_of_complete, "--fresh", "--yes")
    assert warned.exit_code == 2
    assert "data/part-stranger.parquet" in warned.output
    assert stranger.exists()
    stranger.unlink()
    summary = run_replay(copy_of_complete, fresh=True, confirm_fresh=lambda message: True)
    assert (summary.exit_code, summary.tally.done) == (0, 177)
    assert_sound(rows_of(output), inputs_with_everything(), n=3)
    assert not set(own) & set(parts_of(output))
    assert len(run_records(output)) == 1


# Rows that cannot be done.


def inputs_with_bad_rows() -> pl.DataFrame:
    bad = pl.DataFrame(
        {
            "id": ["null", "empty", "long", "capped"],
            "problem": [None, " \n", f"{SECRET} " * 300, "What?"],
            "cap": pl.Series([None, None, None, 0], dtype=pl.Int64),
        }
    )
    return pl.concat([questions(40), bad], how="diagonal")


def test_bad_rows_fail_alone_and_can_be_tried_again(tmp_path: Path) -> None:
    inputs, output = inputs_with_bad_rows(), tmp_path / "out"
    inputs.write_parquet(tmp_path / "in.parquet")
    job = write_job(
        tmp_path,
        model={"variant": "r1-tiny", "engine_args": {"max_model_len": 300}},
        input={"max_tokens": "cap"},
        sampling={"max_tokens": None},
        retry={"attempts": 2},
    )
    # 1. The engine refuses one prompt in four, and the context ends many of the others.
    summary = run_replay(job, replay(refuse_every=4, mean_len=250.0, sigma=0.3))
    failed = pl.concat(
        [pl.read_parquet(path) for path in (output / ".batchr1/failed").glob("*.parquet")]
    )
    reasons = {row["id"]: row["reason"] for row in failed.iter_rows(named=True)}
    refused = [id for id, reason in reasons.items() if reason == "engine_refused"]
    assert {id: reasons[id] for id in ("null", "empty", "long", "capped")} == {
        "null": "empty_prompt",
        "empty": "empty_prompt",
        "long": "prompt_too_long",
        "capped": "bad_max_tokens",
    }
    assert len(refused) == len(reasons) - 4 > 3
    assert failed.height == len(reasons), "each failed row once"
    assert set(failed.filter(pl.col("id").is_in(refused))["attempts"]) == {2}
    assert SECRET not in "".join(failed["message"])
    assert (summary.exit_code, summary.stopped) == (3, None)
    assert summary.tally.reasons == {
        "empty_prompt": 2,
        "prompt_too_long": 1,
        "bad_max_tokens": 1,
        "engine_refused": len(refused),
    }
    rows = rows_of(output)
    assert_sound(rows, inputs.filter(~pl.col("id").is_in(list(reasons))))
    cut = rows.filter(pl.col("truncated"))
    assert set(cut["truncated_by"]) == {"context"}
    assert set(cut["prompt_tokens"] + cut["completion_tokens"]) == {300}
    assert not (output / "_SUCCESS").exists()
    # 2. Again: nothing is pending, and the failed rows still count.
    again = cli("run", job)
    done = 44 - len(reasons)
    assert again.output == (
        f"44 rows = {done} done + {len(reasons)} failed + 0 pending\n"
        "nothing to do\n"
        f"output: {output}\n"
        f"next: batchr1 status {output} --failed    (why rows failed)\n"
    )
    assert again.exit_code == 3
    assert cli("status", output).output.startswith(f"{output}: complete but for failed rows\n")
    checked = cli("check", job).output.splitlines()
    assert checked[0] == "job      replayed: can run, but 3 of the first 44 rows will fail"
    listed = cli("status", output, "--failed").output
    assert sorted(line.split("\t")[0] for line in listed.splitlines()) == sorted(reasons)
    # 3. With that many allowed the same output is complete.
    allowed = cli("run", job, "--set", f"max_failed={len(reasons)}")
    assert allowed.exit_code == 0
    assert (output / "_SUCCESS").exists()
    # 4. An engine that refuses nothing does the refused ones; the others fail again.
    retried = run_replay(job, replay(mean_len=250.0), retry_failed=True)
    assert (retried.exit_code, retried.tally.done, retried.tally.failed) == (3, len(refused), 4)
    assert_sound(rows_of(output), questions(40))
    assert not (output / "_SUCCESS").exists()
    assert (cli("run", job).exit_code, find_pending(open_job(load_job(job))).counts().failed) == (
        3,
        4,
    )
    assert len(cli("status", output, "--failed").output.splitlines()) == 4


# Workers that die.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The rows of a run over `questions(150)` to which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = job_of_150(folder)
    assert run_replay(job).exit_code == 0
    return without_run(rows_of(folder / "out"))


def job_of_150(folder: Path, rows_per_part: int = 8) -> Path:
    questions(150).write_parquet(folder / "in.parquet")
    engine_args = {"max_num_seqs": 8}
    return write_job(
        folder,
        model={"variant": "r1-tiny", "engine_args": engine_args},
        output={"rows_per_part": rows_per_part},
    )


@pytest.mark.parametrize("fault", ["die_at_step", "error_at_step", "hang_at_step"])
def test_a_worker_that_dies_or_hangs_is_replaced_and_nothing_is_lost_or_doubled(
    tmp_path: Path, undisturbed: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("batchr1.driver.fleet.HANG_S", 5.0)
    job = job_of_150(tmp_path)
    engine = replay(max_num_seqs=8, step_s=0.02, once=str(tmp_path / "happened"), **{fault: 60})
    summary = run_replay(job, engine)
    assert (tmp_path / "happened").exists()
    assert (summary.exit_code, summary.tally.restarts, summary.tally.done) == (0, 1, 150)
    assert {name.split("-")[4] for name in parts_of(tmp_path / "out")} == {"0", "1"}, (
        "epochs before and after"
    )
    rows = rows_of(tmp_path / "out")
    assert_sound(rows, questions(150))
    assert without_run(rows).equals(undisturbed)


def test_a_worker_that_always_dies_stops_the_run_and_the_next_run_goes_on(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job = job_of_150(tmp_path)
    summary = run_replay(job, replay(die_at_step=1))
    assert summary.exit_code == 75
    assert summary.stopped == (
        "the engine died with each of 3 rows that ran alone in it, one after the other: it is not "
        "the rows. The run's log says more; committed rows are safe, and the same command goes on."
    )
    assert (summary.tally.done, summary.counts.pending, summary.tally.restarts) == (0, 150, 4)
    [record] = run_records(tmp_path / "out")
    assert (record["state"], record["exit_code"], record["stopped"]) == (
        "stopped",
        75,
        summary.stopped,
    )
    assert run_replay(job).exit_code == 0
    assert without_run(rows_of(tmp_path / "out")).equals(undisturbed)


def test_an_engine_that_cannot_start_stops_the_run_and_leaves_the_output_unclaimed(
    tmp_path: Path,
) -> None:
    job = job_of_150(tmp_path)
    summary = run_replay(job, replay(start_s=-1.0))
    assert summary.exit_code == 75
    assert summary.stopped == "worker 0: ValueError: sleep length must be non-negative"
    assert not (tmp_path / "out/.batchr1/job.json").exists()
    assert parts_of(tmp_path / "out") == []


# Stopping.


def start(job: Path, script: dict[str, Any], **options: Any) -> Any:
    """`batchr1 run JOB` in a process of its own, with the replay engine."""
    path = job.with_name("script.json")
    path.write_text(json.dumps(script | options))
    return tree([HELPER, str(path), "run", str(job)], job.parent)


def log_of(output: Path) -> str:
    return "".join(path.read_text() for path in (output / ".batchr1/runs").glob("*.log"))


def test_sigterm_ends_a_run_with_every_finished_row_committed(
    tmp_path: Path, undisturbed: pl.DataFrame
) -> None:
    job, output = job_of_150(tmp_path, rows_per_part=10), tmp_path / "out"
    with start(job, LOCKSTEP | {"step_s": 0.2}) as run:
        until(lambda: parts_of(output))
        [worker] = run.workers()
        run.driver.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert run.wait() == 75
        assert time.monotonic() - sent < 15
        done = rows_of(output)
        assert "0/150 rows, loading the model\nthe engine is ready after " in run.stderr
        assert (
            "\nstopping: finished rows are being written; once more to leave at once\n"
            in run.stderr
        )
        assert (
            run.stdout.splitlines()[0]
            == f"150 rows = {done.height} done + 0 failed + {150 - done.height} pending"
        )
        assert run.stdout.splitlines()[2:] == [
            "stopped: received SIGTERM",
            f"output: {output}",
            f"next: batchr1 run {job}    (goes on from here)",
        ]
        assert run.left() == []
        assert worker not in run.pids()
    assert 0 < done.height < 150
    assert done.height % 8 == 0, (
        "rows end eight at a time, parts hold ten: all that were finished are here"
    )
    assert not (output / "_SUCCESS").exists()
    summary = run_replay(job)
    assert (summary.exit_code, summary.tally.done) == (0, 150 - done.height)
    assert_sound(rows_of(output), questions(150))
    assert (output / "_SUCCESS").exists()


def test_a_worker_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    job, output = job_of_150(tmp_path), tmp_path / "out"
    with start(job, {"hang_at_step": 1}, grace_s=0.5) as run:
        until(lambda: "replay ready" in log_of(output))
        run.driver.send_signal(signal.SIGINT)
        assert run.wait(30) == 75
        assert "stopped: received SIGINT" in run.stdout
        assert run.left() == []


def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    job, output = job_of_150(tmp_path), tmp_path / "out"
    with start(job, {"hang_at_step": 1}) as run:
        until(lambda: "replay ready" in log_of(output))
        [worker] = run.workers()
        run.driver.send_signal(signal.SIGTERM)
        until(lambda: "stopping:" in run.stderr)
        run.driver.send_signal(signal.SIGTERM)
        assert run.wait(5) == 75
        until(lambda: worker not in run.left(), 5, "the worker's end")
        assert run.stdout == ""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name
)
def test_a_signal_to_a_run_that_is_getting_ready_ends_it_resumably(
    copy_of_complete: Path, number: int
) -> None:
    output = copy_of_complete.parent / "out"
    holder = Lock.acquire(open_storage(output), run="holder", heartbeat_s=3600)
    try:
        with tree(["-m", "batchr1", "run", str(copy_of_complete)], copy_of_complete.parent) as run:
            until(lambda: "waiting up to 60 s for a sign of life" in run.stderr)
            run.driver.send_signal(number)
            assert run.wait(5) == 75
            assert run.stderr.splitlines()[1:] == [
                f"batchr1: received {signal.Signals(number).name} before the first row was begun. "
                "Run the same command again."
            ]
    finally:
        holder.release()
    assert len(run_records(output)) == 1
    assert (output / "_SUCCESS").exists()


# Others who touch the output.


@pytest.fixture
def thief(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Waits for the first part, leaves a staged part of a worker that was given up, and then takes
    the lock.
    """
    output, seen = tmp_path / "out", dict[str, Any]()

    def steal() -> None:
        until(lambda: parts_of(output))
        foreign = output / ".batchr1/staging" / parts_of(output)[0].replace("-0-0-", "-0-9-")
        questions(3, start=900).with_columns(sample=0).write_parquet(foreign)
        seen["staged"] = foreign
        until(lambda: len(parts_of(output)) > 2)
        seen["lock"] = Lock.acquire(open_storage(output), run="thief", stale_after_s=0)
        seen["parts"] = parts_of(output)

    thread = threading.Thread(target=steal)
    thread.start()
    yield seen
    thread.join()
    seen["lock"].release()


def test_a_run_that_lost_its_lock_commits_nothing_more(
    tmp_path: Path, thief: dict[str, Any]
) -> None:
    job, output = job_of_150(tmp_path), tmp_path / "out"
    summary = run_replay(job, replay(**LOCKSTEP, step_s=0.15))
    assert summary.exit_code == 75
    assert summary.stopped is not None
    assert f"run {summary.run} no longer holds the output" in summary.stopped
    assert parts_of(output) == thief["parts"]
    assert summary.tally.parts == thief["parts"]
    assert thief["staged"].exists(), (
        "what nobody announced is not committed, and not ours to delete any more"
    )
    [record] = run_records(output)
    assert record["state"] == "running", (
        "the output is another run's: not even the record is written"
    )
    thief["lock"].release()
    resumed = run_replay(job)
    assert resumed.exit_code == 0
    assert_sound(rows_of(output), questions(150))
    assert not thief["staged"].exists()


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    job = job_of_150(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"not empty and not an output of batchr1 \(it holds thesis.txt\)"
    ):
        run_replay(job)
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]  # noqa: PTH208
