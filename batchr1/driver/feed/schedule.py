"""Order of samples: longest expected first, else that of the input.

    rows looked ahead ─▶ begun before ─▶ probes: a sample of each row of unknown length
                      ─▶ others, longest first

A batch ends as late as its longest sample, so long ones had better begin early (longest processing
time first: Graham, Bounds on multiprocessing timing anomalies, 1969). A row's samples are about
equally long: the first one done predicts the others. Nothing ever waits for a probe: while one is
under way, its siblings are candidates too.

Samples that an earlier run began go first, whatever their length. Where each night's window is
shorter than the work, they could wait for many nights.

Pure and deterministic: the same rows, and the same lengths at the same moments, give the same
order.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class RowSamples:
    """Pending samples of a row.

    `expected`: tokens of one completion, NaN while unknown. `row` is the caller's. `saved`: tokens
    that exist of a sample already, by sample. `right`: the number of right ones among done samples.
    """

    row: Any
    samples: list[int]
    expected: float = math.nan
    saved: dict[int, int] = field(default_factory=dict)
    right: int = 0  # of its samples that are done
    number: int = -1  # place in the order of the input
    sent: int = -1  # the how manieth probe its own was


@dataclass(frozen=True, slots=True)
class Pick:
    """Samples of one row for one replica, close together.

    Their prompt is then in its prefix cache.
    """

    group: RowSamples
    samples: tuple[int, ...]
    expected: float  # tokens of each whole completion; NaN: not known
    at_least: int = 0  # tokens that the row's probe has reached, as far as is known


class Schedule:
    """Rows that are looked ahead, and the choice of the next samples."""

    def __init__(self, *, longest_first: bool) -> None:
        self._longest_first = longest_first
        self._begun: deque[RowSamples] = deque()  # rows with saved tokens, before these were picked
        self._in_order: deque[RowSamples] = (
            deque()
        )  # fifo: all; else rows of which nothing is known, before their probe
        self._probed: dict[
            int, RowSamples
        ] = {}  # probe under way, siblings not picked yet; by `sent`, so ascending
        self._known: list[tuple[float, int, RowSamples]] = []  # a heap: longest first
        self._stairs: list[
            tuple[int, float]
        ] = []  # (sent, length) of finished probes, lengths strictly falling
        self._num_groups = self._num_probes = 0
        self._finished = 0
        self._tokens = 0.0

    @property
    def rows_left(self) -> int:
        """Rows that have samples to pick."""
        return len(self._begun) + len(self._in_order) + len(self._probed) + len(self._known)

    def groups(self) -> Iterator[RowSamples]:
        """Those rows, in no order that means anything."""
        yield from self._begun
        yield from self._in_order
        yield from self._probed.values()
        for _, _, group in self._known:
            yield group

    def add(self, groups: Iterable[RowSamples]) -> None:
        """Look further ahead: rows in the order of the input."""
        for group in groups:
            group.number = self._num_groups
            self._num_groups += 1
            if group.saved:
                self._begun.append(group)
            elif self._longest_first and not math.isnan(group.expected):
                self._push(group)
            else:
                self._in_order.append(group)

    def pick(self) -> Pick | None:
        """Pick the next samples; None when every row was picked."""
        if self._begun:
            return self._continue(self._begun.popleft())
        if self._in_order and not self._longest_first:
            group = self._in_order.popleft()
            return self._all_of(group, group.expected)
        if self._in_order:
            return self._probe(self._in_order.popleft())
        # Of probes under way, the one that went first has gone furthest.
        oldest = next(iter(self._probed), None)
        if oldest is not None:
            least = self._least_length(oldest)
            if not self._known or least + self._mean >= -self._known[0][0]:
                return self._all_of(self._probed.pop(oldest), math.nan, at_least=int(least))
        if not self._known:
            return None
        _, _, group = heapq.heappop(self._known)
        return self._all_of(group, group.expected)

    def finished(self, group: RowSamples | None, tokens: int) -> None:
        """Note a complete sample's tokens.

        `group` is its row, when it was that row's probe.
        """
        self._finished += 1
        self._tokens += tokens
        if group is None or group.sent < 0:
            return
        while (at := bisect_right(self._stairs, (group.sent, math.inf))) and self._stairs[at - 1][
            1
        ] <= tokens:
            del self._stairs[at - 1]
        if at == len(self._stairs) or self._stairs[at][1] < tokens:
            insort(self._stairs, (group.sent, float(tokens)))
        if self._probed.pop(group.sent, None) is not None:
            group.expected = float(tokens)
            self._push(group)

    @property
    def _mean(self) -> float:
        return self._tokens / self._finished if self._finished else 0.0

    def _push(self, group: RowSamples) -> None:
        heapq.heappush(self._known, (-group.expected, group.number, group))

    def _continue(self, group: RowSamples) -> Pick:
        """Pick the begun samples of a row, the furthest first.

        The row's others wait as if these were its probe.
        """
        samples = sorted(
            (s for s in group.samples if s in group.saved), key=lambda s: (-group.saved[s], s)
        )
        group.samples = [s for s in group.samples if s not in group.saved]
        if group.samples:
            if not self._longest_first:
                insort(self._in_order, group, key=lambda other: other.number)
            elif math.isnan(group.expected):
                self._send(group)
            else:
                self._push(group)
        return Pick(group, tuple(samples), group.expected)

    def _probe(self, group: RowSamples) -> Pick:
        """One sample of a row, which tells of the others."""
        if len(group.samples) == 1:
            return self._all_of(group, math.nan)
        sample = min(group.samples)
        group.samples.remove(sample)
        self._send(group)
        return Pick(group, (sample,), math.nan)

    def _send(self, group: RowSamples) -> None:
        """Its first sample is under way, and will tell of the others."""
        group.sent = self._num_probes
        self._num_probes += 1
        self._probed[group.sent] = group

    def _all_of(self, group: RowSamples, expected: float, *, at_least: int = 0) -> Pick:
        samples, group.samples = tuple(group.samples), []
        return Pick(group, samples, expected, at_least)

    def _least_length(self, sent: int) -> float:
        """Bound the length of a probe under way from below.

        It has reached that of the longest finished sample that went after it.
        """
        at = bisect_right(self._stairs, (sent, math.inf))
        return self._stairs[at][1] if at < len(self._stairs) else 0.0
