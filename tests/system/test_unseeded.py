"""A second output of one job without a seed is a second sample, not a copy of the first.

r1-tiny is too sure of its own problems to tell: nine traces of ten are the same under any seed. A
copy with its last norm scaled down wanders, as a large model does in a long trace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from replay_job import rows_of
from safetensors.torch import load_file, save_file

from batchr1.models.catalogue import variant

pytestmark = pytest.mark.slow

ROWS, TOKENS = 100, 96
LAST_NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def wandering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy r1-tiny with a flatter distribution of its next token."""
    folder = tmp_path_factory.mktemp("wandering")
    for path in Path(str(variant("r1-tiny").path)).iterdir():
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            tensors[LAST_NORM] = tensors[LAST_NORM] * 0.05
            save_file(tensors, folder / path.name, metadata={"format": "pt"})
        elif path.is_file():
            os.link(path, folder / path.name)
    return folder


def traces(folder: Path, model: Path, **engine_args: Any) -> pl.DataFrame:
    folder.mkdir()
    rows = [{"id": str(i), "problem": f"What is {i} + {7 * i}?"} for i in range(ROWS)]
    pl.DataFrame(rows).write_parquet(folder / "in.parquet")
    job = {
        "name": "unseeded",
        "model": {"path": str(model), "engine_args": engine_args},
        "input": {"path": "in.parquet", "id": "id", "prompt": "problem"},
        "output": {"path": "out"},
        "sampling": {"max_tokens": TOKENS, "temperature": 0.6},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "batchr1", "run", str(folder / "job.yaml"), "--gpus", "none"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return rows_of(folder / "out").sort("id")


def share_of_copies(one: pl.DataFrame, other: pl.DataFrame) -> float:
    assert one["id"].to_list() == other["id"].to_list()
    return float((one["reasoning"] == other["reasoning"]).mean())  # type: ignore[arg-type]


def test_two_outputs_without_a_seed_share_no_traces(tmp_path: Path, wandering: Path) -> None:
    one, other = (traces(tmp_path / name, wandering) for name in ("one", "other"))

    assert one["completion_tokens"].mean() > TOKENS / 2  # type: ignore[operator]
    assert share_of_copies(one, other) < 0.01


def test_an_engine_seed_of_the_users_repeats_its_traces(tmp_path: Path, wandering: Path) -> None:
    one, other = (traces(tmp_path / name, wandering, seed=7) for name in ("one", "other"))

    assert share_of_copies(one, other) > 0.9
