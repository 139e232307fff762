"""The executor that a job names: this machine, or a Ray cluster.

Its kind decides the machine that is planned for, and where an output may lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchr1.errors import JobError
from batchr1.executors.local import LocalExecutor
from batchr1.executors.log_tail import Log
from batchr1.executors.messages import FromWorker, ToWorker, WorkerExited
from batchr1.executors.setup import WorkerSetup
from batchr1.executors.worker_process import EarlyWorker
from batchr1.job.spec import JobSpec
from batchr1.sizing.machine import Machine, this_machine

if TYPE_CHECKING:
    from batchr1.sizing.plan import Plan


class Executor(Protocol):
    """Where workers live. `poll` reports every death as `WorkerExited`."""

    def start(self, setup: WorkerSetup) -> None: ...

    def send(self, worker: int, message: ToWorker) -> None: ...

    def poll(self, timeout_s: float) -> list[tuple[int, FromWorker]]: ...

    def kill(self, worker: int) -> WorkerExited: ...

    def close(self) -> None: ...

    def room(self, taken: list[int]) -> list[int]:
        """List kinds of machine, each once for every further replica it fits.

        `taken`: the kind of each replica that is there by now.
        """
        ...

    def waiting(self) -> set[int]:
        """Workers that were started and have no machine yet."""
        ...


def check_executor(
    spec: JobSpec, *, gpus: str | None, devices: tuple[str, ...] | None, is_local_output: bool
) -> None:
    """Raise `JobError` for options that mean nothing on other machines."""
    if spec.executor.kind == "local":
        return
    for name, value in (("gpus", gpus), ("devices", devices)):
        if value is not None:
            raise JobError(
                f"--{name}: chooses among this machine's GPUs, and the executor is ray (got "
                f"{value!r}, need none). "
                "Leave it out, and bound the number of engines with --replicas."
            )
    if is_local_output and not spec.executor.shared_storage:
        raise JobError(
            f"output.path: a local folder, and workers on other nodes write to it (got "
            f"{spec.output.path}, need s3://… "
            "or a file system that all nodes share). Give an S3 path, or set "
            "executor.shared_storage: true if they do."
        )


def machine_of(spec: JobSpec, devices: tuple[str, ...]) -> Machine:
    """Describe the machine to plan for: this one, or the whole cluster."""
    if spec.executor.kind == "local":
        return this_machine(devices, cpu_replicas=spec.executor.replicas or 1)
    from batchr1.executors.ray_nodes import cluster_machine

    return cluster_machine(spec.executor)


def open_executor(
    spec: JobSpec, plan: Plan, log: Log, early: EarlyWorker | None = None
) -> Executor:
    """Open the executor of a run.

    `log` takes what workers print, and is closed with it. `early`: see `LocalExecutor`.
    """
    if spec.executor.kind == "local":
        return LocalExecutor(log, early)
    from batchr1.executors.ray import RayExecutor

    return RayExecutor(spec.executor, plan, log)
