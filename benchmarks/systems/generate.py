"""Raw `LLM.generate` with text: all requests at once, nothing written.

Everything stays in memory until the end. Its prompts are rendered and tokenised before the clock
starts, and its clock stops when the text is in memory: both are in its favour. `written_s` is when
one Parquet file of it would be there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from systems import Workload, digest_of, prompt_hash
from systems.llm_process import dataset_rows, render, sampling


def measure(llm: Any, work: Workload, folder: Path) -> dict[str, Any]:
    """Measure in the process that holds the engine; returns figures for `Outcome`."""
    rows = dataset_rows(work)
    ids = render(llm, rows)
    prompts = [{"prompt_token_ids": one} for one in ids]
    params = [sampling(row["max_tokens"]) for row in rows]
    started = time.time()
    clock = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - clock
    write(folder / "generate.parquet", rows, outputs)
    return {
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "seconds": seconds,
        "started": started,
        "prompts": digest_of(
            (row["id"], prompt_hash(one)) for row, one in zip(rows, ids, strict=True)
        ),
        "extra": {"written_s": time.perf_counter() - clock},
    }


def write(path: Path, rows: list[dict[str, Any]], outputs: list[Any]) -> None:
    """Write one Parquet file of prompts, texts and finish reasons."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    completions = [output.outputs[0] for output in outputs]
    columns = {
        "id": [row["id"] for row in rows],
        "prompt": [row["prompt"] for row in rows],
        "text": [one.text for one in completions],
        "completion_tokens": [len(one.token_ids) for one in completions],
        "finish_reason": [one.finish_reason for one in completions],
    }
    pq.write_table(pa.table(columns), path)
