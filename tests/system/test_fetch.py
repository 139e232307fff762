"""`batchr1 fetch`, as a process, against a hub on loopback.

Then jobs that run from what was fetched, with no hub at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hub_machine import FILES, REPO, SHARDED, SIZE, TOKEN, WANTED, WEIGHTS, Machine
from hub_server import Fault, Hub
from process_tree import until
from replay_job import MODEL, questions, rows_of, token_ids, write_job

from batchr1.driver.context import RunOptions, open_job
from batchr1.driver.preflight import note_uncached
from batchr1.errors import StorageError
from batchr1.job import load_job
from batchr1.models.files import ModelFile
from batchr1.models.hub import Repository
from batchr1.models.places import Folder, parse_record
from batchr1.models.progress import Meter
from batchr1.models.transfer import Transfer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def partial_of(name: str, files: dict[str, bytes] = FILES) -> str:
    return f"{hashlib.sha256(files[name]).hexdigest()}.batchr1.incomplete"


def test_a_repository_comes_into_the_hubs_cache_and_is_named_by_its_commit(
    hub: Hub, machine: Machine
) -> None:
    commit = hub.add(REPO, SHARDED)
    code, out, err = machine.fetch(REPO)
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith(f"{REPO} at {commit}: 10 files, 11.9 MB, 11.9 MB fetched in ")
    folder = machine.snapshot(commit)
    assert rest == [f"folder: {folder}", f"job:    model: {{repo: {REPO}, revision: {commit}}}"]
    assert contents(folder) == {name: data for name, data in SHARDED.items() if name != "README.md"}
    assert not machine.partials()


def test_huggingface_hub_itself_finds_it_without_network(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    machine.fetch(REPO)
    code = (
        "from huggingface_hub import scan_cache_dir, snapshot_download; "
        f"print(snapshot_download({REPO!r})); print(len(scan_cache_dir().warnings))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=machine.environment(HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(machine.snapshot(commit)), "0"]


def test_what_is_here_is_not_fetched_again(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    machine.fetch(REPO)
    before = hub.served()
    code, out, _ = machine.fetch(REPO, "--revision", "v1")
    assert (code, hub.served() - before) == (0, 0)
    assert out.splitlines()[0] == f"{REPO} at {commit}: 5 files, 11.8 MB, here already"
    document = json.loads(machine.fetch(REPO, "--json")[1])
    assert document.pop("seconds") < 60
    assert document == {
        "model": REPO,
        "repo": REPO,
        "commit": commit,
        "folder": str(machine.snapshot(commit)),
        "files": 5,
        "bytes": SIZE,
        "fetched_bytes": 0,
        "verified": False,
        "offline": False,
        "copied_bytes": None,
    }


def test_only_what_a_run_needs_comes(hub: Hub, machine: Machine) -> None:
    more = {
        "pytorch_model.bin": b"x" * 9000,
        "consolidated.safetensors": b"x" * 9000,
        "r1.Q4_K_M.gguf": b"x" * 9000,
        "original/model.safetensors": b"x" * 9000,
        "figures/benchmark.png": b"x",
        "onnx/config.json": b"x",
        "chat_template.jinja": b"{{ x }}",
        "LICENSE": b"free",
        "LICENSE.txt": b"free",
        "modeling.py": b"pass",
    }
    commit = hub.add(REPO, FILES | more)
    assert machine.fetch(REPO)[0] == 0
    assert set(contents(machine.snapshot(commit))) == WANTED | {
        WEIGHTS,
        "chat_template.jinja",
        "LICENSE",
        "LICENSE.txt",
        "modeling.py",
    }
    assert all(hub.served(name) == 0 for name in list(more)[:6])


def test_killed_in_the_middle_of_a_file_it_goes_on_from_the_last_byte(
    hub: Hub, machine: Machine
) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=7_000_000, stall_s=60))
    process = machine.start(REPO)
    until(lambda: machine.partials() == {partial_of(WEIGHTS): 7_000_000})
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not machine.snapshot(commit).exists()  # nothing that a run would take for a model
    before = hub.served(WEIGHTS)
    assert machine.fetch(REPO)[0] == 0
    assert (before, hub.served(WEIGHTS)) == (7_000_000, len(FILES[WEIGHTS]))  # not one byte twice
    assert contents(machine.snapshot(commit))[WEIGHTS] == FILES[WEIGHTS]


def test_killed_between_files_it_keeps_those_that_are_whole(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, SHARDED)
    last = "model-00005-of-00005.safetensors"
    hub.faults.append(Fault(last, after=1_000_000, stall_s=60))
    process = machine.start(REPO)
    until(lambda: machine.partials() == {partial_of(last, SHARDED): 1_000_000})
    until(
        lambda: (
            hub.served()
            == sum(map(len, SHARDED.values()))
            - len(SHARDED["README.md"])
            - len(SHARDED[last])
            + 10**6
        )
    )
    until(lambda: len(machine.partials()) == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = hub.served()
    assert machine.fetch(REPO, "--json")[0] == 0
    assert hub.served() - before == len(SHARDED[last]) - 1_000_000
    assert contents(machine.snapshot(commit))[last] == SHARDED[last]


def test_a_signal_ends_it_with_75_and_what_came_stays(hub: Hub, machine: Machine) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=3_000_000, stall_s=60))
    process = machine.start(REPO)
    until(lambda: machine.partials() == {partial_of(WEIGHTS): 3_000_000})
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (75, "")
    assert err == (
        f"batchr1: model {REPO}: stopped by a signal. Run the same command again: it goes on from "
        "here.\n"
    )
    assert machine.fetch(REPO)[0] == 0
    assert hub.served(WEIGHTS) == len(FILES[WEIGHTS])


def test_a_stall_and_a_cut_are_gone_on_from(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults += [
        Fault(WEIGHTS, after=3_000_000, stall_s=60),
        Fault(WEIGHTS, after=4_000_000, cut=True),
    ]
    code, _, err = machine.fetch(REPO, "--stall", "0.5s")
    where = f"model {REPO} at {commit[:12]}: {WEIGHTS}"
    assert code == 0
    assert err.splitlines() == [
        f"{where}: the hub stalls (got no byte for 0.5 s); going on from 3.0 MB of 11.8 MB",
        f"{where}: the hub cut the line (got RemoteProtocolError); going on from 7.0 MB of 11.8 MB",
    ]
    assert hub.served(WEIGHTS) == len(FILES[WEIGHTS])
    assert contents(machine.snapshot(commit))[WEIGHTS] == FILES[WEIGHTS]


def test_a_hub_that_stalls_for_good_ends_it_with_75(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=0, stall_s=60, times=9))
    code, out, err = machine.fetch(REPO, "--stall", "0.3s", "--tries", "2")
    assert (code, out) == (75, "")
    assert err.splitlines()[-1] == (
        f"batchr1: model {REPO} at {commit[:12]}: {WEIGHTS}: the hub stalls (got no byte for 0.3 "
        "s). Run the same command again: it goes on from here."
    )


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults += [Fault(WEIGHTS, after=4_000_000, cut=True), Fault(WEIGHTS, ignores_range=True)]
    assert machine.fetch(REPO)[0] == 0
    assert hub.served(WEIGHTS) == len(FILES[WEIGHTS]) + 4_000_000
    assert contents(machine.snapshot(commit))[WEIGHTS] == FILES[WEIGHTS]


def test_a_hub_that_is_busy_is_asked_again_when_it_wants(hub: Hub, machine: Machine) -> None:
    hub.add(REPO, FILES)
    hub.faults += [
        Fault("api", status=503),
        Fault("api", status=429, headers={"Retry-After": "1"}),
        Fault("tokenizer.json", status=429, headers={"Retry-After": "1"}),
        Fault(WEIGHTS, status=500),
    ]
    began = time.monotonic()
    assert machine.fetch(REPO)[0] == 0
    assert time.monotonic() - began > 2
    hub.faults.append(Fault("api", status=502, times=9))
    assert machine.fetch(REPO, "--tries", "1") == (
        75,
        "",
        f"batchr1: model {REPO}: the hub fails or asks to slow down (got HTTP 502). Run the same "
        "command again: it goes on from here.\n",
    )


def test_a_damaged_file_is_fetched_again_and_never_taken(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, corrupt=True))
    code, _, err = machine.fetch(REPO)
    assert code == 0
    assert f"{WEIGHTS}: damaged on its way (got " in err
    assert contents(machine.snapshot(commit))[WEIGHTS] == FILES[WEIGHTS]


def test_what_comes_damaged_each_time_is_refused(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, corrupt=True, times=9))
    code, out, err = machine.fetch(REPO)
    assert (code, out) == (1, "")
    right = hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    assert err.splitlines()[-1].startswith(
        f"batchr1: model {REPO} at {commit[:12]}: {WEIGHTS}: what comes is not what is listed, 2 "
        "times (got checksum "
    )
    assert err.endswith(f"need {right[:12]}…). Check what it comes from, or a proxy in between.\n")
    assert not machine.snapshot(commit).exists()
    assert not list(machine.home.rglob(f"{right}*"))


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_verify_finds_what_was_damaged_on_disk(hub: Hub, machine: Machine, name: str) -> None:
    commit = hub.add(REPO, FILES)
    machine.fetch(REPO)
    blob = (machine.snapshot(commit) / name).resolve()
    with blob.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0damage\0")
    code, out, err = machine.fetch(REPO, "--verify", HF_HUB_OFFLINE="1")
    assert (code, out) == (2, "")
    where = f"model {REPO} at {commit[:12]}: {name}: damaged on disk (got checksum "
    assert err.startswith(f"batchr1: {where}")
    assert err.endswith("…). Unset HF_HUB_OFFLINE, and run the same command again.\n")
    code, out, err = machine.fetch(REPO, "--verify")
    assert code == 0
    assert err.startswith(where)
    assert err.endswith("…), fetched again\n")
    assert out.splitlines()[0].endswith(", all checksums computed")
    assert (machine.snapshot(commit) / name).read_bytes() == FILES[name]


def test_a_gated_repository_wants_a_token_and_no_message_repeats_it(
    hub: Hub, machine: Machine
) -> None:
    commit = hub.add(REPO, FILES, gated=True, token=TOKEN)
    line = (
        "batchr1: model org/r1-tiny at {commit}: {rel}: the repository is gated (got {got}, need "
        f"one whose owner has accepted its terms). Accept them at {hub.url}/{REPO}, and set "
        "HF_TOKEN.\n"
    )
    for token, got in (("", "no token"), ("hf_SECRETother", "a token that may not")):
        code, out, err = machine.fetch(REPO, **({"HF_TOKEN": token} if token else {}))
        assert (code, out) == (2, "")
        rel = err.split(": ")[2]
        assert rel in FILES
        assert err == line.format(commit=commit[:12], rel=rel, got=got)
    code, out, err = machine.fetch(REPO, HF_TOKEN=TOKEN)
    assert (code, err) == (0, "")
    assert "SECRET" not in out
    at_store = [seen for seen in hub.seen if seen.at == "store"]
    assert at_store
    assert all("authorization" not in seen.headers for seen in at_store)
    found = [
        p
        for p in machine.home.rglob("*")
        if p.is_file() and p.suffix != ".safetensors" and b"SECRET" in p.read_bytes()
    ]
    assert found == []


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (
            ["org/nothing"],
            "",
            "model org/nothing: no such repository, or a private one (got HTTP 401 with no token). "
            "Correct the name, or set HF_TOKEN.",
        ),
        (
            ["org/private"],
            TOKEN,
            "model org/private: no such repository, or a private one (got HTTP 404 with a token "
            "that may not). Correct the name, or set HF_TOKEN.",
        ),
        (
            [REPO],
            "hf_SECRET_invalid",
            f"model {REPO}: the hub refuses the token (got HTTP 401). Renew HF_TOKEN.",
        ),
        (
            [REPO],
            "hf_SECRETé",
            f"model {REPO}: HF_TOKEN is not a token (got letters that no token has). Correct it.",
        ),
        (
            [REPO, "--revision", "v9"],
            "",
            f"model {REPO} at v9: no such revision (got v9, need a branch, tag or commit). Correct "
            "it.",
        ),
        (["a/b/c"], "", "model a/b/c: not the name of a repository (need owner/name). Correct it."),
        (
            ["org/pickled"],
            "",
            "model org/pickled at {commit}: no weights that batchr1 loads (got .bin, need "
            "*.safetensors). Choose the repository of the model's original safetensors.",
        ),
        (
            ["org/bare"],
            "",
            "model org/bare at {commit}: has no config.json (need Hugging Face layout). Choose "
            "another repository.",
        ),
        (
            ["org/r1-GGUF"],
            "",
            "model: GGUF is not supported (got 'org/r1-GGUF', need safetensors). Give the original "
            "model's repository as model.repo, or its folder as model.path: a GGUF's card names it "
            "as base_model. For 4 bits use a variant with model.quantization w4a16.",
        ),
        (
            ["r1-qwen-7b"],
            "",
            "model.variant: unknown variant (got 'r1-qwen-7b'). Did you mean r1-distill-qwen-7b?",
        ),
        (
            ["r1-tiny"],
            "",
            f"model: r1-tiny ships with batchr1 (it is {MODEL}). There is nothing to fetch.",
        ),
        (
            [REPO, "--stall", "soon"],
            "",
            "--stall: not a duration (got 'soon', need 6h, 90m, 1h30m or the like). Correct it.",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(
    hub: Hub, machine: Machine, words: list[str], token: str, message: str
) -> None:
    hub.add(REPO, FILES)
    hub.add("org/private", FILES, token="hf_other")
    commits = [hub.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})]
    commits.append(hub.add("org/bare", {WEIGHTS: FILES[WEIGHTS]}))
    code, out, err = machine.fetch(*words, **({"HF_TOKEN": token} if token else {}))
    assert (code, out) == (2, "")
    assert err in [f"batchr1: {message.format(commit=commit[:12])}\n" for commit in commits]
    assert not (machine.home / "hub").exists()


def test_offline_too_a_name_that_is_none_is_refused(machine: Machine) -> None:
    code, _, err = machine.fetch("a/b/c", HF_HUB_OFFLINE="1")
    assert (code, err) == (
        2,
        "batchr1: model a/b/c: not the name of a repository (need owner/name). Correct it.\n",
    )


def test_without_a_hub_it_is_75(machine: Machine, hub: Hub) -> None:
    hub.close()
    assert machine.fetch(REPO, "--tries", "2") == (
        75,
        "",
        f"batchr1: model {REPO}: the hub cannot be reached (got ConnectError). Check HF_ENDPOINT "
        "and the network, and run again.\n",
    )


def test_on_a_terminal_it_shows_a_bar_and_keeps_its_lines_apart(hub: Hub, machine: Machine) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=4_000_000, cut=True))
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "batchr1", "fetch", REPO]
    done = subprocess.run(
        command, env=machine.environment(), stdout=subprocess.PIPE, stderr=theirs, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert (
        "the hub cut the line (got RemoteProtocolError); going on from 4.0 MB of 11.8 MB" in shown
    )
    assert "11.8M/11.8M" in shown


def test_elsewhere_a_line_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchr1.models.progress.LINE_EVERY_S", 0.1)
    lines: list[str] = []
    meter = Meter(10_000_000, lines.append)
    meter.kept(2_000_000)
    meter.received(1_000_000)
    meter.tick()
    assert lines == []
    time.sleep(0.2)
    meter.tick()
    (line,) = lines
    assert re.fullmatch(r"3\.0 MB of 10\.0 MB, \d\.\d MB/s, ETA 0:00:0\d", line)


def test_offline_it_says_what_is_here_and_asks_nobody(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    assert machine.fetch(REPO, HF_HUB_OFFLINE="1") == (
        2,
        "",
        f"batchr1: model {REPO}: not in the cache, and HF_HUB_OFFLINE is set. Unset it, and run "
        "the same command again.\n",
    )
    assert hub.seen == []
    machine.fetch(REPO)
    asked = len(hub.seen)
    code, out, err = machine.fetch(REPO, HF_HUB_OFFLINE="1")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == (
        f"{REPO} at {commit}: 5 files, 11.8 MB, here already, the hub was not asked "
        "(HF_HUB_OFFLINE)"
    )
    (machine.snapshot(commit) / WEIGHTS).resolve().unlink()
    code, _, err = machine.fetch(REPO, HF_HUB_OFFLINE="1")
    assert (code, err) == (
        2,
        f"batchr1: model {REPO} at {commit[:12]}: not all of it is in the cache, and "
        "HF_HUB_OFFLINE is set (got 4 of 5 files). Unset it, and run the same command again.\n",
    )
    assert len(hub.seen) == asked


def test_a_disk_that_is_too_small_is_seen_before_anything_comes(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES, sizes={WEIGHTS: 10**15})
    code, out, err = machine.fetch(REPO)
    assert (code, out) == (75, "")
    assert err.startswith(f"batchr1: {machine.snapshot(commit)}: not enough space (got ")
    assert err.endswith(
        " free, need 1,000,000.0 GB more). Free some, or set HF_HOME to another disk.\n"
    )
    assert hub.served() == 0


def test_two_at_once_fetch_it_once(hub: Hub, machine: Machine) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=5_000_000, stall_s=3))
    first = machine.start(REPO)
    until(lambda: machine.partials() == {partial_of(WEIGHTS): 5_000_000})
    code, out, err = machine.fetch(REPO)
    first.communicate()
    assert (first.returncode, code) == (0, 0)
    assert err.endswith(": another fetch is under way there, waiting for it\n")
    assert "here already" in out
    assert hub.served() == SIZE


def test_a_folder_becomes_a_model_with_its_last_file(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    commit = hub.add(REPO, FILES)
    folder = tmp_path / "models/tiny"
    hub.faults.append(Fault(WEIGHTS, after=5_000_000, stall_s=60))
    process = machine.start(REPO, "--to", folder)
    partial = folder / ".batchr1/partial" / WEIGHTS
    until(lambda: partial.exists() and partial.stat().st_size == 5_000_000)
    process.kill()
    process.communicate()
    assert not (folder / "config.json").exists()
    code, out, _ = machine.fetch(REPO, "--to", folder)
    assert code == 0
    assert out.splitlines()[1:] == [f"folder: {folder}", f"job:    model: {{path: {folder}}}"]
    assert hub.served(WEIGHTS) == len(FILES[WEIGHTS])
    assert contents(folder) == {name: FILES[name] for name in WANTED | {WEIGHTS}}
    assert json.loads((folder / ".batchr1/fetch.json").read_text())["commit"] == commit
    assert not (machine.home / "hub").exists()
    code, out, _ = machine.fetch(REPO, "--to", folder, "--verify", HF_HUB_OFFLINE="1")
    assert code == 0
    assert "here already, all checksums computed, the hub was not asked" in out


def test_a_folder_is_filled_from_the_cache(hub: Hub, machine: Machine, tmp_path: Path) -> None:
    hub.add(REPO, SHARDED)
    machine.fetch(REPO)
    before = hub.served()
    assert machine.fetch(REPO, "--to", tmp_path / "there", HF_HUB_OFFLINE="1")[0] == 0
    assert hub.served() == before
    assert contents(tmp_path / "there") == {
        name: data for name, data in SHARDED.items() if name != "README.md"
    }


def test_a_folder_that_holds_something_else_is_refused(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    commit = hub.add(REPO, FILES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    assert machine.fetch(REPO, "--to", tmp_path / "full") == (
        2,
        "",
        f"batchr1: {tmp_path}/full: the folder is not empty and was not fetched (it holds "
        "thesis.tex). Give a new or empty folder.\n",
    )
    machine.fetch(REPO, "--to", tmp_path / "tiny")
    newer = hub.add(REPO, FILES | {"LICENSE": b"new"})
    assert machine.fetch(REPO, "--to", tmp_path / "tiny") == (
        2,
        "",
        f"batchr1: {tmp_path}/tiny: another model is there (got {REPO} at {commit[:12]}, need "
        f"{REPO} at {newer[:12]}). Give a folder of its own.\n",
    )


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("checksum", ["../../../../thesis", "{folder}/thesis", "F" * 64])
def test_a_hub_chooses_no_name_of_a_file_here(
    hub: Hub, machine: Machine, tmp_path: Path, name: str, checksum: str
) -> None:
    thesis = tmp_path / "thesis"
    thesis.write_bytes(b"x" * len(FILES[name]))
    hub.add(REPO, FILES, checksums={name: checksum.format(folder=tmp_path)})
    code, _, err = machine.fetch(REPO, "--verify")
    assert thesis.read_bytes() == b"x" * len(FILES[name])
    message = (
        f"model {REPO}: what answers is not the hub (got a checksum that is none). Check "
        "HF_ENDPOINT."
    )
    assert (code, err) == (2, f"batchr1: {message}\n")
    assert not (machine.home / "hub").exists()


@pytest.mark.parametrize(
    "rel", ["../../evil.json", "/tmp/evil.json", "a/../../evil.safetensors", "nul\0.json"]
)
def test_nor_a_place_outside_of_its_folder(
    hub: Hub, machine: Machine, tmp_path: Path, rel: str
) -> None:
    commit = hub.add(REPO, FILES | {rel: b"{}"})
    for words, folder in (
        ([], machine.snapshot(commit)),
        (["--to", tmp_path / "there"], tmp_path / "there"),
    ):
        assert machine.fetch(REPO, *words)[0] == 0
        assert set(contents(folder)) == WANTED | {WEIGHTS}
    assert hub.served(rel) == 0


def test_an_index_that_names_what_is_not_there_is_seen_before_any_weights_come(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    gone = "model-00002-of-00005.safetensors"
    commit = hub.add(REPO, {name: data for name, data in SHARDED.items() if name != gone})
    message = (
        f"model {REPO} at {commit[:12]}: model.safetensors.index.json names files that are not "
        f"there (got none of 1, the first is {gone!r}). Choose another repository."
    )
    for words in ([], ["--to", tmp_path / "there"]):
        assert machine.fetch(REPO, *words) == (2, "", f"batchr1: {message}\n")
    assert all(hub.served(name) == 0 for name in SHARDED if name.endswith(".safetensors"))
    commit = hub.add(REPO, SHARDED | {"model.safetensors.index.json": b"[]"})
    assert machine.fetch(REPO) == (
        2,
        "",
        f"batchr1: model {REPO} at {commit[:12]}: model.safetensors.index.json: not an index of "
        "weights. Choose another repository.\n",
    )


def test_what_comes_after_a_files_last_byte_is_not_waited_for(tmp_path: Path) -> None:
    @contextlib.contextmanager
    def read_from(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        yield 0, itertools.repeat(b"x" * 1000)

    meter = Meter(1500, say=lambda line: None)
    Transfer(
        ModelFile("a", 1500), tmp_path / "a", read_from, meter, threading.Event(), "a", tries=1
    ).run()
    assert (tmp_path / "a").read_bytes() == b"x" * 1500


def test_a_file_system_without_locks_is_no_reason_not_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, "as told")

    monkeypatch.setattr("batchr1.models.places.fcntl.flock", flock)
    place = Folder(Repository(REPO, "0" * 40, ()), tmp_path)
    number = errno.ENOSYS  # Lustre, mounted without flock
    with place.locked(print):
        pass
    number = errno.EIO
    with pytest.raises(StorageError), place.locked(print):
        pass


@pytest.mark.parametrize(
    "record",
    [
        '{"repo": "a/b", "commit": "c", "files": [{"rel": "x", "size": 1, "crc": 2}]}',
        "[]",
        '{"files": 3}',
        "",
    ],
)
def test_a_record_of_another_version_is_none(record: str) -> None:
    assert parse_record(record.encode()) is None


def run_replayed(
    machine: Machine, folder: Path, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    script = folder / "script.json"
    script.write_text(json.dumps({}), encoding="utf-8")
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "helpers/replay_job.py"),
        str(script),
        "run",
        *words,
    ]
    return subprocess.run(
        command, env=machine.environment(**environment), capture_output=True, text=True, timeout=60
    )


def test_a_job_runs_from_what_was_fetched_and_asks_no_hub(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    token_ids()
    commit = hub.add(REPO, SHARDED)
    questions(8).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, model={"variant": None, "repo": REPO})
    missing = run_replayed(machine, tmp_path, str(job), HF_HUB_OFFLINE="1")
    assert (missing.returncode, missing.stderr) == (
        2,
        f"batchr1: {job}: model {REPO}: not in the local cache, and the hub cannot be reached. Run "
        f"`batchr1 fetch {REPO}` with network, or set model.path.\n",
    )
    assert machine.fetch(REPO)[0] == 0
    asked = len(hub.seen)
    done = run_replayed(
        machine, tmp_path, str(job)
    )  # with the network, too: the cache has it whole
    assert done.returncode == 0
    assert len(hub.seen) == asked
    assert rows_of(tmp_path / "out").height == 8
    document = json.loads((tmp_path / "out/.batchr1/job.json").read_text())
    assert document["model"] == {"name": REPO, "location": REPO, "revision": commit}


def test_a_run_that_makes_vllm_download_names_the_command_that_would_have_done_it_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions(1).write_parquet(tmp_path / "in.parquet")
    prepared = open_job(load_job(write_job(tmp_path)), RunOptions())
    note_uncached(prepared, RunOptions())
    assert caplog.messages == []
    uncached = replace(prepared.model, location=REPO, revision="a" * 40, folder=None)
    note_uncached(replace(prepared, model=uncached), RunOptions())
    assert caplog.messages == [
        f"model {REPO}: its weights are not in the cache, and vLLM downloads them as it starts, on "
        f"a GPU's time. `batchr1 fetch {REPO} --revision {'a' * 40}` does it beforehand, and goes "
        "on where it was interrupted."
    ]


@pytest.mark.parametrize(
    "gone", ["model-00002-of-00005.safetensors", "tokenizer.json", "model.safetensors.index.json"]
)
def test_a_cache_that_lacks_a_file_is_not_whole(hub: Hub, machine: Machine, gone: str) -> None:
    commit = hub.add(REPO, SHARDED)
    machine.fetch(REPO)
    code = (
        f"from batchr1.models.cached import cached_snapshot; print(cached_snapshot({REPO!r}, None))"
    )

    def snapshot() -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=machine.environment(), capture_output=True, text=True
        ).stdout.strip()

    assert snapshot() == str(machine.snapshot(commit))
    record = next((machine.home / "batchr1").rglob("*.json"))
    record.unlink()  # as if another program had fetched it
    assert snapshot() == str(machine.snapshot(commit))
    (machine.snapshot(commit) / gone).unlink()
    assert snapshot() == (
        "None" if gone != "model.safetensors.index.json" else str(machine.snapshot(commit))
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cache", "folder"])
def test_vllm_runs_a_job_from_what_was_fetched(
    hub: Hub, machine: Machine, tmp_path: Path, place: str
) -> None:
    hub.add(REPO, SHARDED)
    to = ["--to", tmp_path / "tiny"] if place == "folder" else []
    assert machine.fetch(REPO, *to)[0] == 0
    hub.close()
    pl.DataFrame(
        {"id": [str(i) for i in range(8)], "problem": [f"What is {i} + 2?" for i in range(8)]}
    ).write_parquet(tmp_path / "in.parquet")
    model = (
        {"variant": None, "repo": REPO}
        if place == "cache"
        else {"variant": None, "path": str(tmp_path / "tiny")}
    )
    job = write_job(tmp_path, model=model, sampling={"max_tokens": 32})
    done = subprocess.run(
        [sys.executable, "-m", "batchr1", "run", str(job)],
        env=machine.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out").height == 8
