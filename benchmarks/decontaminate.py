"""Decontamination of a large output: time, memory, what is found, what is left alone.

    python benchmarks/decontaminate.py --texts gsm8k_train.parquet \
        --benchmarks gsm8k_test.parquet math500.parquet --rows 1000000

Rows are made of the texts: three sentences of different problems, with numbers of their own. Every
row of the first benchmark is planted once an edit of `tests/helpers/planted.py`, spread over the
parts. Then `batchr1 export --decontaminate` marks what it finds. Its processes' peak memory is
that of the largest one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from made_output import good_row, table_of, write_output
from planted import EDITS

ROWS_PER_PART = 50_000
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def prompts_of(path: Path) -> list[str]:
    frame = pl.read_parquet(path)
    name = next(name for name in ("prompt", "problem", "question") if name in frame.columns)
    return list(frame[name].to_list())


def made_prompt(sentences: list[str], draw: random.Random) -> str:
    """Join sentences of several problems, with other numbers."""
    text = " ".join(draw.choices(sentences, k=3))
    return re.sub(r"\d+", lambda _: str(draw.randrange(2, 500)), text) + INSTRUCTION


def parts(texts: list[str], planted: dict[int, str], rows: int, seed: int) -> Iterator[pa.Table]:
    """Make the parts of an output; `planted`: rows with a text of their own."""
    draw = random.Random(seed)
    sentences = [one for text in texts for one in re.split(r"(?<=[.?!])\s+", text) if len(one) > 20]
    row = table_of([good_row(0)])
    for first in range(0, rows, ROWS_PER_PART):
        numbers = range(first, min(rows, first + ROWS_PER_PART))
        prompts = [planted.get(n) or made_prompt(sentences, draw) for n in numbers]
        table = row.take(pa.array([0] * len(numbers)))
        columns = {"id": [f"row/{n:07d}" for n in numbers], "prompt": prompts}
        for name, values in columns.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(values))
        yield table


def plant(benchmark: list[str], rows: int, seed: int) -> dict[int, tuple[str, int, str]]:
    """Choose places for edited copies: edit, row of the benchmark and text of each."""
    copies = [
        (name, number, edit(text))
        for name, (edit, _) in EDITS.items()
        for number, text in enumerate(benchmark)
    ]
    return dict(zip(random.Random(seed).sample(range(rows), len(copies)), copies, strict=True))


def export(folder: Path, benchmarks: list[Path]) -> tuple[float, float, float]:
    """Run the export: seconds, processor seconds, and GB at the peak."""
    files = ",".join(map(str, benchmarks))
    command = [sys.executable, "-m", "batchr1", "export", str(folder / "out"), str(folder / "set")]
    command += ["--to", "raw", "--decontaminate", files, "--contaminated", "mark", "--json"]
    began = time.monotonic()
    with (folder / "export.json").open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the export failed: {os.waitstatus_to_exitcode(status)}")
    seconds = time.monotonic() - began
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def read_hits(report: Path, benchmark: str) -> Iterator[tuple[int, int]]:
    """Read the rows that are hits, and of which row of `benchmark`; -1: of another."""
    for line in report.read_text(encoding="utf-8").splitlines():
        hit = json.loads(line)
        number = hit["benchmark_row"] if hit["benchmark"].endswith(f"/{benchmark}") else -1
        yield int(hit["id"].removeprefix("row/")), number


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", type=Path, required=True, help="prompts that rows are made of")
    parser.add_argument("--benchmarks", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="batchr1-decontaminate-"))
    planted = plant(prompts_of(given.benchmarks[0]), given.rows, given.seed)
    texts = {number: text for number, (_, _, text) in planted.items()}
    began = time.monotonic()
    write_output(folder / "out", parts(prompts_of(given.texts), texts, given.rows, given.seed))
    print(f"made {folder} in {time.monotonic() - began:.0f} s", flush=True)

    seconds, cpu_s, peak = export(folder, given.benchmarks)
    print(f"{given.rows:,} rows: {seconds:.1f} s, {cpu_s:.1f} s of processors, {peak:.2f} GB")
    hits = set(read_hits(folder / "set/contamination.jsonl", given.benchmarks[0].name))
    # A prompt that several rows have is one hit, with the first one's id.
    found = {(texts.get(row), number) for row, number in hits}
    for name, (_, least) in EDITS.items():
        copies = [(text, number) for edit, number, text in planted.values() if edit == name]
        count = sum(copy in found for copy in copies)
        share = f"{count:>6} of {len(copies)} = {count / len(copies):.2%}"
        print(f"{name:<22}{share} (at least {least:.0%})")
    clean = {row for row, _ in hits} - planted.keys()
    print(f"clean rows flagged    {len(clean):>6} = {len(clean) / (given.rows - len(planted)):.4%}")


if __name__ == "__main__":
    main()
