"""The feeder: reads, orders and renders pending rows on its own thread.

    Pending ─▶ look-ahead (rows in Arrow) ─▶ Schedule picks ─▶ rendered ─▶ take(worker)

To order rows, many must be known: LOOK_AHEAD_ROWS of them. So a job of 100,000 rows is ordered as a
whole and one of ten million streams. They are kept as Arrow holds them, about a kilobyte a row, and
at most LOOK_AHEAD_BYTES.

Prompts are rendered when they are picked, a few ahead of demand: later picks know more lengths.
Only the first batch of each engine is rendered as a whole, while the engine loads. When an eighth
of the look-ahead is left it is filled up. So short rows that were put off never end up as a tail.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from batchr1.dataset.pending import Pending, PendingRows
from batchr1.driver.feed.early_stop import EarlyStop
from batchr1.driver.feed.items import RENDER_ROWS, ItemMaker
from batchr1.driver.feed.schedule import Pick, RowSamples, Schedule
from batchr1.records import Failure, SampleKey, WorkItem

LOOK_AHEAD_ROWS = 131_072
LOOK_AHEAD_BYTES = 256 * 2**20
REFILL_SHARE = 8  # filled up when one in so many is left


class Feeder:
    """Hands out work items in the schedule's order.

    `ahead`: samples that are rendered before they are requested; at the start `first`, until some
    are. With `enough`, samples of a row go out in waves until so many are right, by `judged`;
    `spared` of them are then never generated.
    """

    def __init__(
        self,
        pending: Pending,
        items: ItemMaker,
        *,
        ahead: int,
        first: int = 0,
        longest_first: bool = False,
        enough: int | None = None,
        look_ahead_rows: int = LOOK_AHEAD_ROWS,
    ) -> None:
        self._items = items
        self._ahead = ahead
        self._room = max(ahead, first)  # for samples that are rendered before they are asked for
        self._waves = None if enough is None else EarlyStop(enough)
        self._schedule: Schedule | EarlyStop = self._waves or Schedule(longest_first=longest_first)
        self._look_ahead_rows = RENDER_ROWS
        if longest_first and not self._waves:
            self._look_ahead_rows = look_ahead_rows
        self._batches: Iterator[PendingRows] | None = pending.rows_and_more(items.source)
        self._lock = threading.Condition()  # of all below, and of the schedule
        self._ready: deque[deque[WorkItem | Failure]] = deque()
        self._num_ready = 0  # in `_ready`
        self._rendering = 0  # picked, and not in `_ready` yet
        # What is left of the row that a worker is at.
        self._open: dict[int, deque[WorkItem | Failure]] = {}
        self._probes: dict[SampleKey, RowSamples] = {}
        self._error: BaseException | None = None
        self._stopped = False
        # For verdicts, with all rows read and all that can be picked handed out.
        self._waiting = False
        self._thread = threading.Thread(target=self._work, name="feeder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, worker: int, count: int) -> list[WorkItem | Failure]:
        """Take up to `count` items, without waiting.

        Samples of one prompt go to one worker. Raises what went wrong.
        """
        items: list[WorkItem | Failure] = []
        with self._lock:
            while len(items) < count:
                mine = self._open.get(worker) or self._next_row(worker)
                if mine is None:
                    break
                items.append(mine.popleft())
            if items:
                self._room = self._ahead
            self._lock.notify()
        if self._error is not None and not items:
            raise self._error
        return items

    def finished(self, keys: Sequence[SampleKey], tokens: Sequence[int]) -> None:
        """Note that samples are complete, with so many tokens each."""
        with self._lock:
            for key, length in zip(keys, tokens, strict=True):
                self._schedule.finished(self._probes.pop(key, None), length)

    @property
    def spared(self) -> int:
        return 0 if self._waves is None else self._waves.spared

    def judged(self, key: SampleKey, *, right: bool) -> bool:
        """Note a sample's verdict, or failure.

        Returns whether its row has enough right samples by it.
        """
        if self._waves is None:
            return False
        with self._lock:
            has_enough = self._waves.judged(key.id, key.sample, right=right)
            if has_enough:
                self._drop_rendered(self._waves, key.id)
            self._lock.notify()
        return has_enough

    def has_enough(self, id: str) -> bool:
        with self._lock:
            return self._waves is not None and self._waves.has_enough(id)

    def dropped(self, keys: Iterable[SampleKey]) -> None:
        """Note that samples were cancelled."""
        if self._waves is not None:
            with self._lock:
                for key in keys:
                    self._waves.dropped(key.id, [key.sample])
                self._lock.notify()

    def committed(self, keys: Iterable[SampleKey]) -> None:
        """Note that samples are durable."""
        if self._waves is not None:
            with self._lock:
                for key in keys:
                    self._waves.committed(key.id, key.sample)

    def lost(self, keys: Iterable[SampleKey]) -> None:
        """Note that a worker died with samples, whatever their verdicts were."""
        if self._waves is not None:
            with self._lock:
                for key in keys:
                    self._waves.lost(key.id, key.sample)
                self._lock.notify()

    def _drop_rendered(self, waves: EarlyStop, id: str) -> None:
        """Drop what was rendered of a row and not taken yet."""
        for row in (*self._ready, *self._open.values()):
            if row and row[0].key.id == id:
                waves.dropped(id, [item.key.sample for item in row])
                if row in self._ready:
                    self._num_ready -= len(row)
                row.clear()
        self._ready = deque(row for row in self._ready if row)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come.

        A worker that dies with right samples may change that.
        """
        with self._lock:
            return self._hands_out_nothing and not (self._waves is not None and self._waves.waits)

    def has_few_left(self, most: int) -> bool:
        """Whether all rows are read, and few samples are left.

        `most`: so many. Not known of waves, which depend on verdicts.
        """
        if self._batches is not None or self._waves is not None:
            return False
        with self._lock:
            left = self._rendering + self._num_ready + sum(map(len, self._open.values()))
            if left + self._schedule.rows_left > most:
                return False
            return left + sum(len(group.samples) for group in self._schedule.groups()) <= most

    @property
    def stalls(self) -> bool:
        """Whether nothing more will come before verdicts do."""
        with self._lock:
            return self._hands_out_nothing and self._waves is not None and self._waves.waits

    @property
    def _hands_out_nothing(self) -> bool:
        if self._error is not None or self._ready or any(self._open.values()):
            return False
        return self._read_all and not (self._waves is not None and self._waves.rows_left)

    @property
    def _read_all(self) -> bool:
        """Whether the thread will hand out nothing by itself."""
        return self._waiting or not self._thread.is_alive()

    def close(self) -> None:
        with self._lock:
            self._stopped = True
            self._lock.notify()

    def _next_row(self, worker: int) -> deque[WorkItem | Failure] | None:
        """Take the samples of the next prompt.

        At the very end, some that another worker's row has left.
        """
        if self._ready:
            mine = self._open[worker] = self._ready.popleft()
            self._num_ready -= len(mine)
            return mine
        if not self._read_all:
            return None
        return max(self._open.values(), key=len, default=None) or None

    def _work(self) -> None:
        try:
            while room := self._wait_for_room():
                if not (picks := self._pick(room)):
                    if self._wait_for_verdicts():
                        continue
                    break
                rows = [deque(items) for items in self._render(picks)]
                with self._lock:
                    self._ready.extend(rows)
                    self._num_ready += sum(map(len, rows))
                    self._rendering = 0
        except BaseException as exc:
            self._error = exc

    def _wait_for_room(self) -> int:
        """Wait until samples may be rendered; 0 when the feeder is closed."""
        with self._lock:
            self._lock.wait_for(lambda: self._stopped or self._num_ready < self._room)
            return 0 if self._stopped else self._room - self._num_ready

    def _wait_for_verdicts(self) -> bool:
        """Wait until more can be picked; False when the feeder is closed.

        Verdicts, or a worker's death, bring more.
        """
        waves = self._waves
        if waves is None:
            return False
        with self._lock:
            self._waiting = True
            self._lock.wait_for(lambda: self._stopped or waves.rows_left)
            self._waiting = False
            return not self._stopped

    def _pick(self, room: int) -> list[Pick]:
        """Pick the next samples; a row's go together, beyond `room` too."""
        self._look_ahead()
        picks: list[Pick] = []
        with self._lock:
            while (
                room > 0
                and len(picks) < RENDER_ROWS
                and (pick := self._schedule.pick()) is not None
            ):
                picks.append(pick)
                room -= len(pick.samples)
                self._rendering += len(pick.samples)
        return picks

    def _look_ahead(self) -> None:
        """Read on when few rows are left to choose from."""
        if (
            self._batches is None
            or self._schedule.rows_left > self._look_ahead_rows // REFILL_SHARE
        ):
            return
        with self._lock:
            left = list(self._schedule.groups())
        num_bytes = _gather(left)
        new: list[RowSamples] = []
        while len(left) + len(new) < self._look_ahead_rows and num_bytes < LOOK_AHEAD_BYTES:
            found = next(self._batches, None)
            if found is None:
                self._batches = None
                break
            num_bytes += found.batch.nbytes
            new += self._groups(found)
        with self._lock:
            self._schedule.add(new)

    def _groups(self, found: PendingRows) -> list[RowSamples]:
        """Take the rows of a batch.

        The expected length is the row's own, or else that of its finished samples.
        """
        batch, samples, right = found.batch, found.samples, found.right.tolist()
        own = self._items.source.expected_tokens(batch)
        expected = np.where(np.isnan(own), found.lengths, own).tolist()
        groups = [
            RowSamples((batch, i), list(samples[i]), expected[i], right=right[i])
            for i in range(batch.num_rows)
        ]
        if self._items.saved:
            for id, group in zip(self._items.source.ids(batch), groups, strict=True):
                self._items.add_saved(str(id), group)
        return groups

    def _render(self, picks: list[Pick]) -> list[list[WorkItem | Failure]]:
        """Render the picks, each one's samples together."""
        items: list[list[WorkItem | Failure]] = [[] for _ in picks]
        batches = _rows_of([pick.group for pick in picks])
        prompts = [prompt for batch, _ in batches for prompt in self._items.render(batch)]
        for place, prompt in zip(
            (place for _, places in batches for place in places), prompts, strict=True
        ):
            pick = picks[place]
            items[place] = [self._items.make(prompt, sample, pick) for sample in pick.samples]
            if self._waves is not None:
                with self._lock:
                    self._waves.out(prompt.id, pick)
            elif pick.group.samples:  # its siblings wait for what it tells
                with self._lock:
                    self._probes[SampleKey(prompt.id, pick.samples[0])] = pick.group
            else:
                pick.group.row = None
        return items


def _gather(groups: Sequence[RowSamples]) -> int:
    """Copy rows into batches of their own; their bytes.

    What was read with them and picked since is freed.
    """
    num_bytes = 0
    for batch, places in _rows_of(groups):
        num_bytes += batch.nbytes
        for at, place in enumerate(places):
            groups[place].row = (batch, at)
    return num_bytes


def _rows_of(groups: Sequence[RowSamples]) -> list[tuple[pa.RecordBatch, list[int]]]:
    """Gather the input rows of groups, with the groups' places.

    One batch for each schema that files have.
    """
    by_batch: dict[int, tuple[pa.RecordBatch, list[int], list[int]]] = {}
    for place, group in enumerate(groups):
        batch, index = group.row
        _, indices, places = by_batch.setdefault(id(batch), (batch, [], []))
        indices.append(index)
        places.append(place)
    by_schema: list[tuple[list[pa.RecordBatch], list[int]]] = []
    for batch, indices, places in by_batch.values():
        same = next((entry for entry in by_schema if entry[0][0].schema.equals(batch.schema)), None)
        if same is None:
            by_schema.append(same := ([], []))
        same[0].append(batch.take(pa.array(indices)))
        same[1].extend(places)
    return [
        (pa.Table.from_batches(batches).combine_chunks().to_batches()[0], places)
        for batches, places in by_schema
    ]
