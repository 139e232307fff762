"""Time from an engine's start to its first tokens, and what it then runs at.

    python benchmarks/start_time.py r1-distill-qwen-7b --cases default,decode-only --out start.json

Dummy weights of a variant's shape. Each case is a process of its own, with a compile cache that is
empty (`cold`) or that the case before has filled (`warm`). A full batch and a small one are timed,
128 prompt tokens each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from shapes import write_shape

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "decode-only": {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}},
    "eager": {"enforce_eager": True},
}


def child(folder: str, args: dict[str, Any], batches: list[int], length: int) -> None:
    """Load the engine, run the batches, print the figures."""
    began = float(os.environ["BEGAN"])
    from batchr1.engine.protocol import Request
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
    from batchr1.job.spec import SamplingSpec

    prepare_environment("cuda")
    sampling = SamplingSpec(ignore_eos=True)
    engine = VllmEngine(
        folder, revision=None, trust_remote_code=False, args=args, sampling=sampling
    )
    figures: dict[str, Any] = {"ready_s": round(time.time() - began, 1)}
    number = 0
    for batch in batches:
        for timed in (False, True):
            started, tokens, running = time.perf_counter(), 0, batch
            for _ in range(batch):
                number += 1
                ids = [1000 + number % 5000] * 128
                engine.submit(Request(str(number), ids, length if timed else 16))
            while running:
                for delta in engine.step():
                    tokens += len(delta.token_ids)
                    running -= delta.finish_reason is not None
            if not timed and "first_tokens_s" not in figures:
                figures["first_tokens_s"] = round(time.time() - began, 1)
        seconds = time.perf_counter() - started
        figures[f"tokens_per_s_{batch}"] = round(tokens / seconds)
        figures[f"step_ms_{batch}"] = round(1000 * seconds * batch / tokens, 2)
    engine.close()
    print("@" + json.dumps(figures), flush=True)


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
            cache = Path(name) / f"cache-{case}"
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
                    "VLLM_LOGGING_LEVEL": "ERROR",
                    "BEGAN": str(time.time()),
                }
                command = [sys.executable, __file__, str(shape), "--child", json.dumps(args)]
                command += ["--batches", options.batches, "--length", str(options.length)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
                found = [line[1:] for line in done.stdout.splitlines() if line.startswith("@")]
                figures = json.loads(found[0]) if found else {"failed": done.returncode}
                results.append({"variant": options.variant, "case": case, "cache": state} | figures)
                print(json.dumps(results[-1]), flush=True)
                if options.out:
                    options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
