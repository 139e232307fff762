"""Cost of checkpoints while nothing goes wrong, and of a kill -9.

    python benchmarks/checkpoint_cost.py                  # r1-tiny on the CPU
    python benchmarks/checkpoint_cost.py --alternate 2    # on and off within one leg
    python benchmarks/checkpoint_cost.py --kill           # the same, killed at half time
    # a GPU; DIR as benchmarks/shapes.py makes it
    python benchmarks/checkpoint_cost.py --device cuda --model DIR --dummy …

Without --kill: one process and one engine that stays loaded. The same requests go again and again
through the real worker loop (split, Parquet, commits, checkpoints). Checkpoints are off, every
second or every 30 s, in rotating order. Lengths are forced, so each leg generates the same tokens.
A leg's clock runs from its first request to its last commit. Its ratio is to the leg without
checkpoints in the same round. Stolen: the time of each step that a checkpoint overlaps, less the
median of the steps around it that none overlaps.

With --alternate: within each leg checkpoints are on for so many seconds, then off for as many, and
so on. The rate of a window with checkpoints is divided by the mean of its two neighbours without,
while the batch is full. Where a machine's speed wanders by a tenth from one leg to the next, only
this shows the cost of a checkpoint.

With --starts: `batchr1 run` is started so many times, and killed at its first tokens.

With --kill: a real `batchr1 run` is killed by SIGKILL (the driver; its processes follow) a random
part of checkpoint.every_s after half of its tokens, and the same command is given again. Tokens
generated again = generated until the kill (known to half a second of work), less those committed
and those taken over. Full throughput: 95 % of the 20 s before the kill.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import gc
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))

from checkpoint_kill import kill_and_go_on, run_recorded, time_starts
from line import Line
from throughput import engine_args, trace, versions
from traces import lengths, prompts

from batchr1.models.catalogue import VARIANTS
from batchr1.sizing.plan import STREAM_INTERVAL

NEIGHBOURS = 20  # steps on each side of a checkpoint that say how long a step takes
FULL = 0.95  # of max_num_seqs


class Timed:
    """Engine that notes each step with tokens: time, tokens, requests."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.info = engine.info
        self.clear()

    def clear(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.running: list[int] = []
        self._running = 0

    def submit(self, request: Any) -> None:
        self._engine.submit(request)
        self._running += 1

    def step(self) -> Any:
        deltas = self._engine.step()
        if deltas:
            self.ends.append(time.perf_counter())
            self.tokens.append(sum(len(delta.token_ids) for delta in deltas))
            self.running.append(self._running)
            self._running -= sum(delta.finish_reason is not None for delta in deltas)
        return deltas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class CommittingLine(Line):
    """Driver's end that commits and counts what is staged."""

    def __init__(self, output: Any, items: list[Any]) -> None:
        super().__init__(items)
        self._output = output
        self._turn = threading.Lock()
        self.rows, self.tokens, self.ended_at = 0, 0, 0.0

    def send(self, message: Any) -> None:
        from batchr1.executors.messages import PartStaged, SamplesCommitted

        with self._turn:
            super().send(message)
            if isinstance(message, PartStaged):
                self._output.commit_part(message.name)
                self._inbox.put(SamplesCommitted(message.keys))
                self.rows, self.tokens = (
                    self.rows + message.counts.rows,
                    self.tokens + message.counts.tokens,
                )
                self.ended_at = time.perf_counter()


def load_engine(options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Load the engine; returns what is planned for it too."""
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
    from batchr1.job.spec import SamplingSpec

    args = engine_args(options)
    if options.device == "cuda":
        args["stream_interval"] = STREAM_INTERVAL  # as a plan for GPUs has it
    prepare_environment(options.device)
    engine = VllmEngine(
        options.model,
        revision=None,
        trust_remote_code=False,
        args=args,
        sampling=SamplingSpec(ignore_eos=True),
    )
    planned = {
        "device": options.device,
        "engine_args": args,
        "max_num_seqs": options.max_num_seqs,
    }
    return planned, engine


def make_items(options: argparse.Namespace) -> list[Any]:
    """Make work items of the trace's requests, prompts rendered."""
    from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
    from batchr1.records import WorkItem

    spec = trace(options)
    renderer = PromptRenderer(load_tokenizer(options.model), instruction="none")
    texts, wanted = prompts(spec), lengths(spec)
    rendered = [renderer.render(f"r{i:05d}", text) for i, text in enumerate(texts)]
    return [WorkItem(p, 0, w, "max_tokens") for p, w in zip(rendered, wanted, strict=True)]


def leg(
    options: argparse.Namespace,
    spec: Any,
    engine: Timed,
    items: list[Any],
    every_s: float | None,
    name: str,
    *,
    on_first: bool | None = None,
) -> dict[str, Any]:
    """Run all items once with these checkpoints; returns rate and costs.

    `on_first`: alternation begins with them on.
    """
    from replay_job import setup_of

    from batchr1.engine.protocol import ModelFiles
    from batchr1.output.folder import Output
    from batchr1.storage.base import open_storage
    from batchr1.worker.checkpointer import Checkpointer
    from batchr1.worker.collector import Collector
    from batchr1.worker.engine_life import model_tags, result_maker
    from batchr1.worker.engine_worker import EngineWorker

    output = Output(open_storage(f"{options.output}/{name}"))
    setup = setup_of(
        output.storage,
        run=name,
        plan=spec,
        output={"rows_per_part": options.rows_per_part},
        checkpoint={"every_s": 1e9 if every_s is None else every_s},
        prompting={"instruction": "none"},
        sampling={"ignore_eos": True},
    )
    files = ModelFiles(options.model, None)
    saves: list[tuple[float, float, int]] = []
    plain = Checkpointer._rotate

    def noted(self: Checkpointer, saved: list[Any]) -> int:
        size = plain(self, saved)
        sizes.append(size)
        return size

    sizes: list[int] = []
    save = Checkpointer.save

    def timed(self: Checkpointer) -> None:
        begun = time.perf_counter()
        if on_first is None or is_on(
            int((begun - started) // options.alternate), on_first=on_first
        ):
            save(self)
            saves.append((begun, time.perf_counter(), sizes[-1] if sizes else 0))

    engine.clear()
    line = CommittingLine(output, items)
    collector = Collector(setup, result_maker(setup, *model_tags(setup, files)), line.send)
    Checkpointer._rotate, Checkpointer.save = noted, timed  # type: ignore[method-assign]
    try:
        started = time.perf_counter()
        EngineWorker(setup, engine, collector, line).run(0.0)
    finally:
        Checkpointer._rotate, Checkpointer.save = plain, save  # type: ignore[method-assign]
    wanted = sum(item.max_tokens for item in items)
    assert (line.rows, line.tokens) == (len(items), wanted), (line.rows, line.tokens, wanted)
    seconds = line.ended_at - started
    return {
        "every_s": every_s,
        "tokens_per_s": line.tokens / seconds,
        "seconds": seconds,
        "steps": len(engine.ends),
        "snapshots": len(saves),
        "stolen_ms": [1e3 * s for s in stolen(engine.ends, saves)],
        "snapshot_ms": [1e3 * (end - begin) for begin, end, _ in saves],
        "bytes": [size for *_, size in saves],
        "slowest_steps_ms": sorted(
            (1e3 * (b - a) for a, b in itertools.pairwise(engine.ends)), reverse=True
        )[:40],
        "median_step_ms": 1e3
        * statistics.median(b - a for a, b in itertools.pairwise(engine.ends)),
        "window_ratios": window_ratios(engine, started, options, on_first=on_first)
        if on_first is not None
        else [],
        "before_first_step_s": engine.ends[0] - started,
        "after_last_step_s": line.ended_at - engine.ends[-1],
    }


def is_on(window: int, *, on_first: bool) -> bool:
    """Tell whether checkpoints are on in this window, counted from 0."""
    return (window % 2 == 0) == on_first


def window_ratios(
    engine: Timed, started: float, options: argparse.Namespace, *, on_first: bool
) -> list[float]:
    """Divide the rate of each window with checkpoints by that beside it.

    Only windows with a full batch count. vLLM hands tokens over in bursts, so a window is taken
    from the first burst in it to the first in the next.
    """
    window_s = options.alternate
    windows = int((engine.ends[-1] - started) // window_s) + 1
    edges = [bisect.bisect_left(engine.ends, started + i * window_s) for i in range(windows)]
    rates: list[float | None] = []
    for begin, end in itertools.pairwise(edges):
        is_full = (
            begin < end and min(engine.running[begin : end + 1]) >= FULL * options.max_num_seqs
        )
        seconds = engine.ends[end] - engine.ends[begin]
        rates.append(sum(engine.tokens[begin:end]) / seconds if is_full else None)
    found = []
    for i, (before, rate, after) in enumerate(
        zip(rates, rates[1:], rates[2:], strict=False), start=1
    ):
        if before and rate and after and is_on(i, on_first=on_first):
            found.append(rate / statistics.mean([before, after]))
    return found


def stolen(ends: list[float], saves: list[tuple[float, float, int]]) -> list[float]:
    """Sum the step time stolen by each checkpoint, in seconds."""
    hit: dict[int, int] = {}  # interval (i: from ends[i] to ends[i + 1]) → checkpoint
    for number, (begin, end, _) in enumerate(saves):
        for i in range(
            max(0, bisect.bisect_right(ends, begin) - 1),
            min(len(ends) - 1, bisect.bisect_left(ends, end)),
        ):
            hit.setdefault(i, number)
    cost = dict.fromkeys(range(len(saves)), 0.0)
    for i, number in hit.items():
        around = range(max(0, i - NEIGHBOURS), min(len(ends) - 1, i + NEIGHBOURS + 1))
        others = [ends[j + 1] - ends[j] for j in around if j not in hit]
        if others:
            cost[number] += ends[i + 1] - ends[i] - statistics.median(others)
    seen = set(hit.values())
    return [seconds for number, seconds in cost.items() if number in seen]


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run rounds of legs in rotating order, after a warm-up leg."""
    spec, engine = load_engine(options)
    gc.collect()
    gc.freeze()  # as a run's worker does
    timed, items = Timed(engine), make_items(options)
    leg(options, spec, timed, items[: options.max_num_seqs], None, "warm-up")
    if options.alternate:
        return alternate(options, spec, timed, items)
    settings: list[float | None] = [None, *options.every_s]
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        turn = number % len(settings)
        done = {}
        for every_s in settings[turn:] + settings[:turn]:
            label = "off" if every_s is None else f"{every_s:g}"
            done[label] = leg(options, spec, timed, items, every_s, f"round-{number}-{label}")
            print(
                f"round {number + 1}, every_s {label}: {done[label]['tokens_per_s']:,.0f} "
                f"tokens/s, "
                f"{done[label]['snapshots']} snapshots",
                file=sys.stderr,
                flush=True,
            )
        rounds.append(done)
    engine.close()
    return {"rounds": rounds, "table": [row_of(rounds, f"{s:g}", s) for s in options.every_s]}


def alternate(
    options: argparse.Namespace, spec: Any, engine: Timed, items: list[Any]
) -> dict[str, Any]:
    """Run legs with checkpoints on and off in turns, first setting only."""
    [every_s, *_] = options.every_s
    legs = []
    for number in range(options.rounds):
        done = leg(
            options, spec, engine, items, every_s, f"alternating-{number}", on_first=number % 2 == 0
        )
        each = " ".join(f"{ratio:.3f}" for ratio in done["window_ratios"])
        print(
            (
                f"round {number + 1}: {done['tokens_per_s']:,.0f} tokens/s, {done['snapshots']} "
                f"snapshots; {each}"
            ),
            file=sys.stderr,
            flush=True,
        )
        legs.append(done)
    return {"every_s": every_s, "legs": legs}


def print_alternation(result: dict[str, Any], window_s: float) -> None:
    ratios = sorted(r for one in result["legs"] for r in one["window_ratios"])
    if len(ratios) < 2:
        sys.exit("too few windows with a full batch: use more --requests, or more --rounds")
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    low, _, high = statistics.quantiles(ratios, n=4)
    snapshots = [ms for one in result["legs"] for ms in one["snapshot_ms"]]
    taken = [ms for one in result["legs"] for ms in one["stolen_ms"]]
    print(
        f"snapshots every {result['every_s']:g} s, on and off every {window_s:g} s: {len(ratios)} "
        f"windows, each over "
        "its neighbours without"
    )
    print(
        f"mean {statistics.mean(ratios):.3f} ± {error:.3f} (standard error), median "
        f"{statistics.median(ratios):.3f}, "
        f"quartiles {low:.3f} to {high:.3f}"
    )
    print(
        f"{len(snapshots)} snapshots of {statistics.mean(snapshots):.0f} ms, step time stolen by "
        f"one "
        f"{statistics.mean(taken):.1f} ms"
    )


def row_of(rounds: list[dict[str, Any]], label: str, every_s: float) -> dict[str, Any]:
    legs = [r[label] for r in rounds]
    ratios = [r[label]["tokens_per_s"] / r["off"]["tokens_per_s"] for r in rounds]
    taken = [ms for one in legs for ms in one["stolen_ms"]]
    return {
        "every_s": every_s,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "snapshots": sum(one["snapshots"] for one in legs),
        "stolen_ms": statistics.mean(taken) if taken else None,
        "stolen_share": sum(taken) / 1e3 / sum(one["seconds"] for one in legs),
        "snapshot_ms": statistics.mean([ms for one in legs for ms in one["snapshot_ms"]] or [0.0]),
        "mb": max([size for one in legs for size in one["bytes"]] or [0]) / 1e6,
    }


def print_costs(result: dict[str, Any]) -> None:
    off = statistics.median(r["off"]["tokens_per_s"] for r in result["rounds"])
    print(f"snapshots off: {off:,.0f} tokens/s (median of {len(result['rounds'])} rounds)")
    print(
        "every_s  ratio to off (each round)       snapshots  a snapshot  stolen by one  step "
        "time "
        "stolen  largest"
    )
    for row in result["table"]:
        each = " ".join(f"{ratio:.3f}" for ratio in row["ratios"])
        stolen_ms = f"{row['stolen_ms']:.1f} ms" if row["stolen_ms"] is not None else "-"
        print(
            f"{row['every_s']:>7g}  {row['ratio']:.3f} ({each:<22})  {row['snapshots']:>9}"
            f"  {row['snapshot_ms']:>7.0f} ms  {stolen_ms:>13}  {row['stolen_share']:>16.2%}  "
            f"{row['mb']:.2f} MB"
        )


def print_kill(result: dict[str, Any]) -> None:
    for name, value in result.items():
        print(
            f"{name.replace('_', ' '):<34} {value:>12,.1f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):<34} {value:>10,}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=str(VARIANTS["r1-tiny"].path), help="a model folder")
    parser.add_argument("--dummy", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--kill", action="store_true", help="kill a run at half time, instead")
    instead.add_argument(
        "--starts", type=int, metavar="N", help="time N starts of one run, instead"
    )
    instead.add_argument(
        "--alternate",
        type=float,
        metavar="SECONDS",
        help="snapshots on and off within a leg, instead",
    )
    parser.add_argument(
        "--every-s", type=float, nargs="+", help="seconds between snapshots (1 30; with --kill: 30)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument(
        "--mean", type=float, default=200.0, help="mean output tokens before the cap"
    )
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--cap", type=int, default=1024)
    parser.add_argument("--prompt-words", type=int, default=30)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--rows-per-part", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the moment of the kill")
    parser.add_argument(
        "--output", help="where outputs go: a folder or s3://… (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    parser.add_argument(
        "--engine-arg", action="append", default=[], metavar="NAME=YAML", help="more for vLLM"
    )
    parser.set_defaults(
        trace="lognormal",
        prompt_tokens=None,
        gpu_memory_utilization=0.9,
        cache_sequences=None,
        as_user=False,
    )
    options = parser.parse_args()
    if options.alternate and options.every_s and options.every_s[0] > options.alternate:
        parser.error(
            "--alternate: shorter than --every-s, so windows with snapshots would have none"
        )
    options.every_s = options.every_s or ([30.0] if options.kill or options.starts else [1.0, 30.0])
    with tempfile.TemporaryDirectory(prefix="batchr1-checkpoint-") as name:
        options.output = options.output or f"{name}/out"
        measure = compare
        if options.starts:
            measure = time_starts
        elif options.kill:
            measure = functools.partial(kill_and_go_on, rng=random.Random(options.seed))
        result = measure(options, Path(name))
    print(f"{versions(options.device)}; {options.requests} requests")
    if options.out:
        document = {
            "versions": versions(options.device),
            "options": {k: str(v) for k, v in vars(options).items()},
        }
        document["result"] = result
        options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if options.alternate:
        print_alternation(result, options.alternate)
    else:
        (print_kill if options.kill or options.starts else print_costs)(result)
    sys.stdout.flush()
    os._exit(0)  # as batchr1 itself leaves: native threads abort a tear-down now and then


if __name__ == "__main__":
    if sys.argv[1:2] == ["--recorded"]:  # by kill_and_go_on
        run_recorded(Path(sys.argv[2]), sys.argv[3:])
    main()
