"""Planned batch against its neighbours: tokens per second and preemptions.

    # an H200 as a 24 GB card
    python benchmarks/batch_size.py --variant r1-distill-qwen-7b --utilization 0.17

Dummy weights of the variant's shape, long-tailed lengths (log-normal), one seed. The engine is
loaded once with the plan's arguments, so that all runs share the same KV cache. Each width is the
batch that a run's worker is given. Up to it, admission decides how many requests are in flight.
With `--straight`, the planned width again without admission: so many requests are kept in the
engine whatever its cache holds.

    python benchmarks/batch_size.py --variant r1-distill-qwen-1.5b --utilization 0.9 \
        --requests 1536 --mean 1000 --cap 4096 --factors 1 --mixed-step-costs 0,0.1,0.5,2,0

With several `--mixed-step-costs`, each of them. They decide how many slots fall free before they
are filled (0: one).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))

from line import Line
from shapes import config_of
from traces import TraceSpec, lengths

from batchr1.job.spec import InputSpec, JobSpec, ModelSpec, OutputSpec, SamplingSpec
from batchr1.models.resolve import ModelSource
from batchr1.records import PromptLengths
from batchr1.sizing.gpus import gpu_named
from batchr1.sizing.lengths import assumed_lengths
from batchr1.sizing.machine import named_machine
from batchr1.sizing.plan import Plan
from batchr1.sizing.planning.make import make_plan
from batchr1.sizing.timing.step_time import MIXED_STEP_COST


def plan_for(options: argparse.Namespace, folder: Path) -> Plan:
    """Plan a job with these prompts and lengths for this GPU."""
    args: dict[str, Any] = {"load_format": "dummy", "gpu_memory_utilization": options.utilization}
    spec = JobSpec(
        name="batch-size",
        model=ModelSpec(path=str(folder), engine_args=args),
        output=OutputSpec(path="out"),
        input=InputSpec(path="in", prompt="p"),
        sampling=SamplingSpec(max_tokens=options.cap),
    )
    config = config_of(options.variant)
    model = ModelSource(
        options.variant, str(folder), None, "shape", config["max_position_embeddings"], config
    )
    prompts = PromptLengths(
        options.requests, options.requests, options.prompt, float(options.prompt)
    )
    completions = assumed_lengths(options.mean, options.cap, "the trace's mean")
    plan = make_plan(spec, model, named_machine(gpu_named(options.gpu).name), prompts, completions)
    return replace(plan, completions=completions)


class Counted:
    """Collector that counts and writes nothing."""

    def __init__(self) -> None:
        from batchr1.executors.messages import PartCounts

        self.totals, self.tokens = PartCounts(0, 0, 0, 0, 0, 0), 0

    def put(self, completion: Any, saved: Any, carried: int = 0) -> None:
        self.tokens += len(completion.token_ids)

    def committed(self, keys: Any) -> None: ...

    def uncommitted(self) -> list[Any]:
        return []

    def finish(self, while_waiting: Any = None) -> None: ...

    def raise_error(self) -> None: ...


def through_worker(
    engine: Any, plan: Plan, width: int, cost: float, wanted: list[int], prompts: list[list[int]]
) -> dict[str, Any]:
    """Run all requests once through a run's own worker.

    Admission decides below `width`.
    """
    from replay_job import setup_of

    from batchr1.records import Prompt, WorkItem
    from batchr1.storage.base import open_storage
    from batchr1.worker.engine_worker import EngineWorker

    items = [
        WorkItem(Prompt(f"r{i:05d}", "", tuple(ids), True, b""), 0, length, "max_tokens")
        for i, (ids, length) in enumerate(zip(prompts, wanted, strict=True))
    ]
    setup = setup_of(
        open_storage(tempfile.gettempdir()),
        plan={"device": "cuda", "max_num_seqs": width, "completions": plan.completions},
        mixed_step_cost=cost,
        checkpoint={"every_s": 1e9},
        sampling={"ignore_eos": True},
    )
    counted, before = Counted(), engine.load().preempted
    started = time.perf_counter()
    EngineWorker(setup, engine, counted, Line(items)).run(0.0)  # type: ignore[arg-type]
    return {"mixed_step_cost": cost} | figures(
        engine, width, counted.tokens, wanted, before, started
    )


def run(engine: Any, in_flight: int, wanted: list[int], prompts: list[list[int]]) -> dict[str, Any]:
    """Feed all requests to the engine, at most `in_flight` at a time."""
    from batchr1.engine.protocol import Request

    todo = deque(
        Request(f"{in_flight}-{i}", ids, length)
        for i, (ids, length) in enumerate(zip(prompts, wanted, strict=True))
    )
    before, running, tokens = engine.load().preempted, 0, 0
    started = time.perf_counter()
    while todo or running:
        while todo and running < in_flight:
            engine.submit(todo.popleft())
            running += 1
        for delta in engine.step():
            tokens += len(delta.token_ids)
            running -= delta.finish_reason is not None
    return figures(engine, in_flight, tokens, wanted, before, started)


def figures(
    engine: Any, width: int, tokens: int, wanted: list[int], preempted_before: int, started: float
) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    assert tokens == sum(wanted), (tokens, sum(wanted))
    return {
        "width": width,
        "tokens_per_s": round(tokens / seconds, 1),
        "seconds": round(seconds, 1),
        "preempted": engine.load().preempted - preempted_before,
    }


def prompts_of(number: int, prompt_len: int, vocab: int, seed: int) -> list[list[int]]:
    """Draw token ids anew, so that no run finds its prompts cached."""
    rng = random.Random(seed)
    return [[rng.randrange(1000, vocab - 1000) for _ in range(prompt_len)] for _ in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", default="r1-distill-qwen-1.5b")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--utilization", type=float, default=0.17)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--mean", type=float, default=500.0)
    parser.add_argument("--cap", type=int, default=2048)
    parser.add_argument(
        "--factors", default="0.5,1,2,3", help="neighbours, as multiples of the plan"
    )
    cost_help = "what a prefill is held to add to a step"
    parser.add_argument("--mixed-step-costs", default=str(MIXED_STEP_COST), help=cost_help)
    parser.add_argument(
        "--straight", action="store_true", help="the planned width again, without admission"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
    from batchr1.job.spec import SamplingSpec

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(
            json.dumps(config_of(options.variant)), encoding="utf-8"
        )
        plan = plan_for(options, folder)
        values = sorted(
            {max(1, round(plan.max_num_seqs * float(f))) for f in options.factors.split(",")}
        )
        print(
            (
                f"planned: {plan.max_num_seqs} sequences, {plan.kv_cache_tokens:,} KV tokens; "
                f"values "
                f"{values}"
            ),
            flush=True,
        )
        prepare_environment("cuda")
        args = plan.engine_args | {"max_num_seqs": max(values), "skip_tokenizer_init": True}
        engine = VllmEngine(
            str(folder),
            revision=None,
            trust_remote_code=False,
            args=args,
            sampling=SamplingSpec(ignore_eos=True),
        )
        print(f"engine: {engine.info}", flush=True)
        wanted = list(lengths(TraceSpec(options.requests, options.mean, 1.0, options.cap, 30)))
        vocab = config_of(options.variant)["vocab_size"]
        run(engine, 64, [32] * 128, prompts_of(128, options.prompt, vocab, 0))
        results = []
        costs = [float(cost) for cost in options.mixed_step_costs.split(",")]
        for number, (value, cost) in enumerate(itertools.product(values, costs), 1):
            prompts = prompts_of(options.requests, options.prompt, vocab, number)
            results.append(through_worker(engine, plan, value, cost, wanted, prompts))
            print(results[-1], flush=True)
        straight = None
        if options.straight:
            prompts = prompts_of(options.requests, options.prompt, vocab, 0)
            straight = run(engine, plan.max_num_seqs, wanted, prompts)
            print(f"without admission: {straight}", flush=True)
        engine.close()
    best = max(r["tokens_per_s"] for r in results)
    planned = next(r for r in results if r["width"] == plan.max_num_seqs)
    document = {
        "plan": plan.to_dict(),
        "measured_kv_tokens": engine.info.kv_cache_tokens,
        "results": results,
        "straight": straight,
        "planned_over_best": round(planned["tokens_per_s"] / best, 4),
        "preempted_share": planned["preempted"] / options.requests,
    }
    expected = plan.estimate.tokens_per_s if plan.estimate else 0
    print(
        f"planned / best {document['planned_over_best']}, preempted {planned['preempted']} of "
        f"{options.requests}; "
        f"estimated {expected:,.0f} tokens/s"
    )
    if options.out:
        options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
