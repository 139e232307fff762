"""Bounds on the cost of prompts and templates."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MAX_PROMPT_CHARS = 2**21
"""Characters of a prompt, at most: half a million tokens. A longer one fails as a row, unread."""
ENCODE_CHARS = 2**20
"""Characters that a tokenizer is given at a time: no signal is answered meanwhile."""
TEMPLATE_S = 10.0
"""Seconds that a chat template may take for a short message."""
TEMPLATE_BYTES = 2**30
"""Memory that it may take, beside what the process has."""


class TooMuchError(Exception):
    """The block took longer, or more memory, than it may."""


@contextlib.contextmanager
def bounded(seconds: float = TEMPLATE_S, memory: int = TEMPLATE_BYTES) -> Iterator[None]:
    """Raise `TooMuchError` where the block takes longer or more memory.

    Only on the main thread, whose Python a signal can break off; elsewhere nothing is bounded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooMuchError(f"it took longer than {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + memory
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except MemoryError as exc:
        raise TooMuchError(f"it took more than {memory // 2**20:,} MiB") from exc
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def _address_space() -> int:
    """Bytes of address space that this process has."""
    try:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: then only time is bounded
        return 2**50
