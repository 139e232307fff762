"""Systems to measure: what each is given and gives back.

A system is one module of this package. It runs a `Workload` in processes of its own and returns an
`Outcome`. Nothing that runs in a peer's environment imports batchr1.

batchr1      batchr1 through its command line
generate     `LLM.generate`, all requests at once
chunked      `LLM.generate`, in chunks
ray_data     Ray Data's batch inference
run_batch    `vllm run-batch`
llm_process  the process with a loaded `LLM` that generate and chunked share
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

BENCHMARKS = Path(__file__).parent.parent
TEMPERATURE, TOP_P = 0.6, 0.95


@dataclass(frozen=True, slots=True)
class Workload:
    """Work that is the same for all systems.

    `dataset`: Parquet with id, prompt (the user turn), max_tokens (to be reached).
    """

    model: str
    device: str
    engine_args: dict[str, Any]
    dataset: str
    cap: int
    chunk: int = 256
    log_stats: bool = False  # of LLM.generate; vLLM's own default is off
    as_user: bool = False  # batchr1 plans by itself, and does not know the lengths

    @property
    def warm_up(self) -> tuple[int, int]:
        """Load that a warm-up must reach: (requests at once, prompt tokens).

        Kernels for both are compiled then.
        """
        at_once = self.engine_args.get("max_num_seqs", 256)
        return at_once, min(2048, self.engine_args["max_model_len"] // 2)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured run.

    `seconds`: from the first submitted request to the last commit, without model loading.
    `started`: the clock's beginning, seconds since 1970. `timeline`: for each half second (seconds
    since `started`, output tokens, engine steps, sequences summed over steps), from the probe.
    `prompts`: digest of all prompts' ids.
    """

    tokens: int
    seconds: float
    started: float
    prompts: str
    load_s: float | None = None
    timeline: list[tuple[float, int, int, int]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tail_s(self) -> float | None:
        """Time the tail, in seconds; None without a timeline.

        It lasts from 90 % of the tokens to the last commit.
        """
        total = 0
        for at, tokens, _, _ in self.timeline:
            total += tokens
            if total >= 0.9 * self.tokens:
                return self.seconds - at
        return None


class System(Protocol):
    """System that `run` measures once, in a folder of its own.

    `close` ends what it kept running.
    """

    name: str

    def run(self, folder: Path) -> Outcome: ...

    def close(self) -> None: ...


class SystemFailed(Exception):
    """Failure of one system; the others can still be measured."""


def environment(work: Workload, folder: Path) -> dict[str, str]:
    """Give the environment variables that batchr1 sets for its own engine.

    All systems get them.
    """
    probe = folder / "probe"
    probe.mkdir(exist_ok=True)
    paths = [
        str(BENCHMARKS),
        str(BENCHMARKS / "probe"),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "BATCHR1_PROBE": str(probe)}
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        env.setdefault(name, "1")
    env.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if work.device == "cpu":
        env |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "GOMP_SPINCOUNT": "10000",
            "CUDA_VISIBLE_DEVICES": "",
        }
        env.pop("VLLM_CPU_KVCACHE_SPACE", None)
    else:
        env.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    return env


def peer_python(name: str) -> str:
    """Find the interpreter of a peer's own environment (`make bench-peers`).

    $BATCHR1_BENCH_<NAME> names another one.
    """
    path = os.environ.get(f"BATCHR1_BENCH_{name.upper()}") or str(
        BENCHMARKS.parent / ".bench" / name / "bin/python"
    )
    if not Path(path).exists():
        raise SystemFailed(f"{name}: there is no environment at {path}. Run `make bench-peers`.")
    return path


def rows_of(dataset: str) -> list[dict[str, Any]]:
    """Read the dataset's rows.

    Columns: id, prompt, max_tokens, prompt_tokens, prompt_hash.
    """
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(dataset).to_pylist()
    return rows


def prompt_hash(token_ids: Sequence[int]) -> str:
    """Hash a prompt as batchr1's column `prompt_hash` does.

    That is 128-bit BLAKE2b of the ids as little-endian 32-bit integers.
    """
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.blake2b(packed.tobytes(), digest_size=16).hexdigest()


def digest_of(hashes: Iterable[tuple[str, str]]) -> str:
    """Digest (id, prompt_hash) of all requests, whatever their order."""
    lines = "\n".join(f"{id} {one}" for id, one in sorted(hashes))
    return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()


def probe_bins(folder: Path) -> list[dict[str, Any]]:
    """Read all that the probe wrote below a run's folder, by time."""
    lines = [
        line
        for path in (folder / "probe").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return sorted((json.loads(line) for line in lines), key=lambda one: one["at"])


def first_request(folder: Path) -> float:
    """Find when the first request reached an engine, in seconds since 1970.

    The clock of run_batch and Ray begins there.
    """
    firsts = [one["first"] for one in probe_bins(folder) if "first" in one]
    if not firsts:
        raise SystemFailed("the probe saw no request: vLLM did not load its plugin")
    return min(firsts)


def timeline(folder: Path, started: float, seconds: float) -> list[tuple[float, int, int, int]]:
    """Take the probe's bins from `started` on, for `Outcome.timeline`.

    The warm-up before is left out.
    """
    bins = [
        b
        for b in probe_bins(folder)
        if started - 0.5 < b["at"] <= started + seconds and b["tokens"]
    ]
    return [(round(b["at"] - started, 2), b["tokens"], b["steps"], b["sequences"]) for b in bins]
