"""What drafts of tokens bring where the batch is small.

    # real text, greedy, on the CPU: how many drafts are accepted, and what a run gains
    python benchmarks/speculation.py --model r1-tiny --drafts 0,2,4 --batches 1,4,16,64
    # a GPU, dummy weights: what a step with drafts costs, at a given acceptance
    python benchmarks/speculation.py --device cuda --model DIR --dummy --forced 2 --drafts 0,3

n-gram drafts of vLLM. `--forced L`: each step has drafts, of which vLLM accepts L - 1 on average
(its synthetic acceptance), so that a step yields L tokens. Each number of drafts is an engine of
its own; a batch is warmed up once. `tokens a step`: of a sequence. `gain`: over no drafts at the
same batch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from systems import BENCHMARKS

from batchr1.models.catalogue import MODELS, VARIANTS

DATA = MODELS.parent.parent / "jobs/data/math.parquet"


def main() -> None:
    options = parse()
    if options.child is not None:
        print("@" + json.dumps(child(options, options.child)), flush=True)
        return
    results: list[dict[str, Any]] = []
    for drafts in (int(text) for text in options.drafts.split(",")):
        paths = [str(BENCHMARKS), str(BENCHMARKS / "probe")]
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        if options.forced:
            env["BATCHR1_DRAFTS"] = "1"
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(drafts)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
        found = [line[1:] for line in done.stdout.splitlines() if line.startswith("@")]
        if not found:
            sys.exit(f"{drafts} drafts: the engine's process ended with {done.returncode}")
        results += json.loads(found[0])
        if options.out:
            options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results))


def table(results: list[dict[str, Any]]) -> str:
    """Lay out the figures, each beside no drafts at the same batch."""
    plain = {one["batch"]: one for one in results if not one["drafts"]}
    lines = ["| drafts | batch | ms a step | tokens a step | tokens/s | gain | same text |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in results:
        base = plain.get(one["batch"])
        gain = f"{one['tokens_per_s'] / base['tokens_per_s']:.3f}" if base else ""
        same = f"{sum(map(str.__eq__, one['texts'], base['texts']))}" if base else ""
        lines.append(
            f"| {one['drafts']} | {one['batch']} | {one['step_ms']:.2f} | "
            f"{one['tokens_a_step']:.2f} | {one['tokens_per_s']:,.0f} | {gain} | "
            f"{same} of {len(one['texts'])} |"
        )
    return "\n".join(lines)


def child(options: argparse.Namespace, drafts: int) -> list[dict[str, Any]]:
    """Load an engine that drafts so many tokens, and time each batch."""
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
    from batchr1.job.spec import SamplingSpec

    prepare_environment(options.device)
    model = str(VARIANTS[options.model].path if options.model in VARIANTS else options.model)
    batches = [int(text) for text in options.batches.split(",")]
    args: dict[str, Any] = {"max_model_len": options.max_model_len, "max_num_seqs": max(batches)}
    if options.dummy:
        args["load_format"] = "dummy"
    if options.device == "cpu":
        args |= {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "dtype": "float32"}
    if drafts:
        args["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": drafts,
            "prompt_lookup_max": 4,
            "prompt_lookup_min": 2,
        }
        if options.forced:
            args["speculative_config"] |= {
                "rejection_sample_method": "synthetic",
                "synthetic_acceptance_length": float(min(options.forced, drafts + 1)),
            }
    sampling = SamplingSpec(ignore_eos=options.dummy, temperature=0.6 if options.dummy else 0.0)
    engine = VllmEngine(model, revision=None, trust_remote_code=False, args=args, sampling=sampling)
    ids = prompts(options, model)
    results = []
    for batch in batches:
        time_batch(engine, ids, batch, 24)
        results.append({"drafts": drafts} | time_batch(engine, ids, batch, options.length))
    engine.close()
    return results


def prompts(options: argparse.Namespace, model: str) -> list[list[int]]:
    """Give each request its prompt; with dummy weights any will do."""
    if options.dummy:
        return [[1000 + 7 * number] * 128 for number in range(512)]
    import pyarrow.parquet as pq

    from batchr1.dataset.prompts import PromptRenderer, PromptRow
    from batchr1.dataset.tokenizer import load_tokenizer

    table = pq.read_table(options.dataset, columns=[options.id, options.prompt])
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    renderer = PromptRenderer(load_tokenizer(model), instruction="math", think="auto")
    found = renderer.render_many(PromptRow(str(key), text) for key, text in rows)
    return [list(prompt.token_ids) for prompt in found]  # type: ignore[union-attr]


def time_batch(engine: Any, ids: list[list[int]], batch: int, length: int) -> dict[str, Any]:
    """Run one batch to its end, nothing following: as the tail of a run does."""
    from batchr1.engine.protocol import Request

    for number in range(batch):
        engine.submit(Request(f"{time.monotonic()}-{number}", ids[number % len(ids)], length))
    started, running, steps, sequences = time.perf_counter(), batch, 0, 0
    texts: dict[str, list[int]] = {}
    while running:
        deltas = engine.step()
        steps += bool(deltas)
        sequences += len(deltas)
        for delta in deltas:
            texts.setdefault(delta.id.partition("-")[2], []).extend(delta.token_ids)
            running -= delta.finish_reason is not None
    seconds = time.perf_counter() - started
    tokens = sum(map(len, texts.values()))
    return {
        "batch": batch,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 1),
        "step_ms": round(1000 * seconds / steps, 3),
        "tokens_a_step": round(tokens / sequences, 3),
        "texts": [
            hashlib.blake2b(str(texts[key]).encode(), digest_size=8).hexdigest()
            for key in sorted(texts, key=int)
        ],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="r1-tiny", help="a variant, or a model folder")
    parser.add_argument("--dummy", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--drafts", default="0,2,4", help="tokens drafted a step; 0: none")
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--forced", type=float, help="tokens that a step yields a sequence")
    parser.add_argument("--length", type=int, default=400, help="new tokens at most")
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--dataset", type=Path, default=DATA)
    parser.add_argument("--id", default="id")
    parser.add_argument("--prompt", default="problem")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
