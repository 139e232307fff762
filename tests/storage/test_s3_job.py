"""The same jobs with input and output on S3: moto by default, a real server (and real vLLM) with
`-m s3`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from replay_job import keys_of, questions, replay, run_replay, token_ids, wanted_keys, write_job
from s3_fakes import S3

from batchr1.output.folder import Output

REPOSITORY = Path(__file__).parents[2]


def put_questions(s3: S3, tmp_path: Path, rows: int) -> pl.DataFrame:
    """Two input files under s3://bucket/in/."""
    table = questions(rows)
    for number, part in enumerate((table[: rows // 2], table[rows // 2 :])):
        part.write_parquet(tmp_path / "part.parquet")
        s3.client().upload_file(str(tmp_path / "part.parquet"), s3.bucket, f"in/{number}.parquet")
    return table


def s3_job(s3: S3, tmp_path: Path) -> Path:
    return write_job(
        tmp_path,
        input={"path": f"s3://{s3.bucket}/in"},
        output={"path": f"s3://{s3.bucket}/out", "rows_per_part": 16},
        storage={"endpoint": s3.endpoint},
    )


def rows_in_bucket(s3: S3) -> pl.DataFrame:
    output = Output(s3.storage("out"))
    return pl.concat(
        [pl.DataFrame(table) for table in output.tables(["id", "sample", "prompt", "truncated"])]
    )


def objects(s3: S3) -> list[str]:
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="out/")
    return [entry["Key"] for entry in listed.get("Contents", [])]


def test_a_job_reads_and_writes_s3_and_comes_out_whole(s3: S3, tmp_path: Path) -> None:
    wanted = put_questions(s3, tmp_path, 50)
    summary = run_replay(s3_job(s3, tmp_path))
    assert summary.exit_code == 0
    assert summary.output == f"s3://{s3.bucket}/out"
    rows = rows_in_bucket(s3)
    assert keys_of(rows) == wanted_keys(wanted)
    assert "out/_SUCCESS" in objects(s3)
    assert not [key for key in objects(s3) if "/staging/" in key], "staging is empty after a run"
    assert s3.client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []
    assert [key for key in objects(s3) if key.endswith(".log")], "the run's log was uploaded"


def test_a_second_run_on_s3_has_nothing_to_do(s3: S3, tmp_path: Path) -> None:
    put_questions(s3, tmp_path, 20)
    job = s3_job(s3, tmp_path)
    run_replay(job)
    before = objects(s3)
    again = run_replay(job)
    assert (again.exit_code, again.tally.done, again.counts.pending) == (0, 0, 0)
    changed = [key for key in set(objects(s3)) ^ set(before) if "/lock" not in key]
    assert changed == [f"out/.batchr1/runs/{again.run}.json"], "that it was here is kept"


def test_no_key_or_secret_is_in_what_a_run_leaves_on_s3(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_questions(s3, tmp_path, 10)
    if not s3.real:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nothing-may-show")
    run_replay(s3_job(s3, tmp_path))
    for key in objects(s3):
        body = s3.client().get_object(Bucket=s3.bucket, Key=key)["Body"].read()
        assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in body, key


def test_a_run_on_s3_that_is_killed_goes_on_and_ends_whole(s3: S3, tmp_path: Path) -> None:
    wanted = put_questions(s3, tmp_path, 60)
    job = s3_job(s3, tmp_path)
    script = {**token_ids(), "tokens_per_step": 8, "step_s": 0.05, "max_num_seqs": 8}
    (tmp_path / "script.json").write_text(json.dumps(script), encoding="utf-8")
    command = [
        sys.executable,
        str(REPOSITORY / "tests/helpers/replay_job.py"),
        str(tmp_path / "script.json"),
        "run",
        str(job),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not any(key.startswith("out/data/") for key in objects(s3)) and time.monotonic() < until:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = len(rows_in_bucket(s3))
    assert 0 < committed < 60, "killed in the middle"
    summary = run_replay(job, replay())
    assert summary.tally.done == 60 - committed, "what was committed is not generated again"
    assert keys_of(rows_in_bucket(s3)) == wanted_keys(wanted)


@pytest.mark.s3
def test_the_main_job_runs_on_s3_through_vllm(s3_real: S3, tmp_path: Path) -> None:
    """Real model, real engine, real S3; the endpoint by environment, as a user would set it."""
    problems = REPOSITORY / "jobs/data/math.parquet"
    s3_real.client().upload_file(str(problems), s3_real.bucket, "in/math.parquet")
    environment = os.environ | {"AWS_ENDPOINT_URL": s3_real.endpoint}
    command = [
        sys.executable,
        "-m",
        "batchr1",
        "run",
        str(REPOSITORY / "jobs/math.yaml"),
        "--json",
        "--limit",
        "60",
        "--set",
        f"input.path=s3://{s3_real.bucket}/in/math.parquet",
        "--output",
        f"s3://{s3_real.bucket}/out",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["done"], figures["failed"], figures["pending"]) == (60, 0, 0)
    wanted = pq.read_table(problems, columns=["id"]).column("id").to_pylist()[:60]
    assert sorted(rows_in_bucket(s3_real)["id"]) == sorted(wanted)
