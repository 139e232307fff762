"""Time from an engine's start to its first tokens, and what it then runs at.

    python benchmarks/start_time.py r1-distill-qwen-7b --cases default,decode-only --out start.json

Dummy weights of a variant's shape. Each case is a process of its own, with a compile cache that is
empty (`cold`) or that the case before has filled (`warm`). Timed are full batches of equal lengths,
and `fed`: three full batches of uneven lengths, all submitted at once, so that prompts come in
beside decoding sequences all the time. 128 prompt tokens each.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from shapes import write_shape

DECODE_ONLY = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "decode-only": DECODE_ONLY,
    "default-fork": {},  # the engine's process is forked, not started anew
    "eager": {"enforce_eager": True},
}
# what vLLM's log says of its own phases
PHASES = {
    "weights_s": r"Model loading took .* and ([\d.]+) seconds",
    "compile_s": r"torch\.compile (?:and initial profiling.* )?took ([\d.]+) s",
    "capture_s": r"Graph capturing finished in ([\d.]+) secs",
    "engine_s": r"init engine .* took ([\d.]+) s",
}


def child(folder: str, args: dict[str, Any], batches: list[int], length: int) -> None:
    """Load the engine, run the batches, print the figures."""
    began = float(os.environ["BEGAN"])
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
    from batchr1.job.spec import SamplingSpec

    prepare_environment("cuda")
    import vllm.v1.engine.llm_engine  # noqa: F401

    figures: dict[str, Any] = {"imported_s": round(time.time() - began, 1)}
    sampling = SamplingSpec(ignore_eos=True)
    engine = VllmEngine(
        folder, revision=None, trust_remote_code=False, args=args, sampling=sampling
    )
    figures["ready_s"] = round(time.time() - began, 1)
    for batch in batches:
        run(engine, [16] * batch)
        if "first_tokens_s" not in figures:
            figures["first_tokens_s"] = round(time.time() - began, 1)
        seconds, tokens = run(engine, [length] * batch)
        figures[f"tokens_per_s_{batch}"] = round(tokens / seconds)
        figures[f"step_ms_{batch}"] = round(1000 * seconds * batch / tokens, 2)
    rng = random.Random(0)
    uneven = [1 + min(4 * length, int(rng.expovariate(2 / length))) for _ in range(3 * batches[0])]
    seconds, tokens = run(engine, uneven)
    figures["tokens_per_s_fed"] = round(tokens / seconds)
    engine.close()
    print("@" + json.dumps(figures), flush=True)


def run(engine: Any, lengths: Sequence[int]) -> tuple[float, int]:
    """Generate so many tokens for each request; returns seconds and tokens."""
    from batchr1.engine.protocol import Request

    started, tokens, running = time.perf_counter(), 0, len(lengths)
    for number, length in enumerate(lengths):
        ids = [1000 + (number + int(1e6 * started)) % 50000] * 128
        engine.submit(Request(f"{started}-{number}", ids, length))
    while running:
        for delta in engine.step():
            tokens += len(delta.token_ids)
            running -= delta.finish_reason is not None
    return time.perf_counter() - started, tokens


def phases(log: str) -> dict[str, float]:
    """Read how long vLLM's own phases took, from its log."""
    found = {name: re.findall(pattern, log) for name, pattern in PHASES.items()}
    return {name: float(values[-1]) for name, values in found.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("variant")
    parser.add_argument("--cases", default="default,decode-only")
    parser.add_argument("--caches", default="cold,warm")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--batches", default="256,8")
    parser.add_argument("--length", type=int, default=600)
    parser.add_argument("--max-model-len", type=int, default=4608)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    batches = [int(text) for text in options.batches.split(",")]
    if options.child:
        child(options.variant, json.loads(options.child), batches, options.length)
        return
    results = []
    with tempfile.TemporaryDirectory(prefix="batchr1-start-") as name:
        shape = Path(name) / "shape"
        write_shape(options.variant, shape)
        for case in options.cases.split(","):
            cache = Path(name) / f"cache-{case.removesuffix('-fork')}"
            for state in options.caches.split(","):
                args = {
                    "load_format": "dummy",
                    "max_num_seqs": options.max_num_seqs,
                    "max_model_len": options.max_model_len,
                    "stream_interval": 8,
                } | CASES[case]
                env = os.environ | {
                    "VLLM_CACHE_ROOT": str(cache),
                    "TRITON_CACHE_DIR": str(cache / "triton"),
                    "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
                    "VLLM_LOGGING_LEVEL": "INFO",
                    "VLLM_WORKER_MULTIPROC_METHOD": "fork" if case.endswith("-fork") else "spawn",
                    "BEGAN": str(time.time()),
                }
                command = [sys.executable, __file__, str(shape), "--child", json.dumps(args)]
                command += ["--batches", options.batches, "--length", str(options.length)]
                done = subprocess.run(command, capture_output=True, text=True, env=env)
                lines = done.stdout.splitlines()
                found = [line[1:] for line in lines if line.startswith("@")]
                log = done.stdout + done.stderr
                figures = json.loads(found[0]) if found else {"failed": log[-2000:]}
                results.append(
                    {"variant": options.variant, "case": case, "cache": state}
                    | figures
                    | phases(log)
                )
                print(json.dumps(results[-1]), flush=True)
                if options.out:
                    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
