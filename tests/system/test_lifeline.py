"""Processes of an engine end with the worker that started them, whether or not vLLM looks at its
plugins.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest
from process_tree import until

from batchr1.engine.lifeline import WORKER_PID, start_time
from batchr1.engine.vllm.memory_probe import PROBE_CLASS

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
MODULE = PROBE_CLASS.rpartition(".")[0]
PROGRAM = (
    "import sys, time, importlib; importlib.import_module(sys.argv[1]); print('here', flush=True); "
    "time.sleep(60)"
)

# a worker whose engine forks, as vLLM's does on a GPU
FORKING = """
import os, sys, time
from multiprocessing.connection import Connection
from batchr1.engine.vllm.engine import prepare_environment
from batchr1.worker.main import PipeChannel
PipeChannel(Connection(int(sys.argv[1]))).start()
prepare_environment("cuda")
assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
print(os.fork(), flush=True)
time.sleep(60)
"""

# how vLLM starts processes, and the threads that a forked one would follow its worker by
WATCHED = """
import os, sys, threading, types
from batchr1.backends.vllm import VllmBackend
from batchr1.engine.vllm import imports
from batchr1.engine.vllm.engine import prepare_environment

def stop(): raise KeyError  # before all of vLLM is loaded

imports.import_vllm = stop
spec = types.SimpleNamespace(model=types.SimpleNamespace(engine_args={}, adapter=None))
plan = types.SimpleNamespace(engine_args={"numa_bind": True} if sys.argv[1] == "numa" else {})
for _ in range(3):
    if sys.argv[1] == "score":
        prepare_environment("cuda", forks=False)
    else:
        try:
            VllmBackend().engine(
                types.SimpleNamespace(device="cuda", spec=spec, plan=plan, assignment=None), None
            )
        except KeyError:
            pass
print(os.environ["VLLM_WORKER_MULTIPROC_METHOD"], flush=True)
child = os.fork()
if not child:
    print(*(thread.name for thread in threading.enumerate()[1:]), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def undecided() -> dict[str, str]:
    """The environment, where nobody chose how vLLM starts processes."""
    return {name: value for name, value in os.environ.items() if name != METHOD}


def engine_process(worker: int) -> subprocess.Popen[bytes]:
    """A process that loads what vLLM's workers load; returns once it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, MODULE],
        stdout=subprocess.PIPE,
        env=os.environ | {WORKER_PID: str(worker)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


def test_a_process_of_the_engine_ends_with_its_worker() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    engine = engine_process(worker.pid)
    try:
        time.sleep(1.2)
        assert engine.poll() is None
        worker.kill()
        worker.wait()
        assert engine.wait(timeout=20) == -9
    finally:
        for process in (worker, engine):
            process.kill()
            process.wait()
        assert engine.stdout is not None
        engine.stdout.close()


def test_a_process_without_a_worker_goes_on() -> None:
    engine = engine_process(0)
    time.sleep(1.2)
    assert engine.poll() is None
    engine.kill()
    engine.wait()
    assert engine.stdout is not None
    engine.stdout.close()


def test_a_forked_engine_ends_with_its_worker_and_hides_its_end_from_nobody() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        worker = subprocess.Popen(
            [sys.executable, "-c", FORKING, str(theirs.fileno())],
            stdout=subprocess.PIPE,
            env=undecided(),
            pass_fds=[theirs.fileno()],
        )
    line = Connection(ours.detach())
    assert worker.stdout is not None
    engine = max(int(worker.stdout.readline()) for _ in range(2))  # the child prints 0
    try:
        assert start_time(engine) is not None
        os.kill(engine, signal.SIGSTOP)  # so that only a closed line can tell of the worker
        worker.kill()
        worker.wait()
        assert line.poll(10)
        with pytest.raises(EOFError):
            line.recv()
        os.kill(engine, signal.SIGCONT)
        until(lambda: start_time(engine) is None, 20, "the engine's end")
    finally:
        if start_time(engine) is not None:
            os.kill(engine, signal.SIGKILL)
        worker.stdout.close()
        line.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("run", ["fork", "lifeline"]), ("numa", ["spawn", ""]), ("score", ["spawn", ""])],
)
def test_only_what_vllm_forks_is_made_to_follow(kind: str, said: list[str]) -> None:
    """vLLM binds spawned processes alone to NUMA nodes; forks of a user's program go their way."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, kind],
        check=True,
        capture_output=True,
        text=True,
        env=undecided(),
    )
    assert done.stdout.splitlines() == said
