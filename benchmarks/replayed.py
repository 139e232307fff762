"""`batchr1 run` on the replay engine, as a process to be watched.

    python benchmarks/replayed.py SCRIPT.json run JOB …

Everything but the model is real. With `--marks FILE` before the script, that file gets the end of
each step towards the first lease. It is given in seconds since the start, and of the driver's
processor time. The peak of its resident memory (GB) stands there too.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/helpers"))

STEPS = (
    "open_job",
    "read_ids",
    "take_out_done",
    "_check_prompts",
    "take_out_failed",
    "plan_engines",
    "take_over_checkpoints",
)


def job(folder: Path, **sections: Any) -> Path:
    """Make a job over `folder`/in that writes `folder`/out."""
    document: dict[str, Any] = {
        "name": "scale",
        "model": {"variant": "r1-tiny"},
        "input": {"path": "in", "id": "id", "prompt": "problem"},
        "output": {"path": "out"},
        "sampling": {"max_tokens": 512},
    }
    for name, keys in sections.items():
        document[name] = document.get(name, {}) | keys
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def command(folder: Path, script: dict[str, Any], *, marks: Path | None = None) -> list[str]:
    """Give the command that runs `folder`/job.yaml with a script."""
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    marking = ["--marks", str(marks), str(time.monotonic())] if marks else []
    return [
        sys.executable,
        __file__,
        *marking,
        str(folder / "script.json"),
        "run",
        str(folder / "job.yaml"),
    ]


def memory_gb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """Read a process's resident memory, or its peak (VmHWM); 0 when gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith(f"{field}:")), 0.0)


def note_marks(path: Path, started: float) -> None:
    """Note the end of each step up to the first lease."""
    import batchr1.driver.run_job as run
    from batchr1.driver.leases import Leases

    marks: dict[str, Any] = {}

    def mark(name: str) -> None:
        marks[name] = {
            "s": round(time.monotonic() - started, 2),
            "cpu_s": round(time.process_time(), 2),
        }
        marks["peak_gb"] = round(memory_gb(field="VmHWM"), 3)
        path.write_text(json.dumps(marks), encoding="utf-8")

    def marked(name: str, plain: Any) -> Any:
        @functools.wraps(plain)
        def call(*arguments: Any, **options: Any) -> Any:
            result = plain(*arguments, **options)
            mark(name.strip("_"))
            return result

        return call

    for name in STEPS:
        setattr(run, name, marked(name, getattr(run, name)))
    plain_give = Leases._give

    def give(self: Any, *arguments: Any) -> None:
        plain_give(self, *arguments)
        if "first_lease" not in marks:
            mark("first_lease")

    Leases._give = give  # type: ignore[method-assign]
    mark("imported")


def main() -> None:
    from replay_job import replay, scripted

    from batchr1.cli.main import program

    if sys.argv[1] == "--marks":
        note_marks(Path(sys.argv[2]), float(sys.argv[3]))
        del sys.argv[1:4]
    script = json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    scripted(sys.argv[1:], replay(**script))
    program()


if __name__ == "__main__":
    main()
