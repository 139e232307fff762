"""Several replicas: a dead, late or sick one costs its own share; one on another machine is as good
as one here.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from process_tree import tree, until
from replay_job import (
    MODEL,
    feeder_of,
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    scripted,
    setup_of,
    wanted_keys,
    with_script,
    write_job,
)

from batchr1.cli.main import main
from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.driver.commits import Commits
from batchr1.driver.context import RunOptions
from batchr1.driver.driver import Driver, RunHooks
from batchr1.driver.fleet import Fleet
from batchr1.driver.run_job import run_job
from batchr1.driver.worker_setup import WorkerSetups
from batchr1.engine.lifeline import start_time
from batchr1.engine.protocol import EngineInfo
from batchr1.errors import EngineError, JobError
from batchr1.executors.local import share_cores
from batchr1.executors.messages import (
    Drain,
    FromWorker,
    SamplesFinished,
    ToWorker,
    WorkerExited,
    WorkerFailed,
    WorkerReady,
)
from batchr1.executors.ray_relay import Printed
from batchr1.executors.relay_listener import RelayListener
from batchr1.executors.setup import Assignment, WorkerSetup
from batchr1.job import load_job
from batchr1.sizing.oom import MemoryProblem
from batchr1.storage.base import open_storage

ROWS = 80


def job_for_two(folder: Path, **sections: Any) -> Path:
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(
        folder,
        model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 8}},
        executor={"replicas": 2},
        **sections,
    )


def only_the_first(monkeypatch: pytest.MonkeyPatch, **script: Any) -> None:
    """Worker 0 plays another script than the others."""
    setup = WorkerSetups.make

    def changed(self: Any, worker: int, kind: int) -> WorkerSetup:
        made = setup(self, worker, kind)
        return with_script(made, **script) if worker == 0 else made

    monkeypatch.setattr(WorkerSetups, "make", changed)


def record_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((output / ".batchr1/runs").glob("*.json")).read_text())
    return found


def events_of(output: Path, worker: int) -> list[str]:
    return [e["event"] for e in record_of(output)["replicas"]["events"] if e["worker"] == worker]


def assert_all_done(output: Path) -> None:
    assert keys_of(rows_of(output)) == wanted_keys(questions(ROWS))
    assert not (output / ".batchr1/failed").exists() or not list(
        (output / ".batchr1/failed").glob("*.parquet")
    )


def test_a_replica_that_cannot_start_is_given_up_and_the_other_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_first(monkeypatch, start_s=-1.0)
    result = CliRunner().invoke(
        main,
        scripted(["run", str(job_for_two(tmp_path))], replay(max_num_seqs=8, step_s=0.02)),
    )
    assert_all_done(tmp_path / "out")
    assert result.exit_code == 0
    why = "worker 0: ValueError: sleep length must be non-negative"
    assert f"\ngiven up: worker 0, and the others did its work ({why})\n" in result.stdout
    assert events_of(tmp_path / "out", 0) == ["started", "died", "given up"]
    assert record_of(tmp_path / "out")["replicas"]["given_up"] == {"0": why}


def test_a_sick_replica_fails_no_row_and_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies with whatever it is given; each of its rows comes through on the other."""
    monkeypatch.setattr("batchr1.driver.fleet.MAX_DEATHS_BESIDE_OTHERS", 2)
    only_the_first(monkeypatch, die_at_step=2)
    summary = run_replay(job_for_two(tmp_path), replay(max_num_seqs=8, step_s=0.1))
    assert_all_done(tmp_path / "out")
    assert (summary.exit_code, summary.tally.failed) == (0, 0)
    assert summary.given_up.keys() <= {0}
    assert "died" in events_of(tmp_path / "out", 0)
    assert "died" not in events_of(tmp_path / "out", 1)


def test_a_run_ends_without_a_replica_that_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_first(monkeypatch, start_s=3600.0)
    summary = run_replay(job_for_two(tmp_path), replay(max_num_seqs=8))
    assert_all_done(tmp_path / "out")
    assert summary.exit_code == 0
    assert events_of(tmp_path / "out", 0) == ["started", "ended"]


def test_when_no_replica_is_left_the_run_stops_with_the_last_ones_error(tmp_path: Path) -> None:
    summary = run_replay(job_for_two(tmp_path), replay(start_s=-1.0))
    assert summary.exit_code == 75
    assert sorted(summary.given_up) == [0, 1]
    assert summary.stopped in summary.given_up.values()


# Cores.


def test_replicas_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 8, 9, 10, 11})
    assert share_cores(3) == [(0, 1), (2, 3, 8), (9, 10, 11)]
    assert share_cores(8) == [(0,), (1,), (2,), (3,), (8,), (9,), (10,), (11,)]
    assert share_cores(10)[8:] == [(0,), (1,)]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are pinned on Linux")
def test_a_worker_keeps_to_its_cores(tmp_path: Path) -> None:
    """Read from the kernel while two workers run: every thread of each, and of OpenMP the count."""
    job = job_for_two(tmp_path)
    (tmp_path / "script.json").write_text(json.dumps(replay(max_num_seqs=8, step_s=0.5)))
    helper = str(Path(__file__).parents[1] / "helpers/replay_job.py")
    with tree([helper, str(tmp_path / "script.json"), "run", str(job)], tmp_path) as run:
        log = tmp_path / "out/.batchr1/runs"
        until(lambda: sum(p.read_text().count(" ready after ") for p in log.glob("*.log")) == 2)
        shares = [os.sched_getaffinity(pid) for pid in run.workers()]
    assert sorted(map(sorted, shares)) == sorted(map(sorted, share_cores(2)))


# Whose machine it is.


def test_ray_refuses_what_only_this_machine_has(tmp_path: Path) -> None:
    questions(1).write_parquet(tmp_path / "in.parquet")
    job = load_job(write_job(tmp_path, executor={"kind": "ray"}))
    with pytest.raises(JobError) as refused:
        run_job(job, RunOptions())
    assert str(refused.value) == (
        f"output.path: a local folder, and workers on other nodes write to it (got {tmp_path}/out, "
        "need s3://… or a file system that all nodes share). Give an S3 path, or set "
        "executor.shared_storage: true if they do."
    )
    with pytest.raises(JobError) as refused:
        run_job(job, RunOptions(devices=("0",)))
    assert str(refused.value).startswith(
        "--devices: chooses among this machine's GPUs, and the executor is ray"
    )
    assert not (tmp_path / "out").exists()


def test_the_plan_of_the_full_r1_needs_neither_gpus_nor_ray() -> None:
    job = Path(__file__).parents[2] / "jobs/r1_671b.yaml"
    result = CliRunner().invoke(main, ["plan", str(job), "--gpu", "H100", "--gpus", "16", "--json"])
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["replicas"], plan["tensor_parallel"], plan["pipeline_parallel"]) == (1, 8, 2)
    assert plan["engine_args"]["distributed_executor_backend"] == "ray"
    assert "ray" not in sys.modules


# Joining, and waiting for a place.


class Machines:
    """An executor whose machines come and go as a test says; no worker is real."""

    def __init__(self) -> None:
        self.started: list[WorkerSetup] = []
        self.free: list[int] = []
        self.without_place: set[int] = set()

    def start(self, setup: WorkerSetup) -> None:
        self.started.append(setup)

    def send(self, worker: int, message: ToWorker) -> None: ...

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]:
        return []

    def kill(self, worker: int) -> WorkerExited:
        return WorkerExited(None)

    def close(self) -> None: ...

    def room(self, taken: list[int]) -> list[int]:
        return self.free[len(taken) :]

    def waiting(self) -> set[int]:
        return self.without_place


def worker_setup(tmp_path: Path, worker: int, kind: int = 0) -> WorkerSetup:
    return setup_of(open_storage(tmp_path), assignment=Assignment("r", worker, kind=kind))


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    monkeypatch.setattr("batchr1.driver.fleet.LOOK_FOR_ROOM_S", 0.0)
    return Machines()


def fleet_on(machines: Machines, tmp_path: Path, count: int, most: int | None = None) -> Fleet:
    setups = [worker_setup(tmp_path, worker) for worker in range(count)]
    fleet = Fleet(
        machines, setups, lambda worker, kind: worker_setup(tmp_path, worker, kind), most=most
    )
    fleet.start()
    return fleet


def test_one_that_cannot_start_is_given_up_though_its_death_comes_late(
    machines: Machines, tmp_path: Path
) -> None:
    """The others have done its work before its process is gone."""
    fleet = fleet_on(machines, tmp_path, 3)
    fleet[0].fatal = WorkerFailed("ModelError", "worker 0: no such layer")
    memory = MemoryProblem("oom_loading", "memory ran out")
    fleet[1].fatal = WorkerFailed("EngineError", "worker 1: memory", memory)
    for replica in fleet:
        fleet.dismiss(replica)
    assert fleet.given_up == {0: "worker 0: no such layer"}
    assert not fleet.live
    told = [(event.worker, event.event) for event in fleet.events if event.event != "started"]
    assert told == [(0, "died"), (0, "given up"), (1, "ended"), (2, "ended")]


def test_a_machine_that_comes_gets_a_replica_of_its_kind(
    machines: Machines, tmp_path: Path
) -> None:
    fleet = fleet_on(machines, tmp_path, 2, most=4)
    machines.free = [0, 0]
    fleet.join()
    assert len(machines.started) == 2, "there is no room beyond the two that run"
    machines.free = [0, 0, 1, 1, 1]
    fleet.join()
    assert [(s.worker, s.assignment.kind) for s in machines.started[2:]] == [(2, 1), (3, 1)], (
        "four at most"
    )


def test_a_machine_that_killed_its_replica_again_and_again_gets_no_other(
    machines: Machines, tmp_path: Path
) -> None:
    fleet = fleet_on(machines, tmp_path, 2)
    machines.free = [0, 0]
    fleet.give_up(fleet[1], EngineError("worker 1: gone"))
    fleet.join()
    assert len(machines.started) == 2
    assert fleet.given_up == {1: "worker 1: gone"}


def test_a_run_waits_for_a_machine_and_not_for_ever(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_on(machines, tmp_path, 2)
    monkeypatch.setattr("batchr1.driver.fleet.PLACE_S", -1.0)
    machines.without_place = {1}
    fleet.check_placed()  # worker 0 has one
    machines.without_place = {0, 1}
    with pytest.raises(
        EngineError,
        match=r"^executor: no node had room for a replica for -1 s \(got none, need one\)",
    ):
        fleet.check_placed()


def test_at_the_end_no_replica_keeps_in_hand_what_another_could_run(
    machines: Machines, tmp_path: Path
) -> None:
    feeder = feeder_of(
        tmp_path, questions(26), PromptRenderer(load_tokenizer(MODEL)), longest_first=False
    )
    until(lambda: feeder._num_ready == 26, 30)
    fleet = fleet_on(machines, tmp_path, 2)
    unused: Any = None
    driver = Driver(
        commits=Commits(unused, unused, run="r", failed_every_s=60.0),
        executor=machines,
        feeder=feeder,
        replicas=fleet,
        hooks=RunHooks(lambda: None, unused, unused),
    )
    for replica in fleet.values():
        replica.ready = WorkerReady(EngineInfo("replay", 4096, 8, 0), 0.0)
        replica.wanted = 12  # for eight slots
    driver._leases.lease()
    held = [len(replica.in_flight) for replica in fleet.values()]
    assert held == [12, 12], "as long as there is enough"
    for replica in fleet.values():
        replica.wanted = 12
    driver._leases.lease()
    assert [len(replica.in_flight) for replica in fleet.values()] == held, (
        "two are left, and wait for a free slot"
    )
    driver._handle(fleet[1], SamplesFinished(tuple(fleet[1].in_flight)[:5], (10,) * 5))
    driver._leases.lease()
    assert [len(replica.in_flight) for replica in fleet.values()] == [12, 8], (
        "of three free slots there is work for one"
    )


def test_of_replicas_that_ended_well_one_starts_again_when_work_comes_back(
    machines: Machines, tmp_path: Path
) -> None:
    fleet = fleet_on(machines, tmp_path, 2)
    fleet.give_up(fleet[0], EngineError("worker 0: gone"))
    fleet.end(fleet[1])
    assert fleet.live == []
    assert fleet.revive()
    assert (machines.started[-1].worker, machines.started[-1].assignment.epoch) == (1, 1)
    fleet.give_up(fleet[1], EngineError("worker 1: gone"))
    assert not fleet.revive()


# A worker on another machine: relay and worker are real, the machine is this one.


class Far:
    """The driver's end of a relay, and its processes."""

    def __init__(self, folder: Path) -> None:
        self.key = secrets.token_bytes(32)
        self.listener = RelayListener("127.0.0.1", self.key)
        code = (
            "import sys; from batchr1.executors.ray_relay import serve; "
            f"serve({self.listener.address!r}, bytes.fromhex('{self.key.hex()}'), 0, 0, '')"
        )
        self.relay = subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"AWS_PROFILE": "the relay's"}
        )
        until(lambda: self._came(), 60, "the relay")
        self.line.send((setup_of(open_storage(folder)), {"AWS_PROFILE": "the driver's"}))

    def _came(self) -> bool:
        for hello, line in self.listener.arrivals():
            assert (hello.worker, hello.epoch) == (0, 0)
            self.line = line
            return True
        return False

    def hear(self, wanted: type[Any]) -> Any:
        """The next message of a type; what is printed is kept."""
        while True:
            assert self.line.poll(60), f"waited for {wanted.__name__}"
            message = self.line.recv()
            if isinstance(message, wanted):
                return message

    def worker(self) -> int:
        children = (
            Path(f"/proc/{self.relay.pid}/task/{self.relay.pid}/children").read_text().split()
        )
        (pid,) = [int(child) for child in children]
        return pid

    def close(self) -> None:
        self.line.close()
        self.listener.close()
        self.relay.kill()
        self.relay.wait()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    found = Far(tmp_path)
    yield found
    found.close()


def test_a_far_worker_works_and_what_it_prints_comes_along(far: Far) -> None:
    assert isinstance(far.hear(Printed).data, bytes)
    assert far.hear(WorkerReady).info.engine == "replay"
    far.line.send(Drain())
    assert far.hear(WorkerExited).exit_code == 0
    assert far.relay.wait(30) == 0


def test_a_far_workers_death_is_told_with_its_exit_code(far: Far) -> None:
    far.hear(WorkerReady)
    os.kill(far.worker(), signal.SIGKILL)
    exited = far.hear(WorkerExited)
    assert (exited.exit_code, exited.lost) == (-9, False)


@pytest.mark.parametrize("who", ["driver", "relay"])
def test_a_far_worker_outlives_neither_its_driver_nor_its_relay(far: Far, who: str) -> None:
    far.hear(WorkerReady)
    worker = far.worker()
    if who == "driver":
        far.line.close()
    else:
        far.relay.kill()
    until(lambda: start_time(worker) is None, 15, "the worker's end")
    assert far.relay.wait(15) == -9


def test_nobody_comes_in_without_the_key() -> None:
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Client

    door = RelayListener("127.0.0.1", secrets.token_bytes(32))
    with pytest.raises((AuthenticationError, EOFError, ConnectionError)):
        Client(door.address, authkey=b"guessed")
    time.sleep(0.1)
    assert list(door.arrivals()) == []
    door.close()
