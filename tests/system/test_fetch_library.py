"""Promises of `batchr1 fetch` that `snapshot_download` does not keep, each one shown.

Why `batchr1/models` transfers files itself. The library runs here as it is, at the pinned version.
Where a test fails after an upgrade, the library has learnt it: then our part of it may go.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from hub_machine import FILES, REPO, SIZE, WANTED, WEIGHTS, Machine
from hub_server import Fault, Hub
from process_tree import until

CHUNK = 10 * 2**20  # the library writes to disk in blocks of so many bytes


def download(machine: Machine, offline: bool = False, **arguments: object) -> subprocess.Popen[str]:
    """`snapshot_download` in a process of its own."""
    code = f"import huggingface_hub; huggingface_hub.snapshot_download({REPO!r}, **{arguments!r})"
    return machine.python("-c", code, HF_HUB_OFFLINE=str(int(offline)))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and stderr."""
    _, err = process.communicate(timeout=200)
    return process.returncode, err


def test_a_killed_download_begins_again_and_leaves_its_bytes_for_ever(
    hub: Hub, machine: Machine
) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=CHUNK + 1, stall_s=60))
    process = download(machine)
    small = FILES.keys() - {WEIGHTS}
    until(lambda: all((machine.snapshot(commit) / name).exists() for name in small))
    until(lambda: list(machine.partials().values()) == [CHUNK])
    process.kill()
    process.communicate()
    assert ended(download(machine))[0] == 0
    assert hub.served(WEIGHTS) == CHUNK + 1 + len(FILES[WEIGHTS])
    assert list(machine.partials().values()) == [CHUNK]


def test_a_damaged_file_of_the_right_size_is_taken(hub: Hub, machine: Machine) -> None:
    commit = hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, corrupt=True))
    assert ended(download(machine))[0] == 0
    assert (machine.snapshot(commit) / WEIGHTS).read_bytes() != FILES[WEIGHTS]


def test_a_line_that_is_cut_costs_what_came_since_the_last_block(
    hub: Hub, machine: Machine
) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=4_000_000, cut=True))
    assert ended(download(machine))[0] == 0
    assert hub.served(WEIGHTS) == len(FILES[WEIGHTS]) + 4_000_000


def test_a_store_that_fails_once_ends_it_and_its_signed_address_is_shown(
    hub: Hub, machine: Machine
) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, status=500))
    code, err = ended(download(machine))
    assert code == 1
    assert "X-Amz-Signature=signed-for-you" in err


def test_a_folder_has_its_config_before_its_weights(
    hub: Hub, machine: Machine, tmp_path: Path
) -> None:
    hub.add(REPO, FILES)
    hub.faults.append(Fault(WEIGHTS, after=CHUNK + 1, stall_s=60))
    folder = tmp_path / "there"
    process = download(machine, local_dir=str(folder))
    until(lambda: (folder / "config.json").exists() and (folder / "tokenizer.json").exists())
    process.kill()
    process.communicate()
    assert not (folder / WEIGHTS).exists()


def test_a_choice_of_files_is_no_model_when_it_is_offline(hub: Hub, machine: Machine) -> None:
    """Where `batchr1 fetch` brought the same files, it is: test_fetch.py."""
    hub.add(REPO, FILES)
    assert ended(download(machine, allow_patterns=sorted(WANTED | {WEIGHTS})))[0] == 0
    assert hub.served() == SIZE
    code, err = ended(download(machine, offline=True))
    assert code == 1
    assert "is incomplete: 1 file(s) are missing (README.md)" in err
