"""Overlap of a job's prompts with benchmarks, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from batchr1.dataset.source import Source
from batchr1.export.decontaminate import Index, read_benchmarks
from batchr1.export.prompts import batches

FIELDS = ("id", "benchmark", "benchmark_row", "overlap", "ngram")


def input_overlaps(source: Source, paths: Sequence[str], column: str | None) -> dict[str, Any]:
    """Look all prompts of an input up in benchmarks.

    Returns what `check --json` says: benchmarks, rows, prompts that overlap, and hits. Raises
    `UsageError` for benchmarks that cannot be read.
    """
    index = Index(read_benchmarks(paths, column))
    rows, hits = 0, list[dict[str, Any]]()
    overlapping = set[str | None]()
    for _, batch in source.batches(source.row_columns):
        texts = pl.Series("text", [_text(one) for one in source.contents(batch)], pl.String)
        ids = source.ids(batch)
        rows += batch.num_rows
        for start, some in batches(texts):
            for hit in index.look_up(some).rows(named=True):
                hit["id"] = ids[start + hit["prompt"]]
                hit["overlap"] = round(hit["overlap"], 4)
                overlapping.add(hit["id"])
                hits.append({name: hit[name] for name in FIELDS})
    return {
        "benchmarks": [
            {"file": b.uri, "column": b.column, "prompts": b.texts.len()} for b in index.benchmarks
        ],
        "rows": rows,
        "overlapping": len(overlapping),
        "hits": hits,
    }


def _text(content: Any) -> str | None:
    """Join the text of messages; other content is text already, or none."""
    if isinstance(content, list):
        said = (one.get("content") for one in content if isinstance(one, dict))
        return "\n".join(text for text in said if isinstance(text, str))
    return content if isinstance(content, str) else None
