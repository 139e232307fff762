"""batchr1 through its command line.

It reads Parquet, renders, splits, detokenises, writes Parquet and commits. Its clock is its own
record's: from the first leased row to the last committed part. With `profile` it runs under py-spy,
driver, worker and engine alike; such a run's speed is not to be compared.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from systems import (
    TEMPERATURE,
    TOP_P,
    Outcome,
    SystemFailed,
    Workload,
    digest_of,
    environment,
    rows_of,
    timeline,
)

# engine arguments that a user of batchr1 would give too: the others are the plan's
_A_USERS = {"load_format", "kv_cache_memory_bytes", "enforce_eager"}


class Batchr1:
    """Runs of batchr1, each with a job of its own.

    `settings`: more of `--set`; `profile`: a folder for py-spy's stacks.
    """

    name = "batchr1"

    def __init__(
        self, work: Workload, *, settings: list[str], profile: Path | None, py_spy: list[str]
    ) -> None:
        self._work = work
        self._settings = settings
        self._profile = profile
        self._py_spy = py_spy

    def run(self, folder: Path) -> Outcome:
        work = self._work
        job: dict[str, Any] = {
            "name": "throughput",
            "model": {"path": work.model, "engine_args": work.engine_args},
            "input": {"path": work.dataset, "id": "id", "prompt": "prompt"},
            "output": {"path": str(folder / "out")},
            "prompting": {"instruction": "none"},
            "sampling": {
                "max_tokens": work.cap,
                "ignore_eos": True,
                "temperature": TEMPERATURE,
                "top_p": TOP_P,
            },
        }
        env = environment(work, folder)
        if work.as_user:
            job["model"]["engine_args"] = {
                key: value for key, value in work.engine_args.items() if key in _A_USERS
            }
            job["sampling"]["ignore_eos"] = False
            env["BATCHR1_LENGTHS"] = str(self._hide_lengths(folder))
        else:
            job["input"]["max_tokens"] = "max_tokens"
        (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "batchr1", "run", str(folder / "job.yaml"), "--json"]
        command += ["--gpus", "none" if work.device == "cpu" else "1"]  # the others use one GPU too
        for setting in self._settings:
            command += ["--set", setting]
        if self._profile:
            self._profile.mkdir(parents=True, exist_ok=True)
            command = [*self._py_spy, "-o", str(self._profile / "all.txt"), "--", *command]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=env)
        runs = sorted((folder / "out/.batchr1/runs").glob("*.json"))
        if not runs or (record := json.loads(runs[-1].read_text())).get("exit_code") != 0:
            logs = "".join(
                path.read_text() for path in (folder / "out/.batchr1/runs").glob("*.log")
            )
            raise SystemFailed(
                f"batchr1 ended with {done.returncode}: "
                f"{done.stdout.decode()[-2000:]}\n{logs[-4000:]}"
            )
        if self._profile:
            split_by_process(self._profile / "all.txt")
        return self._outcome(folder, record)

    def _hide_lengths(self, folder: Path) -> Path:
        """Write the lengths for the engine's core alone (`probe/vllm_probe.py`)."""
        from batchr1.dataset.prompts import PromptRenderer, PromptRow, load_tokenizer

        rows = rows_of(self._work.dataset)
        renderer = PromptRenderer(load_tokenizer(self._work.model), instruction="none")
        prompts = renderer.render_many(PromptRow(row["id"], row["prompt"]) for row in rows)
        lengths = {
            " ".join(map(str, prompt.token_ids)): row["max_tokens"]  # type: ignore[union-attr]
            for row, prompt in zip(rows, prompts, strict=True)
        }
        path = folder / "lengths.json"
        path.write_text(json.dumps(lengths), encoding="utf-8")
        return path

    def _outcome(self, folder: Path, record: dict[str, Any]) -> Outcome:
        import pyarrow.parquet as pq

        parts = list((folder / "out/data").glob("*.parquet"))
        tables = [
            pq.read_table(part, columns=["id", "prompt_hash", "completion_tokens"])
            for part in parts
        ]
        hashes = [
            pair
            for t in tables
            for pair in zip(t["id"].to_pylist(), t["prompt_hash"].to_pylist(), strict=True)
        ]
        tokens = sum(sum(t["completion_tokens"].to_pylist()) for t in tables)
        seconds = record["generating_s"]
        started = (
            max(part.stat().st_mtime for part in parts) - seconds
        )  # a part is committed by renaming it
        return Outcome(
            tokens,
            seconds,
            started,
            digest_of(hashes),
            load_s=max(engine["load_s"] for engine in record["engines"].values()),
            timeline=timeline(folder, started, seconds),
            extra={
                "record": {
                    key: record.get(key)
                    for key in ("plan", "tally", "engines", "loads", "wall_s", "rungs")
                }
            },
        )

    def close(self) -> None:
        pass


def split_by_process(path: Path) -> None:
    """Split py-spy's collapsed stacks into one file for each process.

    The files are driver-PID.txt, worker-PID.txt, … A stack begins with its process and all that
    started it, outermost first: `process PID:"COMMAND";`.
    """
    files: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        chain, rest = [], line
        while (found := _PROCESS.match(rest)) is not None:
            chain.append(found)
            rest = rest[found.end() :]
        if chain:
            pid, command = chain[-1].groups()
            role = next((role for sign, role in _ROLES if sign in command), "other")
            files.setdefault(f"{role}-{pid}.txt", []).append(rest)
    for name, lines in files.items():
        (path.parent / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


_PROCESS = re.compile(r'process (\d+):"(.*?)";')
_ROLES = (
    ("batchr1.worker.main", "worker"),
    ("EngineCore", "engine"),
    ("spawn_main", "engine"),
    ("resource_tracker", "tracker"),
    ("batchr1 run", "driver"),
)
