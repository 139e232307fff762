"""Speed of `batchr1 score` beside the prefill roofline, and its bytes on disk.

    python benchmarks/score.py --model DIR --dummy --rows 1000 --tokens 1000     # a GPU
    python benchmarks/score.py --rows 40 --tokens 200     # r1-tiny on the CPU

Rows of a prompt and a completion as text, scored with the top 20 and with none. The roofline is the
plan's: two operations a weight and token, at the datasheet's arithmetic. Loading is outside.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.models.catalogue import VARIANTS


def write_rows(path: Path, options: argparse.Namespace, model: str) -> None:
    """Write rows whose completions have about so many tokens."""
    from batchr1.dataset.tokenizer import load_tokenizer

    tokenizer, rng = load_tokenizer(model), random.Random(0)
    texts = []
    for _ in range(options.rows):
        words = [str(rng.randrange(10_000)) for _ in range(options.tokens)]
        ids = tokenizer(" ".join(words), add_special_tokens=False).input_ids
        texts.append(tokenizer.decode(ids[: options.tokens]))
    columns = {
        "id": [str(number) for number in range(options.rows)],
        "prompt": [f"What is {number} + {number}?" for number in range(options.rows)],
        "completion": texts,
    }
    pq.write_table(pa.table(columns), path)


def score(options: argparse.Namespace, model: str, rows: Path, top_k: int) -> dict[str, Any]:
    """Score all rows; returns the figures of one run."""
    to = rows.with_name(f"scores-{top_k}")
    command = [sys.executable, "-m", "batchr1", "score", str(rows), "--to", str(to), "--json"]
    command += ["--model", model, "--prompt", "prompt", "--completion", "completion"]
    command += ["--top-k", str(top_k)]
    for argument in ["load_format=dummy"] if options.dummy else []:
        command += ["--engine-arg", argument]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    parts = list((to / "data").glob("*.parquet"))
    scored = sum(map(len, pa.concat_tables([pq.read_table(p) for p in parts])["token_ids"]))
    plan = found["plan"]
    roofline = plan["tokens_per_s"]
    return {
        "top_k": top_k,
        "tokens": found["tokens"],
        "tokens_per_s": found["tokens_per_s"],
        "roofline": roofline,
        "of_roofline": round(found["tokens_per_s"] / roofline, 3) if roofline else None,
        "wall_s": found["wall_s"],
        "bytes_a_token": round(sum(p.stat().st_size for p in parts) / scored, 1),
        "planned_bytes_a_token": plan["bytes_per_token"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=str(VARIANTS["r1-tiny"].path))
    parser.add_argument("--dummy", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=1000, help="of a completion")
    parser.add_argument("--top-k", default="20,0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="batchr1-score-") as name:
        rows = Path(name) / "rows.parquet"
        write_rows(rows, options, options.model)
        for top_k in map(int, options.top_k.split(",")):
            results.append(score(options, options.model, rows, top_k))
            print(json.dumps(results[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
