"""What a large input costs before the first new row: 10 M rows, 90 % of them done.

    python benchmarks/scale.py --rows 10000000 --done 0.9

The first call makes the dataset and, beside it, parts with only what a resume reads (id and sample). A call with
--folder measures a resume up to the first batch of pending rows that is read: seconds, and the peak of resident memory.
Rendering, the lock and the engine's start are not part of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 1_000_000
ROWS_PER_PART = 20_000


def make(folder: Path, rows: int, done: int) -> None:
    """The dataset, and parts that hold the first `done` of a shuffled order of its rows."""
    (folder / "in").mkdir()
    (folder / "out/data").mkdir(parents=True)
    for start in range(0, rows, ROWS_PER_FILE):
        numbers = range(start, min(rows, start + ROWS_PER_FILE))
        ids = pa.array([f"dataset/train/{i:09d}" for i in numbers])
        text = pa.array([f"What is {i} + {i}?" for i in numbers])
        pq.write_table(pa.table({"id": ids, "problem": text}), folder / f"in/{start:09d}.parquet", compression="zstd")
    order = np.random.default_rng(0).permutation(rows)[:done]
    for number, start in enumerate(range(0, done, ROWS_PER_PART)):
        ids = pa.array([f"dataset/train/{i:09d}" for i in order[start : start + ROWS_PER_PART].tolist()])
        samples = pa.array(np.zeros(len(ids), dtype=np.int32))
        name = f"part-20260101T000000000Z-0000-0-0-{number:05d}.parquet"
        pq.write_table(pa.table({"id": ids, "sample": samples}), folder / "out/data" / name, compression="zstd")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each step of a resume, and the peak memory in GB."""
    from batchr1.data.output import Output
    from batchr1.data.pending import Pending
    from batchr1.data.source import Source
    from batchr1.data.storage import expand_inputs, open_storage
    from batchr1.job.spec import InputSpec

    started = time.monotonic()
    files = expand_inputs([str(folder / "in")])
    source = Source(InputSpec(path=str(folder / "in"), id="id", prompt="problem"), [], files)
    pending = Pending(source, 1, ids_are_hashes=False)
    read = time.monotonic()
    for table in Output(open_storage(folder / "out")).tables(["id", "sample"]):
        pending.mark_done(table.column("id"), table.column("sample"))
    matched = time.monotonic()
    counts = pending.counts()
    pending.free()
    batch, _ = next(iter(pending.rows(source)))
    first = time.monotonic()
    return {
        "rows": counts.rows,
        "pending": counts.pending,
        "ids_s": round(read - started, 1),
        "match_s": round(matched - read, 1),
        "first_batch_s": round(first - started, 1),
        "first_batch_rows": batch.num_rows,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--done", type=float, default=0.9, help="share of rows that are done")
    parser.add_argument("--folder", type=Path, help="where the data is made, or lies already")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="batchr1-scale-"))
    if not (folder / "in").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, arguments.rows, int(arguments.rows * arguments.done))
        print(f"made {folder}: measure with --folder {folder}")
    else:
        print(json.dumps(measure(folder)))


if __name__ == "__main__":
    main()
