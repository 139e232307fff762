"""A worker's process that imports its engine while the run is planned."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from process_tree import Tree, until
from replay_job import questions, rows_of, write_job

import batchr1
from batchr1.cli.main import main
from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.engine.lifeline import start_time
from batchr1.errors import FailedError, InputError, JobError
from batchr1.executors import local, worker_process
from batchr1.executors.log_tail import LogTail
from batchr1.executors.worker_process import EarlyWorker, WorkerProcess, early_worker, spawn
from batchr1.job.load import load_job

# a driver that is killed while its worker waits
DRIVER = """
import sys, time
from batchr1.executors.worker_process import spawn
waiting = spawn((), imports="replay")
print(waiting.process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    questions(6).write_parquet(tmp_path / "in.parquet")
    return write_job(tmp_path, sampling={"max_tokens": 20})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[WorkerProcess]:
    """The processes that were started early, on a machine with a GPU that is made up."""
    found: list[WorkerProcess] = []

    def noted(devices: tuple[str, ...], *, imports: str = "") -> WorkerProcess:
        found.append(spawn(devices, imports=imports))
        return found[-1]

    monkeypatch.setattr(worker_process, "spawn", noted)
    monkeypatch.setattr(worker_process, "choose_devices", lambda gpus, devices: ("GPU-0",))
    return found


def no_other(devices: tuple[str, ...], **options: Any) -> WorkerProcess:
    raise AssertionError("the process that is there does the work")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_run_works_in_the_process_that_is_there(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = EarlyWorker(spawn((), imports="vllm"))
    monkeypatch.setattr(local, "spawn", no_other)

    options = RunOptions(show_progress=False, gpus="none", early=early)
    assert run_job(load_job(job), options).exit_code == 0

    rows = rows_of(job.parent / "out")
    assert rows.height == 6
    assert set(rows["completion_tokens"]) <= set(range(1, 21))
    [log] = (job.parent / "out/.batchr1/runs").glob("*.log")
    assert "ready after" in log.read_text()
    assert early.take(()) is None


def test_packages_that_do_not_fit_are_named_as_ever(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken/vllm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "import torch\n"
        "torch.library.define('broken::operator', '(Tensor x) -> Tensor')  # not a second time\n"
        "raise ImportError('torch has no such thing')\n"
    )
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{broken.parent}{os.pathsep}{before}")
    early = EarlyWorker(spawn((), imports="vllm"))
    monkeypatch.setattr(local, "spawn", no_other)

    with pytest.raises(FailedError, match=r"cannot be imported here .*no such thing"):
        run_job(load_job(job), RunOptions(show_progress=False, gpus="none", early=early))


def test_a_process_for_other_gpus_is_ended() -> None:
    before = open_files()
    waiting = spawn(("0",), imports="replay")
    early = EarlyWorker(waiting)
    assert early.take(("1",)) is None
    assert early.take(()) is None
    assert start_time(waiting.process.pid) is not None

    early.close()
    early.close()
    assert start_time(waiting.process.pid) is None
    assert open_files() == before


def test_a_job_that_is_refused_leaves_no_process(job: Path, made: list[WorkerProcess]) -> None:
    (job.parent / "in.parquet").unlink()
    result = CliRunner().invoke(main, ["run", str(job)])
    assert result.exit_code == 2
    assert "in.parquet" in result.output

    with pytest.raises(InputError):
        batchr1.run(job, progress=False)

    assert len(made) == 2
    assert all(one.devices == ("GPU-0",) for one in made)
    assert all(start_time(one.process.pid) is None for one in made)


def test_it_ends_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    tree = Tree([sys.executable, "-c", DRIVER], tmp_path)
    until(lambda: tree.stdout.strip(), what="the process")
    assert len(tree.pids()) == 2
    tree.driver.kill()
    tree.driver.wait()
    until(lambda: not tree.left(), 10.0, "the end of its worker")


def test_more_than_a_pipe_holds_is_printed_before_anyone_reads(tmp_path: Path) -> None:
    tail, log = LogTail(), tmp_path / "log"
    program = "print('x' * 99_999); print('said')"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=tail.fd)
    tail.hand_over()
    assert tail.last_lines() == ()
    with log.open("wb") as file:
        tail.start(file, name="log")
        assert process.wait(60.0) == 0
        assert tail.last_lines(60.0)[-1] == "said"
        file.flush()
        assert log.stat().st_size == 100_000 + len("said\n")


@pytest.mark.parametrize(
    ("sections", "chosen", "wanted"),
    [
        ({}, ("a",), ("a",)),
        ({}, (), ()),
        ({}, ("a", "b"), ()),  # one engine on both, or one on each: the plan says
        ({"model": {"engine_args": {"tensor_parallel_size": 2}}}, ("a", "b"), ("a", "b")),
        ({"model": {"engine_args": {"tensor_parallel_size": 2}}}, ("a",), ()),
        (
            {"model": {"engine_args": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}}},
            ("a", "b", "c", "d"),
            ("a", "b", "c", "d"),
        ),
        ({"model": {"engine_args": {"numa_bind": True}}}, ("a",), ()),
        ({"engine": {"kind": "replay", "script": {}}}, ("a",), ()),
        ({"executor": {"kind": "ray"}}, ("a",), ()),
    ],
)
def test_it_is_started_where_its_gpus_are_certain(
    job: Path,
    sections: dict[str, Any],
    chosen: tuple[str, ...],
    wanted: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[tuple[str, ...], str]] = []

    def noted(devices: tuple[str, ...], *, imports: str) -> WorkerProcess:
        asked.append((devices, imports))
        return spawn(devices)

    monkeypatch.setattr(worker_process, "spawn", noted)
    monkeypatch.setattr(worker_process, "choose_devices", lambda gpus, devices: chosen)
    with early_worker(load_job(write_job(job.parent, **sections)), None, None) as early:
        assert early.take(("another",)) is None
    assert asked == ([(wanted, "vllm")] if wanted else [])


def test_it_is_not_started_for_an_output_that_is_complete(
    job: Path, made: list[WorkerProcess]
) -> None:
    (job.parent / "out").mkdir()
    (job.parent / "out/_SUCCESS").touch()
    with early_worker(load_job(job), None, None):
        assert made == []


def test_an_output_that_cannot_be_looked_at_is_the_runs_to_refuse(
    job: Path, made: list[WorkerProcess]
) -> None:
    result = CliRunner().invoke(main, ["run", str(job), "--output", "long" * 100])
    assert (result.exit_code, made) == (2, [])
    assert "the path is too long" in result.output


def test_a_machine_without_room_for_a_process_goes_on_without_it(
    job: Path, made: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(worker_process.subprocess, "Popen", refuse)
    before = open_files()
    with early_worker(load_job(job), None, None) as early:
        assert early.take(("GPU-0",)) is None
    assert open_files() == before


def test_gpus_that_are_not_there_are_the_runs_to_refuse(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(gpus: str | None, devices: tuple[str, ...] | None) -> tuple[str, ...]:
        raise JobError("--gpus: …")

    monkeypatch.setattr(worker_process, "choose_devices", refuse)
    with early_worker(load_job(job), "9", None) as early:
        assert early.take(()) is None
