"""A command in a process of its own, and every process that comes of it, in whatever session: to
watch and to kill.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from batchr1.engine.lifeline import start_time

TAG = "TREE_OF_A_TEST"  # not BATCHR1_…: those a driver hands on to the workers of a cluster


def until(condition: Callable[[], object], timeout_s: float = 120.0, what: str = "") -> None:
    """Wait for a condition; a failure says which."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:g} s for {what or condition}")
        time.sleep(0.01)


class Tree:
    """Running command and its descendants.

    All processes that descend from it carry its tag in their environment, until one writes its own
    title over it, as vLLM's engine does. So those seen below the driver are remembered as well.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self._tag = f"{TAG}={secrets.token_hex(8)}"
        self._seen: set[tuple[int, str]] = set()
        name, _, value = self._tag.partition("=")
        self._out, self._err = folder / f"{value}.out", folder / f"{value}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.driver = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | {name: value},
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def pids(self) -> list[int]:
        """Every live process of the tree, the driver first: found by walking from parents to
        children.
        """
        children: dict[int, list[int]] = {}
        for pid in _all_pids():
            if (parent := _parent(pid)) is not None:
                children.setdefault(parent, []).append(pid)
        found = [self.driver.pid]
        for pid in found:
            found += children.get(pid, [])
        alive = [(pid, started) for pid in found if (started := start_time(pid)) is not None]
        self._seen.update(alive)
        return [pid for pid, _ in alive]

    def workers(self) -> list[int]:
        """The worker processes: the driver's own children."""
        return [
            pid
            for pid in self.pids()
            if _parent(pid) == self.driver.pid and "batchr1.worker.main" in _command(pid)
        ]

    def left(self) -> list[int]:
        """Every live process that carries the tag or was seen in the tree, whoever its parent is by
        now.
        """
        alive = [(pid, started) for pid in _all_pids() if (started := start_time(pid)) is not None]
        return [
            pid for pid, started in alive if (pid, started) in self._seen or self._is_tagged(pid)
        ]

    def _is_tagged(self, pid: int) -> bool:
        try:
            return self._tag.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def kill(self) -> list[int]:
        """SIGKILL to every process at once; returns their pids."""
        pids = self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.driver.wait()
        return pids

    def wait(self, timeout_s: float = 240.0) -> int:
        return self.driver.wait(timeout_s)


@contextmanager
def tree(command: list[str], folder: Path) -> Iterator[Tree]:
    """Run a command; whatever is left of it at the end is killed."""
    running = Tree([sys.executable, *command], folder)
    try:
        yield running
    finally:
        for pid in {*running.left(), running.driver.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        running.driver.wait()


def engine_process(run: Tree) -> int | None:
    """The process of vLLM's engine, where it is one of its own."""
    return next((pid for pid in run.pids() if "EngineCore" in _command(pid)), None)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
