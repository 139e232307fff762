"""Questions to NVML, NVIDIA's management library.

Loaded when it is asked. `Nvml` is all that the rest needs, so that tests can put another machine in
its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from batchr1.errors import JobError


class Nvml(Protocol):
    """Questions about GPUs.

    A handle is NVML's; a handle of a MIG instance answers for that instance.
    """

    def count(self) -> int:
        """GPUs of the machine."""

    def by_index(self, index: int) -> Any:
        """Find the GPU with this index.

        In the order of the PCI bus. LookupError: there is none.
        """

    def by_uuid(self, uuid: str) -> Any:
        """Find a GPU ("GPU-…") or MIG instance ("MIG-…").

        Raises `LookupError` where there is none.
        """

    def uuid(self, handle: Any) -> str: ...

    def name(self, handle: Any) -> str: ...

    def memory(self, handle: Any) -> tuple[int, int]:
        """Read total and free memory, in bytes.

        The total is without the driver's share, as CUDA reports it.
        """

    def capability(self, handle: Any) -> tuple[int, int]: ...

    def memory_bus(self, handle: Any) -> tuple[int, int] | None:
        """Read the width in bits and highest clock in MHz.

        None where NVML does not say.
        """

    def processes(self, handle: Any) -> list[tuple[int, int | None]]:
        """List the processes that compute or draw on the GPU.

        Each is (process id, bytes held or None).
        """


@contextlib.contextmanager
def open_nvml() -> Iterator[Nvml]:
    """Open NVML of this machine.

    Raises `JobError` where there is no driver or no binding for it.
    """
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as exc:
        raise JobError(
            "--gpus: GPUs cannot be looked at (got no module pynvml, need nvidia-ml-py). "
            "Install nvidia-ml-py, or give --gpus none."
        ) from exc
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        raise JobError(
            f"--gpus: GPUs cannot be looked at (got {exc}, need NVIDIA's driver). Install it, "
            f"or "
            f"give --gpus none."
        ) from exc
    try:
        yield Pynvml(pynvml)
    except pynvml.NVMLError as exc:
        raise JobError(
            f"--gpus: NVIDIA's driver does not answer (got {exc}). Look at nvidia-smi."
        ) from exc
    finally:
        pynvml.nvmlShutdown()


class Pynvml:
    """`Nvml` by the package nvidia-ml-py.

    What a GPU does not answer becomes None or an empty list.
    """

    def __init__(self, pynvml: Any) -> None:
        self._nvml = pynvml

    def count(self) -> int:
        return int(self._nvml.nvmlDeviceGetCount())

    def by_index(self, index: int) -> Any:
        try:
            return self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as exc:
            raise LookupError(str(exc)) from exc

    def by_uuid(self, uuid: str) -> Any:
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError as exc:
            raise LookupError(str(exc)) from exc

    def uuid(self, handle: Any) -> str:
        return str(self._nvml.nvmlDeviceGetUUID(handle))

    def name(self, handle: Any) -> str:
        return str(self._nvml.nvmlDeviceGetName(handle))

    def memory(self, handle: Any) -> tuple[int, int]:
        try:  # version 2 tells the driver's share apart
            info = self._nvml.nvmlDeviceGetMemoryInfo(handle, version=self._nvml.nvmlMemory_v2)
            return int(info.total - info.reserved), int(info.free)
        except self._nvml.NVMLError:  # old drivers
            info = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            return int(info.total), int(info.free)

    def capability(self, handle: Any) -> tuple[int, int]:
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return int(major), int(minor)

    def memory_bus(self, handle: Any) -> tuple[int, int] | None:
        try:
            width = int(self._nvml.nvmlDeviceGetMemoryBusWidth(handle))
            return width, int(
                self._nvml.nvmlDeviceGetMaxClockInfo(handle, self._nvml.NVML_CLOCK_MEM)
            )
        except self._nvml.NVMLError:
            return None

    def processes(self, handle: Any) -> list[tuple[int, int | None]]:
        found: dict[int, int | None] = {}
        for ask in (
            self._nvml.nvmlDeviceGetComputeRunningProcesses,
            self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            try:
                processes = ask(handle)
            except self._nvml.NVMLError:
                continue
            for process in processes:
                held = process.usedGpuMemory
                found[int(process.pid)] = None if held is None else int(held)
        return list(found.items())
