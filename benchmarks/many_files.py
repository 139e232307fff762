"""Cost of many files before the first row: `check`, and `run` to its first lease.

    python benchmarks/many_files.py --files 2000 --rows 10000000
    python tests/helpers/s3_server.py python benchmarks/many_files.py --files 1100 --s3

Files are made once, of equal size; then both commands are run and timed. `run` has the replay
engine in place of vLLM and is stopped at the first lease that a worker gets. With `--s3` the files
lie in a bucket of the server that BATCHR1_TEST_S3_ENDPOINT names.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from replayed import job
from scale import measure

BUCKET = "many-files"


def make_files(folder: Path, files: int, rows: int) -> None:
    """Write `rows` short prompts into `files` files of equal size."""
    folder.mkdir(parents=True)
    for number in range(files):
        numbers = range(number * rows // files, (number + 1) * rows // files)
        table = pa.table(
            {
                "id": [f"dataset/train/{i:09d}" for i in numbers],
                "problem": [f"What is {i} + {i}?" for i in numbers],
            }
        )
        pq.write_table(table, folder / f"{number:06d}.parquet", compression="zstd")


def upload(folder: Path, endpoint: str) -> str:
    """Put a folder's files into the bucket; returns its URI."""
    import s3fs

    bucket = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint})
    bucket.makedirs(BUCKET, exist_ok=True)
    bucket.put(str(folder), f"{BUCKET}/in", recursive=True)
    return f"s3://{BUCKET}/in/"


def check(path: Path) -> dict[str, float]:
    """Time `batchr1 check`: seconds, and those of its processor time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "batchr1", "check", str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"s": time.monotonic() - started, "cpu_s": cpu_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rows", type=int, help="of all files together (default: one a file)")
    parser.add_argument("--s3", action="store_true", help="read them from a bucket")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batchr1-files-"))
    try:
        make_files(folder / "in", arguments.files, arguments.rows or arguments.files)
        sections: dict[str, Any] = {}
        if arguments.s3:
            endpoint = os.environ["BATCHR1_TEST_S3_ENDPOINT"]
            sections = {
                "input": {"path": upload(folder / "in", endpoint)},
                "storage": {"endpoint": endpoint},
            }
        steps: dict[str, Any] = {"check": check(job(folder, **sections))}
        steps |= measure(folder, 600.0)
        for name in ("check", "open_job", "read_ids", "first_lease"):
            at = steps[name]
            print(f"{name:<12}{at['s']:>8.2f} s, processor time {at['cpu_s']:>7.2f} s")
        print(f"{'peak':<12}{steps['peak_gb']:>8.2f} GB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
