"""GPUs of the machine as NVML tells of them: identities, memory, holders. On a machine that the
tests make up.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pynvml
import pytest
from made_up_nvml import GIB, H200_BYTES, A, B, Board, machine

from batchr1.errors import JobError
from batchr1.sizing.devices import (
    Holder,
    choose_devices,
    describe_devices,
    foreign_maker,
    holders_of,
)
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.nvml import Pynvml

SLICE = Board("MIG-cccc3333-0000", name="NVIDIA H200 MIG 3g.71gb", total=70 * GIB, free=69 * GIB)


@pytest.mark.parametrize(
    ("id_", "name"),
    [
        ("0", "H200"),
        ("1", "RTX 4090"),
        ("GPU-bbbb2222-0000", "RTX 4090"),
        ("GPU-a", "H200"),
        ("MIG-cccc3333-0000", "H200 MIG 3g.71gb"),
    ],
)
def test_an_entry_of_cuda_visible_devices_is_found(id_: str, name: str) -> None:
    (device,) = describe_devices((id_,), nvml=machine(A, B, SLICE))
    assert (device.id, device.gpu.name) == (id_, name)


@pytest.mark.parametrize("id_", ["2", "GPU-", "GPU-ffff", "MIG-ffff"])
def test_an_entry_that_names_no_gpu_or_several_is_refused(id_: str) -> None:
    with pytest.raises(JobError) as caught:
        describe_devices((id_,), nvml=machine(A, B))
    assert str(caught.value) == (
        f"GPU {id_}: NVML knows no such GPU (got {id_!r}, need an index below 2, or a UUID). "
        "Correct CUDA_VISIBLE_DEVICES or --devices."
    )


def test_a_catalogued_gpu_keeps_its_datasheet_and_gets_its_own_memory() -> None:
    """Two boards of one name differ by error correction and driver; what is there now counts."""
    (device,) = describe_devices(
        ("0",), nvml=machine(dataclasses.replace(A, total=H200_BYTES - GIB))
    )
    assert device.gpu == dataclasses.replace(GPUS["H200"], memory_gib=(H200_BYTES - GIB) / GIB)
    assert device.free_gib == (H200_BYTES - GIB // 2) / GIB


def test_a_gpu_that_is_not_catalogued_is_made_of_what_nvml_says() -> None:
    """RTX 5880 Ada: 384 bits at 10,001 MHz, two transfers a clock, so 960 GB/s."""
    board = Board(
        "GPU-d", "NVIDIA RTX 5880 Ada Generation", 48 * GIB, 47 * GIB, (8, 9), (384, 10_001)
    )
    (device,) = describe_devices(("0",), nvml=machine(board))
    assert (device.gpu.name, device.gpu.memory_gib, device.gpu.capability) == (
        "RTX 5880 Ada Generation",
        48,
        (8, 9),
    )
    assert device.gpu.bandwidth_gb_s == pytest.approx(960, abs=0.2)
    assert device.gpu.bf16_tflops > 0
    assert (device.gpu.fp8, device.gpu.bf16) == (True, True)
    (old,) = describe_devices(
        ("0",), nvml=machine(dataclasses.replace(board, capability=(7, 5), bus=None))
    )
    assert (old.gpu.bandwidth_gb_s, old.gpu.fp8, old.gpu.bf16) == (0.0, False, False)


def test_the_bandwidth_of_an_instance_is_not_guessed_from_the_whole_gpu() -> None:
    (device,) = describe_devices((SLICE.uuid,), nvml=machine(A, SLICE))
    assert (device.gpu.memory_gib, device.free_gib, device.gpu.bandwidth_gb_s) == (70, 69, 0.0)


def process(proc: Path, pid: int, name: str, *links: str) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(name + "\n")
    for number, link in enumerate(links):
        (folder / "fd" / str(number)).symlink_to(link)


def test_holders_are_named_where_they_can_be_seen(tmp_path: Path) -> None:
    """The largest first. A number that means another process here (a container's) gets no name."""
    process(tmp_path, 100, "python3", "/dev/null", "/dev/nvidia0")
    process(tmp_path, 200, "bash", "/dev/null")
    board = dataclasses.replace(
        A, free=GIB, processes=[(100, 10 * GIB), (200, 60 * GIB), (300, GIB)]
    )
    (device,) = describe_devices(("0",), nvml=machine(board), proc=tmp_path)
    assert device.holders == (
        Holder(200, None, 60),
        Holder(100, "python3", 10),
        Holder(300, None, 1),
    )
    assert holders_of("0", nvml=machine(board), proc=tmp_path) == device.holders


def test_what_nobody_else_holds_is_held_by_the_only_process_that_nvml_gives_no_figure_for(
    tmp_path: Path,
) -> None:
    board = dataclasses.replace(
        A, total=100 * GIB, free=30 * GIB, processes=[(1, 20 * GIB), (2, None)]
    )
    assert holders_of("0", nvml=machine(board), proc=tmp_path) == (
        Holder(2, None, 50),
        Holder(1, None, 20),
    )
    board = dataclasses.replace(board, processes=[(1, None), (2, None)])
    assert holders_of("0", nvml=machine(board), proc=tmp_path) == (
        Holder(1, None, 0),
        Holder(2, None, 0),
    )


def test_without_nvml_there_are_no_holders_and_no_description() -> None:
    """On the machine that runs this: real NVML, where there is none."""
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has NVIDIA's driver")
    assert holders_of("0") == ()
    with pytest.raises(
        JobError,
        match=r"^--gpus: GPUs cannot be looked at \(got .*, need NVIDIA's driver\)\. Install it, ",
    ):
        describe_devices(("0",))


def test_all_that_the_adapter_calls_is_there() -> None:
    """The binding has no types: a misspelt function would only show on a machine with a GPU."""
    names = {
        n
        for f in vars(Pynvml).values()
        if callable(f)
        for n in f.__code__.co_names
        if n.lower().startswith("nvml")
    }
    assert {"nvmlDeviceGetMemoryInfo", "nvmlMemory_v2", "NVMLError"} <= names
    assert [n for n in sorted(names) if not hasattr(pynvml, n)] == []


@pytest.mark.parametrize(
    ("path", "system", "machine_name", "maker"),
    [
        ("opt/rocm", "linux", "x86_64", "AMD"),
        ("dev/kfd", "linux", "x86_64", "AMD"),
        ("opt/cuda", "linux", "x86_64", None),
        ("opt/cuda", "darwin", "arm64", "Apple"),
        ("opt/cuda", "darwin", "x86_64", None),
    ],
)
def test_machines_of_other_makers_are_recognised(
    path: str, system: str, machine_name: str, maker: str | None, tmp_path: Path
) -> None:
    (tmp_path / path).mkdir(parents=True)
    assert foreign_maker(tmp_path, system, machine_name) == maker


@pytest.mark.parametrize(
    ("gpus", "devices", "option"),
    [("2", None, "--gpus"), ("all", None, "--gpus"), (None, ("0",), "--devices")],
)
def test_gpus_that_are_asked_for_on_another_makers_machine_are_refused_for_what_they_are(
    gpus: str | None, devices: tuple[str, ...] | None, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(JobError) as caught:
        choose_devices(gpus, devices, foreign=lambda: "AMD")
    assert str(caught.value) == (
        f"{option}: AMD GPUs are not supported (found no NVIDIA GPU on this machine). Use an "
        "NVIDIA GPU, such as RTX 4090 or H200; small models also run on the CPU (--gpus none)."
    )
    assert choose_devices(None, None, foreign=lambda: "AMD") == ()
    assert choose_devices("none", None, foreign=lambda: "AMD") == ()


def test_an_nvidia_gpu_beside_another_makers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert choose_devices("all", None, foreign=lambda: "AMD") == ("0", "1")
