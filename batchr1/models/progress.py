"""Progress of a fetch on stderr.

A tqdm bar on a terminal, else a line every 30 s.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from batchr1.models.files import size_text

LINE_EVERY_S = 30.0


class Meter:
    """Counter of bytes, from any thread (a `transfer.Listener`).

    `tick` shows them, from one thread. `say` takes lines instead of stderr, and there is no bar.
    """

    def __init__(
        self, total: int, say: Callable[[str], None] | None = None, stream: TextIO | None = None
    ) -> None:
        self._total = total
        self._say = say
        self._stream = stream or sys.stderr
        self._counting = threading.Lock()
        self._here = self.fetched = 0
        """Bytes that came over the network, those of files that came in vain included."""
        self._said_at, self._said = time.monotonic(), 0
        self._bar = (
            tqdm(total=total, unit="B", unit_scale=True, file=self._stream, dynamic_ncols=True)
            if self._stream.isatty() and say is None
            else None
        )

    def kept(self, count: int) -> None:
        with self._counting:
            self._here += count

    def received(self, count: int) -> None:
        with self._counting:
            self._here += count
            self.fetched += count

    @property
    def text(self) -> str:
        """Bytes so far, of all."""
        return f"{size_text(self._here)} of {size_text(self._total)}"

    def say(self, line: str) -> None:
        if self._say is not None:
            self._say(line)
        elif self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def tick(self) -> None:
        """Show the progress; to be called a few times a second."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.n = min(self._here, self._total)
            self._bar.refresh()
        elif now - self._said_at >= LINE_EVERY_S:
            rate = (self.fetched - self._said) / (now - self._said_at)
            self._said_at, self._said = now, self.fetched
            self.say(f"{self.text}, {size_text(rate)}/s" + self._eta(rate))

    def _eta(self, rate: float) -> str:
        if rate <= 0:
            return ""
        minutes, seconds = divmod(int((self._total - self._here) / rate), 60)
        return f", ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
