"""The embedded model on 300 problems by an author who never saw the generator.

The author knew the families and their ranges.

Real vLLM, the real command line. The bar is 80 %; the card says what was measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from replay_job import rows_of

pytestmark = pytest.mark.timeout(900)
REWORDED = Path(__file__).parents[1] / "data" / "reworded.jsonl"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("reworded")
    job = {
        "name": "reworded",
        "model": {"variant": "r1-tiny"},
        "input": {"path": str(REWORDED), "id": "id", "prompt": "problem", "gold": "answer"},
        "output": {"path": "out", "keep": ["family"]},
        "sampling": {"max_tokens": 3072},
    }
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "batchr1", "run", str(folder / "job.yaml"), "--gpus", "none"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return rows_of(folder / "out")


def test_reworded_problems_are_understood(answers: pl.DataFrame) -> None:
    assert answers.height == 300
    by_family = answers.group_by("family").agg(pl.col("correct").mean()).sort("family")
    assert answers["correct"].mean() >= 0.80, by_family.rows()
    assert len(by_family) == 9


def test_every_row_of_a_real_run_counts_its_tokens_exactly(answers: pl.DataFrame) -> None:
    parts = answers["reasoning_tokens"] + answers["answer_tokens"] + answers["control_tokens"]
    assert (parts == answers["completion_tokens"]).all()
    assert (answers["truncated"] == (answers["finish_reason"] == "length")).all()
    assert not answers.select("id", "sample").is_duplicated().any()
