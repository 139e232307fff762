"""An NVML that answers for GPUs which the tests make up."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from batchr1.sizing.nvml import Nvml

GIB = 2**30
H200_BYTES = 150_123_053_056  # 139.8 GiB


@dataclasses.dataclass
class Board:
    """A GPU or a MIG instance as the made-up NVML knows it."""

    uuid: str
    name: str = "NVIDIA H200"
    total: int = H200_BYTES
    free: int = H200_BYTES - GIB // 2
    capability: tuple[int, int] = (9, 0)
    bus: tuple[int, int] | None = (6144, 3201)
    processes: list[tuple[int, int | None]] = dataclasses.field(default_factory=list)


class MadeUpNvml:
    """Answers as NVML does: indices count whole GPUs, UUIDs name GPUs and instances, what is not
    there is an error.
    """

    def __init__(self, *boards: Board) -> None:
        self.gpus = [b for b in boards if not b.uuid.startswith("MIG-")]
        self.boards = {b.uuid: b for b in boards}

    def count(self) -> int:
        return len(self.gpus)

    def by_index(self, index: int) -> Any:
        if index >= len(self.gpus):
            raise LookupError("Invalid Argument")
        return self.gpus[index]

    def by_uuid(self, uuid: str) -> Any:
        if uuid not in self.boards:
            raise LookupError("Not Found")
        return self.boards[uuid]

    def uuid(self, handle: Any) -> str:
        return str(handle.uuid)

    def name(self, handle: Any) -> str:
        return str(handle.name)

    def memory(self, handle: Any) -> tuple[int, int]:
        return handle.total, handle.free

    def capability(self, handle: Any) -> tuple[int, int]:
        major, minor = handle.capability
        return major, minor

    def memory_bus(self, handle: Any) -> tuple[int, int] | None:
        bus: tuple[int, int] | None = handle.bus
        return bus

    def processes(self, handle: Any) -> list[tuple[int, int | None]]:
        return list(handle.processes)


def machine(*boards: Board) -> Callable[[], contextlib.AbstractContextManager[Nvml]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Nvml]:
        yield MadeUpNvml(*boards)

    return opened


A, B = (
    Board("GPU-aaaa1111-0000"),
    Board("GPU-bbbb2222-0000", name="NVIDIA GeForce RTX 4090", total=24 * GIB, bus=None),
)
