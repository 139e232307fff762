"""Which GPUs a run may use: those of the machine, fewer of them, some of them, or none."""

from __future__ import annotations

import os

from batchr1.errors import JobError


def choose_devices(gpus: str | None, devices: tuple[str, ...] | None) -> tuple[str, ...]:
    """Ids of the GPUs to use, as CUDA_VISIBLE_DEVICES wants them; empty: the CPU.

    `gpus`: a number, "all" or "none"; None means all there are. `devices` names them one by one instead.
    """
    if devices is not None and gpus is not None:
        raise JobError("--devices: cannot be given together with --gpus. Give one of them.")
    if gpus == "none":
        return ()
    found = visible_devices()
    if devices is not None:
        missing = [d for d in devices if d not in found]
        if missing:
            raise JobError(
                f"--devices: there is no such GPU (got {missing[0]}, found {', '.join(found) or 'none'}). "
                f"Give {'some of these' if found else '--gpus none'}."
            )
        if len(set(devices)) < len(devices) or not devices:
            given = ",".join(devices)
            raise JobError(f"--devices: not a list of GPUs (got {given!r}, need each once, such as 0,1). Correct it.")
        return devices
    if gpus in (None, "all"):
        return found
    if not str(gpus).isdecimal() or int(str(gpus)) == 0:
        raise JobError(f"--gpus: not a number of GPUs (got {gpus!r}, need 1 or more, all or none). Correct it.")
    if int(str(gpus)) > len(found):
        most = len(found) or "none"
        raise JobError(f"--gpus: not so many GPUs here (got {gpus}, found {len(found)}). Give --gpus {most}.")
    return found[: int(str(gpus))]


def visible_devices() -> tuple[str, ...]:
    """Ids of the NVIDIA GPUs that this process may see; none when there is no driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(d.strip() for d in named.split(",") if d.strip() and d.strip() != "-1")
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _from_proc()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(str(i) for i in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _from_proc() -> tuple[str, ...]:
    """Without NVML's Python package: what the driver lists."""
    folder = "/proc/driver/nvidia/gpus"
    return tuple(str(i) for i in range(len(os.listdir(folder)))) if os.path.isdir(folder) else ()  # noqa: PTH208, PTH112
