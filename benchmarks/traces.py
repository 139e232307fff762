"""Requests with long-tailed, fixed lengths: the same ones for every system that is measured."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """A log-normal trace: `mean` and `cap` in output tokens, `prompt_len` in prompt tokens, about."""

    requests: int
    mean: float
    sigma: float
    cap: int
    prompt_words: int
    seed: int = 0


def lengths(spec: TraceSpec) -> list[int]:
    """Output tokens of each request: log-normal with this mean before the cap."""
    rng = random.Random(spec.seed)
    mu = math.log(spec.mean) - spec.sigma**2 / 2
    return [min(spec.cap, max(1, round(rng.lognormvariate(mu, spec.sigma)))) for _ in range(spec.requests)]


def prompts(spec: TraceSpec) -> list[str]:
    """Prompts that share no prefix: a sum of so many numbers each."""
    rng = random.Random(spec.seed + 1)
    return [" + ".join(str(rng.randrange(10)) for _ in range(spec.prompt_words)) + " = ?" for _ in range(spec.requests)]


def write_dataset(spec: TraceSpec, path: Path) -> int:
    """The trace as a dataset for batchr1: columns id, prompt, max_tokens. Returns the output tokens of all requests."""
    wanted = lengths(spec)
    ids = [f"r{i:05d}" for i in range(spec.requests)]
    pq.write_table(pa.table({"id": ids, "prompt": prompts(spec), "max_tokens": wanted}), path)
    return sum(wanted)
