"""Lines on stderr while a run prepares.

A stage that is over within a second is not worth a line, in a log within ten.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

SHOWN_AFTER_S = 1.0  # on a terminal
LOGGED_AFTER_S = 10.0


class Stages:
    """Stages of a run before its progress shows.

    The next one ends the one before.
    """

    def __init__(self, *, is_shown: bool, stream: TextIO | None = None) -> None:
        self._is_shown = is_shown
        self._stream = stream or sys.stderr
        self._began = time.monotonic()
        self._timer: threading.Timer | None = None

    def begin(self, what: str) -> None:
        """Begin a stage, such as "reading the input"."""
        self.end()
        if self._is_shown:
            at_s = time.monotonic() - self._began
            after_s = SHOWN_AFTER_S if self._stream.isatty() else LOGGED_AFTER_S
            self._timer = threading.Timer(after_s, self._say, (what, at_s))
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """End the stage; nothing of it is said any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def _say(self, what: str, at_s: float) -> None:
        if not self._stream.closed:
            print(f"{at_s:5.1f} s  {what}", file=self._stream, flush=True)
