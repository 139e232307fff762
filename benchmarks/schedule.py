"""Longest-first against fifo; and admission as planned against other rules, where memory is short.

    python benchmarks/schedule.py                     # order: an H200's hours in seconds
    python benchmarks/schedule.py --admission    # admission, on models and GPUs with small caches
    python benchmarks/schedule.py --real         # r1-tiny through vLLM on the CPU, in pairs

Without --real, see `simulated.py`. Each prompt has n samples of about the same length. `tail`: from
90 % of all tokens generated to 100 %, in seconds.

--admission: one sample a prompt, in the order of the input. As planned, with lengths guessed at
1, 0.5 and 2 times the truth, against no admission at 8 to 256 sequences and against fixed margins.
All of a setting have the cache that the plan has.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).parent))

from simulated import SHAPES, Case, log_normal, simulate, step_time, times

from batchr1.models.catalogue import VARIANTS
from batchr1.records import CompletionLengths, PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.estimate import Workload, best_batch
from batchr1.sizing.fit import MAX_NUM_SEQS, EngineConstraints, Fit, best_fit
from batchr1.sizing.graphs import grid_ceil
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import named_machine

ROOT = Path(__file__).resolve().parent.parent
PROMPT_LEN, MEAN, CAP = 128, 6094, 32768  # of --admission: maths, as DeepSeek's traces have it
WITHOUT = (8, 16, 32, 64, 128, 256)  # sequences
MARGINS = (2.5, 1.0, 0.0, -1.0)  # deviations
GUESSES = (1.0, 0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Setting:
    """A model, its GPUs and the rows of a run."""

    variant: str
    gpu: str
    count: int
    rows: int

    def __str__(self) -> str:
        gpus = self.gpu if self.count == 1 else f"{self.count} × {self.gpu}"
        return f"{self.variant.removeprefix('r1-distill-')}, {gpus}"


SETTINGS = (
    Setting("r1-distill-qwen-32b", "A100 80GB", 1, 150),
    Setting("r1-distill-qwen-32b", "H200", 1, 500),
    Setting("r1-distill-qwen-14b", "A100 40GB", 1, 150),
    Setting("r1-distill-qwen-14b", "A100 80GB", 1, 500),
    Setting("r1-distill-qwen-7b", "RTX 4090", 1, 300),
    Setting("r1-distill-llama-70b", "H100", 2, 120),
    Setting("r1-distill-qwen-7b", "H200", 1, 1500),
)


def planned(setting: Setting) -> tuple[Fit, Workload]:
    """The plan's fit for this setting."""
    prompts = PromptLengths(setting.rows, setting.rows, 512, PROMPT_LEN)
    workload = Workload(prompts, default_lengths("math", CAP), setting.rows, CAP, 131_072)
    devices = named_machine(setting.gpu, count=setting.count).devices
    arch = Architecture.of_config(VARIANTS[setting.variant].config)
    found = best_fit(arch, None, workload, EngineConstraints(), devices)
    assert found is not None and found.fits
    return found, workload


def admission_run(job: tuple[Setting, int, str | float, int | None, float, int]) -> dict[str, Any]:
    """One run: setting, seed, rule, sequences (None: as planned), guess, decode steps at once."""
    setting, seed, rule, num_seqs, guess, at_once = job
    found, _ = planned(setting)
    trace = log_normal(random.Random(seed), setting.rows, 1, MEAN, CAP)
    case = Case(
        step_time(setting.variant, setting.gpu, tensor_parallel=setting.count),
        found.kv_cache_tokens,
        num_seqs or found.max_num_seqs,
        PROMPT_LEN,
        CAP,
        guess,
        at_once,
        rule,
    )
    figures = simulate(trace, "fifo", case)
    return {"setting": str(setting), "seed": seed, "rule": rule, "guess": guess} | figures


def admission(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rules on all settings and seeds."""
    settings = [s for s in SETTINGS if not options.only or options.only in str(s)]
    jobs: list[tuple[Setting, int, str | float, int | None, float, int]] = []
    for setting in settings:
        for seed in range(options.seeds):
            at_once = options.tokens_per_step
            jobs += [(setting, seed, "none", n, 1.0, at_once) for n in WITHOUT]
            jobs += [(setting, seed, margin, MAX_NUM_SEQS, 1.0, at_once) for margin in MARGINS]
            jobs += [(setting, seed, "planned", None, guess, at_once) for guess in GUESSES]
    rows = []
    with ProcessPoolExecutor(options.processes) as pool:
        for row in pool.map(admission_run, jobs):
            rows.append(row)
            print(
                f"{row['setting']:<20} seed {row['seed']}  {row['rule']!s:>8} "
                f"{row['max_num_seqs']:>3}  guess {row['guess']:g}  {row['tokens_per_s']:>8,.1f} "
                f"tokens/s  preempted {row['preempted']:.2f}",
                flush=True,
            )
    print("\n" + admission_table(rows, settings))
    return rows


def admission_table(rows: list[dict[str, Any]], settings: list[Setting]) -> str:
    """A line a setting: medians over the seeds, and the ratio to the best other rule of each."""
    lines = [
        "| | batch | KV tokens | no admission: best | margin: best | as planned | estimated "
        "| over the best | guessed 0.5 | guessed 2 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in settings:
        mine = [row for row in rows if row["setting"] == str(setting)]
        none = _best([row for row in mine if row["rule"] == "none"])
        margin = _best([row for row in mine if row["rule"] not in ("none", "planned")])
        best = {
            seed: max(none[seed]["tokens_per_s"], margin[seed]["tokens_per_s"]) for seed in none
        }
        planned_rows = [row for row in mine if row["rule"] == "planned"]
        ours = [row["tokens_per_s"] for row in planned_rows if row["guess"] == 1.0]
        found, workload = planned(setting)
        assert found.step_time is not None
        course = workload.course(
            found.step_time, num_seqs=found.max_num_seqs, kv_tokens=found.kv_cache_tokens
        )
        lines.append(
            f"| {setting} | {found.max_num_seqs} | {found.kv_cache_tokens:,} "
            f"| {_shown(none, 'max_num_seqs')} | {_shown(margin, 'rule')} "
            f"| {statistics.median(ours):,.0f} | {course.tokens_per_s:,.0f} "
            + "".join(f"| {_over(planned_rows, best, guess)} " for guess in GUESSES)
            + "|"
        )
    return "\n".join(lines)


def _best(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The fastest run of each seed."""
    best: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["tokens_per_s"])):
        best[row["seed"]] = row
    return best


def _shown(best: dict[int, dict[str, Any]], name: str) -> str:
    median = statistics.median(row["tokens_per_s"] for row in best.values())
    names = sorted({float(row[name]) for row in best.values()})
    return f"{median:,.0f} ({', '.join(f'{n:g}' for n in names)})"


def _over(rows: list[dict[str, Any]], best: dict[int, float], guess: float) -> str:
    ratios = [row["tokens_per_s"] / best[row["seed"]] for row in rows if row["guess"] == guess]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def order_case(
    trace: list[list[int]], options: argparse.Namespace, kv_tokens: int, num_seqs: int | None
) -> Case:
    """A case of the comparison of orders; `num_seqs` None: as many as the plan would give."""
    lengths = [length for group in trace for length in group]
    mean, square = statistics.mean(lengths), statistics.mean(length**2 for length in lengths)
    expected = CompletionLengths(mean * options.guess, square * options.guess**2, "the trace")
    prompts = PromptLengths(len(trace), len(trace), options.prompt_len, options.prompt_len)
    context_len = options.prompt_len + options.cap
    workload = Workload(prompts, expected, len(lengths), options.cap, context_len)
    took = step_time(options.variant, options.gpu)

    def seconds_with(size: int) -> float:
        return workload.seconds(took, num_seqs=size, kv_tokens=kv_tokens)

    return Case(
        took,
        kv_tokens,
        num_seqs or best_batch(min(MAX_NUM_SEQS, grid_ceil(len(lengths))), seconds_with),
        options.prompt_len,
        options.cap,
        options.guess,
        options.tokens_per_step,
    )


def simulated(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All shapes, seeds and sizes of the cache, in both orders."""
    cases = [(kv, num_seqs) for kv in options.kv_tokens for num_seqs in options.max_num_seqs]
    rows = []
    for shape in options.shapes:
        for kv, num_seqs in cases:
            for seed in range(options.seeds):
                rng = random.Random(seed)
                trace = SHAPES[shape](rng, options.prompts, options.n, options.mean, options.cap)
                case = order_case(trace, options, kv, num_seqs)
                runs = {order: simulate(trace, order, case) for order in ("fifo", "longest_first")}
                of = {"kv_tokens": kv, "max_num_seqs": num_seqs, "guess": options.guess}
                rows.append({"shape": shape, **of, "seed": seed, **compare(runs)})
                print(_line(rows[-1]), flush=True)
    return rows


def compare(runs: dict[str, dict[str, float]]) -> dict[str, float]:
    """Compare both orders. `speed`: tokens/s of longest-first over those of fifo."""
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
    """A whole job on r1-tiny.

    The timeline is that of finished rows: nothing is known of when their tokens came.
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
        **times(timeline),
        "preempted": load["preempted"] / rows.height,
        "prefix_hit_rate": load["prefix_hit_rate"] or 0.0,
    }


def real(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Interleaved pairs on this machine."""
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
    parser.add_argument("--admission", action="store_true", help="admission, not the order")
    parser.add_argument("--only", help="of --admission: settings with this in their name")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="r1-tiny through vLLM on the CPU")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400, help="rows of jobs/math.yaml")
    parser.add_argument("--real-seqs", type=int, default=128, help="max_num_seqs of the real runs")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    options = parser.parse_args()
    started = time.monotonic()
    if options.admission:
        rows = admission(options)
    else:
        rows = real(options) if options.real else simulated(options)
    for what in [] if options.admission else dict.fromkeys(_what(row) for row in rows):
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
