"""Inputs of web servers, of the hub and of fsspec's file systems, read by real requests."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pytest
import web_server
from fsspec.registry import known_implementations
from hub_server import Fault, Hub
from huggingface_hub import constants
from replay_job import questions, rows_of, run_replay, write_job
from web_server import Web

from batchr1.dataset.readers import refuse_changed
from batchr1.dataset.source import Source
from batchr1.errors import BatchError, InputError, StorageError
from batchr1.job.spec import InputSpec
from batchr1.storage import web as web_module
from batchr1.storage.base import Retry
from batchr1.storage.inputs import InputFile, expand_inputs

SET = "datasets/org/set"
QUICK = Retry(for_s=0.5, first_wait_s=0.01, max_wait_s=0.02)


def parquet(rows: int = 5, start: int = 0) -> bytes:
    data = io.BytesIO()
    questions(rows, start=start).write_parquet(data)
    return data.getvalue()


def read(file: InputFile) -> bytes:
    with file.open() as handle:
        return handle.read()


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server.serving() as web:
        yield web


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub as the one that huggingface_hub knows."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_file_of_a_web_server_is_read_by_ranges_or_whole(
    web: Web, has_ranges: bool, has_length: bool
) -> None:
    web.has_ranges, web.has_length = has_ranges, has_length
    web.files["d/in.parquet"] = data = parquet(20_000)
    [file] = expand_inputs(f"{web.url}/d/in.parquet")
    before = len(web.seen)
    source = Source(InputSpec(path=file.uri, id="id", prompt="problem"), [], [file])

    assert sum(batch.num_rows for _, batch in source.batches(("id",))) == 20_000
    assert (file.size, read(file)) == (len(data), data)
    assert all(wanted for _, wanted in web.seen)
    if not has_ranges:
        assert len(web.seen) - before == 1


def test_only_the_columns_that_a_job_names_are_fetched(web: Web) -> None:
    wide = questions(20_000).with_columns(more=pl.col("id").repeat_by(40).list.join("-"))
    data = io.BytesIO()
    wide.write_parquet(data, compression="uncompressed", use_pyarrow=True)
    web.files["in.parquet"] = data.getvalue()
    [file] = expand_inputs(f"{web.url}/in.parquet")
    source = Source(InputSpec(path=file.uri, id="id", prompt="problem"), [], [file])

    assert sum(batch.num_rows for _, batch in source.batches(("id",))) == 20_000
    ranges = [wanted.removeprefix("bytes=").split("-") for _, wanted in web.seen]
    assert sum(int(stop) - int(start) + 1 for start, stop in ranges) < file.size / 2


def test_requests_that_fail_in_passing_are_made_again(web: Web) -> None:
    web.files["in.csv"] = b"id,q\n1,?\n"
    web.statuses = [503, 429, 200, 500, 0]
    [file] = expand_inputs(f"{web.url}/in.csv", retry=Retry(5, 0.01, 0.02))

    assert read(file) == b"id,q\n1,?\n"
    assert web.statuses == []


@pytest.mark.parametrize("has_etag", [True, False])
def test_two_versions_of_a_file_are_never_mixed(web: Web, has_etag: bool) -> None:
    web.has_etag = has_etag
    web.files["in.csv"] = b"id,q\n1,?\n"
    [file] = expand_inputs(f"{web.url}/in.csv")
    web.files["in.csv"] = b"id,q\n22,?\n"

    with pytest.raises(StorageError, match="the file was replaced while it was read"):
        read(file)
    assert expand_inputs(f"{web.url}/in.csv")[0].size == 10


def test_files_of_the_hub_are_read_at_the_commit_of_their_revision(online: Hub) -> None:
    files = {"data/a.parquet": parquet(), "data/b.parquet": parquet(3, 5), "x.csv": b"q\n?\n"}
    online.add(SET, {**files, "README.md": b"", ".gitattributes": b""})
    names = {
        "hf://datasets/org/set": ["data/a.parquet", "data/b.parquet", "x.csv"],
        "hf://datasets/org/set@v1/data": ["data/a.parquet", "data/b.parquet"],
        "hf://datasets/org/set/data/*.parquet": ["data/a.parquet", "data/b.parquet"],
        "hf://datasets/org/set@main/x.csv": ["x.csv"],
    }
    for path, wanted in names.items():
        found = expand_inputs(path)
        assert [(file.rel, read(file)) for file in found] == [(n, files[n]) for n in wanted]
    moved = expand_inputs("hf://datasets/org/set/x.csv")[0]
    online.repos[SET].commits["main"] = "0" * 40

    assert read(moved) == files["x.csv"]
    commits = {one.path.split("/")[5] for one in online.seen if "/resolve/" in one.path}
    assert commits == {online.repos[SET].commits["v1"]}


def test_a_token_reads_a_private_data_set_and_stays_with_the_hub(
    online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.add(SET, {"in.parquet": parquet()}, token="hf_of_mine")
    monkeypatch.setenv("HF_TOKEN", "hf_of_mine")

    assert read(expand_inputs("hf://datasets/org/set/in.parquet")[0]) == parquet()
    told = {one.at for one in online.seen if "authorization" in one.headers}
    assert told == {"hub"}
    assert {one.at for one in online.seen} == {"hub", "store"}


def test_a_server_of_the_hub_that_fails_in_passing_is_asked_again(online: Hub) -> None:
    online.add(SET, {"in.csv": b"q\n?\n"})
    online.faults += [Fault("api", status=503), Fault("in.csv", status=502)]
    online.faults += [Fault("in.csv", after=2, cut=True)]

    [file] = expand_inputs("hf://datasets/org/set/in.csv", retry=Retry(5, 0.01, 0.02))
    assert read(file) == b"q\n?\n"


def test_a_file_system_of_fsspec_lists_and_reads(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.csv", "deep/b.csv", "_skipped/c.csv"):
        memory.pipe(f"/{tmp_path.name}/{name}", b"q\n?\n")
    root = f"memory://{tmp_path.name}"

    assert [f.uri for f in expand_inputs(root)] == [f"{root}/a.csv", f"{root}/deep/b.csv"]
    assert [f.uri for f in expand_inputs(f"{root}/*.csv")] == [f"{root}/a.csv"]
    [listed, _] = expand_inputs(root)
    [named] = expand_inputs(f"{root}/a.csv")
    assert (listed, read(named)) == (named, b"q\n?\n")
    refuse_changed(listed)
    memory.pipe(f"/{tmp_path.name}/a.csv", b"q\n!\n")
    with pytest.raises(StorageError, match="changed since this command began"):
        refuse_changed(listed)


def test_places_can_be_sent_to_another_process(web: Web) -> None:
    web.files["in.csv"] = b"q\n?\n"
    [file] = expand_inputs(f"{web.url}/in.csv")

    assert read(pickle.loads(pickle.dumps(file))) == b"q\n?\n"


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(BatchError) as refused:
        expand_inputs("gs://bucket/in.parquet")
    assert str(refused.value) == (
        "gs://…: a package for such addresses is missing (need gcsfs). Install it: pip install "
        "gcsfs."
    )


class Refusing(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A file system that wants an account."""

    def __init__(self, **options: object) -> None:
        raise ValueError("no account of hunter2")


def test_a_file_system_without_an_account_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "refusing", {"class": f"{__name__}.Refusing"})
    with pytest.raises(InputError) as refused:
        expand_inputs("refusing://container/in.csv")
    assert str(refused.value) == (
        "refusing://container: fsspec does not open it (got ValueError). Set the account and "
        "credentials that it reads from the environment."
    )


WEB_ERRORS: dict[str, tuple[Web, str, str]] = {
    "no such file": (
        Web(),
        "no.csv",
        "URL/no.csv: no such file or folder (need .parquet, .jsonl, .csv or .tsv files). Check "
        "the path.",
    ),
    "not without credentials": (
        Web(statuses=[401]),
        "in.csv",
        "URL/in.csv: access needs credentials (got HTTP 401). Set HF_TOKEN for hf://, or what the "
        "store asks for.",
    ),
    "not for us": (
        Web(statuses=[403]),
        "in.csv",
        "URL/in.csv: access is denied (got HTTP 403). Give these credentials the permission, or "
        "use others.",
    ),
    "a server that keeps failing": (
        Web(statuses=[500] * 1000),
        "in.csv",
        "URL/in.csv: the object store fails or asks to slow down (got HTTP 500). Run the same "
        "command again: it goes on from here.",
    ),
    "a glob": (
        Web(),
        "*.csv",
        "URL/*.csv: a web server has no list of its files (got a glob or a folder). Name each "
        "file.",
    ),
    "a redirect to where anybody could answer": (
        Web(redirect="http://192.0.2.1/in.csv"),
        "in.csv",
        "URL: the server sends on to an address without encryption (got http://192.0.2.1, need "
        "https). Name the file where it is.",
    ),
    "no ranges, and too large": (
        Web(has_ranges=False),
        "in.csv",
        "URL/in.csv: the server knows no ranges, and the file is too large to be read whole (got "
        "6 bytes, need at most 4). Copy it to a disk or a bucket.",
    ),
}


@pytest.mark.parametrize("name", WEB_ERRORS)
def test_a_file_that_a_server_does_not_give_is_one_line(
    web: Web, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    like, rel, message = WEB_ERRORS[name]
    for key in ("statuses", "redirect", "has_ranges"):
        setattr(web, key, getattr(like, key))
    web.files["in.csv"] = b"q\n?\n!\n"
    monkeypatch.setattr(web_module, "MAX_WHOLE_BYTES", 4)

    with pytest.raises(InputError) as refused:
        read(expand_inputs(f"{web.url}/{rel}", retry=QUICK)[0])
    assert str(refused.value).replace(web.url, "URL") == message


HUB_ERRORS = {
    "hf://datasets/org/set@nope/in.csv": "hf://datasets/org/set@nope: no such revision (got HTTP "
    "404). Check what stands behind @.",
    "hf://datasets/org/none/in.csv": "hf://datasets/org/none: no such data set, or none for this "
    "token (got HTTP 401). Check the name, and set HF_TOKEN where it is private.",
    "hf://datasets/org/set/none.csv": "hf://datasets/org/set/none.csv: no such file or folder "
    "(need .parquet, .jsonl, .csv or .tsv files). Check the path.",
    "hf://datasets/org/gated/in.csv": "hf://datasets/org/gated/in.csv: a gated data set (got HTTP "
    "401). Ask for access on its page, and set HF_TOKEN to a token of yours.",
}


@pytest.mark.parametrize("path", HUB_ERRORS)
def test_a_file_that_the_hub_does_not_give_is_one_line(online: Hub, path: str) -> None:
    online.add(SET, {"in.csv": b"q\n?\n"})
    online.add("datasets/org/gated", {"in.csv": b"q\n?\n"}, gated=True, token="of others")

    with pytest.raises(BatchError) as refused:
        files = expand_inputs(path, retry=QUICK)
        spec = InputSpec(path=path, prompt="q")
        Source(spec, [], files)
    assert str(refused.value) == HUB_ERRORS[path]


def test_a_hub_that_is_switched_off_is_not_asked(
    online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as refused:
        expand_inputs("hf://datasets/org/set")
    assert str(refused.value) == (
        "hf://datasets/org/set: HF_HUB_OFFLINE is set (got OfflineModeIsEnabled). Unset it, or "
        "name a local copy."
    )
    assert online.seen == []


def test_a_job_sees_that_a_file_of_the_hub_has_changed(online: Hub, tmp_path: Path) -> None:
    online.add(SET, {"a.parquet": parquet(2), "b.parquet": parquet(1, 2)})
    job = write_job(tmp_path, input={"path": ["hf://datasets/org/set"]})
    assert run_replay(job).counts.done == 3
    versions = json.loads((tmp_path / "out/.batchr1/inputs.json").read_text())
    assert list(versions) == [f"hf://datasets/org/set/{name}.parquet" for name in "ab"]

    changed = questions(1, start=2).with_columns(problem=pl.lit("Another question?"))
    data = io.BytesIO()
    changed.write_parquet(data)
    online.add(SET, {"a.parquet": parquet(2), "b.parquet": data.getvalue()})
    with pytest.raises(InputError, match="another prompt for samples that are done"):
        run_replay(job)
    assert rows_of(tmp_path / "out").height == 3
