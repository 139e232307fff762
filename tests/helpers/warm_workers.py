"""Worker processes that are forked where everything is imported already.

A worker spends most of a short run on imports. A sweep of a thousand runs starts its workers here
instead: one process imports once, and each worker is a fork of it. It is a process and a session
of its own, a child of its driver, and runs the code of every worker.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOMS = ("worker", "backends", "engine.replay", "output", "storage", "reasoning", "dataset")


class WarmProcess:
    """What an executor needs of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class WarmWorkers:
    """The warm process, which is asked for workers."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._warm = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )

    @classmethod
    def of_this_process(cls) -> WarmWorkers:
        """Workers of a process that was forked itself: what they are forked from is its child."""
        workers = cls.__new__(cls)
        workers._line, theirs = socket.socketpair()
        if os.fork() == 0:
            workers._line.close()
            serve(theirs)
            os._exit(run_worker())
        theirs.close()
        return workers

    def start(self, command: list[str], env: dict[str, str], **files: Any) -> WarmProcess:
        """Start `python -m MODULE FD DRIVER`; the arguments are those of `Popen`."""
        from kills import adopt_orphans

        adopt_orphans()
        assert command[:2] == [sys.executable, "-m"]
        asked = json.dumps({"module": command[2], "driver": os.getpid(), "env": dict(env)})
        [end] = files["pass_fds"]
        assert str(end) == command[3]
        socket.send_fds(self._line, [f"{len(asked.encode()):8}".encode()], [end, files["stdout"]])
        self._line.sendall(asked.encode())
        pid = int(self._line.recv(16))
        while _parent_of(pid) != os.getpid():  # as of a process that one has started oneself
            time.sleep(0.001)
        return WarmProcess(pid)

    def close(self) -> None:
        self._line.close()
        self._warm.wait()


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Standing:
    """The module `subprocess`, as the local executor uses it."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self, workers: WarmWorkers) -> None:
        self.Popen = workers.start


def serve(line: socket.socket) -> None:
    """Fork a worker for each request; returns in each worker, and never in this process."""
    while True:
        head, files, _, _ = socket.recv_fds(line, 8, 2)
        if not head:
            os._exit(0)
        asked = b""
        while len(asked) < int(head):
            asked += line.recv(int(head) - len(asked))
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                line.sendall(b"%d" % pid)
                os._exit(0)
            line.close()
            _become_worker(json.loads(asked), *files)
            return
        os.waitpid(between, 0)
        for file in files:
            os.close(file)


def _become_worker(asked: dict[str, Any], end: int, output: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(asked["env"])
    while os.getppid() != asked["driver"]:
        time.sleep(0.001)
    from kills import arm_worker

    arm_worker()
    sys.argv = [asked["module"], str(end), str(asked["driver"])]


def run_worker() -> int:
    from batchr1.worker.main import main

    return main(int(sys.argv[1]), int(sys.argv[2]))


def import_all() -> None:
    """Import what a worker on a script may import."""
    for room in ROOMS:
        package = importlib.import_module(f"batchr1.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", ".vllm", ".memory_probe")):
                importlib.import_module(module.name)


def _main(fd: int) -> int:
    from batchr1.dataset.tokenizer import load_tokenizer
    from batchr1.dataset.without_torch import leave_torch_out
    from batchr1.models.catalogue import variant

    import_all()
    leave_torch_out()
    load_tokenizer(str(variant("r1-tiny").path))
    gc.freeze()  # else a collection in each worker would copy every page
    serve(socket.socket(fileno=fd))
    return run_worker()


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1])))
