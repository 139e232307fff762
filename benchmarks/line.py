"""Driver's end of a worker's channel, in the benchmark's own process."""

from __future__ import annotations

import queue
from typing import Any


class Line:
    """`Channel` that leases all items in order, and then drains."""

    def __init__(self, items: list[Any]) -> None:
        self._left, self._inbox = items[::-1], queue.SimpleQueue[Any]()

    def receive(self, timeout_s: float) -> Any:
        try:
            return self._inbox.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def send(self, message: Any) -> None:
        from batchr1.executors.messages import Drain, Lease, RequestWork

        if isinstance(message, RequestWork):
            self._inbox.put(
                Lease(tuple(self._left.pop() for _ in range(min(message.count, len(self._left)))))
            )
            if not self._left:
                self._inbox.put(Drain())
