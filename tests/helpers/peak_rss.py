"""Peak of a process's resident memory, from a moment on."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOST_MIB = 500  # above normal, whatever a peer sends


def forget_peak() -> None:
    """Set back this process's high-water mark, which also counts as its next child's."""
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def at_most_above(mib: int = MOST_MIB) -> Iterator[None]:
    """Assert that this process never holds so much more than at the beginning.

    The kernel's high-water mark is set back first: what earlier tests took does not hide a peak.
    """
    forget_peak()
    before = _mib("self", "VmRSS")
    yield
    more = _mib("self", "VmHWM") - before
    assert more <= mib, f"{more} MiB more than before"


class Peaks(threading.Thread):
    """Watches what processes hold at most, until it is over; of those that `pids` names."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        super().__init__(daemon=True)
        self._pids, self._peaks = pids, dict[int, int]()
        self.over = threading.Event()

    @property
    def mib(self) -> int:
        """Sum of the peaks, which need not have been at one time."""
        return sum(self._peaks.values())

    def run(self) -> None:
        while not self.over.wait(0.02):
            for pid in self._pids():
                with suppress(OSError, AssertionError):  # it ended meanwhile
                    self._peaks[pid] = _mib(str(pid), "VmHWM")


def _mib(pid: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) // 1024
