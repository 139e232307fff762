"""Ray cluster on this machine; its nodes are raylets, to be added and killed.

Also a program, because the cluster must die with its tests and be no part of the tests' own
process: `python tests/helpers/ray_cluster.py FOLDER N` starts a head that runs nothing and N nodes
of one CPU, and then does what it finds in FOLDER: `add` starts a node, `kill` kills the oldest with
everything on it. The file goes when it is done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process_tree import Tree, tree, until

START_S = 240.0  # 15 s on a quiet machine
STORE_BYTES = 80 * 2**20


class RayCluster:
    """The cluster from outside."""

    def __init__(self, running: Tree, folder: Path) -> None:
        self._running, self._folder = running, folder
        until(
            lambda: "address " in running.stdout or running.driver.poll() is not None,
            START_S,
            "the Ray cluster",
        )
        assert "address " in running.stdout, running.stderr
        self.address = running.stdout.split("address ")[1].split()[0]

    def add(self) -> None:
        """Start a node."""
        self._report("add")

    def kill(self) -> None:
        """SIGKILL to the oldest node and all that runs on it."""
        self._report("kill")

    def _report(self, command: str) -> None:
        file = self._folder / command
        file.touch()
        until(lambda: not file.exists(), START_S, command)

    def workers(self) -> list[int]:
        """Worker processes on its nodes."""
        return self._named("batchr1.worker.main")

    def relays(self) -> list[int]:
        """Actor processes of replicas."""
        return self._named("ray::_Relay")

    def _named(self, name: str) -> list[int]:
        return [pid for pid in self._running.left() if name in command_of(pid)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextmanager
def ray_cluster(folder: Path, nodes: int) -> Iterator[RayCluster]:
    commands = folder / "cluster"
    commands.mkdir()
    with tree([__file__, str(commands), str(nodes)], folder) as running:
        yield RayCluster(running, commands)


def main(folder: Path, count: int) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **common},
    )
    nodes = [cluster.add_node(num_cpus=1, num_gpus=0, **common) for _ in range(count)]
    print("address", cluster.address, flush=True)
    while True:
        for file in sorted(folder.iterdir()):
            if file.name == "add":
                nodes.append(cluster.add_node(num_cpus=1, num_gpus=0, **common))
            else:
                cluster.remove_node(nodes.pop(0), allow_graceful=False)
            file.unlink()
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
