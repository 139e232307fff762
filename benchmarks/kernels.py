"""Kernels of a decode step by kind, and the GPU's idle time.

    python benchmarks/shapes.py r1-distill-qwen-7b DIR
    # one GPU, dummy weights
    python benchmarks/kernels.py --model DIR --traces TRACES --out kernels.json
    # the table again, without a GPU
    python benchmarks/kernels.py --read TRACES/*.json.gz

One engine is fed `--sequences` requests, of which all but `--tail` end early, so that it runs full
at first and nearly empty afterwards. In both states a number of steps is timed as they are, then as
many under torch's profiler. Idle is what no kernel, copy or fill covers between the first and the
last of them: it bounds what any caller could win by feeding the same engine better. The profiler
slows the host down, so the share of a profiled step is too high rather than too low; `--out` has
both lengths of a step.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

KINDS = {
    "attention": r"flash|attention|fmha|reshape_and_cache",
    "matrix products": r"gemm|nvjet|cutlass|cublas|splitk",
    "sampling": r"sort|softmax|top_?[kp]|exponential|argmax|gumbel|cumsum|scan|distribution|logit"
    r"|temperature|sample",
    "copies": r"memcpy|memset",
}  # the first that is found in a kernel's name, in lower case
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def kind_of(name: str) -> str:
    return next(
        (kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())),
        "other (norms, rotations, activations)",
    )


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up a Chrome trace, in microseconds.

    Returns the whole window, its idle part, and times by kind and by name.
    """
    work = sorted(
        (e["ts"], e["ts"] + e["dur"], e["name"]) for e in events if e.get("cat") in ON_GPU
    )
    if not work:
        raise SystemExit("no kernel is in this trace")
    busy, until = 0.0, work[0][0]
    for begin, end, _ in work:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    kinds, names = Counter[str](), Counter[str]()
    for begin, end, name in work:
        kinds[kind_of(name)] += end - begin
        names[name[:90]] += end - begin
    window = until - work[0][0]
    return {
        "window_us": window,
        "idle_us": window - busy,
        "kinds_us": dict(kinds.most_common()),
        "names_us": dict(names.most_common(25)),
    }


def table(found: dict[str, Any], steps: int | None) -> str:
    """Lay out shares of the window, and milliseconds a step where known."""
    rows = {**found["kinds_us"], "no work on the GPU": found["idle_us"]}
    lines = ["| what | share | ms a step |", "|---|---|---|"]
    for name, us in rows.items():
        a_step = f"{us / steps / 1000:.2f}" if steps else ""
        lines.append(f"| {name} | {us / found['window_us']:.1%} | {a_step} |")
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """Sum up a trace as torch's profiler writes it."""
    return summary(json.loads(gzip.decompress(path.read_bytes()))["traceEvents"])


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure both states of one engine; returns a document each."""
    from vllm import LLM, SamplingParams

    options.traces.mkdir(parents=True, exist_ok=True)
    llm = LLM(
        options.model,
        load_format="dummy",
        max_num_seqs=options.sequences,
        max_model_len=4608,
        seed=0,
        max_num_batched_tokens=16384,
        gpu_memory_utilization=0.9,
        profiler_config={
            "profiler": "torch",
            "torch_profiler_dir": str(options.traces.resolve()),
            "torch_profiler_with_stack": False,
            "torch_profiler_dump_cuda_time_total": False,
        },
    )
    engine = llm.llm_engine
    for i in range(options.sequences):
        length = 4000 if i < options.tail else options.full_for
        how = SamplingParams(
            temperature=0.6, top_p=0.95, max_tokens=length, ignore_eos=True, detokenize=False
        )
        engine.add_request(str(i), {"prompt_token_ids": [1000 + i] * 128}, how)

    def step(count: int) -> float:
        """Time a step, in milliseconds on average."""
        begin = time.perf_counter()
        for _ in range(count):
            engine.step()
        return (time.perf_counter() - begin) * 1000 / count

    found = []
    for label, before in (("full", options.full_for // 3), ("tail", options.full_for + 600)):
        step(before)
        plain = step(options.steps)
        engine.start_profile()
        profiled = step(options.steps)
        engine.stop_profile()
        (trace,) = {*options.traces.glob("*.json.gz")} - {Path(one["trace"]) for one in found}
        sequences = options.sequences if label == "full" else options.tail
        found.append(
            {
                "label": label,
                "sequences": sequences,
                "trace": str(trace),
                "steps": options.steps,
                "step_ms": round(plain, 3),
                "profiled_step_ms": round(profiled, 3),
            }
            | read(trace)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a folder of benchmarks/shapes.py")
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument(
        "--tail", type=int, default=24, help="sequences that go on when the others have ended"
    )
    parser.add_argument("--full-for", type=int, default=450, help="tokens of those that end early")
    parser.add_argument(
        "--steps", type=int, default=40, help="steps timed, and again under the profiler"
    )
    parser.add_argument(
        "--traces", type=Path, default=Path("traces"), help="where torch's profiler writes"
    )
    parser.add_argument("--read", type=Path, nargs="+", help="traces to read instead")
    parser.add_argument("--out", type=Path, help="everything as JSON")
    options = parser.parse_args()
    if options.read:
        for path in options.read:
            print(f"{path.name}\n\n{table(read(path), None)}\n")
        return
    if not options.model:
        parser.error("--model: needed where nothing is read")
    documents = measure(options)
    for one in documents:
        print(
            f"{one['label']}: {one['sequences']} sequences, {one['step_ms']:.2f} ms a step "
            f"({one['profiled_step_ms']:.2f} profiled)\n\n{table(one, one['steps'])}\n"
        )
    if options.out:
        options.out.write_text(json.dumps(documents, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
