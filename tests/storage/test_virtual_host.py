"""A store that takes the bucket in the host's name only: whole runs, in real processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from replay_job import keys_of, questions, replay, set_engine, wanted_keys, write_job
from s3_fakes import S3
from serving import serving
from virtual_host import VirtualHostOnly, write_sitecustomize


@pytest.fixture
def store(s3_moto: S3) -> Iterator[VirtualHostOnly]:
    with serving(VirtualHostOnly(s3_moto.endpoint)) as server:
        yield server


def batchr1(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    write_sitecustomize(folder)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "batchr1", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def job_on(folder: Path, s3: S3, store: VirtualHostOnly, addressing: str) -> Path:
    for part in range(3):
        body = io.BytesIO()
        questions(10, start=10 * part).write_parquet(body)
        key = f"in/{part}//a b+ü.parquet"
        s3.client().put_object(Bucket=s3.bucket, Key=key, Body=body.getvalue())
    sections: dict[str, Any] = {
        "input": {"path": f"s3://{s3.bucket}/in/"},
        "output": {"path": f"s3://{s3.bucket}/out"},
        "storage": {"endpoint": store.endpoint, "addressing": addressing},
    }
    return set_engine(write_job(folder, **sections), replay())


def test_a_job_runs_and_is_resumed_with_the_bucket_in_the_host(
    tmp_path: Path, s3_moto: S3, store: VirtualHostOnly
) -> None:
    job = job_on(tmp_path, s3_moto, store, "virtual")
    for limit in ("20", "30"):
        done = batchr1(tmp_path, "run", str(job), "--json", "--limit", limit)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["done"] == int(limit)
    client = s3_moto.client()
    listed = client.list_objects_v2(Bucket=s3_moto.bucket, Prefix="out/data/")["Contents"]
    bodies = [client.get_object(Bucket=s3_moto.bucket, Key=o["Key"])["Body"].read() for o in listed]
    rows = pl.concat([pl.from_arrow(pq.read_table(io.BytesIO(body))) for body in bodies])
    assert keys_of(rows) == wanted_keys(questions(30))
    assert store.seen > 20
    assert store.refused == 0


@pytest.mark.parametrize("addressing", ["auto", "path"])
def test_a_bucket_in_the_path_is_told_from_a_refusal(
    tmp_path: Path, s3_moto: S3, store: VirtualHostOnly, addressing: str
) -> None:
    job = job_on(tmp_path, s3_moto, store, addressing)
    done = batchr1(tmp_path, "check", str(job))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"batchr1: s3://{s3_moto.bucket}: the store wants the bucket in the host's name "
        "(got SecondLevelDomainForbidden 403). Set storage.addressing to virtual."
    )
