"""Runs on S3 while the storage fails: nothing is lost, nothing comes twice.

Requests are refused, reset, cut or answered into the void; a gateway is killed, credentials are
revoked, rivals want the same output.

On moto by default, where that is enough; on a real gateway with `-m s3`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from process_tree import tree, until
from replay_job import keys_of, questions, replay, run_replay, token_ids, wanted_keys, write_job
from s3_fakes import S3
from s3_gateway import the_gateway
from s3_proxy import FAULTS, faulty_proxy

from batchr1.output.folder import Output
from batchr1.storage.base import CONTROL_DIR, StorageOptions, open_storage
from batchr1.storage.lock import Lock, read_lock

HELPER = str(Path(__file__).parents[1] / "helpers/replay_job.py")
SCRIPT: dict[str, Any] = {
    "mean_len": 60.0,
    "tokens_per_step": 2,
    "step_s": 0.02,
    "max_num_seqs": 16,
}


def put_questions(s3: S3, tmp_path: Path, rows: int) -> pl.DataFrame:
    table = questions(rows)
    table.write_parquet(tmp_path / "in.parquet")
    s3.client().upload_file(str(tmp_path / "in.parquet"), s3.bucket, "in/0.parquet")
    return table


def job_at(s3: S3, folder: Path, endpoint: str | None = None, **sections: Any) -> Path:
    given: dict[str, Any] = {
        "input": {"path": f"s3://{s3.bucket}/in"},
        "output": {"path": f"s3://{s3.bucket}/out", "rows_per_part": 8},
        "checkpoint": {"every_s": 0.3},
        "storage": {"endpoint": endpoint or s3.endpoint},
    }
    folder.mkdir(exist_ok=True)
    return write_job(folder, **(given | sections))


def command(job: Path, **changes: Any) -> list[str]:
    script = job.with_name("script.json")
    script.write_text(json.dumps({**token_ids(), **SCRIPT, **changes}))
    return [HELPER, str(script), "run", str(job)]


def rows_in(s3: S3) -> pl.DataFrame:
    output = Output(s3.storage("out"))
    return pl.concat([pl.DataFrame(table) for table in output.tables(["id", "sample"])])


def keys_in(s3: S3, prefix: str) -> list[str]:
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"out/{prefix}")
    return [entry["Key"] for entry in listed.get("Contents", [])]


def assert_whole_and_silent(s3: S3, wanted: pl.DataFrame, said: str) -> None:
    """Every row once, all tidied up, and no secret in anything that was written or said."""
    assert keys_of(rows_in(s3)) == wanted_keys(wanted)
    assert keys_in(s3, "_SUCCESS")
    assert not keys_in(s3, f"{CONTROL_DIR}/staging/") + keys_in(s3, f"{CONTROL_DIR}/inflight/")
    assert s3.client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for key in keys_in(s3, CONTROL_DIR):
        body = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
        assert secret.encode() not in body, key
    assert secret not in said


def test_with_every_tenth_request_failing_a_run_ends_complete(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AWS_SECRET_ACCESS_KEY",
        os.environ["AWS_SECRET_ACCESS_KEY"] if s3.real else "hunter2hunter2",
    )
    rows = 400 if s3.real else 60
    wanted = put_questions(s3, tmp_path, rows)
    with faulty_proxy(s3.endpoint, 0.1, seed=1) as proxy:
        job = job_at(s3, tmp_path, proxy.endpoint)
        with tree(command(job), tmp_path) as run:
            code = run.wait(240)
        said = run.stdout + run.stderr
        assert code == 0, said
        assert proxy.seen > 100
        assert sum(proxy.faults.values()) > 0.05 * proxy.seen
        if s3.real:
            assert set(proxy.faults) == set(FAULTS)
        print(f"\n{proxy.seen} requests, failed: {dict(proxy.faults)}")
    assert_whole_and_silent(s3, wanted, said)


@pytest.mark.s3
@pytest.mark.slow
def test_a_gateway_that_is_killed_and_started_again_is_waited_for(
    s3_real: S3, tmp_path: Path
) -> None:
    gateway = the_gateway()
    wanted = put_questions(s3_real, tmp_path, 300)
    job = job_at(s3_real, tmp_path)
    with tree(command(job, step_s=0.1), tmp_path) as run:
        for parts in (2, 8):
            until(lambda parts=parts: len(keys_in(s3_real, "data/")) >= parts, 120)
            gateway.kill()
            time.sleep(6)
            assert run.driver.poll() is None
            gateway.start()
        code = run.wait(240)
    assert code == 0, run.stderr
    record = Output(s3_real.storage("out")).runs()[-1]
    assert record.tally is not None
    assert (record.tally.restarts, record.tally.carried) == (0, 0), "no worker died of it"
    assert_whole_and_silent(s3_real, wanted, run.stdout + run.stderr)


@pytest.mark.s3
def test_credentials_that_are_revoked_stop_a_run_resumably(
    s3_real: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = the_gateway()
    user, access, secret = (
        f"user-{os.urandom(4).hex()}",
        os.urandom(10).hex().upper(),
        os.urandom(20).hex(),
    )
    gateway.admin(
        "user",
        "create",
        f"--uid={user}",
        "--display-name=x",
        f"--access-key={access}",
        f"--secret-key={secret}",
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps the keys that it saw first
    s3 = S3(s3_real.endpoint, f"theirs-{os.urandom(4).hex()}", True)
    s3.client().create_bucket(Bucket=s3.bucket)
    wanted = put_questions(s3, tmp_path, 200)
    job = job_at(s3, tmp_path)
    with tree(command(job, step_s=0.1), tmp_path) as run:
        until(lambda: run.driver.poll() is not None or len(keys_in(s3, "data/")) >= 3, 120)
        assert run.driver.poll() is None, run.stderr
        gateway.admin("user", "suspend", f"--uid={user}")
        code = run.wait(120)
        assert run.left() == []
    said = run.stdout + run.stderr
    assert code == 75, said
    [stopped] = [line for line in run.stdout.splitlines() if line.startswith("stopped: ")]
    assert stopped.startswith(f"stopped: s3://{s3.bucket}/out/")
    assert "(got UserSuspended 403)" in stopped or "(got AccessDenied 403)" in stopped
    assert run.stdout.splitlines()[-1] == f"next: batchr1 run {job}    (goes on from here)"
    assert secret not in said
    gateway.admin("user", "enable", f"--uid={user}")
    done = rows_in(s3).height
    assert 0 < done < 200
    summary = run_replay(job, replay(**{**SCRIPT, "step_s": 0.0}))
    assert (summary.exit_code, summary.tally.done) == (0, 200 - done)
    assert summary.tally.carried > 0, "what was under way had been saved before"
    assert_whole_and_silent(s3, wanted, said)


# Rivals.

RIVAL = """
import sys
from batchr1.storage.lock import Lock
from batchr1.storage.base import StorageOptions, open_storage
from batchr1.errors import LockHeldError

uri, endpoint, name = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    storage = open_storage(f"{uri}/{line.strip()}", StorageOptions(endpoint=endpoint))
    try:
        lock = Lock.acquire(storage, run=name, heartbeat_s=0.2, stale_after_s=1.0)
        print("won", flush=True)
        sys.stdin.readline()
        lock.release()
    except LockHeldError as error:
        print(f"exit {error.exit_code}: {error}", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def rivals(s3_real: S3) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that take the lock of each output that they are told, at the same time."""
    where = [f"s3://{s3_real.bucket}", s3_real.endpoint]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, *where, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in ("one", "two")
    ]
    yield both
    for process in both:
        process.communicate()


@pytest.mark.s3
@pytest.mark.slow
def test_of_two_that_race_for_an_output_one_wins_fifty_times(
    s3_real: S3, rivals: list[subprocess.Popen[str]]
) -> None:
    def told(word: str) -> None:
        for process in rivals:
            assert process.stdin
            process.stdin.write(word + "\n")
            process.stdin.flush()

    def answers() -> list[str]:
        return [process.stdout.readline().strip() for process in rivals if process.stdout]

    assert answers() == ["ready", "ready"]
    winners: Counter[str] = Counter()
    for turn in range(50):
        told(f"out-{turn}")
        said = answers()
        held = read_lock(s3_real.storage(f"out-{turn}"))
        assert sorted(text.partition(":")[0] for text in said) == ["exit 4", "won"], said
        winner = said.index("won")
        assert held is not None
        assert (held.run, held.pid) == (("one", "two")[winner], rivals[winner].pid)
        assert f"another run holds the output (got run {held.run} on " in said[1 - winner]
        assert f"pid {held.pid}" in said[1 - winner]
        winners[held.run] += 1
        told("release")
    print(f"\nwon: {dict(winners)}")


@pytest.mark.s3
@pytest.mark.slow
def test_of_two_whole_runs_one_does_the_job_and_the_other_names_it(
    s3_real: S3, tmp_path: Path
) -> None:
    wanted = put_questions(s3_real, tmp_path, 60)
    for turn in range(3):
        jobs = [
            job_at(
                s3_real,
                tmp_path / name,
                output={"path": f"s3://{s3_real.bucket}/out{turn}", "rows_per_part": 8},
            )
            for name in ("one", "two")
        ]
        with (
            tree(command(jobs[0], step_s=0.2), tmp_path) as one,
            tree(command(jobs[1], step_s=0.2), tmp_path) as two,
        ):
            until(lambda: one.driver.poll() is not None or two.driver.poll() is not None, 120)
            loser, winner = (one, two) if one.driver.poll() is not None else (two, one)
            assert loser.driver.returncode == 4, loser.stderr
            assert f"pid {winner.driver.pid}" in loser.stderr
            assert winner.wait(240) == 0, winner.stderr
        tables = Output(s3_real.storage(f"out{turn}")).tables(["id", "sample"])
        assert keys_of(pl.concat([pl.DataFrame(table) for table in tables])) == wanted_keys(wanted)


@pytest.mark.s3
def test_a_paused_owner_wakes_after_its_lock_was_taken_and_commits_nothing(
    s3_real: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = put_questions(s3_real, tmp_path, 120)
    job = job_at(s3_real, tmp_path)
    plain = Lock.acquire
    monkeypatch.setattr(
        Lock,
        "acquire",
        lambda *a, **k: plain(*a, **{**k, "stale_after_s": 2.0, "heartbeat_s": 0.3}),
    )
    with tree(command(job, step_s=0.15), tmp_path) as paused:
        until(
            lambda: (
                len(keys_in(s3_real, "data/")) >= 3 and keys_in(s3_real, f"{CONTROL_DIR}/inflight/")
            ),
            120,
        )
        [worker] = paused.workers()
        for pid in (paused.driver.pid, worker):
            os.kill(pid, signal.SIGSTOP)
        heir = run_replay(job, replay(**{**SCRIPT, "step_s": 0.0}))
        assert (heir.exit_code, heir.counts.done) == (0, 120)
        before = {
            key: s3_real.client().head_object(Bucket=s3_real.bucket, Key=key)["ETag"]
            for key in keys_in(s3_real, "")
        }
        for pid in (worker, paused.driver.pid):
            os.kill(pid, signal.SIGCONT)
        assert paused.wait(120) == 75, paused.stderr
    assert "no longer holds the output (got another lock, need its own" in paused.stdout
    now = {
        key: s3_real.client().head_object(Bucket=s3_real.bucket, Key=key)["ETag"]
        for key in keys_in(s3_real, "")
    }
    left = {key for key in now if before.get(key) != now[key]}
    assert not [key for key in left if "/data/" in key or key.endswith("_SUCCESS")], left
    assert keys_of(rows_in(s3_real)) == wanted_keys(wanted)
    assert open_storage(
        f"s3://{s3_real.bucket}/out", StorageOptions(endpoint=s3_real.endpoint)
    ).exists("_SUCCESS")
