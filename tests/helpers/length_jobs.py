"""Jobs over small inputs, and the lengths that they may expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replay_job import MODEL

from batchr1.dataset.source import Source
from batchr1.driver.feed.lengths import (
    expected_completions,
)
from batchr1.job.spec import InputSpec, JobSpec, ModelSpec, OutputSpec, SamplingSpec
from batchr1.models.resolve import resolve_model
from batchr1.output.folder import Output
from batchr1.records import CompletionLengths
from batchr1.storage.inputs import expand_inputs


def write(path: Path, columns: dict[str, Any], row_group_size: int | None = None) -> Path:
    if path.suffix == ".jsonl":
        rows = pl.DataFrame(columns).to_dicts()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def job_spec(folder: Path, **changes: Any) -> JobSpec:
    keys: dict[str, Any] = {
        "name": "x",
        "model": ModelSpec(path=MODEL),
        "input": {"path": str(folder / "in.parquet"), "prompt": "q"},
        "output": OutputSpec(path=str(folder / "out")),
        "sampling": SamplingSpec(max_tokens=1000),
    }
    keys |= {k: {**keys[k], **v} if k == "input" else v for k, v in changes.items()}
    return JobSpec(**{**keys, "input": InputSpec(**keys["input"])})


def expect(spec: JobSpec, outputs: Sequence[Output] = ()) -> CompletionLengths:
    source = Source(spec.input, spec.output.keep, expand_inputs(spec.input.paths))
    return expected_completions(spec, source, outputs, resolve_model(spec.model))


def moments(lengths: Sequence[float], source: str) -> CompletionLengths:
    return CompletionLengths(float(np.mean(lengths)), float(np.mean(np.square(lengths))), source)


def approx(lengths: CompletionLengths) -> CompletionLengths:
    return replace(
        lengths,
        mean=pytest.approx(lengths.mean, rel=1e-12),
        mean_square=pytest.approx(lengths.mean_square, rel=1e-12),
    )


def source_of(*paths: Path, **spec: Any) -> Source:
    names = [str(path) for path in paths]
    given = spec if spec.keys() & {"messages", "template"} else {"prompt": "q", **spec}
    return Source(InputSpec(path=names, **given), [], expand_inputs(names))


QUESTIONS = [f"What is {i} + {'1' * (i % 60)}? ½ 東 </think>" for i in range(700)]
