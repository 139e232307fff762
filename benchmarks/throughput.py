"""batchr1 over `LLM.generate`, on the same requests: durable output tokens per second, interleaved pairs.

    python benchmarks/throughput.py                                   # r1-tiny on the CPU: five pairs
    python benchmarks/throughput.py --model DIR --dummy --pairs 1 …   # a GPU: dummy weights of a real shape

Both sides run in processes of their own with the same engine arguments and environment. Model loading and sixteen
warm-up requests are outside the clock. batchr1's clock starts with the first submitted request and stops at the last
commit: its side reads Parquet, renders prompts, splits, detokenises, writes Parquet and commits. `LLM.generate` returns
text in memory, and nothing is written. Lengths are forced (`ignore_eos` and a cap per request), so both generate the
same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from traces import TraceSpec, lengths, prompts, write_dataset

from batchr1.sizing.catalogue import VARIANTS


def engine_args(options: argparse.Namespace) -> dict[str, Any]:
    """What both systems give to vLLM."""
    args: dict[str, Any] = {"max_num_seqs": options.max_num_seqs, "max_model_len": options.max_model_len}
    if options.dummy:
        args["load_format"] = "dummy"
    if options.device == "cpu":
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": 2 * 2**30}
    else:
        args |= {"max_num_batched_tokens": 16384, "gpu_memory_utilization": 0.9}
    return args


def run_batchr1(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One job through the command line; its own summary holds the figures."""
    job = {
        "name": "throughput",
        "model": {"path": options.model, "engine_args": engine_args(options)},
        "input": {"path": str(folder / "trace.parquet"), "id": "id", "prompt": "prompt", "max_tokens": "max_tokens"},
        "output": {"path": str(folder / "out")},
        "prompting": {"instruction": "none"},
        "sampling": {"max_tokens": options.cap, "ignore_eos": True},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "batchr1", "run", str(folder / "job.yaml"), "--json"]
    if options.device == "cpu":
        command += ["--gpus", "none"]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"batchr1 ended with {done.returncode}: {done.stdout.decode()}")
    figures = json.loads(done.stdout)
    record = json.loads(next((folder / "out/.batchr1/runs").glob("*.json")).read_text())
    return {"tokens": figures["this_run"]["tokens"], "seconds": record["generating_s"]}


def run_generate(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`LLM.generate` with text, in a process of its own (this file with --generate)."""
    command = [sys.executable, __file__, "--generate", str(folder / "generate.json"), *sys.argv[1:]]
    subprocess.run(command, check=True, stdout=sys.stderr)
    figures: dict[str, Any] = json.loads((folder / "generate.json").read_text())
    return figures


def generate(options: argparse.Namespace) -> None:
    """The other side: vLLM's own offline interface, given all requests at once."""
    from batchr1.engine.vllm import WARM_UP_SEQS, prepare_environment

    prepare_environment(options.device)
    from vllm import LLM, SamplingParams

    spec = trace(options)
    llm = LLM(model=options.model, generation_config="vllm", disable_log_stats=False, **engine_args(options))
    tokenizer = llm.get_tokenizer()
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        for p in prompts(spec)
    ]
    token_ids = [{"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)} for text in rendered]
    params = [
        SamplingParams(temperature=0.6, top_p=0.95, max_tokens=wanted, ignore_eos=True) for wanted in lengths(spec)
    ]
    brief = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=4, ignore_eos=True)
    llm.generate(token_ids[:WARM_UP_SEQS], brief, use_tqdm=False)
    started = time.perf_counter()
    outputs = llm.generate(token_ids, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
    Path(options.generate).write_text(json.dumps({"tokens": tokens, "seconds": seconds}), encoding="utf-8")


def trace(options: argparse.Namespace) -> TraceSpec:
    return TraceSpec(options.requests, options.mean, options.sigma, options.cap, options.prompt_words)


def versions() -> str:
    import torch
    import vllm

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    return f"Python {platform.python_version()}, vLLM {vllm.__version__}, torch {torch.__version__}, {device}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=str(VARIANTS["r1-tiny"].path), help="a model folder")
    parser.add_argument("--dummy", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--mean", type=float, default=200.0, help="mean output tokens before the cap")
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--cap", type=int, default=1024)
    parser.add_argument("--prompt-words", type=int, default=30)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate:
        generate(options)
        return
    pairs = []
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            expected = write_dataset(trace(options), folder / "trace.parquet")
            sides = [("batchr1", run_batchr1), ("LLM.generate", run_generate)]
            figures = {side: run(options, folder) for side, run in (sides if number % 2 == 0 else sides[::-1])}
        for side, figure in figures.items():
            assert figure["tokens"] == expected, (side, figure, expected)
        rates = {side: figure["tokens"] / figure["seconds"] for side, figure in figures.items()}
        pairs.append({**rates, "ratio": rates["batchr1"] / rates["LLM.generate"]})
        print(f"pair {number + 1}: " + ", ".join(f"{k} {v:,.3f}" if k == "ratio" else f"{k} {v:,.0f} tok/s"
                                                for k, v in pairs[-1].items()), flush=True)  # fmt: skip
    ratio = statistics.median(p["ratio"] for p in pairs)
    print(f"{versions()}; {options.requests} requests, {expected:,} tokens: median ratio {ratio:.3f}")
    if options.out:
        document = {"versions": versions(), "options": {k: str(v) for k, v in vars(options).items()}, "pairs": pairs}
        options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
