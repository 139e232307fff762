"""One replica against two or eight, and a killed worker's cost.

    python benchmarks/shapes.py r1-distill-qwen-1.5b DIR
    # two GPUs, dummy weights
    python benchmarks/replicas.py gpu --model DIR --within 450 --out replicas.json
    # no GPU: the replay engine
    python benchmarks/replicas.py driver --out driver.json

`gpu` runs the same job with `--gpus 1` and `--gpus 2` in turn, with so many rows a replica, and
once with two replicas of which one is killed half-way. `driver` runs 1, 2, 4 and 8 replicas that
each give out tokens at a fixed rate and cost next to nothing, so that what falls short of that rate
is the driver's and the workers' own doing.

A rate is durable output tokens over seconds from the first submitted request to the last commit.
"alive" are the seconds of that time in which engines were ready, summed over engines: an engine
that has nothing left to do still counts, one that loads does not. Lengths are forced (`ignore_eos`
and a cap per request). Each run must commit exactly the tokens of its trace, or the benchmark ends.
All runs share vLLM's cache of compiled code (VLLM_CACHE_ROOT): only the first start compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from traces import TraceSpec, write_dataset

ROOT = Path(__file__).resolve().parent.parent


def job_of(options: argparse.Namespace, folder: Path, engine_args: dict[str, Any]) -> Path:
    """The job file over trace.parquet."""
    job = {
        "name": "replicas",
        "model": {"path": options.model, "engine_args": engine_args},
        "input": {
            "path": str(folder / "trace.parquet"),
            "id": "id",
            "prompt": "prompt",
            "max_tokens": "max_tokens",
        },
        "output": {"path": str(folder / "out"), "rows_per_part": options.rows_per_part},
        "prompting": {"instruction": "none"},
        "sampling": {"max_tokens": options.cap, "ignore_eos": True},
        "checkpoint": {"every_s": options.checkpoint_s},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def run(
    command: list[str], folder: Path, *, replicas: int, expected: int, kill_after_s: float | None
) -> dict[str, Any]:
    """Run a job to its end.

    With `kill_after_s`, its last worker is killed so long after all were ready.
    """
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT)
    killed: list[float] = []
    killer = threading.Thread(
        target=_kill_one, args=(process, folder, replicas, kill_after_s, killed), daemon=True
    )
    if kill_after_s is not None:
        killer.start()
    said = process.communicate()[0].decode()
    if process.returncode:
        sys.exit(
            f"batchr1 ended with {process.returncode}: "
            f"{said}\n{(folder / 'stderr').read_text()[-4000:]}"
        )
    if kill_after_s is not None and not killed:
        sys.exit("the run was over before its worker could be killed: give --kill-rows more rows")
    tokens = json.loads(said)["this_run"]["tokens"]
    if tokens != expected:
        sys.exit(f"{tokens} tokens were committed, and the trace has {expected}")
    (path,) = (folder / "out/.batchr1/runs").glob("*.json")
    return figures(json.loads(path.read_text()), tokens)


def figures(record: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Compute rates from a run's record."""
    live = record["replicas"]
    first, last = live["first_submit_s"], live["last_commit_s"]
    since: dict[int, float] = {}
    alive = 0.0
    for event in live["events"]:
        if event["event"] == "ready":
            since[event["worker"]] = max(first, event["at_s"])
        elif event["event"] == "died" and event["worker"] in since:
            alive += min(last, event["at_s"]) - since.pop(event["worker"])
    alive += sum(last - at for at in since.values())
    seconds = last - first
    return {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "alive_s": round(alive, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_alive_s": round(tokens / alive, 1),
        "driver_cpu_share": round(live["driver_cpu_s"] / seconds, 4),
        "restarts": record["tally"]["restarts"],
        "load_s": [round(engine["load_s"], 1) for engine in record["engines"].values()],
        "events": live["events"],
    }


def _kill_one(
    process: subprocess.Popen[bytes],
    folder: Path,
    replicas: int,
    after_s: float,
    killed: list[float],
) -> None:
    """Kill the youngest worker, `after_s` seconds after all were ready."""
    logs = folder / "out/.batchr1/runs"
    while (
        sum(path.read_text(errors="replace").count(" ready after ") for path in logs.glob("*.log"))
        < replicas
    ):
        if process.poll() is not None:
            return
        time.sleep(0.1)
    time.sleep(after_s)
    workers = [pid for pid in _children(process.pid) if "batchr1.worker.main" in _command(pid)]
    if workers and process.poll() is None:
        os.kill(max(workers), signal.SIGKILL)
        killed.append(time.time())


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


class Bench:
    """Runs in turn within a time limit; `--out` always has the figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._started = time.monotonic()
        self._longest = 0.0
        self.runs: list[dict[str, Any]] = []

    def has_time(self) -> bool:
        """Tell whether another of the longest runs would end in time."""
        return time.monotonic() - self._started + 1.1 * self._longest < self._options.within

    def add(
        self, label: str, replicas: int, rows: int, make: Any, *, kill_after_s: float | None = None
    ) -> dict[str, Any]:
        """`make(folder, replicas)` gives the command for a trace of so many rows."""
        options, begun = self._options, time.monotonic()
        with tempfile.TemporaryDirectory(prefix="batchr1-replicas-") as name:
            folder = Path(name)
            spec = TraceSpec(rows, options.mean, options.sigma, options.cap, options.prompt_words)
            expected = write_dataset(spec, folder / "trace.parquet", options.model)
            command = make(folder, replicas)
            found = run(
                command, folder, replicas=replicas, expected=expected, kill_after_s=kill_after_s
            )
        found = {"label": label, "replicas": replicas, "rows": rows, **found}
        self.runs.append(found)
        self._longest = max(self._longest, time.monotonic() - begun)
        print(
            f"{label}: {found['tokens']:,} tokens in {found['seconds']:.1f} s "
            f"({time.monotonic() - begun:.0f} s with "
            f"loading), {found['tokens_per_s']:,.0f} tok/s",
            file=sys.stderr,
            flush=True,
        )
        if options.out:
            document = {"options": {k: str(v) for k, v in vars(options).items()}, "runs": self.runs}
            options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return found

    def median(self, label: str, figure: str) -> float | None:
        found = [run[figure] for run in self.runs if run["label"] == label]
        return statistics.median(found) if found else None

    def table(self, one: str) -> str:
        """Lay out a line a kind of run.

        `of one` is the share of the tokens of as many engines as `one`'s.
        """
        base = self.median(one, "tokens_per_alive_s") or 0.0
        lines = [
            (
                f"{'':12} {'runs':>4} {'tok/s':>9} {'range':>19} {'of linear':>9} {'of alive':>9} "
                f"{'driver':>7}"
            )
        ]
        for label in dict.fromkeys(run["label"] for run in self.runs):
            runs = [run for run in self.runs if run["label"] == label]
            rates = [run["tokens_per_s"] for run in runs]
            linear = statistics.median(rates) / (
                runs[0]["replicas"] * (self.median(one, "tokens_per_s") or 1.0)
            )
            alive = statistics.median(run["tokens_per_alive_s"] for run in runs) / base
            driver = statistics.median(run["driver_cpu_share"] for run in runs)
            lines.append(
                f"{label:12} {len(runs):4} {statistics.median(rates):9,.0f} "
                f"{min(rates):9,.0f}–{max(rates):9,.0f} "
                f"{linear:9.3f} {alive:9.3f} {driver:7.1%}"
            )
        return "\n".join(lines)


def gpu(options: argparse.Namespace) -> None:
    """Run rounds of one and two replicas in alternating order.

    After the first run of one, one of two is killed half-way.
    """
    engine_args: dict[str, Any] = {
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "load_format": "dummy",
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "gpu_memory_utilization": 0.9,
    }

    def command(folder: Path, replicas: int) -> list[str]:
        job = job_of(options, folder, engine_args)
        return [sys.executable, "-m", "batchr1", "run", str(job), "--json", "--gpus", str(replicas)]

    bench = Bench(options)
    for number in range(options.rounds):
        for replicas in (1, 2) if number % 2 == 0 else (2, 1):
            if bench.has_time():
                bench.add(f"{replicas} GPU", replicas, replicas * options.rows, command)
            if number == 0 and replicas == 1 and not options.no_kill and bench.has_time():
                one = bench.median("1 GPU", "seconds") or 0.0  # as long as two with twice the rows
                half = one / 2 * options.kill_rows / (2 * options.rows)
                bench.add("2, 1 killed", 2, options.kill_rows, command, kill_after_s=half)
    print(bench.table("1 GPU"))


def driver(options: argparse.Namespace) -> None:
    """Run 1 to 8 scripted replicas, each of `--rate` tokens a second."""
    from batchr1.models.catalogue import VARIANTS

    options.model = str(VARIANTS["r1-tiny"].path)
    script = replay_script(options)

    def command(folder: Path, replicas: int) -> list[str]:
        job = job_of(options, folder, {"max_num_seqs": options.max_num_seqs, "max_model_len": 4096})
        (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
        program = [sys.executable, __file__, "replay", str(folder / "script.json")]
        return [*program, "run", str(job), "--json", "--gpus", "none", "--replicas", str(replicas)]

    bench = Bench(options)
    for number in range(options.rounds):
        steps = options.replicas if number % 2 == 0 else options.replicas[::-1]
        for replicas in steps:
            if bench.has_time():
                bench.add(f"{replicas} replay", replicas, replicas * options.rows, command)
    print(bench.table(f"{options.replicas[0]} replay"))


def replay_script(options: argparse.Namespace) -> dict[str, Any]:
    """Write a script of `--rate` tokens a second, in long steps."""
    from batchr1.dataset.prompts import PromptRenderer, load_tokenizer

    tokenizer = load_tokenizer(options.model)
    renderer = PromptRenderer(tokenizer)
    first = tokenizer.convert_tokens_to_ids("a")
    return {
        "open_id": tokenizer.convert_tokens_to_ids("<think>"),
        "close_id": tokenizer.convert_tokens_to_ids("</think>"),
        "end_id": tokenizer.eos_token_id,
        "first_text_id": first,
        "num_text_ids": 26,
        "marker": renderer.render("0", "1 + 1").token_ids[-1],
        "max_model_len": 4096,  # r1-tiny's
        "max_num_seqs": options.max_num_seqs,
        "mean_len": options.cap,  # never reached: each request ends at its own cap
        "sigma": 0.0,
        "tokens_per_step": options.tokens_per_step,
        "step_s": options.max_num_seqs * options.tokens_per_step / options.rate,
        "runs_apart": True,  # as vLLM's engine does on a GPU
    }


def replay() -> None:
    """Run `batchr1 run JOB …` with the replay engine.

    The command is `replicas.py replay SCRIPT.json run JOB …`.
    """
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))
    from replay_job import replay as script_of
    from replay_job import scripted

    from batchr1.cli.main import program

    script = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    del sys.argv[1:3]
    scripted(sys.argv[1:], script_of(**script))
    program()


def main() -> None:
    if sys.argv[1:2] == ["replay"]:
        replay()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = parser.add_subparsers(required=True)
    defaults = {
        "gpu": (gpu, 1536, 1000.0, 1.0, 4096, 512),
        "driver": (driver, 2048, 500.0, 0.5, 2000, 256),
    }
    for name, (serve, rows, mean, sigma, cap, seqs) in defaults.items():
        kind = kinds.add_parser(name)
        kind.set_defaults(serve=serve)
        kind.add_argument(
            "--rounds",
            type=int,
            default=3,
            help="how often each number of replicas is run, at most",
        )
        kind.add_argument(
            "--within",
            type=float,
            default=450.0,
            help="begin no run that would end later, in seconds",
        )
        kind.add_argument("--rows", type=int, default=rows, help="requests a replica")
        kind.add_argument(
            "--mean", type=float, default=mean, help="mean output tokens before the cap"
        )
        kind.add_argument("--sigma", type=float, default=sigma)
        kind.add_argument("--cap", type=int, default=cap)
        kind.add_argument(
            "--prompt-words", type=int, default=64, help="numbers a prompt; about two tokens each"
        )
        kind.add_argument("--max-num-seqs", type=int, default=seqs)
        kind.add_argument("--rows-per-part", type=int, default=256)
        kind.add_argument("--checkpoint-s", type=float, default=5.0)
        kind.add_argument("--out", type=Path, help="write the figures there, as JSON")
        if name == "gpu":
            kind.add_argument("--model", required=True, help="a folder of benchmarks/shapes.py")
            kind.add_argument("--max-model-len", type=int, default=4608)
            kind.add_argument("--max-num-batched-tokens", type=int, default=16384)
            kind.add_argument(
                "--no-kill", action="store_true", help="leave out the run with a killed worker"
            )
            kind.add_argument(
                "--kill-rows",
                type=int,
                default=4608,
                help="requests of that run, for both replicas",
            )
        else:
            kind.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8])
            kind.add_argument(
                "--rate", type=float, default=20_000.0, help="tokens a second of a full engine"
            )
            kind.add_argument("--tokens-per-step", type=int, default=16)
    options = parser.parse_args()
    options.serve(options)


if __name__ == "__main__":
    main()
