"""Replicas on a Ray cluster.

Ray finds the machine: each replica is an actor in a placement group of its own. The actor is a
relay (`ray_relay`) and runs the worker process that `local` runs. Messages go over a connection
between driver and relay, not through Ray. It ends within moments with either side; Ray notices a
lost node after many seconds.

An engine inside one node (tensor parallel) gets a group of one bundle with its GPUs. One that
spreads over nodes (pipeline parallel) asks Ray for its GPUs by itself, through vLLM's own Ray
backend; its actor holds no GPU.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from batchr1.executors.log_tail import Log
from batchr1.executors.messages import FromWorker, ToWorker, WorkerExited, WorkerReady
from batchr1.executors.ray_nodes import DESCRIBE_S, Node, Nodes, connect, last_line, leave
from batchr1.executors.ray_relay import Printed, environment_to_forward, serve
from batchr1.executors.relay_listener import RelayListener
from batchr1.executors.setup import WorkerSetup
from batchr1.job.spec import ExecutorSpec
from batchr1.sizing.devices import Device
from batchr1.sizing.plan import Plan

log = logging.getLogger("batchr1.ray")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A machine kind of the plan, and a replica's share of it."""

    bundle: dict[str, float]
    gpu: tuple[str, int] | None  # name and memory in GiB; None: CPUs
    tensor_parallel: int
    pipeline_parallel: int
    cpus: int

    def replicas_on(self, nodes: list[Node]) -> int:
        """Count the replicas that fit on these nodes when they are empty."""
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
class _RemoteWorker:
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
        self._kinds = _kinds(plan, self._nodes.alive(DESCRIBE_S))
        self._cluster = str(ray.get_runtime_context().gcs_address)
        self._workers: dict[int, _RemoteWorker] = {}
        self._key = secrets.token_bytes(32)
        self._listener = RelayListener(ray.util.get_node_ip_address(), self._key)

    def start(self, setup: WorkerSetup) -> None:
        """Ask for a place, and start a worker once there is one."""
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
            self._listener.address, self._key, setup.worker, setup.assignment.epoch, self._cluster
        )
        self._workers[setup.worker] = _RemoteWorker(setup, group, actor, task)

    def send(self, worker: int, message: ToWorker) -> None:
        """Send to a worker, now or once it is connected.

        A message to a dead one is dropped.
        """
        if worker in self._workers:
            self._workers[worker].outbox.put(message)

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]:
        """Take the messages that came, in order per worker.

        Waits for the first one.
        """
        by_line = {
            remote.line: worker
            for worker, remote in self._workers.items()
            if remote.line is not None
        }
        messages: list[tuple[int, FromWorker]] = []
        for ready in wait([*by_line, self._listener.wakeup], timeout_s):
            if not isinstance(ready, Connection):  # the listener's
                self._accept_peer()
                continue
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
        return messages + list(self._failed_to_start())

    def kill(self, worker: int) -> WorkerExited:
        """End a worker at once; its relay takes it along."""
        self._stop_now(worker)
        return WorkerExited(None)

    def close(self) -> None:
        """End every worker at once, and leave the cluster."""
        for worker in list(self._workers):
            self._stop_now(worker)
        self._listener.close()
        leave()
        self._log.close()

    def room(self, taken: list[int]) -> list[int]:
        """List kinds of machine, each once for every further replica it fits.

        `taken`: the kind of each replica that is there by now. A kind of which a replica still
        waits has no room: a machine that comes is that one's.
        """
        waiting = {
            remote.setup.assignment.kind for remote in self._workers.values() if remote.line is None
        }
        nodes = self._nodes.alive()
        return [
            number
            for number, kind in enumerate(self._kinds)
            if number not in waiting
            for _ in range(kind.replicas_on(nodes) - taken.count(number))
        ]

    def waiting(self) -> set[int]:
        return {worker for worker, remote in self._workers.items() if remote.line is None}

    def _accept_peer(self) -> None:
        for hello, line in self._listener.arrivals():
            remote = self._workers.get(hello.worker)
            if (
                remote is None
                or remote.line is not None
                or remote.setup.assignment.epoch != hello.epoch
            ):
                line.close()  # of one that was given up meanwhile
                continue
            remote.line = line
            threading.Thread(
                target=_send_all, args=(remote, line), name=f"to {hello.worker}", daemon=True
            ).start()

    def _failed_to_start(self) -> Iterator[tuple[int, FromWorker]]:
        """Relays that ended before they could say anything."""
        for worker, remote in list(self._workers.items()):
            if remote.line is None and ray.wait([remote.task], timeout=0)[0]:
                self._accept_peer()  # it may have been quick
                if remote.line is None:
                    yield worker, self._exit_of(remote)
                    self._stop_now(worker)

    def _exit_of(self, remote: _RemoteWorker) -> WorkerExited:
        try:
            ray.get(remote.task)
        except ray.exceptions.RayTaskError as exc:
            log.warning("worker %d: its relay failed: %s", remote.setup.worker, last_line(exc))
            return WorkerExited(None, tuple(str(exc).splitlines()[-20:]))
        except ray.exceptions.RayError as exc:
            log.warning("worker %d: its relay is gone: %s", remote.setup.worker, last_line(exc))
        return WorkerExited(None, lost=True)

    def _stop_now(self, worker: int) -> None:
        """Close a worker's line, end its actor, and free its place."""
        remote = self._workers.pop(worker, None)
        if remote is None:
            return
        remote.outbox.put(None)
        if remote.line is not None:
            remote.line.close()
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(remote.actor, no_restart=True)
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            remove_placement_group(remote.group)


def _send_all(remote: _RemoteWorker, line: Connection) -> None:
    """Send a worker's messages, on a thread of its own.

    A node that does not read must not hold up the driver.
    """
    try:
        line.send((remote.setup, environment_to_forward()))
        while (message := remote.outbox.get()) is not None:
            line.send(message)
    except (OSError, ValueError):  # it is gone, and `poll` will say so
        return
