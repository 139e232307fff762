"""Out of memory, provoked on a real GPU.

    python benchmarks/out_of_memory.py --job jobs/math.yaml --out oom.json

Either another process holds memory, or the plan is forced too large. Each case is a run of its
own. The table has its end, its rungs and its rows. Needs a GPU with 139 GiB (an H200); r1-tiny
makes the runs short. The other process has its CUDA context from the start. It takes the memory on
command: before the run, or once the run has its plan and its engine begins to load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOLD = """
import sys, torch
torch.zeros(1, device="cuda")
for line in sys.stdin:
    held = torch.empty(int(line) * 2**30, dtype=torch.uint8, device="cuda")
    print("held", flush=True)
"""
UTILIZATION = "model.engine_args.gpu_memory_utilization"


@dataclass(frozen=True, slots=True)
class Case:
    """Case: `held_gib` by another process, and `extra` options of the run.

    The memory is taken before the run or, if `late`, after its plan.
    """

    name: str
    held_gib: int
    late: bool = False
    extra: tuple[str, ...] = ()


CASES = [
    Case("60 GiB held before", 60),
    Case("120 GiB held before", 120),
    Case("60 GiB taken after the plan", 60, late=True),
    Case("120 GiB taken after the plan", 120, late=True),
    Case("60 GiB held, utilisation forced to 0.9", 60, extra=("--set", f"{UTILIZATION}=0.9")),
    Case(
        "KV cache forced to 200 GiB",
        0,
        extra=("--set", f"model.engine_args.kv_cache_memory_bytes={200 * 2**30}"),
    ),
]


@contextmanager
def holder() -> Iterator[Callable[[int], None]]:
    """Start a process with a CUDA context.

    The returned function takes a number of GiB, and returns once they are held.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None and process.stdout is not None
    lines_in, lines_out = process.stdin, process.stdout

    def take(gib: int) -> None:
        lines_in.write(f"{gib}\n")
        assert lines_out.readline() == "held\n"

    try:
        yield take
    finally:
        process.kill()
        process.wait()


def start(job: str, output: Path, *extra: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "batchr1",
        "run",
        job,
        "--output",
        str(output),
        "--json",
        *extra,
    ]
    command += [
        "--set",
        "model.engine_args.enforce_eager=true",
    ]  # a start without compiling: a quarter of the time
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_in(output: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in (output / "data").glob("*.parquet"))


def wait_for_plan(run: subprocess.Popen[str], output: Path, before: int) -> None:
    """Wait until the run has written its record.

    That comes after its plan and before its engine starts.
    """
    while run.poll() is None and len(list((output / ".batchr1/runs").glob("*.json"))) == before:
        time.sleep(0.02)


def first_rows(job: str, output: Path) -> None:
    """Make ten rows without trouble; every case goes on from a copy."""
    _, err = (run := start(job, output, "--limit", "10")).communicate(timeout=240)
    assert run.returncode == 0, err


def measure(job: str, case: Case, first: Path, output: Path) -> dict[str, Any]:
    """Run the case over the whole input; earlier rows have to stay."""
    shutil.copytree(first, output)
    before = rows_in(output)
    with holder() as take:
        if case.held_gib and not case.late:
            take(case.held_gib)
        started = time.monotonic()
        run = start(job, output, *case.extra)
        if case.late:
            wait_for_plan(run, output, before=1)
            take(case.held_gib)
        _, err = run.communicate(timeout=300)
    records = [
        json.loads(path.read_text()) for path in sorted((output / ".batchr1/runs").glob("*.json"))
    ]
    last = records[-1] if len(records) > 1 else {}
    return {
        "case": case.name,
        "exit_code": run.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "rows_before": before,
        "rows": rows_in(output),
        "planned": last.get("plan", {}).get("gpu_memory_utilization"),
        "rungs": [
            {k: r.get(k) for k in ("rung", "changes", "reason")} for r in last.get("rungs", [])
        ],
        "notes": last.get("plan", {}).get("notes"),
        "stopped": last.get("stopped"),
        "stderr": [line for line in err.splitlines() if line.strip()][-4:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--job", default="jobs/math.yaml")
    parser.add_argument("--cases", default="", help="their numbers, e.g. 0,3; all without it")
    parser.add_argument("--out", type=Path, default=Path("oom.json"))
    options = parser.parse_args()
    chosen = [CASES[int(n)] for n in options.cases.split(",") if n] or CASES
    results = []
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        first_rows(options.job, first)
        for number, case in enumerate(chosen):
            results.append(measure(options.job, case, first, Path(folder) / str(number)))
            print(json.dumps(results[-1]), flush=True)
            options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
