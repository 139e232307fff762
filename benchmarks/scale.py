"""Cost of a large input before its first new row.

    python benchmarks/scale.py --rows 10000000 --done 0.9 --folder DIR

The first call makes the dataset, and an output as the job would have left it: all columns, parts of
20,000 rows. Each later call measures the real command with the replay engine in place of vLLM. The
clock runs from the start of the process to the first lease that a worker gets. The peak of the
driver's resident memory is read then, and the run is stopped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from replayed import command, job, memory_gb

ROWS_PER_FILE = 1_000_000
ROWS_PER_PART = 20_000
SCRIPT: dict[str, Any] = {
    "max_num_seqs": 256,
    "tokens_per_step": 4,
    "step_s": 0.01,
    "mean_len": 100.0,
}
RUN = "20260101T000000000Z-0000"


def make_input(folder: Path, rows: int) -> None:
    """Write `rows` short prompts with ids, in files of a million."""
    (folder / "in").mkdir(parents=True)
    for start in range(0, rows, ROWS_PER_FILE):
        numbers = range(start, min(rows, start + ROWS_PER_FILE))
        ids = pa.array([f"dataset/train/{i:09d}" for i in numbers])
        text = pa.array([f"What is {i} + {i}?" for i in numbers])
        pq.write_table(
            pa.table({"id": ids, "problem": text}),
            folder / f"in/{start:09d}.parquet",
            compression="zstd",
        )


def make_output(folder: Path, rows: int, done: int) -> None:
    """Write parts with the first `done` rows of a shuffled order.

    The record of the job that made them is written too.
    """
    from batchr1.driver.context import RunOptions, open_job
    from batchr1.driver.monitor.summary import job_document
    from batchr1.driver.resume.changed_prompts import agrees_with_input
    from batchr1.driver.resume.pending_rows import read_ids
    from batchr1.job import load_job
    from batchr1.output.parts import write_parquet

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))
    from replay_job import replay, set_engine

    prepared = open_job(load_job(set_engine(job(folder), replay())), RunOptions())
    prepared.output.write_job(job_document(prepared))
    agrees_with_input(prepared, read_ids(prepared))
    (folder / "out/data").mkdir()
    order = np.random.default_rng(0).permutation(rows)[:done]
    for number, start in enumerate(range(0, done, ROWS_PER_PART)):
        table = part(order[start : start + ROWS_PER_PART].tolist())
        write_parquet(table, folder / f"out/data/part-{RUN}-0-0-{number:05d}.parquet")


def part(numbers: list[int]) -> pa.Table:
    """Make a part whose rows differ in id, prompt and hash alone."""
    from batchr1.columns import output_schema

    same: dict[str, Any] = {
        "sample": 0,
        "reasoning": "think " * 50,
        "answer": "42",
        "final_answer": "42",
        "reasoning_status": "closed",
        "truncated": False,
        "finish_reason": "stop",
        "prompt_tokens": 40,
        "reasoning_tokens": 50,
        "answer_tokens": 5,
        "control_tokens": 2,
        "injected_tokens": 0,
        "completion_tokens": 57,
        "flags": [],
        "attempts": 1,
        "resumed_at": [],
        "model": "r1-tiny",
        "run": RUN,
        "finished_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    }
    schema = output_schema(pa.schema([]))
    columns = {
        "id": [f"dataset/train/{i:09d}" for i in numbers],
        "prompt": [f"What is {i} + {i}?" for i in numbers],
        "prompt_hash": [f"{i:032x}" for i in numbers],
    }
    arrays = [
        pa.array(columns.get(f.name, [same.get(f.name)] * len(numbers)), f.type) for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def measure(folder: Path, timeout_s: float) -> dict[str, Any]:
    """Time the steps of a resume (s), and read peak memory (GB)."""
    marks = folder / "marks.json"
    marks.unlink(missing_ok=True)
    started = time.monotonic()
    with (folder / "run.log").open("wb") as log:
        run = subprocess.Popen(command(folder, SCRIPT, marks=marks), stdout=log, stderr=log)
    while run.poll() is None and time.monotonic() - started < timeout_s:
        if marks.exists() and "first_lease" in (found := _read(marks)):
            time.sleep(5)  # of work
            found["peak_gb_at_work"] = round(memory_gb(run.pid, "VmHWM"), 3)
            run.send_signal(signal.SIGTERM)
            run.wait()
            return found
        time.sleep(0.05)
    run.kill()
    sys.exit(f"no lease in {timeout_s:g} s: see {folder}/run.log")


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError:  # while it is being written
        return {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--done", type=float, default=0.9, help="share of rows that are done")
    parser.add_argument("--folder", type=Path, help="where the data is made, or lies already")
    parser.add_argument("--timeout-s", type=float, default=600.0)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="batchr1-scale-"))
    if not (folder / "in").exists():
        make_input(folder, arguments.rows)
        make_output(folder, arguments.rows, int(arguments.rows * arguments.done))
        print(f"made {folder}: measure with --folder {folder}")
    else:
        found = measure(folder, arguments.timeout_s)
        for name, at in found.items():
            if isinstance(at, dict):
                print(
                    f"{name:<18}{at['s']:>8.2f} s, the driver's processor time "
                    f"{at['cpu_s']:>6.2f} s"
                )
            else:
                print(f"{name:<18}{at:>8.3f}")


if __name__ == "__main__":
    main()
