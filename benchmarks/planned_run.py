"""A whole run as planned: planned memory beside vLLM's.

    # two H200s: TP 2
    python benchmarks/planned_run.py --variant r1-distill-llama-70b --out tp2.json

This makes a dataset and a model folder of the true shape with dummy weights, and runs the job. It
prints the memory figures of the run's record (`memory`), which has both sides. Exit code 1 when the
KV cache of a GPU is off by more than --bound.
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

sys.path.insert(0, str(Path(__file__).parent))

from shapes import write_shape
from traces import TraceSpec, write_dataset


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the job; returns its record, exit code and seconds."""
    write_shape(options.variant, folder / "model")
    spec = TraceSpec(options.requests, options.mean, 1.0, options.cap, 30)
    write_dataset(spec, folder / "trace.parquet", str(folder / "model"))
    job = {
        "name": "planned-run",
        "model": {"path": str(folder / "model"), "engine_args": {"load_format": "dummy"}},
        "input": {
            "path": str(folder / "trace.parquet"),
            "id": "id",
            "prompt": "prompt",
            "max_tokens": "max_tokens",
        },
        "output": {"path": str(folder / "out")},
        "prompting": {"instruction": "none"},
        "sampling": {"max_tokens": options.cap, "ignore_eos": True},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "batchr1", "run", str(folder / "job.yaml"), "--json"]
    )
    [path] = (folder / "out/.batchr1/runs").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if done.returncode:
        print(
            "\n".join(path.with_suffix(".log").read_text(encoding="utf-8").splitlines()[-40:]),
            file=sys.stderr,
        )
    return record | {
        "command_s": round(time.monotonic() - started, 1),
        "exit_code": done.returncode,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", default="r1-distill-llama-70b")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument(
        "--mean", type=float, default=200.0, help="mean output tokens before the cap"
    )
    parser.add_argument("--cap", type=int, default=512)
    parser.add_argument("--bound", type=float, default=0.5, help="largest error allowed, in GiB")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        record = run(options, Path(name))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    plan = record["plan"]
    print(
        f"{options.variant}: {plan['replicas']} × TP {plan['tensor_parallel']} × PP "
        f"{plan['pipeline_parallel']}, "
        f"{plan['max_num_seqs']} sequences, utilisation {plan['gpu_memory_utilization']}; exit "
        f"code "
        f"{record['exit_code']} after {record['command_s']} s, "
        f"{record.get('tally', {}).get('done')} "
        f"rows, "
        f"{record.get('tokens_per_s')} tokens/s, rungs {record.get('rungs')}"
    )
    worst = 0.0
    for worker, memory in record.get("memory", {}).items():
        for name, sides in memory.items():
            print(
                f"  worker {worker} {name:16} planned {sides['planned']:>12,.3f}  measured "
                f"{sides['measured']}"
            )
        measured = memory["kv_gib"]["measured"]
        worst = max(
            worst,
            abs(memory["kv_gib"]["planned"] - measured) if measured is not None else float("inf"),
        )
    print(f"largest error of the KV cache: {worst:.3f} GiB a GPU")
    return int(record["exit_code"] != 0 or worst > options.bound)


if __name__ == "__main__":
    sys.exit(main())
