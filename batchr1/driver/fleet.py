"""Replicas of a run: start, watch, replace and give them up.

What a replica held goes back to the driver, which gives it to the next that requests work. So a
dead one costs what it alone could have done, and a run ends early only when none is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from batchr1 import errors
from batchr1.backends.base import backend_of
from batchr1.driver import oom_restart as step_down
from batchr1.engine.openai.server import Spent
from batchr1.errors import BatchError, EngineError
from batchr1.events import event
from batchr1.executors.base import Executor
from batchr1.executors.messages import Heartbeat, WorkerExited, WorkerFailed, WorkerReady
from batchr1.executors.setup import WorkerSetup
from batchr1.records import SampleKey, WorkItem
from batchr1.sizing.oom import MemoryProblem, problem_in

log = logging.getLogger("batchr1.driver")

MAX_DEATHS_IN_A_ROW = 3  # of a worker that had nothing in its engine: no row is to blame
MAX_DEATHS_BESIDE_OTHERS = (
    6  # of one that got no row through meanwhile, while others are there to do its work
)
MAX_DEATHS_AT_WORK = (
    30  # of one that had work, and is the last: rows that kill it are sought so long
)
HANG_S = 600.0  # a worker that was ready and has said nothing for so long is taken for hung
LEAVE_S = 30.0  # and one that said that it cannot go on, for one that cannot leave either
LOOK_FOR_ROOM_S = 5.0
PLACE_S = 600.0  # so long a run waits for a node while no replica has one

Event = Literal["started", "ready", "died", "lost", "ended", "given up"]


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """An event of a worker, for the run's record.

    `at_s`: seconds since the driver started.
    """

    at_s: float
    worker: int
    event: Event


@dataclass(slots=True)
class Replica:
    """The driver's view of one worker."""

    setup: WorkerSetup
    leased: dict[SampleKey, WorkItem] = field(default_factory=dict)
    in_flight: set[SampleKey] = field(default_factory=set)  # leased, and not known to be generated
    quarantined: bool = False  # it runs suspects, and nothing else
    wanted: int = 0
    told_to_end: bool = False
    ended: bool = False
    deaths_in_a_row: int = 0  # since it last finished a part
    deaths_for_nothing: int = 0  # since it last got a row through
    ready: WorkerReady | None = None
    fatal: WorkerFailed | None = None
    heard_at: float = 0.0
    progress: Heartbeat | None = None
    spent: Spent | None = None  # outlives its process: a successor goes on from it
    given_up: BatchError | None = None

    @property
    def worker(self) -> int:
        return self.setup.worker

    def release(self) -> None:
        """Forget its process, and so its work."""
        self.leased, self.in_flight, self.quarantined = {}, set(), False
        self.wanted = 0
        self.progress = None


class Fleet:
    """All replicas of a run.

    `make_setup(worker, kind)` gives the setup of one that joins later.
    """

    def __init__(
        self,
        executor: Executor,
        setups: list[WorkerSetup],
        make_setup: Callable[[int, int], WorkerSetup],
        *,
        most: int | None = None,
    ) -> None:
        self._executor = executor
        self._replicas = {setup.worker: Replica(setup) for setup in setups}
        self._make_setup = make_setup
        self._most = most
        self._looked_at = self._placed_at = self.started = time.monotonic()
        self.ready: dict[int, WorkerReady] = {}
        self.rungs: list[step_down.RungTaken] = []
        self.events: list[ReplicaEvent] = []

    def values(self) -> Iterator[Replica]:
        return iter(self)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def __getitem__(self, worker: int) -> Replica:
        return self._replicas[worker]

    @property
    def live(self) -> list[Replica]:
        return [replica for replica in self if not replica.ended]

    @property
    def given_up(self) -> dict[int, str]:
        """Why, for each replica that is given up."""
        return {replica.worker: str(replica.given_up) for replica in self if replica.given_up}

    def start(self) -> None:
        for replica in self:
            self._start(replica)

    def is_ready(self, replica: Replica, ready: WorkerReady) -> None:
        replica.ready = self.ready[replica.worker] = ready
        self._note(replica, "ready")

    def end(self, replica: Replica) -> None:
        """End one that left in good order, or is unwanted."""
        replica.ended = True
        self._note(replica, "ended")

    def dismiss(self, replica: Replica) -> None:
        """End one that has nothing to lose, at once.

        One that said that it cannot start is given up: its death only comes too late to say so.
        """
        self._executor.kill(replica.worker)
        if replica.fatal and replica.ready is None and not replica.fatal.problem:
            self._note(replica, "died")
            self.give_up(replica, error_of(replica.fatal))
            return
        self.end(replica)

    def memory_problem(self, replica: Replica, exited: WorkerExited) -> MemoryProblem | None:
        """Whether memory was the cause of a death.

        A server's memory is not ours, whatever it says of it.
        """
        if backend_of(replica.setup.spec).is_server:
            return None
        said = replica.fatal.problem if replica.fatal else None
        return said or problem_in(exited.last_lines, running=replica.ready is not None)

    def replace(
        self,
        replica: Replica,
        exited: WorkerExited,
        problem: MemoryProblem | None,
        *,
        had_work: bool,
    ) -> None:
        """Start a dead replica's successor.

        Raises the error to give it up with when there is to be none.
        """
        self._note(replica, "lost" if exited.lost else "died")
        if problem:
            self._step_down(replica, problem)
        elif replica.fatal and replica.ready is None:
            raise error_of(replica.fatal)
        else:
            self._count_death(replica, exited, had_work=had_work)
        self._restart(replica)

    def give_up(self, replica: Replica, error: BatchError) -> None:
        replica.ended, replica.given_up = True, error
        self._note(replica, "given up")
        log.error("worker %d is given up: %s", replica.worker, error)

    def revive(self) -> bool:
        """Start again one that ended in good order.

        False when there is none.
        """
        for replica in self:
            if replica.ended and replica.given_up is None:
                replica.ended = False
                self._restart(replica)
                return True
        return False

    def join(self) -> None:
        """Start a replica on each new machine that has room.

        The job's maximum holds.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_FOR_ROOM_S:
            return
        self._looked_at = now
        holding = [replica for replica in self if not replica.ended or replica.given_up]
        for kind in self._executor.room([replica.setup.assignment.kind for replica in holding]):
            if self._most is not None and len(holding) >= self._most:
                return
            replica = Replica(self._make_setup(max(self._replicas) + 1, kind))
            self._replicas[replica.worker] = replica
            holding.append(replica)
            log.info("there is room for another replica: worker %d", replica.worker)
            self._start(replica)

    def check_placed(self) -> None:
        """Raise `EngineError` when no replica has had a machine for long."""
        live, now = self.live, time.monotonic()
        if not live or {replica.worker for replica in live} - self._executor.waiting():
            self._placed_at = now
        elif now - self._placed_at > PLACE_S:
            raise EngineError(
                f"executor: no node had room for a replica for {PLACE_S:.0f} s (got none, need "
                f"one). "
                "Add nodes, or free the ones that are there; the same command goes on."
            )

    def hung(self) -> list[Replica]:
        """List replicas whose engine does not return from a step.

        A worker reports twice a second while it lives.
        """
        now, found = time.monotonic(), []
        for replica in self.live:
            limit_s = LEAVE_S if replica.fatal else HANG_S
            if (replica.ready or replica.fatal) and now - replica.heard_at > limit_s:
                log.error("worker %d said nothing for %.0f s: killed", replica.worker, limit_s)
                found.append(replica)
        return found

    def _start(self, replica: Replica) -> None:
        self._executor.start(replica.setup)
        self._note(replica, "started")

    def _restart(self, replica: Replica) -> None:
        pause_s = step_down.RELEASE_S if replica.setup.device == "cuda" else 0.0
        replica.setup = replica.setup.restarted(pause_s=pause_s, spent=replica.spent)
        replica.told_to_end = False
        replica.ready = replica.fatal = None
        self._start(replica)

    def _note(self, replica: Replica, what: Event) -> None:
        at_s = round(time.monotonic() - self.started, 3)
        self.events.append(ReplicaEvent(at_s, replica.worker, what))
        said = event("worker_" + what.replace(" ", "_"), worker=replica.worker, at_s=at_s)
        log.info("worker %d: %s", replica.worker, what, extra=said)

    def _step_down(self, replica: Replica, problem: MemoryProblem) -> None:
        """Restart a worker after out-of-memory with smaller demands.

        No row is to blame for it.
        """
        taken = [rung.rung for rung in self.rungs if rung.worker == replica.worker]
        replica.setup, rung = step_down.step_down(replica.setup, problem, taken=taken)
        at_s = round(time.monotonic() - self.started, 1)
        self.rungs.append(
            step_down.RungTaken(replica.worker, rung.name, rung.changes, rung.reason, at_s)
        )

    def _count_death(self, replica: Replica, exited: WorkerExited, *, had_work: bool) -> None:
        replica.deaths_in_a_row += 1
        replica.deaths_for_nothing += not exited.lost
        worker, deaths = replica.worker, replica.deaths_in_a_row
        if exited.lost:
            log.warning(
                "worker %d was lost with its machine or its connection, %d times in a row",
                worker,
                deaths,
            )
        else:
            log.warning(
                "worker %d died (exit code %s), %d times in a row", worker, exited.exit_code, deaths
            )
        limit = MAX_DEATHS_AT_WORK if had_work or exited.lost else MAX_DEATHS_IN_A_ROW
        others = any(other is not replica for other in self.live)
        if deaths >= limit or (others and replica.deaths_for_nothing >= MAX_DEATHS_BESIDE_OTHERS):
            raise EngineError(
                f"worker {worker}: died {deaths} times without finishing a part (exit code "
                f"{exited.exit_code}). "
                "The run's log says more; committed rows are safe, and the same command goes on."
            )


def error_of(fatal: WorkerFailed) -> BatchError:
    """The exception that a worker's `WorkerFailed` stands for."""
    found = getattr(errors, fatal.kind, EngineError)
    is_ours = isinstance(found, type) and issubclass(found, BatchError)
    return found(fatal.message) if is_ours else EngineError(fatal.message)
