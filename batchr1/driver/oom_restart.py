"""Restart after out-of-memory, one rung lower.

At the end of the ladder stand the cause and what to do.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from batchr1.errors import EngineMemoryError, JobError
from batchr1.events import event
from batchr1.executors.setup import WorkerSetup
from batchr1.sizing.devices import Holder, describe_devices, holders_of
from batchr1.sizing.oom import MemoryProblem, Rung, blocking, next_rung

log = logging.getLogger("batchr1.driver")

RELEASE_S = 5.0  # before a GPU is used again: what a killed process held comes back after a moment
LOOK_AGAIN_S = 2.0  # before another process is blamed for what the dead worker may still have held
MIN_HELD_GIB = 0.05


@dataclass(frozen=True, slots=True)
class RungTaken:
    """A step down, for the run's record.

    `at_s`: seconds since the driver started.
    """

    worker: int
    rung: str
    changes: dict[str, Any]
    reason: str
    at_s: float


def step_down(
    setup: WorkerSetup, problem: MemoryProblem, *, taken: Collection[str]
) -> tuple[WorkerSetup, Rung]:
    """Make the setup to restart with, one rung lower.

    Call when the failed worker's processes are gone. `taken`: names of the rungs that this worker
    took before. Raises `EngineMemoryError` at the end of the ladder.
    """
    holders = _holders(setup.assignment.devices)
    problem = _by_others(setup, problem, holders)
    args = setup.plan.engine_args
    rung = next_rung(args, problem, fixed=set(setup.plan.fixed), taken=taken)
    held = _holders_text(holders, problem)
    if rung is None:
        raise EngineMemoryError(_end_of_ladder(setup, problem, held))
    if held:
        rung = replace(rung, reason=f"{rung.reason}; {held}")
    steps = [f"{name} {args.get(name)} → {value}" for name, value in rung.changes.items()]
    log.warning(
        "worker %d: %s: %s",
        setup.worker,
        rung.reason,
        ", ".join(steps) or "trying the same once more",
        extra=event("engine_stepped_down", worker=setup.worker),
    )
    planned = setup.plan.max_num_seqs
    seqs = min(planned, rung.changes.get("max_num_seqs", planned))
    lower = replace(setup.plan, engine_args=args | rung.changes, max_num_seqs=seqs)
    return replace(setup, plan=lower), rung


def _by_others(setup: WorkerSetup, problem: MemoryProblem, holders: list[Holder]) -> MemoryProblem:
    """Blame other processes for weights that did not load beside them.

    The share to try next is what they leave free.
    """
    if problem.cause != "oom_load" or not holders:
        return problem
    with contextlib.suppress(JobError):  # NVML cannot be asked any more: then it stays what it was
        tightest = min(
            describe_devices(setup.assignment.devices), key=lambda device: device.free_gib
        )
        return replace(
            problem,
            cause="busy",
            available_gib=tightest.free_gib,
            total_gib=tightest.gpu.memory_gib,
        )
    return problem


def _holders(devices: tuple[str, ...]) -> list[Holder]:
    """Processes that hold memory of these GPUs, and go on doing so."""
    found = [holder for device in devices for holder in holders_of(device)]
    if found:
        time.sleep(LOOK_AGAIN_S)
        found = [holder for device in devices for holder in holders_of(device)]
    return [holder for holder in found if holder.memory_gib >= MIN_HELD_GIB]


def _holders_text(holders: list[Holder], problem: MemoryProblem) -> str:
    """Name the processes that hold memory, the largest first.

    `process 123 (python) holds 60.0 GiB`; where NVML says nothing, what torch saw.
    """
    found = [(h.memory_gib, h.pid, h.name) for h in holders] or [
        (gib, pid, None) for pid, gib in problem.others
    ]
    found.sort(key=lambda entry: -entry[0])
    return ", ".join(
        f"process {pid}{f' ({name})' if name else ''} holds {gib:.1f} GiB"
        for gib, pid, name in found
    )


def _end_of_ladder(setup: WorkerSetup, problem: MemoryProblem, held: str) -> str:
    advice = []
    if held:
        advice.append(f"Free the GPU: {held}.")
    for name in blocking(setup.plan.engine_args, problem, fixed=set(setup.plan.fixed)):
        verb = "Leave out" if name == "enforce_eager" else "Lower"
        advice.append(
            f"{verb} model.engine_args.{name}, which the job sets to "
            f"{setup.plan.engine_args.get(name)}."
        )
    if problem.cause == "kv_too_small":
        for name in sorted(
            {"gpu_memory_utilization", "kv_cache_memory_bytes"} & set(setup.plan.fixed)
        ):
            advice.append(
                f"Raise model.engine_args.{name}, which the job sets to "
                f"{setup.plan.engine_args.get(name)}."
            )
    if problem.cause == "unsteady":
        advice.append("Give the run GPUs that nothing else uses.")
    elif setup.device == "cpu":
        advice.append("Give the run more memory, or choose a smaller variant.")
    else:
        advice.append("Give more GPUs or a quantised variant: `batchr1 plan` shows what fits.")
    if problem.max_model_len is not None:
        advice.append(
            f"Prompt and max_tokens together could have {problem.max_model_len:,} tokens."
        )
    return (
        f"worker {setup.worker}: {problem.message}, and nothing is left to lower. "
        f"{' '.join(advice)} "
        "Committed rows are safe, and the same command goes on."
    )
