"""Nodes of a Ray cluster: joining it, and describing each node."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchr1.errors import JobError
from batchr1.job.spec import ExecutorSpec
from batchr1.sizing.devices import Device, describe_devices
from batchr1.sizing.machine import Machine, free_ram_gib
from batchr1.version import __version__

log = logging.getLogger("batchr1.ray")

DESCRIBE_S = 60.0  # for a node to say what it is, before a run begins
CONNECT_S = 10.0  # for the head of a cluster to take a connection

_is_joined = False  # whether this module joined the cluster, and so has to leave it


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its own description.

    GPUs and CPUs are those that Ray may give away.
    """

    id: str
    devices: tuple[Device, ...]
    cpus: int
    ram_gib: float


def connect(spec: ExecutorSpec) -> None:
    """Join the cluster as a driver, unless this process is one already.

    Raises `JobError` when there is none.
    """
    global _is_joined
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
        _is_joined = True
    finally:
        for number, handler in handlers.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)


def _connect(address: str) -> None:
    """Raise `OSError` when nothing listens at HOST:PORT.

    Ray itself would try again for a quarter of an hour.
    """
    if address == "auto":  # what an earlier `ray start` wrote down here may be long gone
        address = os.environ.get("RAY_ADDRESS") or services.find_bootstrap_address(None) or ""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        if not 0 < int(port) < 2**16:
            raise ValueError(f"no port: {port}")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _keep_stdout() -> None:
    """Send to the log what Ray prints on stdout about its nodes.

    Ray has no setting for it.
    """
    from ray._private import worker

    def to_log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        lines = [
            line for line in "\n".join(map(str, data.get("lines", ()))).splitlines() if line.strip()
        ]
        log.info("ray: %s", lines[0][:300] if lines else data)

    worker.print_to_stdstream = to_log


def leave() -> None:
    """Leave the cluster, if `connect` joined it."""
    if _is_joined:
        ray.shutdown()


class Nodes:
    """Descriptions of the cluster's nodes; each node is asked once."""

    def __init__(self) -> None:
        self._known: dict[str, Node | None] = {}
        self._pending: dict[str, Any] = {}

    def alive(self, wait_s: float = 0.0) -> list[Node]:
        """List living nodes that can run a worker and have described themselves.

        Waits `wait_s` for those that have not.
        """
        entries = {e["NodeID"]: e["Resources"] for e in ray.nodes() if e["Alive"]}
        for id in entries:
            if id not in self._known and id not in self._pending:
                self._pending[id] = _request(id, entries[id])
        if self._pending:
            replies = list(self._pending.values())
            done, _ = ray.wait(replies, num_returns=len(replies), timeout=wait_s)
            for id, reply in list(self._pending.items()):
                if reply in done:
                    del self._pending[id]
                    self._known[id] = _node(id, entries.get(id, {}), reply)
        found = [node for id in sorted(entries) if (node := self._known.get(id)) is not None]
        for id in self._pending.keys() & entries.keys() if wait_s else ():
            log.warning(
                "node %s is not used yet: it did not say within %.0f s what it is", id[:8], wait_s
            )
        return found


def _describe(num_gpus: int) -> tuple[str, tuple[Device, ...], float]:
    """Describe this node: its version of batchr1, GPUs and free memory.

    Ray hides the GPUs from a task that holds none, so they are named by number. Of a node that
    gives only some of its GPUs to Ray these may be others, which matters only where they differ.
    """
    devices = describe_devices(tuple(str(i) for i in range(num_gpus))) if num_gpus else ()
    return __version__, devices, free_ram_gib()


def _request(id: str, resources: dict[str, float]) -> Any:
    on_node = NodeAffinitySchedulingStrategy(id, soft=False)
    task = ray.remote(_describe).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
    return task.remote(int(resources.get("GPU", 0)))


def _node(id: str, resources: dict[str, float], reply: Any) -> Node | None:
    """Read a node's description.

    None, and a line in the log, for a node that cannot be used.
    """
    try:
        version, devices, ram_gib = ray.get(reply)
    except ray.exceptions.RayError as exc:
        log.warning("node %s is not used: %s", id[:8], last_line(exc))
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
    """Describe the cluster as a machine to plan for.

    It has the GPUs of all nodes, or without any, the CPUs. On CPUs, a replica takes as many as the
    smallest node has. Raises `JobError` when there is nothing to run on.
    """
    connect(spec)
    nodes = Nodes().alive(DESCRIBE_S)
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


def last_line(exc: BaseException) -> str:
    lines = [line for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(exc).__name__
