"""Processes of an engine end with the worker that started them, whether or not vLLM looks at its
plugins.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from batchr1.engine.lifeline import WORKER_PID
from batchr1.engine.vllm.memory_probe import PROBE_CLASS

MODULE = PROBE_CLASS.rpartition(".")[0]
PROGRAM = (
    "import sys, time, importlib; importlib.import_module(sys.argv[1]); print('here', flush=True); "
    "time.sleep(60)"
)


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
