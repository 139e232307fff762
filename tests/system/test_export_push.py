"""`batchr1 export --push`: the real client of the hub, over HTTP to one on loopback.

By LFS instead of Xet, whose store no loopback server has.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hub_datasets import GOOD_TOKEN, DataSet
from hub_server import Hub
from made_output import good_row, table_of, write_output
from s3_fakes import S3
from test_export import export, exported

NAME = "lab/traces"
# huggingface_hub's own LFS upload.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_output(tmp_path / "out", [table_of([good_row(at) for at in range(20)])])
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of this process, set up as by the environment."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)


def local_files(dest: Path) -> dict[str, bytes]:
    """Card and data of an export."""
    files = [dest / "README.md", *(dest / "data").iterdir()]
    return {str(path.relative_to(dest)): path.read_bytes() for path in files}


def test_a_new_data_set_is_private_and_whole_after_one_commit(
    output: Path, tmp_path: Path, hub: Hub
) -> None:
    dest = tmp_path / "ds"
    said = exported(output, dest, "--to", "sft", "--push", NAME, "--tag", "v1")
    found = hub.datasets.sets[NAME]
    first = {".gitattributes"}
    assert {**local_files(dest), ".gitattributes": b"*.parquet filter=lfs\n"} == found.files
    assert [set(files) for _, files in found.history] == [first, set(found.files)]
    assert found.private
    assert found.tags == {"v1": found.sha}
    assert said["push"] == {
        "repo": NAME,
        "url": f"{hub.url}/datasets/{NAME}",
        "commit": found.sha,
        "private": True,
        "tag": "v1",
    }
    data = next(rel for rel in found.files if rel.startswith("data/"))
    assert pl.read_parquet(found.files[data]).height == 20


def test_another_export_replaces_the_earlier_one_in_one_commit(
    output: Path, tmp_path: Path, hub: Hub
) -> None:
    exported(output, tmp_path / "one", "--to", "sft", "--push", NAME, "--public")
    again = ("--to", "raw", "--push", NAME, "--public", "--overwrite")
    done = export(output, tmp_path / "two", *again)
    found = hub.datasets.sets[NAME]
    assert local_files(tmp_path / "two").items() <= found.files.items()
    assert len(found.files) == 3
    assert len(found.history) == 3
    assert not found.private
    line = f"pushed {hub.url}/datasets/{NAME} (public), commit {found.sha[:12]}\n"
    assert line in done.output
    assert GOOD_TOKEN not in done.output


def test_a_push_that_fails_leaves_the_export_and_no_half_of_it_on_the_hub(
    output: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.datasets.refused["commit"] = 503
    result = export(output, tmp_path / "ds", "--to", "sft", "--push", NAME)
    assert (result.exit_code, result.stderr) == (
        75,
        f"batchr1: --push {NAME}: the hub fails or asks to slow down (got HTTP 503). Run the same "
        f"command again: it goes on from here. {tmp_path}/ds is written: add --overwrite.\n",
    )
    assert set(hub.datasets.sets[NAME].files) == {".gitattributes"}
    hub.datasets.refused.clear()
    exported(output, tmp_path / "ds", "--to", "sft", "--push", NAME, "--overwrite")
    assert local_files(tmp_path / "ds").items() <= hub.datasets.sets[NAME].files.items()


def test_a_repository_that_changes_meanwhile_is_left_alone(
    output: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.datasets.sets[NAME] = DataSet()
    hub.datasets.sets[NAME].commit({".gitattributes": b""})
    from batchr1.export.push import Push

    send = Push.send

    def after_another(push: Push, folder: Path) -> object:
        hub.datasets.sets[NAME].commit({"theirs.csv": b"1"})
        return send(push, folder)

    monkeypatch.setattr(Push, "send", after_another)
    result = export(output, tmp_path / "ds", "--to", "sft", "--push", NAME)
    assert (result.exit_code, result.stderr) == (
        75,
        f"batchr1: --push {NAME}: the repository changed meanwhile (got HTTP 412). Run the same "
        f"command again. {tmp_path}/ds is written: add --overwrite.\n",
    )
    assert set(hub.datasets.sets[NAME].files) == {"theirs.csv"}


def test_an_export_to_s3_is_pushed_too(
    output: Path, s3_moto: S3, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_moto.endpoint)
    exported(output, f"s3://{s3_moto.bucket}/ds", "--to", "sft", "--push", NAME)
    stored = s3_moto.storage("ds")
    rels = [info.rel for info in stored.list_files(recursive=True) if ".batchr1" not in info.rel]
    assert len(rels) == 2
    assert {rel: stored.find_bytes(rel) for rel in rels}.items() <= hub.datasets.sets[
        NAME
    ].files.items()


def test_what_answers_otherwise_is_named_in_one_line(
    output: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.datasets.broken.add("commit")
    result = export(output, tmp_path / "ds", "--to", "sft", "--push", NAME)
    assert (result.exit_code, result.stderr) == (
        2,
        f"batchr1: --push {NAME}: what answers does not take the files as the hub does. Check "
        f"HF_ENDPOINT, and the card's metadata. {tmp_path}/ds is written: add --overwrite.\n",
    )
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = export(output, tmp_path / "ds2", "--to", "sft", "--push", NAME)
    assert (result.exit_code, result.stderr) == (
        75,
        f"batchr1: --push {NAME}: the hub cannot be reached (got ConnectError). Check HF_ENDPOINT "
        "and the network, and run again.\n",
    )


# Options, environment, what is on the hub, and the line that is printed.
FOREIGN = {"README.md": b"---\ntags: [batchr1]\n---\n", "notes.txt": b"1"}
REFUSED: dict[str, tuple[list[str], dict[str, str | None], dict[str, bytes] | None, str]] = {
    "no owner": (
        ["--push", "traces"],
        {},
        None,
        "--push: not the name of a repository (got 'traces', need owner/name). Correct it.",
    ),
    "no name": (
        ["--push", "lab/tra ces"],
        {},
        None,
        "--push: not the name of a repository (got 'lab/tra ces', need owner/name). Correct it.",
    ),
    "no tag": (
        ["--push", NAME, "--tag", "v 1"],
        {},
        None,
        "--tag: not a tag (got 'v 1', need letters, digits, -, _ and .). Correct it.",
    ),
    "public alone": (
        ["--public"],
        {},
        None,
        "--public: belongs to --push. Give it, or leave --public out.",
    ),
    "tag alone": (
        ["--tag", "v1"],
        {},
        None,
        "--tag: belongs to --push. Give it, or leave --tag out.",
    ),
    "no token": (
        ["--push", NAME],
        {"HF_TOKEN": None},
        None,
        f"--push {NAME}: there is no token (HF_TOKEN is not set). Set it to one that may write.",
    ),
    "unknown token": (
        ["--push", NAME],
        {"HF_TOKEN": "hf_secret_of_nobody"},
        None,
        f"--push {NAME}: the hub refuses the token (got HTTP 401). Renew HF_TOKEN.",
    ),
    "another's name": (
        ["--push", "others/traces"],
        {},
        None,
        "--push others/traces: the token may not write there (got HTTP 403). Give HF_TOKEN the "
        "right, or another name.",
    ),
    "an earlier export": (
        ["--push", NAME],
        {},
        {"README.md": b"---\ntags: [batchr1]\n---\n"},
        f"--push {NAME}: the repository holds README.md. Give another name, or add --overwrite to "
        "replace an earlier export.",
    ),
    "a foreign file": (
        ["--push", NAME, "--overwrite"],
        {},
        FOREIGN,
        f"--push {NAME}: --overwrite would replace notes.txt, which is not of an export. Give "
        "another name.",
    ),
    "a foreign card": (
        ["--push", NAME, "--overwrite"],
        {},
        {"README.md": b"---\ntags: [ours]\n---\n"},
        f"--push {NAME}: --overwrite would replace README.md, which is not of an export. Give "
        "another name.",
    ),
    "it is private": (
        ["--push", NAME, "--public"],
        {},
        {},
        f"--push {NAME}: the repository is there, and private. Leave --public out, or change it "
        "on the hub.",
    ),
    "the tag is there": (
        ["--push", NAME, "--tag", "v0"],
        {},
        {},
        f"--push {NAME}: the tag v0 is there. Give another --tag.",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_pushed_is_refused_in_one_line(
    output: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked, environment, there, line = REFUSED[name]
    if there is not None:
        hub.datasets.sets[NAME] = DataSet(tags={"v0": "0" * 40})
        hub.datasets.sets[NAME].commit({".gitattributes": b"", **there})
    for key, value in environment.items():
        if value is None:
            monkeypatch.delenv(key)
        else:
            monkeypatch.setenv(key, value)
    before = {name: dict(found.files) for name, found in hub.datasets.sets.items()}
    result = export(output, tmp_path / "ds", "--to", "sft", *asked)
    if name == "another's name":  # known when it is created
        line += f" {tmp_path}/ds is written: add --overwrite."
    assert (result.exit_code, result.stderr) == (2, f"batchr1: {line}\n")
    assert {name: found.files for name, found in hub.datasets.sets.items()} == before


def test_a_public_repository_is_not_taken_for_a_private_push(
    output: Path, tmp_path: Path, hub: Hub
) -> None:
    hub.datasets.sets[NAME] = DataSet(private=False)
    result = export(output, tmp_path / "ds", "--to", "sft", "--push", NAME)
    assert result.stderr == (
        f"batchr1: --push {NAME}: the repository is there, and public. Add --public, or give "
        "another name.\n"
    )
    assert not (tmp_path / "ds").exists()
