"""Machine that a plan is for: this one, or a named one.

A named one may be elsewhere.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from batchr1.errors import UsageError
from batchr1.sizing.devices import Device, describe_devices
from batchr1.sizing.gpus import Gpu, gpu_named

GIB = 2**30
NODE_GPUS = 8  # of a machine that is not here to be asked


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine or several.

    Without GPUs it is a CPU's: `ram_gib` is what is free, shared by `cpu_replicas` engines.

    `cpus_per_replica`: what each takes of a cluster's nodes.
    """

    devices: tuple[Device, ...] = ()
    ram_gib: float = 0.0
    cpu_replicas: int = 1
    cpus_per_replica: int | None = None


def this_machine(ids: tuple[str, ...], *, cpu_replicas: int = 1) -> Machine:
    """Describe the GPUs with these ids, or the CPU.

    With the memory that is free on them.
    """
    if ids:
        return Machine(describe_devices(ids))
    return Machine(ram_gib=free_ram_gib(), cpu_replicas=cpu_replicas)


def named_machine(gpu: str | None, *, vram_gib: float | None = None, count: int = 1) -> Machine:
    """Describe `count` GPUs that need not be here.

    Of the catalogue by name, or any with so much memory (bandwidth unknown).
    """
    if gpu is not None:
        found = gpu_named(gpu)
    elif vram_gib is not None and 0 < vram_gib < math.inf:
        found = Gpu(f"GPU with {vram_gib:g} GiB", vram_gib, 0.0, (8, 0), 0.0, fp8=False, bf16=True)
    else:
        raise UsageError(
            f"--vram: not an amount of memory (got {vram_gib}, need GiB, such as 24). Correct it."
        )
    return Machine(
        tuple(Device(str(i), found, found.memory_gib, node=i // NODE_GPUS) for i in range(count))
    )


def free_ram_gib() -> float:
    """Measure the memory that a new process may take.

    What the kernel calls available, within this container's limit.
    """
    available = float("inf")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    if available == float("inf"):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            available = min(available, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return max(0.0, available) / GIB
