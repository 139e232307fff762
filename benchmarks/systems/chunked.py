"""`LLM.generate` in chunks, the way most scripts do it.

Each chunk is rendered, generated and written to a Parquet file. Its rows are safe from then on. The
batch drains at the end of each chunk: that is the cost.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from systems import Workload, digest_of, prompt_hash
from systems.generate import write
from systems.llm_process import dataset_rows, render, sampling


def measure(llm: Any, work: Workload, folder: Path) -> dict[str, Any]:
    """Measure in the process that holds the engine; returns figures for `Outcome`."""
    rows = dataset_rows(work)
    tokens, hashes = 0, []
    started = time.time()
    clock = time.perf_counter()
    for start in range(0, len(rows), work.chunk):
        chunk = rows[start : start + work.chunk]
        ids = render(llm, chunk)
        prompts = [{"prompt_token_ids": one} for one in ids]
        outputs = llm.generate(
            prompts, [sampling(row["max_tokens"]) for row in chunk], use_tqdm=False
        )
        write(folder / f"chunk-{start:06d}.parquet", chunk, outputs)
        tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        hashes.append((chunk, ids))
    seconds = time.perf_counter() - clock
    pairs = [
        (row["id"], prompt_hash(one))
        for chunk, ids in hashes
        for row, one in zip(chunk, ids, strict=True)
    ]
    return {
        "tokens": tokens,
        "seconds": seconds,
        "started": started,
        "prompts": digest_of(pairs),
        "extra": {"chunk": work.chunk},
    }
