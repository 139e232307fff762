"""Replicas on a Ray cluster: the only module that imports ray.

Ray finds the machine: each replica is an actor in a placement group of its own, and the actor is a
relay (`run.relay`) that runs the same worker process as `run.local` does. Messages go over a
connection between driver and relay, not through Ray: it ends within moments with either side, where
Ray notices a lost node after many seconds.

An engine inside one node (tensor parallel) gets a group of one bundle with its GPUs. One that
spreads over nodes (pipeline parallel) asks Ray for its GPUs by itself, through vLLM's own Ray
backend; its actor holds no GPU.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import ray
from ray._private import services
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from batchr1 import __version__
from batchr1.errors import JobError
from batchr1.executors.log_tail import Log
from batchr1.executors.messages import FromWorker, ToWorker, WorkerExited, WorkerReady
from batchr1.executors.ray_relay import Printed, environment_to_forward, serve
from batchr1.executors.relay_listener import RelayListener
from batchr1.executors.setup import WorkerSetup
from batchr1.job.spec import ExecutorSpec
from batchr1.sizing.devices import Device, describe_devices
from batchr1.sizing.machine import Machine, free_ram_gib
from batchr1.sizing.plan import Plan

log = logging.getLogger("batchr1.ray")

LOOK_S = 60.0  # for a node to say what it is, before a run begins
KNOCK_S = 10.0  # for the head of a cluster to take a connection

_is_ours = False  # whether the connection to Ray is this module's to end


@dataclass(frozen=True, slots=True)
class Node:
    """A node, as it describes itself. GPUs and CPUs are those that Ray may give away."""

    id: str
    devices: tuple[Device, ...]
    cpus: int
    ram_gib: float


# Nodes.


def connect(spec: ExecutorSpec) -> None:
    """Join the cluster as a driver, unless this process is one already.

    Raises `JobError` when there is none.
    """
    global _is_ours
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _keep_stdout()
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if is_main else {}
    try:
        _connect(spec.address)
        ray.init(
            address=spec.address,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            include_dashboard=None,
        )
    except (OSError, ValueError, RuntimeError) as exc:
        reason = str(exc).strip().splitlines()[0][:200] if str(exc).strip() else type(exc).__name__
        raise JobError(
            f"executor.address: no Ray cluster answers (got {spec.address!r}: {reason}). "
            "Start one with `ray start --head` and run on one of its nodes, or give HOST:PORT of "
            "its head."
        ) from exc
    else:
        _is_ours = True
    finally:
        for number, handler in handlers.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)


def _connect(address: str) -> None:
    """Raise `OSError` when nothing listens at HOST:PORT: Ray itself would try again for a quarter
    of an hour.
    """
    if address == "auto":  # what an earlier `ray start` wrote down here may be long gone
        address = os.environ.get("RAY_ADDRESS") or services.find_bootstrap_address(None) or ""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        if not 0 < int(port) < 2**16:
            raise ValueError(f"no port: {port}")
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _keep_stdout() -> None:
    """Ray prints on stdout what befalls its nodes, and there is no setting for it: into the log
    with it.
    """
    from ray._private import worker

    def to_log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        lines = [
            line for line in "\n".join(map(str, data.get("lines", ()))).splitlines() if line.strip()
        ]
        log.info("ray: %s", lines[0][:300] if lines else data)

    worker.print_to_stdstream = to_log


class Nodes:
    """What the cluster's nodes are, asked once of each."""

    def __init__(self) -> None:
        self._known: dict[str, Node | None] = {}
        self._asked: dict[str, Any] = {}

    def alive(self, wait_s: float = 0.0) -> list[Node]:
        """Nodes that are there now, can run a worker, and have said so; waits so long for those
        that have not.
        """
        entries = {e["NodeID"]: e["Resources"] for e in ray.nodes() if e["Alive"]}
        for id in entries:
            if id not in self._known and id not in self._asked:
                self._asked[id] = _ask(id, entries[id])
        if self._asked:
            answers = list(self._asked.values())
            done, _ = ray.wait(answers, num_returns=len(answers), timeout=wait_s)
            for id, answer in list(self._asked.items()):
                if answer in done:
                    del self._asked[id]
                    self._known[id] = _node(id, entries.get(id, {}), answer)
        found = [node for id in sorted(entries) if (node := self._known.get(id)) is not None]
        for id in self._asked.keys() & entries.keys() if wait_s else ():
            log.warning(
                "node %s is not used yet: it did not say within %.0f s what it is", id[:8], wait_s
            )
        return found


def _describe(num_gpus: int) -> tuple[str, tuple[Device, ...], float]:
    """Runs on a node: its version of batchr1, its GPUs, its free memory.

    Ray hides the GPUs from a task that holds none, so they are asked for by number. Of a node that
    gives only some of its GPUs to Ray these may be others, which matters only where they differ.
    """
    devices = describe_devices(tuple(str(i) for i in range(num_gpus))) if num_gpus else ()
    return __version__, devices, free_ram_gib()


def _ask(id: str, resources: dict[str, float]) -> Any:
    here = NodeAffinitySchedulingStrategy(id, soft=False)
    task = ray.remote(_describe).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    return task.remote(int(resources.get("GPU", 0)))


def _node(id: str, resources: dict[str, float], answer: Any) -> Node | None:
    """What a node answered; None, and a line in the log, for one that cannot be used."""
    try:
        version, devices, ram_gib = ray.get(answer)
    except ray.exceptions.RayError as exc:
        log.warning("node %s is not used: %s", id[:8], _line(exc))
        return None
    if version != __version__:
        log.warning(
            "node %s is not used: it has batchr1 %s, and the driver is %s",
            id[:8],
            version,
            __version__,
        )
        return None
    return Node(id, devices, int(resources.get("CPU", 0)), ram_gib)


def cluster_machine(spec: ExecutorSpec) -> Machine:
    """The cluster as something to plan for: the GPUs of all nodes, or without any, the CPUs.

    On CPUs, a replica takes as many as the smallest node has. Raises `JobError` when there is
    nothing to run on.
    """
    connect(spec)
    nodes = Nodes().alive(LOOK_S)
    devices = tuple(
        Device(
            f"{node.id[:8]}:{device.id}", device.gpu, device.free_gib, device.holders, node=number
        )
        for number, node in enumerate(nodes)
        for device in node.devices
    )
    if devices:
        return Machine(devices)
    with_cpus = [node for node in nodes if node.cpus]
    if not with_cpus:
        raise JobError(
            f"executor: the Ray cluster has nothing to run on (got {len(nodes)} nodes without "
            f"GPUs or CPUs to give, "
            "need one). Add nodes."
        )
    each = min(node.cpus for node in with_cpus)
    slots = sum(node.cpus // each for node in with_cpus)
    room_gib = min(node.ram_gib / (node.cpus // each) for node in with_cpus)
    replicas = min(slots, spec.replicas or slots)
    return Machine(ram_gib=room_gib * replicas, cpu_replicas=replicas, cpus_per_replica=each)


# Replicas.


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of machine that the plan names, and what a replica takes of it."""

    bundle: dict[str, float]
    gpu: tuple[str, int] | None  # name and memory in GiB; None: CPUs
    tensor_parallel: int
    pipeline_parallel: int
    cpus: int

    def replicas_on(self, nodes: list[Node]) -> int:
        """How many replicas these nodes have room for, when they are empty."""
        if self.gpu is None:
            return sum(node.cpus // self.cpus for node in nodes)
        stages = sum(
            sum(_gpu(d) == self.gpu for d in node.devices) // self.tensor_parallel for node in nodes
        )
        return stages // self.pipeline_parallel


def _gpu(device: Device) -> tuple[str, int]:
    return device.gpu.name, round(device.gpu.memory_gib)


def _kinds(plan: Plan, nodes: list[Node]) -> list[_Kind]:
    if plan.device == "cpu":
        cpus = plan.cpus_per_replica or 1
        return [_Kind({"CPU": cpus}, None, 1, 1, cpus)]
    by_id = {
        f"{node.id[:8]}:{device.id}": (node, device) for node in nodes for device in node.devices
    }
    kinds = []
    for one in plan.kinds or (plan,):
        node, device = by_id[one.device_groups[0][0]]
        bundle: dict[str, float] = {"CPU": 1} if node.cpus else {}
        bundle["GPU"] = one.tensor_parallel
        types = [name for name in _resources(node.id) if name.startswith("accelerator_type:")]
        if types:  # so that Ray takes a node of this kind, also where it holds no GPU itself
            bundle[types[0]] = 0.001
        if one.pipeline_parallel > 1:
            del bundle["GPU"]  # vLLM asks for them
        kinds.append(_Kind(bundle, _gpu(device), one.tensor_parallel, one.pipeline_parallel, 0))
    return kinds


def _resources(id: str) -> dict[str, float]:
    found: dict[str, float] = next((e["Resources"] for e in ray.nodes() if e["NodeID"] == id), {})
    return found


class _Relay:
    """The actor."""

    def serve(
        self, address: tuple[str, int], key: bytes, worker: int, epoch: int, cluster: str
    ) -> None:
        serve(address, key, worker, epoch, cluster)


@dataclass(slots=True)
class _Away:
    """A worker that lives, or is to live, on some node."""

    setup: WorkerSetup
    group: PlacementGroup
    actor: Any
    task: Any  # of the relay: done when it is over
    line: Connection | None = None
    outbox: queue.SimpleQueue[ToWorker | None] = field(default_factory=queue.SimpleQueue)


class RayExecutor:
    """Starts workers on a cluster's nodes, carries messages, notices deaths.

    `log` takes what workers print.
    """

    def __init__(self, spec: ExecutorSpec, plan: Plan, log: Log) -> None:
        connect(spec)
        self._log = log
        self._nodes = Nodes()
        self._kinds = _kinds(plan, self._nodes.alive(LOOK_S))
        self._cluster = str(ray.get_runtime_context().gcs_address)
        self._away: dict[int, _Away] = {}
        self._key = secrets.token_bytes(32)
        self._door = RelayListener(ray.util.get_node_ip_address(), self._key)

    def start(self, setup: WorkerSetup) -> None:
        """Ask for a place and start a worker there as soon as there is one."""
        self._stop_now(setup.worker)
        kind = self._kinds[setup.assignment.kind]
        group = placement_group([kind.bundle], strategy="STRICT_PACK")
        actor = (
            ray.remote(_Relay)
            .options(
                num_cpus=kind.bundle.get("CPU", 0),
                num_gpus=kind.bundle.get("GPU", 0),
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=0
                ),
            )
            .remote()
        )
        task = actor.serve.remote(
            self._door.address, self._key, setup.worker, setup.assignment.epoch, self._cluster
        )
        self._away[setup.worker] = _Away(setup, group, actor, task)

    def send(self, worker: int, message: ToWorker) -> None:
        """Send to a worker, now or when it is there; what is sent to a dead one is dropped."""
        if worker in self._away:
            self._away[worker].outbox.put(message)

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]:
        """Messages that came, in order per worker; waits for the first one."""
        by_line = {
            away.line: worker for worker, away in self._away.items() if away.line is not None
        }
        messages: list[tuple[int, FromWorker]] = []
        for ready in wait([*by_line, self._door.bell], timeout_s):
            if ready is self._door.bell:
                self._accept_peer()
                continue
            assert isinstance(ready, Connection)
            worker = by_line[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):
                message = WorkerExited(None, lost=True)
            if isinstance(message, Printed):
                with contextlib.suppress(OSError, ValueError):  # a full disk stops nothing
                    self._log.write(message.data)
                continue
            if isinstance(message, WorkerExited):
                self._stop_now(worker)
            if isinstance(message, WorkerReady):
                log.info("worker %d is ready", worker)
            messages.append((worker, message))
        return messages + list(self._never_came())

    def kill(self, worker: int) -> WorkerExited:
        """End a worker at once; its relay takes it along."""
        self._stop_now(worker)
        return WorkerExited(None)

    def close(self) -> None:
        """End every worker at once, and leave the cluster."""
        for worker in list(self._away):
            self._stop_now(worker)
        self._door.close()
        if _is_ours:
            ray.shutdown()
        self._log.close()

    def room(self, taken: list[int]) -> list[int]:
        """Kinds of machine with room for one more replica each, given how many of each kind there are by now.

        None of a kind of which a replica still waits: a machine that comes is that one's.
        """
        waiting = {away.setup.assignment.kind for away in self._away.values() if away.line is None}
        nodes = self._nodes.alive()
        return [
            number
            for number, kind in enumerate(self._kinds)
            if number not in waiting
            for _ in range(kind.replicas_on(nodes) - taken.count(number))
        ]

    def waiting(self) -> set[int]:
        return {worker for worker, away in self._away.items() if away.line is None}

    def _accept_peer(self) -> None:
        for hello, line in self._door.arrivals():
            away = self._away.get(hello.worker)
            if away is None or away.line is not None or away.setup.assignment.epoch != hello.epoch:
                line.close()  # of one that was given up meanwhile
                continue
            away.line = line
            threading.Thread(
                target=_send_all, args=(away, line), name=f"to {hello.worker}", daemon=True
            ).start()

    def _never_came(self) -> Iterator[tuple[int, FromWorker]]:
        """Relays that ended before they could say anything."""
        for worker, away in list(self._away.items()):
            if away.line is None and ray.wait([away.task], timeout=0)[0]:
                self._accept_peer()  # it may have been quick
                if away.line is None:
                    yield worker, self._why(away)
                    self._stop_now(worker)

    def _why(self, away: _Away) -> WorkerExited:
        try:
            ray.get(away.task)
        except ray.exceptions.RayTaskError as exc:
            log.warning("worker %d: its relay failed: %s", away.setup.worker, _line(exc))
            return WorkerExited(None, tuple(str(exc).splitlines()[-20:]))
        except ray.exceptions.RayError as exc:
            log.warning("worker %d: its relay is gone: %s", away.setup.worker, _line(exc))
        return WorkerExited(None, lost=True)

    def _stop_now(self, worker: int) -> None:
        """Nothing of this worker is wanted any more: close its line, end its actor, give its place
        back.
        """
        away = self._away.pop(worker, None)
        if away is None:
            return
        away.outbox.put(None)
        if away.line is not None:
            away.line.close()
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(away.actor, no_restart=True)
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            remove_placement_group(away.group)


def _send_all(away: _Away, line: Connection) -> None:
    """On a thread of its own: a node that does not read must not hold up the driver."""
    try:
        line.send((away.setup, environment_to_forward()))
        while (message := away.outbox.get()) is not None:
            line.send(message)
    except (OSError, ValueError):  # it is gone, and `poll` will say so
        return


def _line(exc: BaseException) -> str:
    lines = [line for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(exc).__name__
