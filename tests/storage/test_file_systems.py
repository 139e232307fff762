"""File systems that lack a primitive: the next best one is taken, exactly once all the same."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from batchr1.errors import InputError, StorageError
from batchr1.storage.base import open_storage
from batchr1.storage.inputs import expand_inputs

STAGED, FINAL = ".batchr1/staging/part.parquet", "data/part.parquet"


def staged(folder: Path, content: bytes = b"rows") -> Any:
    storage = open_storage(folder / "out")
    storage.write_bytes(STAGED, content)
    return storage


@pytest.fixture(params=["links in a folder", "no links", "no links, renames in a folder"])
def crippled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name crosses from folder to folder, as on OpenAFS, GPFS filesets and XFS quotas."""
    link, rename = os.link, os.rename

    def limited_link(source: Any, target: Any, **more: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        if request.param != "links in a folder":
            raise OSError(errno.EPERM, "no links")
        link(source, target, **more)

    def limited_rename(source: Any, target: Any, **more: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, **more)

    monkeypatch.setattr(os, "link", limited_link)
    if request.param == "no links, renames in a folder":
        monkeypatch.setattr(os, "rename", limited_rename)


@pytest.mark.usefixtures("crippled")
def test_a_part_is_committed_where_no_link_crosses_folders(tmp_path: Path) -> None:
    storage = staged(tmp_path)
    storage.commit(STAGED, FINAL)
    assert storage.read_bytes(FINAL) == b"rows"
    storage.commit(STAGED, FINAL)  # again, after a kill
    assert [f.rel for f in storage.list_files(recursive=True)] == [FINAL]
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert names == ["part.parquet"]


@pytest.mark.usefixtures("crippled")
def test_another_content_is_never_replaced(tmp_path: Path) -> None:
    storage = staged(tmp_path)
    storage.write_bytes(FINAL, b"other")
    with pytest.raises(StorageError, match="a different file has this name"):
        storage.commit(STAGED, FINAL)
    assert storage.read_bytes(FINAL) == b"other"


@pytest.mark.parametrize("name", ["ENOTTY", "EIO", "EACCES", "EPERM", "EBADF", "EINVAL", "ENOSYS"])
def test_a_folder_that_cannot_be_synced_is_used_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fsync

    def fsync(file: Any) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(getattr(errno, name), "not here")
        really(file)

    monkeypatch.setattr(os, "fsync", fsync)
    storage = staged(tmp_path)
    storage.commit(STAGED, FINAL)
    assert storage.read_bytes(FINAL) == b"rows"


def test_a_file_that_cannot_be_synced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: Any) -> None:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=r"the disk reports an error \(got EIO\)"):
        open_storage(tmp_path).write_bytes("x", b"")


def test_a_fifo_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.parquet")
    with pytest.raises(InputError) as caught:
        expand_inputs(tmp_path / "in.parquet")
    assert str(caught.value) == (
        f"{tmp_path}/in.parquet: not a regular file (got a FIFO, socket or device, need a file). "
        "Copy its content to a file."
    )
    with pytest.raises(InputError, match=r"no data files \(got no file, need"):
        expand_inputs(tmp_path)
    storage = open_storage(tmp_path)
    assert storage.list_files() == []
    with pytest.raises(StorageError, match=r"not a regular file \(got \w+\)\. Put a file"):
        storage.find_bytes("in.parquet")
    with pytest.raises(StorageError, match=r"not a regular file \(got \w+\)\. Put a file"):
        storage.open_input("in.parquet")


@pytest.mark.parametrize(
    ("mark", "kind", "log"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta", "_delta_log"),
        ("metadata/v1.metadata.json", "an Iceberg", "metadata"),
        (".hoodie/hoodie.properties", "a Hudi", ".hoodie"),
        ("snapshot/snapshot-1", "a Paimon", "snapshot"),
    ],
)
@pytest.mark.parametrize(
    "path",
    ["t", "t/*.parquet", "t/**/*.parquet", "t/data", "t/data/day=1", "t/data/*/*.parquet"],
)
def test_the_folder_of_a_table_is_refused_with_the_way_out(
    path: str, mark: str, kind: str, log: str, tmp_path: Path
) -> None:
    storage = open_storage(tmp_path)
    for part in ("t/part-0.parquet", "t/data/day=1/part-0.parquet"):
        storage.write_bytes(part, b"PAR1")
    storage.write_bytes(f"t/{mark}", b"{}")
    with pytest.raises(InputError) as caught:
        expand_inputs(tmp_path / path)
    assert str(caught.value) == (
        f"{tmp_path}/t: the folder of {kind} table (got {log}/, which says which files and rows "
        "live; need plain files). Write its live rows to Parquet files of their own (in Spark: "
        "spark.read.table(…).write.parquet(…)), and name that folder."
    )


def test_a_folder_beside_a_table_is_none(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes("t/table/_delta_log/0.json", b"{}")
    storage.write_bytes("t/plain/metadata/notes.json", b"{}")
    storage.write_bytes("t/plain/a.parquet", b"PAR1")
    assert [Path(f.uri).name for f in expand_inputs(tmp_path / "t/plain")] == ["a.parquet"]


def test_endings_are_known_in_any_case_and_compressed_files_are_not_left_out(
    tmp_path: Path,
) -> None:
    storage = open_storage(tmp_path)
    for name in ("A.PARQUET", "b.parquet", "c.JsonL", "README.md", "_SUCCESS"):
        storage.write_bytes(f"t/{name}", b"x")
    names = [Path(file.uri).name for file in expand_inputs(tmp_path / "t")]
    assert names == ["A.PARQUET", "b.parquet", "c.JsonL"]
    storage.write_bytes("t/d.jsonl.zst", b"x")
    with pytest.raises(InputError) as caught:
        expand_inputs(tmp_path / "t")
    assert str(caught.value) == (
        f"{tmp_path}/t/d.jsonl.zst: compressed as a whole (got .jsonl.zst beside files that are "
        "read, need .parquet, .jsonl, .csv or .tsv). "
        "Decompress it, or name the other files by a glob."
    )


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "t") + b"/r\xe9sum\xe9.parquet")).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        expand_inputs(tmp_path / "t")
    assert str(caught.value) == (
        f"{tmp_path}/t/r\\udce9sum\\udce9.parquet: the file's name is not UTF-8 (got other bytes). "
        "Rename it."
    )
