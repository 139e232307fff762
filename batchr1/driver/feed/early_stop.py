"""`stop_when`: waves of samples, until enough of a row are right.

    rows in order ─▶ as many samples as still must be right ─▶ enough, or twice as many, …

A row whose wave was not enough goes first again: it is late already. Samples that are out when
their row has enough are cancelled; the others are never begun. A row is forgotten when all that it
needs is committed: until then a dead worker may take right samples with it.

Pure: who generates and verifies is not its business. Not thread-safe; the feeder's lock guards it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from batchr1.driver.feed.schedule import Pick, RowSamples

GROWTH = 2  # a wave over the one before


@dataclass(slots=True, eq=False)
class _Row:
    """A row with samples out, or right ones not committed yet."""

    group: RowSamples
    wave: int
    out: set[int] = field(default_factory=set)
    right: set[int] = field(default_factory=set)
    uncommitted: set[int] = field(default_factory=set)
    spared: list[int] = field(default_factory=list)


class EarlyStop:
    """A `Schedule` in waves. `enough`: right samples that a row needs."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._ready: deque[RowSamples] = deque()
        self._rows: dict[str, _Row] = {}  # by id, once its first wave is out
        self._between: dict[
            int, _Row
        ] = {}  # of these, by number, those that wait to be picked again
        self._waiting: set[_Row] = (
            set()
        )  # those that have samples out, on whose verdicts others wait
        self._num_groups = 0
        self.spared = 0  # samples that will not be generated

    @property
    def rows_left(self) -> int:
        """Rows that have samples to pick now."""
        return len(self._ready)

    @property
    def waits(self) -> bool:
        """Tell whether verdicts may bring more samples to pick."""
        return bool(self._waiting)

    def groups(self) -> Iterator[RowSamples]:
        yield from self._ready

    def add(self, groups: Iterable[RowSamples]) -> None:
        for group in groups:
            group.number = self._num_groups
            self._num_groups += 1
            self._ready.append(group)

    def pick(self) -> Pick | None:
        """Pick the next wave of a row; None without one."""
        while self._ready:
            group = self._ready.popleft()
            row = self._between.pop(group.number, None)
            if (
                group.samples
            ):  # else it had enough after all, by verdicts on what a dead worker had taken along
                return self._wave(group, row)
        return None

    def _wave(self, group: RowSamples, row: _Row | None) -> Pick:
        size = row.wave if row is not None else max(1, self._enough - group.right)
        # What was begun before comes first: it is the nearest to a verdict.
        group.samples.sort(key=lambda sample: (-group.saved.get(sample, 0), sample))
        wave, group.samples = group.samples[:size], group.samples[size:]
        if row is not None:  # else it comes to be when its id is known
            row.out.update(wave)
        batch, at = group.row
        group.row = (batch.take([at]), 0)  # not all that was read with it, for as long as it waits
        return Pick(group, tuple(wave), group.expected)

    def out(self, id: str, pick: Pick) -> None:
        """The picked samples are given out, under this id."""
        row = self._rows.get(id)
        if row is None:
            row = self._rows[id] = _Row(pick.group, max(1, self._enough - pick.group.right))
        row.wave *= GROWTH
        row.out.update(pick.samples)
        row.uncommitted.update(pick.samples)
        self._settle(id, row)

    def judged(self, id: str, sample: int, *, right: bool) -> bool:
        """Note a sample's verdict, or failure.

        Returns whether its row has enough by it: then its other samples may be cancelled.
        """
        row = self._rows.get(id)
        if row is None or sample not in row.out:
            return False
        row.out.discard(sample)
        had = self._has_enough(row)
        if right:
            row.right.add(sample)
        if self._has_enough(row):
            self._stop(row, row.group.samples)
            row.group.samples = []
        self._settle(id, row)
        return self._has_enough(row) and not had

    def dropped(self, id: str, samples: Iterable[int]) -> None:
        """These were called back."""
        row = self._rows.get(id)
        if row is None:
            return
        for sample in samples:
            row.out.discard(sample)
            row.uncommitted.discard(sample)
            if self._has_enough(row):
                self._stop(row, [sample])
            else:  # what was right went with a dead worker, after this one had been called back
                row.group.samples.append(sample)
        self._settle(id, row)

    def committed(self, id: str, sample: int) -> None:
        """Its row is durable (or failed, which is as final)."""
        row = self._rows.get(id)
        if row is not None:
            row.uncommitted.discard(sample)
            self._settle(id, row)

    def lost(self, id: str, sample: int) -> None:
        """Note that a worker died with a sample, whatever its verdict was."""
        row = self._rows.get(id)
        if row is None:
            return
        row.right.discard(sample)
        row.out.add(sample)
        if not self._has_enough(row):
            self.spared -= len(row.spared)
            row.group.samples += row.spared
            row.spared = []
        self._settle(id, row)

    def has_enough(self, id: str) -> bool:
        row = self._rows.get(id)
        return row is not None and self._has_enough(row)

    def _has_enough(self, row: _Row) -> bool:
        return row.group.right + len(row.right) >= self._enough

    def _stop(self, row: _Row, samples: Iterable[int]) -> None:
        new = list(samples)
        row.spared += new
        self.spared += len(new)

    def _settle(self, id: str, row: _Row) -> None:
        """Let a changed row wait, go on, or be forgotten."""
        has_more = bool(row.group.samples)
        if row.out and has_more:
            self._waiting.add(row)
        else:
            self._waiting.discard(row)
        if not row.out and has_more and row.group.number not in self._between:
            self._between[row.group.number] = row
            self._ready.appendleft(row.group)
        if not row.out and not has_more and not row.uncommitted:
            del self._rows[id]

    def finished(self, group: RowSamples | None, tokens: int) -> None:
        """Ignore the length: it decides nothing in waves."""
