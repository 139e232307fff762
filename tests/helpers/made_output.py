"""Outputs that no engine made: of any size, with whatever lengths, outcomes and texts a test needs.

Also a program: `python tests/helpers/made_output.py FOLDER 100000` writes an output of 100,000
rows, as a long run on a GPU would leave it: long-tailed lengths, eight subjects, four samples a
prompt, flags, a record with its series.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.columns import output_schema
from batchr1.output.folder import Output, part_name, stage_part
from batchr1.output.run_record import RunRecord
from batchr1.storage.base import Storage, open_storage

RUN = "20261120T101500000Z-abcd"
SUBJECTS = (
    "Algebra",
    "Counting",
    "Geometry",
    "Number theory",
    "Prealgebra",
    "Precalculus",
    "Probability",
    "Sets",
)
KEPT = pa.schema([("subject", pa.string()), ("level", pa.int64())])
WHEN = dt.datetime(2026, 11, 20, 10, 15, tzinfo=dt.UTC)
MAX_TOKENS = 16_384
N = 4

_EMPTY = {"string": "", "int32": 0, "int64": 0, "bool": False}


def table_of(rows: Sequence[dict[str, Any]], kept: pa.Schema = KEPT) -> pa.Table:
    """Rows of an output. What a row does not say is null, or empty where null is not allowed."""
    schema = output_schema(kept)
    columns = []
    for field in schema:
        nothing: Any = None
        if not field.nullable:
            nothing = WHEN if pa.types.is_timestamp(field.type) else _EMPTY.get(str(field.type), [])
        columns.append(pa.array([row.get(field.name, nothing) for row in rows], type=field.type))
    return pa.table(columns, schema=schema)


def good_row(number: int, *, sample: int = 0, **values: Any) -> dict[str, Any]:
    """A row that nothing is wrong with; `values` replace its own."""
    row: dict[str, Any] = {
        "id": f"row/{number}",
        "sample": sample,
        "subject": SUBJECTS[number % 8],
        "level": number % 5 + 1,
        "prompt": f"What is {number} + {number}?",
        "gold": str(2 * number),
        "reasoning": f"Twice {number} is {2 * number}. (sample {sample})",
        "answer": f"\\boxed{{{2 * number}}}",
        "final_answer": str(2 * number),
        "correct": True,
        "reasoning_status": "closed",
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "reasoning_tokens": 12,
        "answer_tokens": 6,
        "control_tokens": 2,
        "completion_tokens": 20,
        "attempts": 1,
        "prompt_hash": f"{number:032x}",
        "model": "r1-tiny (made)",
        "run": RUN,
        "finished_at": WHEN,
    }
    return row | values


def write_output(
    storage: Storage | Path, parts: Iterable[pa.Table], *, pending: int = 0, **changes: Any
) -> Output:
    """An output with these parts, its job and the record of its one run; `changes` replace keys of
    the job's spec.
    """
    output = Output(open_storage(storage) if isinstance(storage, Path) else storage)
    done = 0
    for number, table in enumerate(parts):
        done += table.num_rows
        name = part_name(RUN, 0, 0, number)
        stage_part(output.storage, table, name)
        output.commit_part(name)
    spec: dict[str, Any] = {
        "name": "made",
        "model": {"variant": "r1-distill-qwen-7b", "engine_args": {}},
        "input": {"path": "data/math.parquet", "id": "id", "prompt": "problem", "gold": "answer"},
        "output": {"path": output.uri, "keep": ["subject", "level"]},
        "prompting": {"instruction": "math", "think": "force"},
        "sampling": {
            "n": N,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_tokens": MAX_TOKENS,
            "seed": None,
        },
        **changes,
    }
    fingerprint = {
        "model": "sha256:0123456789abcdef",
        "sampling.temperature": 0.6,
        "sampling.max_tokens": MAX_TOKENS,
    }
    output.write_job(
        {
            "batchr1": "0.1.0",
            "fingerprint": fingerprint,
            "digest": "00112233445566778899aabbccddeeff",
            "model": {
                "name": "r1-distill-qwen-7b",
                "location": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
                "revision": "916b56a44061fd5cd7d6a8fb632557ed4f724f60",
            },
            "spec": spec,
        }
    )
    counts = {
        "rows": done + pending,
        "n": 1,
        "done": 0,
        "failed": 0,
        "duplicates": 0,
        "samples": done + pending,
    }
    memory = {
        name: {"planned": planned, "measured": measured}
        for name, planned, measured in (
            ("weights_gib", 14.33, 14.27),
            ("activation_gib", 1.12, 1.05),
            ("cuda_graph_gib", 0.5, 0.44),
            ("other_gib", 1.33, 1.41),
            ("kv_gib", 59.47, 59.61),
            ("kv_cache_tokens", 1_113_488, 1_116_240),
        )
    }
    record = {
        "run": RUN,
        "state": "stopped" if pending else "ended",
        "started": WHEN.isoformat(timespec="seconds"),
        "ended": (WHEN + dt.timedelta(seconds=3600)).isoformat(timespec="seconds"),
        "exit_code": 75 if pending else 0,
        "stopped": "a signal arrived (SIGTERM)" if pending else None,
        "batchr1": "0.1.0",
        "job": "made",
        "plan": {
            "replicas": 1,
            "tensor_parallel": 1,
            "pipeline_parallel": 1,
            "max_model_len": 20_480,
            "max_num_seqs": 512,
            "device": "cuda",
            "kv_cache_tokens": 1_113_488,
            "estimate": {
                "tokens_per_s": 22_000.0,
                "output_tokens": 82_000_000,
                "hours": 1.04,
                "gpu_hours": 1.04,
                "cost_usd": None,
                "lengths": "made up",
                "efficiency": 0.75,
            },
            "notes": [],
        },
        "counts_before": {**counts, "pending": done + pending},
        "counts": {**counts, "done": done, "pending": pending},
        "wall_s": 3600.0,
        "generating_s": 3540.0,
        "tokens_per_s": 21_840.5,
        "tally": {"done": done, "failed": 0, "tokens": 77_000_000, "carried": 0, "restarts": 0},
        "memory": {"0": memory},
        "rungs": [],
        "timeline": _timeline(),
    }
    output.write_run(RunRecord.model_validate(record))
    if not pending:
        output.succeed(str(record["run"]), rows=None, samples=done)
    return output


def _timeline(points: int = 450, every_s: float = 8.0) -> dict[str, list[float]]:
    """A run that fills up, works, and drains over its last eighth."""
    rng = np.random.default_rng(3)
    at = np.arange(points)
    busy = np.clip(np.minimum((at + 1) / 6, (points - at) / (points / 8)), 0, 1)
    rate = 22_500 * busy**0.7 * rng.normal(1, 0.03, points)
    return {
        "seconds": (60 + at * every_s).round(2).tolist(),
        "tokens": np.concatenate([[0], (rate[1:] * every_s).cumsum()]).astype(int).tolist(),
        "finished": (at * 220).tolist(),
        "preempted": [0] * points,
        "running": (512 * busy).round(1).tolist(),
        "waiting": (64 * (busy >= 1)).astype(float).tolist(),
        "kv_cache_usage": (0.93 * busy).round(4).tolist(),
    }


def large_table(first: int, rows: int, text: str) -> pa.Table:
    """Rows first … of a large output, `N` samples a prompt."""
    rng = np.random.default_rng(first)
    made = []
    for index in range(first, first + rows):
        number, sample = divmod(index, N)
        thought = int(min(rng.lognormal(6.2, 1.0), MAX_TOKENS))
        said = int(min(rng.lognormal(4.0, 0.7), 2000))
        cut = thought + said + 2 >= MAX_TOKENS or rng.random() < 0.01
        unclosed = bool(cut and rng.random() < 0.9)
        skill = 0.95 - 0.09 * (number % 8)
        right = bool(rng.random() < skill) and not unclosed
        start = int(rng.integers(0, len(text) // 2))
        flags = [
            name
            for name, p in (("looping", 0.02), ("mixed_language", 0.01), ("refusal", 0.0005))
            if rng.random() < p
        ]
        made.append(
            good_row(
                number,
                sample=sample,
                reasoning=text[start : start + 4 * thought],
                answer=None if unclosed else text[start : start + 4 * said],
                final_answer=None if unclosed else str(2 * number if right else rng.integers(0, 9)),
                correct=right,
                reasoning_status="unclosed" if unclosed else "closed",
                truncated=cut,
                truncated_in="reasoning" if unclosed else "answer" if cut else None,
                truncated_by="max_tokens" if cut else None,
                finish_reason="length" if cut else "stop",
                prompt_tokens=int(40 + rng.integers(0, 200)),
                reasoning_tokens=thought,
                answer_tokens=0 if unclosed else said,
                completion_tokens=thought + (0 if unclosed else said) + 2,
                control_tokens=2,
                flags=flags,
                finished_at=WHEN + dt.timedelta(seconds=index / 30),
            )
        )
    return table_of(made)


def prose(chars: int) -> str:
    """Text that compresses about as well as traces do."""
    problem = json.loads(
        Path(__file__).parents[1].joinpath("data/reworded.jsonl").read_text().splitlines()[2]
    )["problem"]
    vocabulary = [*problem.split(), "wait,", "so", "hmm.", "let", "me", "check", "then"]
    rng = np.random.default_rng(1)
    chosen = rng.choice(vocabulary, chars // 4)
    digits = rng.integers(0, 1000, chars // 4)
    return " ".join(f"{w} {d}" if d < 200 else w for w, d in zip(chosen, digits, strict=True))[
        :chars
    ]


def write_large(folder: Path, rows: int, rows_per_part: int = 2000) -> Output:
    """An output of `rows` rows."""
    text = prose(8_000_000)
    parts = (
        large_table(first, min(rows_per_part, rows - first), text)
        for first in range(0, rows, rows_per_part)
    )
    return write_output(folder, parts)


if __name__ == "__main__":
    print(write_large(Path(sys.argv[1]), int(sys.argv[2])).uri)
