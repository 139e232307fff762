"""What a fetch says while it runs, on stderr: a tqdm bar on a terminal, a plain line every 30 s elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from tqdm import tqdm

from batchr1.models.files import size_text

LINE_EVERY_S = 30.0
RATE_OVER_S = 20.0


class Meter:
    """Counts bytes from any thread (`transfer.Listener`); `tick` shows them, from one."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._counting = threading.Lock()
        self._here = self.fetched = 0
        """Bytes that came over the network, those of files that came in vain included."""
        self._said_at = time.monotonic()
        self._history = [(self._said_at, 0)]
        self._bar = (
            tqdm(total=total, unit="B", unit_scale=True, file=self._stream, dynamic_ncols=True)
            if self._stream.isatty()
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
        """How much is here."""
        return f"{size_text(self._here)} of {size_text(self._total)}"

    def say(self, line: str) -> None:
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.write(line, file=self._stream)

    def tick(self) -> None:
        """Call a few times a second."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.n = min(self._here, self._total)
            self._bar.refresh()
        elif now - self._said_at >= LINE_EVERY_S:
            self._said_at = now
            self._history = [*(then for then in self._history if now - then[0] <= RATE_OVER_S + LINE_EVERY_S)][-3:]
            (at, fetched), rate = self._history[0], 0.0
            rate = (self.fetched - fetched) / (now - at)
            self._history.append((now, self.fetched))
            self.say(f"{self.text}, {size_text(rate)}/s" + self._eta(rate))

    def _eta(self, rate: float) -> str:
        if rate <= 0:
            return ""
        minutes, seconds = divmod(int((self._total - self._here) / rate), 60)
        return f", ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
