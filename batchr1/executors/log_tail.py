"""Output of a process and its subprocesses, copied to the run's log.

The last lines are kept. The cause of a failed engine is often nowhere else: vLLM's EngineCore
prints it and says "initialization failed" to its parent. The reader sits in the worker's parent, so
that a worker's last words survive its death.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Iterable
from typing import Protocol

KEPT_LINES = 400
LINE_BYTES = 4000  # of each line: a progress bar can be one long line
_CHUNK = 65536
# How vLLM warns that it takes a slower way than it could, and the head of its lines.
_SLOWER = re.compile(
    r"fall(s|ing)? back|slower|sub-?optimal|degrad|not (fully )?optimi[sz]ed", re.I
)
# vLLM 0.26 to 0.33 says so after tuning, where no operation of the model had anything to tune.
_NOTHING_TO_TUNE = "No FlashInfer autotune cache entries found."
_HEAD = re.compile(r"^(\([^)]*\) )?WARNING \S+ \S+ \[[^\]]*\] ")


class Log(Protocol):
    """Takes what workers print."""

    def write(self, data: bytes, /) -> object: ...

    def close(self) -> None: ...


class LogTail:
    """Pipe with writing end `fd`, read by a thread to its end."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hand_over(self) -> None:
        """Close our writing end, once a process has it."""
        os.close(self.fd)

    def start(self, log: Log, *, name: str) -> None:
        """Begin to read, in a thread of this name, into `log`."""
        self._thread = threading.Thread(target=self._read, args=(log,), name=name, daemon=True)
        self._thread.start()

    def discard(self) -> None:
        """Drop a pipe that nobody reads."""
        os.close(self._read_fd)

    def forget(self) -> None:
        """Drop the lines that came so far; the log keeps them."""
        with self._lock:
            self._lines.clear()

    def last_lines(self, timeout_s: float = 0.0) -> tuple[str, ...]:
        """Give the last lines, once output has ended or time is over."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._lock:
            return tuple(
                line.decode(errors="replace") for line in (*self._lines, self._rest) if line
            )

    def _read(self, log: Log) -> None:
        while chunk := os.read(self._read_fd, _CHUNK):
            # A full disk, or a log that is closed because the run is over, must not stop the
            # reading: whoever prints into a full pipe would stand still.
            with contextlib.suppress(OSError, ValueError):
                log.write(chunk)
            *lines, rest = (self._rest + chunk).split(b"\n")
            with self._lock:
                self._lines.extend(line[:LINE_BYTES] for line in lines)
                self._rest = rest[:LINE_BYTES]
        os.close(self._read_fd)


def slower_ways(lines: Iterable[str]) -> tuple[str, ...]:
    """Pick vLLM's warnings of a slower way, each once."""
    warned = (_HEAD.sub("", line).strip() for line in lines if _HEAD.match(line))
    slower = (text for text in warned if _SLOWER.search(text))
    return tuple(dict.fromkeys(text for text in slower if not text.startswith(_NOTHING_TO_TUNE)))
