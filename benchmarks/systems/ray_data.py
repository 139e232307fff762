"""Ray Data's batch inference (`ray.data.llm`) with its vLLM processor.

It runs in an environment of its own, with two settings: its defaults (batches of 32, eight of them
at a time), and tuned: batches of 16, as many at a time as fill `max_num_seqs` and a tenth more, and
no metrics exported to Ray. Every stage is Ray's: reading Parquet, chat template, tokenizer, engine,
detokenizer, writing Parquet. Each execution of a dataset starts an engine of its own, so there is
no warm-up. Its clock, from the probe: the first request that reaches its engine, until its last
file was written.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
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
    first_request,
    peer_python,
    prompt_hash,
    timeline,
)

TUNED_BATCH = 16
LOGICAL_CPUS = (
    8  # each of its stages holds one of Ray's CPUs; on a machine with two it would wait for ever
)


class RayData:
    """Runs of Ray Data, each with a Ray session and an engine."""

    def __init__(self, work: Workload, name: str, *, tuned: bool) -> None:
        self.name = name
        self._work = work
        self._tuned = tuned

    def run(self, folder: Path) -> Outcome:
        self._work.write(folder / "workload.json")
        python = peer_python("ray_data")
        command = [
            python,
            "-m",
            "systems.ray_data",
            str(folder),
            json.dumps(settings(self._work, tuned=self._tuned)),
        ]
        env = environment(self._work, folder) | {"RAY_USAGE_STATS_ENABLED": "0"}
        env["PATH"] = os.pathsep.join([str(Path(python).parent), env["PATH"]])
        env.pop("RAY_ADDRESS", None)
        log = folder / "ray_data.log"
        called = time.time()
        with log.open("wb") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env)
        if done.returncode:
            raise SystemFailed(
                f"{self.name} ended with {done.returncode}: {log.read_text()[-3000:]}"
            )
        return self._outcome(folder, called)

    def _outcome(self, folder: Path, called: float) -> Outcome:
        import pyarrow.parquet as pq

        files = list((folder / "out").glob("*.parquet"))
        tables = [
            pq.read_table(file, columns=["id", "prompt_hash", "completion_tokens"])
            for file in files
        ]
        hashes = [
            pair
            for t in tables
            for pair in zip(t["id"].to_pylist(), t["prompt_hash"].to_pylist(), strict=True)
        ]
        started, ended = first_request(folder), max(file.stat().st_mtime for file in files)
        return Outcome(
            sum(sum(t["completion_tokens"].to_pylist()) for t in tables),
            ended - started,
            started,
            digest_of(hashes),
            load_s=started - called,
            timeline=timeline(folder, started, ended - started),
            extra={"files": len(files), "settings": settings(self._work, tuned=self._tuned)},
        )

    def close(self) -> None:
        pass


def settings(work: Workload, *, tuned: bool) -> dict[str, Any]:
    """Give the processor's settings beyond its defaults."""
    if not tuned:
        return {}
    batches = math.ceil(1.1 * work.engine_args["max_num_seqs"] / TUNED_BATCH)
    return {
        "batch_size": TUNED_BATCH,
        "max_concurrent_batches": batches,
        "log_engine_metrics": False,
    }


def process(work: Workload, folder: Path, more: dict[str, Any]) -> None:
    """Process the dataset: the child's side, in Ray's environment."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(
        address="local", num_cpus=LOGICAL_CPUS, include_dashboard=False, object_store_memory=2**30
    )
    if work.device == "cpu":
        more |= {"placement_group_config": {"bundle_per_worker": {"CPU": 1}}}
    engine = work.engine_args | {"generation_config": "vllm"}
    config = vLLMEngineProcessorConfig(model_source=work.model, engine_kwargs=engine, **more)
    processor = build_processor(config, preprocess=preprocess, postprocess=postprocess)
    processor(ray.data.read_parquet(work.dataset)).write_parquet(str(folder / "out"))
    ray.shutdown()


def preprocess(row: dict[str, Any]) -> dict[str, Any]:
    """Turn a row of the dataset into what the processor wants."""
    sampling = {
        "max_tokens": row["max_tokens"],
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "ignore_eos": True,
    }
    return {
        "messages": [{"role": "user", "content": row["prompt"]}],
        "sampling_params": sampling,
        "id": row["id"],
    }


def postprocess(row: dict[str, Any]) -> dict[str, Any]:
    """Make a row of the output, with the digest of its prompt."""
    return {
        "id": row["id"],
        "text": row["generated_text"],
        "completion_tokens": row["num_generated_tokens"],
        "prompt_hash": prompt_hash([int(i) for i in row["prompt_token_ids"]]),
    }


if __name__ == "__main__":
    process(
        Workload.read(Path(sys.argv[1]) / "workload.json"),
        Path(sys.argv[1]),
        json.loads(sys.argv[2]),
    )
