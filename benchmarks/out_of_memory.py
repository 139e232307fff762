"""Out of memory, provoked on a real GPU: another process that holds memory, and a plan forced too large.

    python benchmarks/out_of_memory.py --job jobs/math.yaml --out oom.json

Each case is a run of its own; the table says how it ended, which rungs were taken, and how many rows are there.
Needs a GPU with 139 GiB (an H200); r1-tiny makes the runs short.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# name, GiB that another process holds, seconds after the run's start (None: before it), extra options
CASES: list[tuple[str, int, float | None, list[str]]] = [
    ("60 GiB held before", 60, None, []),
    ("120 GiB taken while the engine starts", 120, 7.0, []),
    ("60 GiB held, utilisation forced to 0.9", 60, None, ["--set", "model.engine_args.gpu_memory_utilization=0.9"]),
]
HOLD = """
import sys, time, torch
held = torch.empty(int(sys.argv[1]) * 2**30, dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(600)
"""


def hold(gib: int) -> subprocess.Popen[str]:
    """A process that holds memory; returns once it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(gib)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def batchr1(job: str, output: Path, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batchr1", "run", job, "--output", str(output), "--json", *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_in(output: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in (output / "data").glob("*.parquet"))


def case(job: str, name: str, gib: int, after_s: float | None, extra: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output, holder = Path(folder) / "out", None
        started = time.monotonic()
        if gib and after_s is None:
            holder = hold(gib)
        run = batchr1(job, output, *extra)
        if gib and after_s is not None:
            ready = subprocess.Popen([sys.executable, "-c", "import torch"])  # warm the page cache
            ready.wait()
            time.sleep(max(0.0, after_s - (time.monotonic() - started)))
            holder = hold(gib)
        out, err = run.communicate(timeout=240)
        if holder is not None:
            holder.kill()
            holder.wait()
        records = [json.loads(p.read_text()) for p in sorted((output / ".batchr1/runs").glob("*.json"))]
        last = records[-1] if records else {}
        tail = [line for line in err.splitlines() if line.startswith("batchr1: ") or "rung" in line or "lower" in line]
        return {
            "case": name, "exit_code": run.returncode, "seconds": round(time.monotonic() - started, 1),
            "rows": rows_in(output) if (output / "data").exists() else 0,
            "rungs": [{k: r.get(k) for k in ("rung", "changes", "reason")} for r in last.get("rungs", [])],
            "plan_notes": last.get("plan", {}).get("notes"), "stderr": tail[-6:], "stdout": out[-400:],
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--job", default="jobs/math.yaml")
    parser.add_argument("--out", type=Path, default=Path("oom.json"))
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:  # rows that are there before a plan that cannot work
        output = Path(folder) / "kept"
        first = batchr1(options.job, output, "--limit", "100")
        first.communicate(timeout=240)
        before = rows_in(output)
        forced = batchr1(options.job, output, "--set", "model.engine_args.max_num_batched_tokens=16777216")
        _, err = forced.communicate(timeout=240)
        results.append({"case": "rows before a forced plan", "exit_code": forced.returncode, "rows_before": before,
                        "rows": rows_in(output), "stderr": err.splitlines()[-3:]})  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    for name, gib, after_s, extra in CASES:
        results.append(case(options.job, name, gib, after_s, extra))
        print(json.dumps(results[-1]), flush=True)
        options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
