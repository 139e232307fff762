"""Longest-first against fifo: tail, whole run and preemptions.

    # replay engine on its own clock: an H200's hours in seconds
    python benchmarks/schedule.py
    # r1-tiny through vLLM on the CPU: whole runs, interleaved pairs
    python benchmarks/schedule.py --real

Without --real, worker loop, admission, schedule and replay engine are those of a run. Steps take
the time that docs/sizing.md computes for an H200, on a clock of the engine's own. So this machine's
own speed does not count. Left out: the driver's process, reading and
rendering, splitting and Parquet, which run beside the loop. Each prompt has n samples of about the
same length. `tail`: from 90 % of all tokens generated to 100 %, in seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from batchr1.driver.feed.schedule import RowSamples, Schedule
from batchr1.engine.protocol import Delta, Sampling
from batchr1.engine.replay.engine import ReplayEngine
from batchr1.executors.messages import (
    Drain,
    EngineSpec,
    FromWorker,
    Lease,
    PartCounts,
    RequestWork,
    SamplesFinished,
    ToWorker,
    WorkerSetup,
)
from batchr1.models.catalogue import VARIANTS
from batchr1.records import CompletionLengths, Prompt, PromptLengths, SampleKey, WorkItem
from batchr1.seeds import derive_seed
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.estimate import EFFICIENCY, STEP_S, STEP_S_PER_SEQ, Workload
from batchr1.sizing.fit import MAX_NUM_SEQS
from batchr1.sizing.gpus import GPUS
from batchr1.storage.base import open_storage
from batchr1.worker.engine_worker import EngineWorker

ROOT = Path(__file__).resolve().parent.parent
RECORDED = Path(__file__).with_name("data") / "r1_tiny_lengths.json"  # by problem of jobs/math.yaml
VOCABULARY = {
    "open_id": 1,
    "close_id": 2,
    "end_id": 3,
    "first_text_id": 10,
    "num_text_ids": 26,
    "marker": 4,
}
Groups = list[list[int]]


def log_normal(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """Draw lengths of sigma 1, four fifths of the variance between prompts."""
    mu, between, within = math.log(mean) - 0.5, math.sqrt(0.8), math.sqrt(0.2)
    centers = [rng.gauss(mu, between) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(math.exp(rng.gauss(c, within))))) for _ in range(n)] for c in centers
    ]


def bimodal(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """Draw lengths: one prompt in five is ten times as long."""
    easy = mean / (0.8 + 0.2 * 10)
    centers = [math.log(easy * (10 if rng.random() < 0.2 else 1)) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(math.exp(rng.gauss(c, 0.35))))) for _ in range(n)] for c in centers
    ]


def recorded(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """Draw r1-tiny's own lengths, scaled to the mean.

    They are `n` samples each of problems of jobs/math.yaml.
    """
    groups: Groups = json.loads(RECORDED.read_text(encoding="utf-8"))["lengths"]
    scale = mean / statistics.mean(length for group in groups for length in group)
    drawn = [rng.choice(groups) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(rng.choice(group) * scale))) for _ in range(n)] for group in drawn
    ]


SHAPES: dict[str, Callable[[random.Random, int, int, float, int], Groups]] = {
    "log-normal": log_normal,
    "bimodal": bimodal,
    "r1-tiny": recorded,
}


class TimedEngine(ReplayEngine):
    """Engine that keeps the time and number of tokens."""

    def step(self) -> list[Delta]:
        deltas = super().step()
        self.timeline = getattr(self, "timeline", [])
        self.timeline.append((self.clock_s, sum(len(delta.token_ids) for delta in deltas)))
        return deltas


class Rows:
    """Collector that counts."""

    totals = PartCounts(0, 0, 0, 0, 0, 0)

    def __init__(self) -> None:
        self.done: set[SampleKey] = set()

    def put(self, completion: Any, saved: Any, carried: int = 0) -> None:
        assert completion.item.key not in self.done
        self.done.add(completion.item.key)

    def finish(self, while_waiting: Any) -> None: ...

    def raise_error(self) -> None: ...

    def uncommitted(self) -> list[Any]:
        return []


class Line:
    """Worker's channel whose other end leases at once, by the schedule."""

    def __init__(self, trace: Groups, prompt_len: int, cap: int, order: str) -> None:
        self._schedule = Schedule(longest_first=order == "longest_first")
        self._schedule.add(
            RowSamples(i, list(range(len(lengths)))) for i, lengths in enumerate(trace)
        )
        self._prompt_len, self._cap = prompt_len, cap
        self._inbox: deque[ToWorker] = deque()
        self._row: deque[WorkItem] = deque()
        self._probes: dict[SampleKey, RowSamples] = {}
        self._wanted = 0

    def receive(self, timeout_s: float) -> ToWorker | None:
        return self._inbox.popleft() if self._inbox else None

    def send(self, message: FromWorker) -> None:
        match message:
            case RequestWork(count):
                items = [item for _ in range(count) if (item := self._next()) is not None]
                self._inbox.append(Lease(tuple(items)) if items else Drain())
            case SamplesFinished(keys, tokens):
                for key, length in zip(keys, tokens, strict=True):
                    self._schedule.finished(self._probes.pop(key, None), length)

    def _next(self) -> WorkItem | None:
        if not self._row:
            pick = self._schedule.pick()
            if pick is None:
                return None
            id = f"p{pick.group.row}"
            # The replay engine knows a prompt by its tokens.
            ids = (
                *array("i", [100 + pick.group.row] * (self._prompt_len - 1)),
                VOCABULARY["marker"],
            )
            prompt = Prompt(id, "", ids, True, b"")
            expected = None if math.isnan(pick.expected) else pick.expected
            self._row.extend(
                WorkItem(
                    prompt,
                    s,
                    self._cap,
                    "max_tokens",
                    seed=derive_seed(0, id, s, 1),
                    expected_tokens=expected,
                    at_least_tokens=pick.at_least,
                )
                for s in pick.samples
            )
            if pick.group.samples:
                self._probes[SampleKey(id, pick.samples[0])] = pick.group
        return self._row.popleft()


def step_time(variant: str, gpu: str) -> dict[str, float]:
    """Compute the time of a step, with constants fitted to an H200."""
    arch, card = Architecture.of_config(VARIANTS[variant].config), GPUS[gpu]
    return {
        "weight_bytes": arch.parameters() * arch.bytes_per_weight(),
        "kv_bytes_per_token": arch.kv_bytes_per_token(kv_dtype_bytes=2, tensor_parallel=1),
        "bandwidth": card.bandwidth_gb_s * 1e9,
        "operations_per_token": 2 * arch.active_parameters(),
        "peak": card.bf16_tflops * 1e12,
        "efficiency": EFFICIENCY,
        "step_s": STEP_S,
        "step_s_per_seq": STEP_S_PER_SEQ,
    }


@dataclass(frozen=True, slots=True)
class Case:
    """Case: the engine's room, and its work.

    `guess`: the plan's mean length over the true one.
    """

    kv_tokens: int
    max_num_seqs: int | None  # None: as planned
    guess: float


def simulate(
    trace: Groups, order: str, options: argparse.Namespace, case: Case
) -> dict[str, float]:
    """Run once through the replay engine."""
    lengths = [length for group in trace for length in group]
    mean, square = statistics.mean(lengths), statistics.mean(length**2 for length in lengths)
    expected = CompletionLengths(mean * case.guess, square * case.guess**2, "the trace")
    prompts = PromptLengths(len(trace), len(trace), options.prompt_len, options.prompt_len)
    demand = Workload(
        prompts, expected, len(lengths), options.cap, options.prompt_len + options.cap
    )
    num_seqs = case.max_num_seqs or min(MAX_NUM_SEQS, demand.sequences_within(case.kv_tokens))
    script = {
        **VOCABULARY,
        "max_num_seqs": num_seqs,
        "kv_cache_tokens": case.kv_tokens,
        "groups": trace,
        "max_model_len": options.prompt_len + options.cap + 1,
        "tokens_per_step": options.tokens_per_step,
        "step_time": step_time(options.variant, options.gpu),
        "time_scale": 0.0,
    }
    engine = TimedEngine.from_args(script)
    assert isinstance(engine, TimedEngine)
    with tempfile.TemporaryDirectory() as folder:
        spec = EngineSpec("replay", "cpu", "", None, False, {}, Sampling(0.6, 0.95))
        setup = WorkerSetup(
            run="r",
            worker=0,
            epoch=0,
            engine=spec,
            max_num_seqs=num_seqs,
            storage=open_storage(folder),
            kept_schema=b"",
            seed=0,
            attempts=1,
            rows_per_part=1,
            part_every_s=1.0,
            model_label="",
            expects_box=False,
            keep_token_ids=False,
            expected=expected,
        )
        rows = Rows()
        line = Line(trace, options.prompt_len, options.cap, order)

        def clock() -> float:
            return engine.clock_s

        EngineWorker(setup, engine, rows, line, clock=clock).run(0.0)  # type: ignore[arg-type]
    assert len(rows.done) == len(lengths)
    load = engine.load()
    return {
        **_times(engine.timeline),
        "max_num_seqs": num_seqs,
        "preempted": load.preempted / len(lengths),
        "prefix_hit_rate": load.prefix_hits / max(1, load.prefix_queries),
    }


def _times(timeline: list[tuple[float, int]]) -> dict[str, float]:
    """Time the whole and its tail, in seconds, from (time, tokens) pairs."""
    total, seen, at_90 = sum(tokens for _, tokens in timeline), 0, 0.0
    for at, tokens in timeline:
        seen += tokens
        if seen >= 0.9 * total and not at_90:
            at_90 = at
    end = timeline[-1][0]
    return {"seconds": end, "tail": end - at_90, "tokens_per_s": total / end}


def simulated(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate all shapes, seeds and cache sizes, in both orders."""
    cases = [
        Case(kv, num_seqs, options.guess)
        for kv in options.kv_tokens
        for num_seqs in options.max_num_seqs
    ]
    rows = []
    for shape in options.shapes:
        for case in cases:
            for seed in range(options.seeds):
                rng = random.Random(seed)
                trace = SHAPES[shape](rng, options.prompts, options.n, options.mean, options.cap)
                runs = {
                    order: simulate(trace, order, options, case)
                    for order in ("fifo", "longest_first")
                }
                rows.append({"shape": shape, **asdict(case), "seed": seed, **compare(runs)})
                print(_line(rows[-1]), flush=True)
    return rows


def compare(runs: dict[str, dict[str, float]]) -> dict[str, float]:
    """Set both orders side by side.

    `speed` is longest-first's tokens/s over fifo's: above 1 is better.
    """
    fifo, longest = runs["fifo"], runs["longest_first"]
    return {
        "tail_cut": 1 - longest["tail"] / fifo["tail"],
        "speed": fifo["seconds"] / longest["seconds"],
        **{f"{name}_fifo": value for name, value in fifo.items()},
        **{f"{name}_longest_first": value for name, value in longest.items()},
    }


def _line(row: dict[str, Any]) -> str:
    text = f"{row['shape']:<10}"
    if "kv_tokens" in row:
        text += (
            f"  kv {row['kv_tokens']:>9,}  batch {row['max_num_seqs_fifo']:>3}  seed {row['seed']}"
        )
    text += (
        f"  tail {row['tail_fifo']:6.1f} → {row['tail_longest_first']:6.1f} s "
        f"({row['tail_cut']:+.0%} cut)"
        f"  whole {row['seconds_fifo']:7.1f} → {row['seconds_longest_first']:7.1f} s (speed × "
        f"{row['speed']:.3f})"
    )
    if "preempted_fifo" in row:
        text += (
            f"  preempted {row['preempted_fifo']:.2%} → {row['preempted_longest_first']:.2%}"
            f"  prefix hits {row['prefix_hit_rate_fifo']:.0%} → "
            f"{row['prefix_hit_rate_longest_first']:.0%}"
        )
    return text


def _what(row: dict[str, Any]) -> str:
    if "kv_tokens" not in row:
        return str(row["shape"])
    return (
        f"{row['shape']}, {row['kv_tokens']:,} tokens of cache, batch "
        f"{row['max_num_seqs'] or 'as planned'}"
    )


def run_real(order: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run a whole job on r1-tiny.

    The timeline is of finished rows: the times of their tokens are not known.
    """
    output = folder / order
    command = [
        sys.executable,
        "-m",
        "batchr1",
        "run",
        str(ROOT / "jobs/math.yaml"),
        "--json",
        "--gpus",
        "none",
        "--output",
        str(output),
        "--limit",
        str(options.rows),
        "--set",
        f"sampling.n={options.n}",
        "--set",
        f"schedule={order}",
        "--set",
        f"model.engine_args.max_num_seqs={options.real_seqs}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"batchr1 ended with {done.returncode}: {done.stdout.decode()}")
    record = json.loads(next((output / ".batchr1/runs").glob("*.json")).read_text(encoding="utf-8"))
    frames = [
        pl.read_parquet(part, columns=["finished_at", "completion_tokens"])
        for part in output.glob("data/*.parquet")
    ]
    rows = pl.concat(frames).sort("finished_at")
    first = rows["finished_at"][-1].timestamp() - record["generating_s"]
    timeline = [(at.timestamp() - first, tokens) for at, tokens in rows.iter_rows()]
    load = record["loads"]["0"]
    return {
        **_times(timeline),
        "preempted": load["preempted"] / rows.height,
        "prefix_hit_rate": load["prefix_hit_rate"] or 0.0,
    }


def real(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run interleaved pairs on this machine."""
    rows = []
    for number in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            orders = ["fifo", "longest_first"][:: 1 if number % 2 == 0 else -1]
            runs = {order: run_real(order, options, Path(folder)) for order in orders}
        rows.append({"shape": "real", "pair": number, **compare(runs)})
        print(_line(rows[-1]), flush=True)
    return rows


def _planned_or_number(text: str) -> int | None:
    return None if text == "plan" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", default="r1-distill-qwen-1.5b")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--n", type=int, default=8, help="samples of each prompt")
    parser.add_argument(
        "--mean", type=float, default=1000.0, help="mean output tokens before the cap"
    )
    parser.add_argument("--cap", type=int, default=4096)
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument(
        "--max-num-seqs", type=_planned_or_number, nargs="+", default=[None], metavar="plan|N"
    )
    parser.add_argument(
        "--kv-tokens",
        type=int,
        nargs="+",
        default=[4_534_800, 400_000],
        help="sizes of the KV cache",
    )
    parser.add_argument(
        "--guess", type=float, default=1.0, help="the plan's mean length over the true one"
    )
    parser.add_argument(
        "--tokens-per-step", type=int, default=8, help="decode steps that are simulated at once"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", action="store_true", help="r1-tiny through vLLM on the CPU")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400, help="rows of jobs/math.yaml")
    parser.add_argument("--real-seqs", type=int, default=128, help="max_num_seqs of the real runs")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    options = parser.parse_args()
    started = time.monotonic()
    rows = real(options) if options.real else simulated(options)
    for what in dict.fromkeys(_what(row) for row in rows):
        mine = [row for row in rows if _what(row) == what]
        cuts, speeds = [row["tail_cut"] for row in mine], [row["speed"] for row in mine]
        preempted = max(row["preempted_longest_first"] for row in mine)
        print(
            f"{what}: tail cut by {statistics.median(cuts):.0%} ({min(cuts):.0%} to "
            f"{max(cuts):.0%}), "
            f"speed × {statistics.median(speeds):.3f} ({min(speeds):.3f} to {max(speeds):.3f}), "
            f"preempted at most {preempted:.2%}"
        )
    if options.out:
        document = {"options": {k: str(v) for k, v in vars(options).items()}, "rows": rows}
        options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s on this machine", file=sys.stderr)


if __name__ == "__main__":
    main()
