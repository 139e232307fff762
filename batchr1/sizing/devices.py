"""GPUs that a run may use, with whoever holds their memory."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchr1.errors import JobError
from batchr1.sizing.gpus import (
    BF16_CAPABILITY,
    FP8_CAPABILITY,
    INSTEAD,
    Gpu,
    known_gpu,
    not_supported,
)
from batchr1.sizing.nvml import Nvml, open_nvml

GIB = 2**30

# What a GPU that is not catalogued multiplies, in FLOP per byte that it reads: an assumption, a
# little below the lowest of the catalogue (RTX 3090: 71 TFLOPS at 936 GB/s).
FLOP_PER_BYTE = 75

OpenNvml = Callable[[], AbstractContextManager[Nvml]]


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a GPU.

    `name` None: not visible from here, or not certainly the same process.

    `memory_gib` 0 where NVML does not tell.
    """

    pid: int
    name: str | None
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG instance.

    `id` as CUDA_VISIBLE_DEVICES wants it, on its machine; `node` counts machines.
    """

    id: str
    gpu: Gpu
    free_gib: float
    holders: tuple[Holder, ...] = ()
    node: int = 0


def foreign_maker(
    root: Path = Path("/"), system: str = sys.platform, machine: str = platform.machine()
) -> str | None:
    """Name another maker: AMD with its ROCm driver, Apple; else None."""
    if system == "darwin" and machine == "arm64":
        return "Apple"
    return "AMD" if (root / "opt/rocm").exists() or (root / "dev/kfd").exists() else None


def choose_devices(
    gpus: str | None,
    devices: tuple[str, ...] | None,
    *,
    foreign: Callable[[], str | None] = foreign_maker,
) -> tuple[str, ...]:
    """Choose the ids of GPUs, as CUDA_VISIBLE_DEVICES wants them.

    Empty: the CPU. `gpus`: a number, "all" or "none"; None means all there are. `devices` names
    them one by one instead. Raises `JobError` for GPUs that are not there, and says so where the
    machine's own are of another maker (`foreign`).
    """
    if devices is not None and gpus is not None:
        raise JobError("--devices: cannot be given together with --gpus. Give one of them.")
    if gpus == "none":
        return ()
    found = visible_devices()
    if not found and (gpus is not None or devices is not None) and (maker := foreign()):
        option = "--gpus" if gpus is not None else "--devices"
        raise JobError(
            f"{option}: {not_supported(maker)} (found no NVIDIA GPU on this machine). {INSTEAD}"
        )
    if devices is not None:
        missing = [d for d in devices if d not in found]
        if missing:
            raise JobError(
                f"--devices: there is no such GPU (got {missing[0]}, found "
                f"{', '.join(found) or 'none'}). "
                f"Give {'some of these' if found else '--gpus none'}."
            )
        if len(set(devices)) < len(devices) or not devices:
            given = ",".join(devices)
            raise JobError(
                f"--devices: not a list of GPUs (got {given!r}, need each once, such as 0,1). "
                f"Correct it."
            )
        return devices
    if gpus in (None, "all"):
        return found
    if not str(gpus).isdecimal() or int(str(gpus)) == 0:
        raise JobError(
            f"--gpus: not a number of GPUs (got {gpus!r}, need 1 or more, all or none). Correct it."
        )
    if int(str(gpus)) > len(found):
        most = len(found) or "none"
        raise JobError(
            f"--gpus: not so many GPUs here (got {gpus}, found {len(found)}). Give --gpus {most}."
        )
    return found[: int(str(gpus))]


def visible_devices() -> tuple[str, ...]:
    """List the ids of NVIDIA GPUs that this process sees.

    None of them without a driver.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(d.strip() for d in named.split(",") if d.strip() and d.strip() != "-1")
    try:
        with open_nvml() as nvml:
            return tuple(str(i) for i in range(nvml.count()))
    except JobError:  # no driver, or nothing to ask it with
        folder = Path("/proc/driver/nvidia/gpus")
        return tuple(str(i) for i, _ in enumerate(folder.iterdir())) if folder.is_dir() else ()


def describe_devices(
    ids: tuple[str, ...], *, nvml: OpenNvml = open_nvml, proc: Path = Path("/proc")
) -> tuple[Device, ...]:
    """Describe GPUs: model, free memory, and its holders, now.

    Memory is NVML's own figure, also for catalogued GPUs: it is right for MIG instances and boards
    with error correction on or off. Raises `JobError` when an id is not a GPU of this machine or
    NVML cannot be used.
    """
    with nvml() as asked:
        return tuple(_describe(asked, id_, proc) for id_ in ids)


def holders_of(
    id: str, *, nvml: OpenNvml = open_nvml, proc: Path = Path("/proc")
) -> tuple[Holder, ...]:
    """List the processes that hold a GPU's memory, largest first.

    This one included; () when NVML cannot say.
    """
    try:
        with nvml() as asked:
            handle = _handle(asked, id)
            return _holders(asked, handle, proc)
    except JobError:
        return ()


def _describe(nvml: Nvml, id_: str, proc: Path) -> Device:
    handle = _handle(nvml, id_)
    total, free = nvml.memory(handle)
    name = nvml.name(handle)
    is_instance = nvml.uuid(handle).startswith("MIG-") or " MIG " in f" {name} "
    known = None if is_instance else known_gpu(name)
    if known is None:
        known = _unknown_gpu(nvml, handle, name, total / GIB, is_instance)
    return Device(
        id_, replace(known, memory_gib=total / GIB), free / GIB, _holders(nvml, handle, proc)
    )


def _unknown_gpu(nvml: Nvml, handle: Any, name: str, memory_gib: float, is_instance: bool) -> Gpu:
    """Make one of what NVML says.

    Bandwidth: two transfers per memory clock over the bus; not told for a MIG instance,
    which has a share of it."""
    bus = None if is_instance else nvml.memory_bus(handle)
    bandwidth_gb_s = 0.0 if bus is None else 2 * bus[1] * 1e6 * bus[0] / 8 / 1e9
    capability = nvml.capability(handle)
    return Gpu(
        name.removeprefix("NVIDIA ").removeprefix("GeForce "),
        memory_gib,
        round(bandwidth_gb_s, 1),
        capability,
        round(bandwidth_gb_s * FLOP_PER_BYTE / 1e3, 1),
        capability >= FP8_CAPABILITY,
        capability >= BF16_CAPABILITY,
    )


def _handle(nvml: Nvml, id_: str) -> Any:
    """Find NVML's handle for an entry of CUDA_VISIBLE_DEVICES.

    An index, a UUID or its beginning, or a MIG instance.
    """
    with contextlib.suppress(LookupError):
        if id_.isdecimal():
            return nvml.by_index(int(id_))
        if id_.startswith("MIG-"):
            return nvml.by_uuid(id_)
        handles = [nvml.by_index(i) for i in range(nvml.count())]
        matching = [h for h in handles if nvml.uuid(h).startswith(id_)]
        if len(matching) == 1:
            return matching[0]
    raise JobError(
        f"GPU {id_}: NVML knows no such GPU (got {id_!r}, need an index below {nvml.count()}, or "
        f"a UUID). "
        "Correct CUDA_VISIBLE_DEVICES or --devices."
    )


def _holders(nvml: Nvml, handle: Any, proc: Path) -> tuple[Holder, ...]:
    processes = nvml.processes(handle)
    total, free = nvml.memory(handle)
    untold = [pid for pid, held in processes if held is None]
    rest = max(0, total - free - sum(held or 0 for _, held in processes))
    holders = []
    for pid, held in processes:
        if held is None:  # with a single such process, what nobody else holds is its
            held = rest if len(untold) == 1 else 0
        holders.append(Holder(pid, _process_name(pid, proc), held / GIB))
    return tuple(sorted(holders, key=lambda h: (-h.memory_gib, h.pid)))


def _process_name(pid: int, proc: Path) -> str | None:
    """Give a process's short name.

    In a container NVML may give the host's numbers, which mean other processes here: where
    the open files can be read and none is a GPU's, it is another one."""
    try:
        name = (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    try:
        files = list((proc / str(pid) / "fd").iterdir())
    except OSError:  # another user's: no reason to doubt
        return name or None
    return (name or None) if any(_is_gpu(file) for file in files) else None


def _is_gpu(file: Path) -> bool:
    try:
        return str(file.readlink()).startswith("/dev/nvidia")
    except OSError:  # closed meanwhile
        return False
