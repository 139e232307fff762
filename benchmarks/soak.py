"""A million rows through everything but a model: speed and memory.

    python benchmarks/soak.py --rows 1000000 --out soak.json

The replay engine gives short completions as fast as it can. So all around it is measured, from
reading to commits: rows per second, and the memory of driver and worker over time. Memory is flat
when its growth per million rows, fitted over the second half, is small.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from replayed import command, job, memory_gb
from scale import make_input

SCRIPT: dict[str, Any] = {"max_num_seqs": 512, "tokens_per_step": 16, "mean_len": 30.0}
EVERY_S = 2.0


def worker_of(pid: int) -> int | None:
    """Find the driver's child that runs the engine."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"batchr1.worker.main" in (path / "cmdline").read_bytes():
                return int(path.name)
        except OSError:
            continue
    return None


def rows_done(folder: Path, rows_per_part: int) -> int:
    """Estimate the rows done: parts are full but for the last one."""
    data = folder / "out/data"
    return len(list(data.iterdir())) * rows_per_part if data.exists() else 0


def soak(folder: Path, rows: int, rows_per_part: int) -> dict[str, Any]:
    make_input(folder, rows)
    job(folder, output={"rows_per_part": rows_per_part})
    started = time.monotonic()
    samples: list[dict[str, float]] = []
    with (folder / "run.log").open("wb") as log:
        run = subprocess.Popen(command(folder, SCRIPT), stdout=log, stderr=log)
    worker = None
    while run.poll() is None:
        worker = worker or worker_of(run.pid)
        samples.append(
            {
                "s": time.monotonic() - started,
                "rows": min(rows, rows_done(folder, rows_per_part)),
                "driver_gb": memory_gb(run.pid),
                "worker_gb": memory_gb(worker) if worker else 0.0,
            }
        )
        time.sleep(EVERY_S)
    if run.returncode:
        sys.exit(f"the run ended with {run.returncode}: see {folder}/run.log")
    record = json.loads(next((folder / "out/.batchr1/runs").glob("*.json")).read_text())
    return {
        "rows": rows,
        "seconds": record["generating_s"],
        "rows_per_s": rows / record["generating_s"],
        "samples": [s for s in samples if s["rows"] and s["worker_gb"]],
    }


def growth(samples: list[dict[str, float]], name: str) -> float:
    """Fit MB per million rows over the second half, by least squares."""
    half = [s for s in samples if s["rows"] >= samples[-1]["rows"] / 2]
    if len(half) < 3:
        return float("nan")
    return float(np.polyfit([s["rows"] / 1e6 for s in half], [s[name] * 1e3 for s in half], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-part", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="also write all samples there, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchr1-soak-") as name:
        result = soak(Path(name), arguments.rows, arguments.rows_per_part)
    samples = result["samples"]
    print(
        f"{result['rows']:,} rows in {result['seconds']:,.0f} s = {result['rows_per_s']:,.0f} "
        f"rows/s"
    )
    print("rows done    driver GB  worker GB")
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        at = min(samples, key=lambda s: abs(s["rows"] - share * arguments.rows))
        print(f"{at['rows']:>9,.0f}  {at['driver_gb']:>10.3f}  {at['worker_gb']:>9.3f}")
    for who in ("driver", "worker"):
        peak = max(s[f"{who}_gb"] for s in samples)
        per_million = growth(samples, f"{who}_gb")
        print(
            f"{who}: peak {peak:.3f} GB, {per_million:+,.0f} MB per million rows in the second half"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
