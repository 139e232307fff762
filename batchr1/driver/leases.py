"""Leases: work items handed to workers, and taken back.

Three sources, in this order: rows that may crash engines (alone, in quarantine), work taken back
from dead workers, and fresh rows of the feeder.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable

from batchr1.driver.feed.feeder import Feeder
from batchr1.driver.fleet import Fleet, Replica
from batchr1.driver.quarantine import Quarantine
from batchr1.driver.tally import Tally
from batchr1.executors.base import Executor
from batchr1.executors.messages import CancelSamples, Drain, Lease
from batchr1.output.checkpoints import read_worker
from batchr1.records import Failure, SampleKey, WorkItem
from batchr1.seeds import derive_seed

LEASE_SIZE = 64


class Leases:
    """Hands out work, a little to each replica in turn.

    `fail` takes a row that cannot be rendered; `n`: samples of a row.
    """

    def __init__(
        self,
        executor: Executor,
        feeder: Feeder,
        replicas: Fleet,
        tally: Tally,
        *,
        fail: Callable[[Failure], None],
        n: int,
    ) -> None:
        self._executor, self._feeder, self._replicas = executor, feeder, replicas
        self._tally, self._fail, self._n = tally, fail, n
        self._again: deque[WorkItem] = deque()  # taken back from dead workers
        self.quarantine = Quarantine()
        self.cpu_began = 0.0  # CPU time of this process at the first lease

    def lease(self) -> None:
        """Give a little to each replica; drain them at the end."""
        self._lease_suspects()
        requesting = [
            r
            for r in self._replicas.values()
            if r.wanted > 0 and not r.told_to_end and not r.quarantined
        ]
        is_short = bool(requesting) and self._runs_short()
        while requesting:
            given = False
            for replica in requesting:
                items = self._take(replica.setup.worker, self._room_of(replica, is_short=is_short))
                if items:
                    given = True
                    self._give(replica, items)
            requesting = [r for r in requesting if r.wanted > 0] if given else []
        if not self.is_pending():
            self._drain()

    @staticmethod
    def _room_of(replica: Replica, *, is_short: bool) -> int:
        """Count the items that a replica may take now."""
        room = LEASE_SIZE
        if is_short:  # what one keeps in hand at the end, another may be idle for
            room = replica.setup.plan.max_num_seqs - len(replica.in_flight)
        return max(0, min(replica.wanted, LEASE_SIZE, room))

    def _drain(self) -> None:
        """Let every replica finish what it has, and end."""
        for replica in self._replicas.values():
            if replica.told_to_end or replica.ended:
                continue
            if replica.ready is None and self._replicas.ready:  # it would load for nothing
                self._replicas.dismiss(replica)
                continue
            replica.told_to_end = True
            self._executor.send(replica.setup.worker, Drain())

    def _runs_short(self) -> bool:
        """Whether less is left than the replicas would keep in hand."""
        live = [replica for replica in self._replicas.live if replica.ready]
        few = sum(replica.setup.plan.max_num_seqs for replica in live) // 2
        return len(live) > 1 and self._feeder.has_few_left(few - len(self._again))

    def _give(self, replica: Replica, items: list[WorkItem]) -> None:
        if self._tally.first_submit is None:
            self._tally.first_submit = time.monotonic()
            self.cpu_began = time.process_time()
        replica.wanted -= len(items)
        replica.leased |= {item.key: item for item in items}
        replica.in_flight |= {item.key for item in items}
        self._executor.send(replica.setup.worker, Lease(tuple(items)))

    def _lease_suspects(self) -> None:
        """Give groups of rows that may crash engines to idle workers."""
        if not self.quarantine:
            for replica in self._replicas.values():
                replica.quarantined = replica.quarantined and bool(replica.in_flight)
            return
        for replica in self._replicas.live:
            if replica.ready and not replica.told_to_end and not replica.in_flight:
                group: list[WorkItem] = []
                if replica.wanted > 0:
                    group = self.quarantine.next_group(
                        replica.setup.worker, others=self.has_others(replica)
                    )
                replica.quarantined = bool(group)
                if group:
                    self._give(replica, group)

    def has_others(self, replica: Replica) -> bool:
        """Whether another replica is ready."""
        return any(other.ready and other is not replica for other in self._replicas.live)

    def _take(self, worker: int, count: int) -> list[WorkItem]:
        items: list[WorkItem] = []
        while self._again and len(items) < count:
            items.append(self._again.popleft())
        while len(items) < count and (fresh := self._feeder.take(worker, count - len(items))):
            for item in fresh:
                if isinstance(item, Failure):
                    self._fail(item)
                else:
                    items.append(item)
        return items

    def is_pending(self) -> bool:
        """Whether there is work that no worker has."""
        return bool(self._again or self.quarantine or not self._feeder.ended)

    def is_idle(self) -> bool:
        """Whether nothing is taken back, quarantined or in an engine."""
        is_in_flight = any(replica.in_flight for replica in self._replicas)
        return not (self._again or self.quarantine or is_in_flight)

    def take_back(self, items: Iterable[WorkItem]) -> None:
        """Put work of a dead worker in front of all other work."""
        self._again.extendleft(reversed(self.wanted(items)))

    def cancel_others(self, id: str) -> None:
        """Cancel a row's remaining samples, queued or running: enough are right."""
        for replica in self._replicas.live:
            keys = tuple(
                key
                for key in (SampleKey(id, s) for s in range(self._n))
                if key in replica.in_flight
            )
            if keys and replica.ready:
                self._executor.send(replica.setup.worker, CancelSamples(keys))
        self._again = self.wanted(self._again)

    def wanted(self, items: Iterable[WorkItem]) -> deque[WorkItem]:
        """Keep items of rows without enough right samples; the others are dropped."""
        wanted, dropped = deque[WorkItem](), []
        for item in items:
            if self._n > 1 and self._feeder.has_enough(item.prompt.id):
                dropped.append(item.key)
            else:
                wanted.append(item)
        self._feeder.dropped(dropped)
        return wanted


def with_checkpoints(replica: Replica) -> list[WorkItem]:
    """Give a dead worker's work, each item with its last checkpoint."""
    setup, items = replica.setup, list(replica.leased.values())
    if not items:
        return items
    place = setup.assignment
    saved = read_worker(setup.storage, place.run, place.worker, place.epoch, job=setup.job_digest)
    back = []
    for item in items:
        one = saved.get(item.key)
        if one is not None and one.prompt_hash == item.prompt.digest:
            seed = derive_seed(
                item.prompt.own.seed_or(setup.spec.sampling.seed),
                item.prompt.id,
                item.sample,
                one.attempt,
            )
            item = dataclasses.replace(item, partial=one.partial(), attempt=one.attempt, seed=seed)
        back.append(item)
    return back
