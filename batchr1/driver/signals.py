"""SIGINT and SIGTERM: the first one stops, the second one kills.

Before the driver looks for them, a signal breaks off what the main thread is doing. Python answers
signals between its own instructions only, and decoding or tokenizing may take long without one. So
a thread of its own hears of them, too, and ends the process when the time of grace is over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from batchr1.errors import InterruptedRun
from batchr1.storage.errors import set_leaving

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 20.0
"""Seconds for saving and committing after a signal, unless `--grace` says another number."""


class StopSignals:
    """The signals so far. `reason` is set by the first one.

    Until `is_polled` is set, that signal also breaks off what the main thread is doing. After that,
    the driver looks at `reason`.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.reason: str | None = None
        self.is_polled = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. A second one ends the process and its workers."""
        if self.reason is not None:
            os._exit(InterruptedRun.exit_code)
        self.reason = f"received {signal.Signals(number).name}"
        set_leaving(True)
        if not self.is_polled:
            raise KeyboardInterrupt  # passes every `except Exception` on its way out
        if not self.quiet:
            print(
                "stopping: finished rows are being written; once more to leave at once",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def stop_signals(*, quiet: bool = False, grace_s: float | None = None) -> Iterator[StopSignals]:
    """Take over both signals; `quiet`: only the log says so.

    Raises `InterruptedRun` when one comes before `is_polled` is set. Ends the process where that
    cannot be raised within `grace_s`.
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
        with _watched(signals, GRACE_S if grace_s is None else grace_s):
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


@contextlib.contextmanager
def _watched(signals: StopSignals, grace_s: float) -> Iterator[None]:
    """Have a thread end the process if a signal is not answered."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    previous = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(
        target=_watch, args=(reading, signals, grace_s), name="signals", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writing.close()
        watcher.join()
        reading.close()


def _watch(reading: socket.socket, signals: StopSignals, grace_s: float) -> None:
    """Wait for a signal and its answer, until the end is closed."""
    first: int | None = None
    while True:
        try:
            heard = reading.recv(64)
        except TimeoutError:
            if first is not None and not signals.is_polled:
                _leave(first, f"within {grace_s:g} s", quiet=signals.quiet)
            return
        if not heard:
            return
        for number in (number for number in heard if number in _NUMBERS):
            if first is not None and not signals.is_polled:
                _leave(first, "before the next one", quiet=signals.quiet)
            first = number
            reading.settimeout(grace_s)


def _leave(number: int, when: str, *, quiet: bool) -> None:
    """End the process.

    Nothing is lost: no row was begun, and a lock is seen to be nobody's.
    """
    name = signal.Signals(number).name
    said = f"batchr1: {name} could not be answered {when}: left. Run the same command again.\n"
    if not quiet:
        os.write(2, said.encode())
    os._exit(InterruptedRun.exit_code)
