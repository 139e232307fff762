"""SIGINT and SIGTERM: the first stops a run, the second ends it.

A stop saves and leaves in good order; the end is immediate.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from batchr1.errors import InterruptedRun
from batchr1.storage.errors import set_leaving

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Signals so far; the first one sets `reason`.

    Until `is_polled` is set, that signal also interrupts the main thread. After that, it is left to
    whoever reads `reason`.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self.reason: str | None = None
        self.is_polled = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second one ends the process and its workers."""
        if self.reason is not None:
            os._exit(InterruptedRun.exit_code)
        self.reason = f"received {signal.Signals(number).name}"
        if not self.is_polled:
            raise KeyboardInterrupt  # passes every `except Exception` on its way out
        set_leaving(True)
        if not self._quiet:
            print(
                "stopping: finished rows are being written; once more to leave at once",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def stop_signals(*, quiet: bool = False) -> Iterator[StopSignals]:
    """Take over both signals; `quiet`: only the log says so.

    Raises `InterruptedRun` when one comes before `is_polled` is set.
    """
    signals = StopSignals(quiet=quiet)
    if threading.current_thread() is not threading.main_thread():
        try:
            yield signals
        finally:
            set_leaving(False)
        return
    previous = {number: signal.signal(number, signals.on_signal) for number in _NUMBERS}
    try:
        yield signals
    except KeyboardInterrupt as exc:
        if signals.reason is None:
            raise
        raise InterruptedRun(
            f"{signals.reason} before the first row was begun. Run the same command again."
        ) from exc
    finally:
        set_leaving(False)
        for number, handler in previous.items():
            signal.signal(number, handler)
