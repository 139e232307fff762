"""Models on S3: `batchr1 fetch --to s3://…`, and jobs whose `model.path` is there.

On moto by default, on a real server with `-m s3`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hub_server import Hub, model_files
from replay_job import MODEL, questions, rows_of, write_job
from s3_fakes import S3

from batchr1.errors import ModelError
from batchr1.models.bucket import download_to_cache, look_up

REPO = "org/r1-tiny"
SHARDED = model_files(Path(MODEL), shards=3)
FILES = {name: data for name, data in SHARDED.items() if name != "README.md"}
REPLAY = str(Path(__file__).parents[1] / "helpers/replay_job.py")


@pytest.fixture
def home(tmp_path: Path, s3: S3, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HOME of a machine that knows one hub and one store."""
    for name in list(os.environ):
        if name.startswith("HF_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    return tmp_path / "home"


def program(*words: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=90
    )
    return done.returncode, done.stdout, done.stderr


def fetch(*words: str | Path) -> tuple[int, str, str]:
    return program("-m", "batchr1", "fetch", *words)


def run(job: Path, *words: str) -> tuple[int, str, str]:
    script = job.with_name("script.json")
    script.write_text("{}")
    return program(REPLAY, script, "run", job, *words)


def objects(s3: S3, prefix: str) -> dict[str, bytes]:
    client = s3.client()
    listed = client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket=s3.bucket, Key=entry["Key"])[
            "Body"
        ].read()
        for entry in listed
    }


def put(s3: S3, prefix: str, files: dict[str, bytes]) -> str:
    """A model that somebody else put there."""
    for name, data in files.items():
        s3.client().put_object(Bucket=s3.bucket, Key=f"{prefix}/{name}", Body=data)
    return f"s3://{s3.bucket}/{prefix}"


def job_with(folder: Path, path: str, **sections: Any) -> Path:
    questions(4).write_parquet(folder / "in.parquet")
    return write_job(folder, model={"variant": None, "path": path}, **sections)


def cached(home: Path) -> list[str]:
    """What is in batchr1's own cache, without its locks."""
    return sorted(
        path.name for path in (home / "batchr1/models").glob("*") if path.suffix != ".lock"
    )


def test_a_model_goes_from_the_hub_to_a_bucket_and_from_there_into_a_job(
    hub: Hub, s3: S3, home: Path, tmp_path: Path
) -> None:
    commit = hub.add(REPO, SHARDED)
    to = f"s3://{s3.bucket}/models/tiny"
    code, out, err = fetch(REPO, "--to", to)
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith(f"{REPO} at {commit}: 8 files, 11.9 MB, 11.9 MB fetched in ")
    assert first.endswith(", 11.9 MB copied to the bucket")
    assert rest == [f"folder: {to}", f"job:    model: {{path: {to}}}"]
    there = objects(s3, "models/tiny/")
    assert json.loads(there.pop(".batchr1/fetch.json"))["commit"] == commit
    assert there == FILES
    assert (
        fetch(REPO, "--to", to)[1]
        .splitlines()[0]
        .endswith(", here already, 0 bytes copied to the bucket")
    )
    hub.close()

    job = job_with(tmp_path, to)
    code, out, err = program("-m", "batchr1", "check", job)
    assert (code, err) == (0, "")
    assert (
        out.splitlines()[-1]
        == f"note     the weights are not on this machine yet: batchr1 fetch {to}"
    )
    (config,) = cached(home)
    assert run(job)[0] == 0
    assert rows_of(tmp_path / "out").height == 4
    digest = config.removesuffix("-config")
    assert cached(home) == [digest, config]
    assert {p.name: p.read_bytes() for p in (home / "batchr1/models" / digest).iterdir()} == FILES
    document = json.loads((tmp_path / "out/.batchr1/job.json").read_text())
    assert document["model"] == {"name": "tiny", "location": to, "revision": digest}
    assert document["fingerprint"]["model"] == f"s3:{digest}"


def test_the_same_files_elsewhere_are_the_same_model_and_others_in_their_place_are_not(
    s3: S3,
) -> None:
    small = FILES | {name: name.encode() for name in FILES if name.endswith(".safetensors")}
    here, there = put(s3, "a", small), put(s3, "b", small | {"README.md": b"not of the model"})
    before = look_up(here, s3.options).digest
    assert look_up(there, s3.options).digest == before
    put(s3, "a", {"generation_config.json": b"{}"})
    assert look_up(here, s3.options).digest != before
    with pytest.raises(ModelError) as caught:
        download_to_cache(here, s3.options, digest=before)
    assert str(caught.value) == (
        f"model.path: {here}: the files were replaced since the run began. Run the same command "
        "again."
    )


def test_fetch_brings_it_before_a_run_and_a_second_time_nothing_comes(s3: S3, home: Path) -> None:
    uri = put(s3, "tiny", FILES)
    code, out, err = fetch(uri)
    assert (code, err) == (0, "")
    (digest,) = cached(home)
    first, *rest = out.splitlines()
    assert first.startswith(f"{uri} at {digest}: 8 files, 11.9 MB, 11.9 MB fetched in ")
    assert rest == [f"folder: {home}/batchr1/models/{digest}", f"job:    model: {{path: {uri}}}"]
    assert fetch(uri)[1].splitlines()[0] == f"{uri} at {digest}: 8 files, 11.9 MB, here already"


def test_what_an_earlier_fetch_left_is_gone_on_from(s3: S3, home: Path) -> None:
    uri = put(s3, "tiny", FILES)
    fetch(uri)
    (digest,) = cached(home)
    whole, building = (
        home / "batchr1/models" / digest,
        home / "batchr1/models" / f"{digest}.unfinished",
    )
    whole.rename(building)  # as after a kill: one file in part, the others here
    shard = "model-00002-of-00003.safetensors"
    (building / ".partial").mkdir()
    (building / ".partial" / shard).write_bytes(FILES[shard][:1_000_000])
    (building / shard).unlink()
    inode = (building / "tokenizer.json").stat().st_ino
    assert fetch(uri)[0] == 0
    assert cached(home) == [digest]
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == FILES
    assert (whole / "tokenizer.json").stat().st_ino == inode


def test_what_was_damaged_in_the_bucket_is_not_taken(hub: Hub, s3: S3, home: Path) -> None:
    hub.add(REPO, SHARDED)
    to = f"s3://{s3.bucket}/tiny"
    assert fetch(REPO, "--to", to)[0] == 0
    shard = "model-00002-of-00003.safetensors"
    put(s3, "tiny", {shard: FILES[shard][:-1] + b"\x00"})
    code, _, err = fetch(to)
    assert code == 1
    assert err.splitlines()[-1].startswith(
        f"batchr1: {to}: {shard}: what comes is not what is listed, 2 times (got checksum "
    )
    (name,) = cached(home)
    assert name.endswith(".unfinished")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["s3://{bucket}/none"],
            "model.path: s3://{bucket}/none: no such folder, or nothing in it. Correct it.",
        ),
        (
            ["s3://{bucket}/bare"],
            "model.path: s3://{bucket}/bare: has no config.json (need Hugging Face layout). Choose "
            "another repository.",
        ),
        (
            ["s3://{bucket}/bare", "--verify"],
            "model s3://{bucket}/bare: --to, --revision and --verify are for the hub's. Leave them "
            "out.",
        ),
        (
            [REPO, "--to", "s3://{bucket}/bare"],
            "s3://{bucket}/bare: the folder is not empty and was not fetched (it holds "
            "model.safetensors). Give a new or empty folder.",
        ),
        (
            [REPO, "--to", "gs://there"],
            "gs://…: storage of this kind is not supported (got 'gs', need a path, file:// or "
            "s3://). Copy the data, or use the store's S3 interface with storage.endpoint.",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    hub: Hub, s3: S3, home: Path, words: list[str], message: str
) -> None:
    hub.add(REPO, SHARDED)
    put(s3, "bare", {"model.safetensors": b"x"})
    code, out, err = fetch(*(word.format(bucket=s3.bucket) for word in words))
    assert (code, out, err) == (2, "", f"batchr1: {message.format(bucket=s3.bucket)}\n")


@pytest.mark.slow
def test_vllm_runs_a_job_whose_model_is_in_a_bucket(s3: S3, home: Path, tmp_path: Path) -> None:
    pl.DataFrame(
        {"id": [str(i) for i in range(8)], "problem": [f"What is {i} + 2?" for i in range(8)]}
    ).write_parquet(tmp_path / "in.parquet")
    path = put(s3, "tiny", FILES)
    job = write_job(tmp_path, model={"variant": None, "path": path}, sampling={"max_tokens": 32})
    code, _, err = program("-m", "batchr1", "run", job)
    assert code == 0, err
    assert rows_of(tmp_path / "out").height == 8
