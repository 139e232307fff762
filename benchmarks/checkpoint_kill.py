"""Second half of checkpoint_cost.py: a killed `batchr1 run`, and the next run."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from throughput import engine_args, trace
from traces import write_dataset

EVERY_S = 0.5  # between two records of how far a run is
WINDOW_S = 4.0  # that a rate is taken over
BEFORE_S = 20.0
FULL = 0.95


def run_recorded(path: Path, arguments: list[str]) -> NoReturn:
    """Run `batchr1 ARGUMENTS` in this process, progress appended to a file."""
    from batchr1.driver.monitor import progress

    class Recorder(progress.ProgressDisplay):
        said_at = 0.0

        def update(self, tally: Any, workers: list[Any]) -> None:
            super().update(tally, workers)
            if workers and time.time() - self.said_at >= EVERY_S:
                self.said_at = time.time()
                line = {"t": self.said_at, "tokens": sum(w.generated_tokens for w in workers)}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

    progress.ProgressDisplay = Recorder  # type: ignore[misc]
    from batchr1.cli.main import program

    sys.argv = ["batchr1", *arguments]
    program()


def time_starts(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start the run again and again, each killed at its first tokens; returns seconds."""
    _write_job(options, folder)
    found = {}
    for number in range(1, options.starts + 1):
        records = folder / f"start-{number}.jsonl"
        started_at = time.time()
        run = _start(options, folder, records)
        while not (seen := _records(records)):
            if run.poll() is not None:
                sys.exit(f"the run ended before its first tokens, with {run.returncode}")
            time.sleep(0.05)
        found[f"s_from_start_{number}_to_first_tokens"] = seen[0]["t"] - started_at
        _kill(run)
    return found


def _write_job(options: argparse.Namespace, folder: Path) -> int:
    """Write job and input; returns the tokens that are to be generated."""
    total = write_dataset(trace(options), folder / "trace.parquet", options.model)
    [every_s] = options.every_s
    job = {
        "name": "kill",
        "model": {"path": options.model, "engine_args": engine_args(options)},
        "input": {
            "path": str(folder / "trace.parquet"),
            "id": "id",
            "prompt": "prompt",
            "max_tokens": "max_tokens",
        },
        "output": {"path": options.output, "rows_per_part": options.rows_per_part},
        "prompting": {"instruction": "none"},
        "sampling": {"max_tokens": options.cap, "ignore_eos": True},
        "checkpoint": {"every_s": every_s},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    return int(total)


def kill_and_go_on(options: argparse.Namespace, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Kill one run; returns tokens generated again and seconds to recover."""
    total = _write_job(options, folder)
    first, second = folder / "first.jsonl", folder / "second.jsonl"

    run = _start(options, folder, first)
    while not (seen := _records(first)) or seen[-1]["tokens"] < total / 2:
        if run.poll() is not None:
            sys.exit(f"the run ended before half time, with {run.returncode}")
        time.sleep(0.1)
    time.sleep(rng.uniform(0, options.every_s[0]))
    killed_at = time.time()
    _kill(run)
    gone_at = time.time()
    before = _records(first)
    full = _rate(before, max(before[0]["t"], before[-1]["t"] - BEFORE_S), before[-1]["t"])
    generated = before[-1]["tokens"] + full * (killed_at - before[-1]["t"])
    committed = _committed(options)
    if committed + 1 > total:
        sys.exit("the run was over before the kill: use more requests, or a smaller --every-s")

    started_at = time.time()
    if (code := _start(options, folder, second).wait()) != 0:
        sys.exit(f"the second run ended with {code}")
    ended_at = time.time()
    after = _records(second)
    record = json.loads(_control_file(options, "runs", ".json")[-1])
    taken_over = record["taken_over"]["tokens"]
    regained = next(
        (r["t"] for r in after if _rate(after, r["t"] - WINDOW_S, r["t"]) >= FULL * full), None
    )
    return {
        "tokens_of_the_job": total,
        "tokens_per_s_before_the_kill": full,
        "tokens_generated_until_the_kill": round(generated),
        "of_these_committed": committed,
        "of_these_taken_over": taken_over,
        "tokens_generated_again": round(generated - committed - taken_over),
        "seconds_of_work_lost": (generated - committed - taken_over) / full,
        "generations_taken_over": record["taken_over"]["generations"],
        "s_until_no_process_was_left": gone_at - killed_at,
        "s_from_start_to_first_tokens": after[0]["t"] - started_at,
        "s_from_start_to_full_throughput": regained - started_at if regained else -1.0,
        "s_from_first_tokens_to_full": regained - after[0]["t"] if regained else -1.0,
        "s_of_the_second_run": ended_at - started_at,
    }


def _kill(run: subprocess.Popen[bytes]) -> None:
    """Kill a run's driver; returns once no process of it is left."""
    group = _descendants(run.pid)
    assert group, "the worker at least"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while any(_runs(pid) for pid in group):
        time.sleep(0.02)


def _start(options: argparse.Namespace, folder: Path, records: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(Path(__file__).with_name("checkpoint_cost.py")),
        "--recorded",
        str(records),
    ]
    command += [
        "run",
        str(folder / "job.yaml"),
        *(["--gpus", "none"] if options.device == "cpu" else []),
    ]
    return subprocess.Popen(command, stdout=sys.stderr)


def _records(path: Path) -> list[dict[str, Any]]:
    """Read a run's progress records, oldest first, whole lines only."""
    if not path.exists():
        return []
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]


def _rate(records: list[dict[str, Any]], start: float, end: float) -> float:
    """Compute tokens per second between two moments; 0 before the records."""
    within = [r for r in records if start <= r["t"] <= end]
    if len(within) < 2 or records[0]["t"] > start + EVERY_S * 2:
        return 0.0
    return float((within[-1]["tokens"] - within[0]["tokens"]) / (within[-1]["t"] - within[0]["t"]))


def _committed(options: argparse.Namespace) -> int:
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage

    tables = Output(open_storage(options.output)).tables(["completion_tokens"])
    return sum(sum(table.column("completion_tokens").to_pylist()) for table in tables)


def _control_file(options: argparse.Namespace, folder: str, suffix: str) -> list[bytes]:
    from batchr1.storage.base import CONTROL_DIR, open_storage

    storage = open_storage(options.output)
    return [
        storage.read_bytes(f.rel) for f in storage.list_files(f"{CONTROL_DIR}/{folder}", suffix)
    ]


def _descendants(pid: int) -> list[int]:
    parents = {
        int(p.name): _stat(int(p.name))[1] for p in Path("/proc").iterdir() if p.name.isdigit()
    }
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]


def _runs(pid: int) -> bool:
    return _stat(pid)[0] not in "ZX"


def _stat(pid: int) -> tuple[str, int]:
    """Read state and parent of a process; a missing one is dead."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)
