"""Quarantine: find the row that crashes the engine.

A row is blamed only when it was alone in the engine at its last death. So rows that were in flight
twice when an engine died run alone, in small groups, then one by one; innocent ones get through and
are cleared. With several replicas a row must have crashed two of them: a sick GPU crashes with any
row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from batchr1.errors import EngineError
from batchr1.records import Failure, SampleKey, WorkItem

MAX_DEATHS = 3  # of the engine, with the same row in flight
ALONE_UP_TO = 32  # so many suspects are run one by one at once; more of them first in groups
MAX_VERDICTS = (
    3  # so many prompts blamed one after the other, none generated between: then it is the engine
)


class Quarantine:
    """Counts deaths by row, and says who runs alone."""

    def __init__(self) -> None:
        self._deaths: dict[SampleKey, int] = {}
        self._alone: dict[SampleKey, set[int]] = {}  # workers that died with nothing but this row
        self._groups: deque[list[WorkItem]] = deque()
        self._verdicts: list[Failure] = []

    def __bool__(self) -> bool:
        """Tell whether a group waits to be run by itself."""
        return bool(self._groups)

    def exited(
        self, in_flight: Sequence[WorkItem], *, worker: int = 0, others: bool = False
    ) -> list[WorkItem]:
        """Note a death with rows in flight.

        Returns those that just run again. The others wait in groups, or are blamed. `others`:
        whether there are other workers to try a row on. Raises `EngineError` when the engine dies
        whatever it is given: no row is to blame then.
        """
        for item in in_flight:
            self._deaths[item.key] = self._deaths.get(item.key, 0) + 1
        if len(in_flight) == 1:
            key = in_flight[0].key
            workers = self._alone.setdefault(key, set())
            workers.add(worker)
            if (deaths := self._deaths[key]) >= MAX_DEATHS and (not others or len(workers) > 1):
                self._blame(in_flight[0], deaths)
                return []
        again = [item for item in in_flight if self._deaths[item.key] < 2]
        quarantined = [item for item in in_flight if self._deaths[item.key] >= 2]
        size = 1 if len(quarantined) <= ALONE_UP_TO else math.isqrt(len(quarantined) - 1) + 1
        self._groups.extendleft(
            reversed([quarantined[i : i + size] for i in range(0, len(quarantined), size)])
        )
        return again

    def next_group(self, worker: int = 0, *, others: bool = False) -> list[WorkItem]:
        """Take the next group for this worker.

        Empty when all that wait are for other workers to try.
        """
        for number, group in enumerate(self._groups):
            if not (others and len(group) == 1 and worker in self._alone.get(group[0].key, ())):
                del self._groups[number]
                return group
        return []

    def generated(self, keys: Iterable[SampleKey]) -> list[Failure]:
        """Clear rows that came through; the rows that were rightly blamed."""
        for key in keys:
            self._deaths.pop(key, None)
            self._alone.pop(key, None)
        return self.verdicts()

    def verdicts(self) -> list[Failure]:
        """Take the rows that were blamed."""
        found, self._verdicts = self._verdicts, []
        return found

    def _blame(self, item: WorkItem, deaths: int) -> None:
        message = f"killed the engine {deaths} times, at last when it was alone in it"
        self._verdicts.append(
            Failure(
                item.prompt.id, item.sample, "killed_engine", message, deaths, item.prompt.digest
            )
        )
        if len({failure.id for failure in self._verdicts}) >= MAX_VERDICTS:
            self._verdicts = []
            raise EngineError(
                f"the engine died with each of {MAX_VERDICTS} rows that ran alone in it, one "
                f"after the other: it is "
                "not the rows. The run's log says more; committed rows are safe, and the same "
                "command goes on."
            )
