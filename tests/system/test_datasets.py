"""Real datasets, whole: every row comes out once, with what was kept of it.

Cut rows say where they were cut.

The default suite runs them through the replay engine; `-m slow` through r1-tiny on vLLM, some
minutes on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from replay_job import keys_of, replay, rows_of, run_replay, wanted_keys, write_job

from batchr1.cli.main import main
from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job

DATA = Path(__file__).parents[3] / "shared/data"
MAX_TOKENS = 512


@dataclass(frozen=True)
class Dataset:
    """A dataset and how a job reads it. `kept`: {column of the output: column of the input}."""

    file: str
    rows: int
    input: dict[str, Any]
    keep: list[str] | dict[str, str]
    kept: dict[str, str]
    passes: pl.Expr = field(default_factory=lambda: pl.lit(True))
    instruction: str = "math"

    def frame(self) -> pl.DataFrame:
        """The rows that a job over it is to do."""
        return pl.read_parquet(DATA / self.file).filter(self.passes)

    def job(self, folder: Path) -> Path:
        return write_job(
            folder,
            input={"path": str(DATA / self.file), "id": "id", **self.input},
            output={"keep": self.keep, "rows_per_part": 500},
            prompting={"instruction": self.instruction},
            sampling={"max_tokens": MAX_TOKENS},
        )


DATASETS = {
    "gsm8k": Dataset(
        "gsm8k_test.parquet",
        1319,
        {"prompt": "problem", "gold": "answer"},
        ["solution"],
        {"solution": "solution"},
    ),
    "math500": Dataset(
        "math500.parquet",
        500,
        {"prompt": "problem", "gold": "answer"},
        ["subject", "level"],
        {"subject": "subject", "level": "level"},
    ),
    "math500 where level >= 4": Dataset(
        "math500.parquet",
        239,
        {"prompt": "problem", "gold": "answer", "where": "level >= 4 AND subject <> 'Geometry'"},
        "all",
        {"subject": "subject", "level": "level", "problem": "problem", "input_answer": "answer"},
        passes=(pl.col("level") >= 4) & (pl.col("subject") != "Geometry"),
    ),
    "humaneval": Dataset(
        "humaneval.parquet",
        164,
        {"prompt": "prompt"},
        {"canonical": "answer"},
        {"canonical": "answer"},
        instruction="none",
    ),
}

each_dataset = pytest.mark.parametrize("name", list(DATASETS))


@pytest.fixture(autouse=True)
def datasets_are_here() -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: the datasets are not beside this checkout")


def assert_whole(dataset: Dataset, output: Path) -> pl.DataFrame:
    """What must hold of an output over the dataset; returns its rows beside the input's."""
    inputs, rows = dataset.frame(), rows_of(output)
    assert inputs.height == dataset.rows
    assert keys_of(rows) == wanted_keys(inputs)
    both = rows.join(
        inputs.rename(lambda name: f"in:{name}"), left_on="id", right_on="in:id", how="inner"
    )
    assert both.height == dataset.rows
    for kept, column in dataset.kept.items():
        assert rows.schema[kept] == inputs.schema[column]
        assert both[kept].equals(both[f"in:{column}"].rename(kept), null_equal=True), kept
    prompt = both[f"in:{dataset.input['prompt']}"]
    if dataset.instruction == "none":
        assert (both["prompt"] == prompt).all()
    else:
        assert (
            both.select(pl.col("prompt").str.starts_with(prompt.str.strip_chars_end()))
            .to_series()
            .all()
        )
    if "gold" in dataset.input:
        assert (both["gold"] == both["in:answer"]).all()
    tokens = both["reasoning_tokens"] + both["answer_tokens"] + both["control_tokens"]
    assert (tokens == both["completion_tokens"]).all()
    assert both["completion_tokens"].is_between(1, MAX_TOKENS).all()
    cut = both["finish_reason"] == "length"
    assert (both["truncated"] == cut).all()
    assert (both["truncated_in"].is_not_null() == cut).all()
    assert (both["truncated_by"].is_not_null() == cut).all()
    unclosed = both["reasoning_status"] == "unclosed"
    assert ((both["truncated_in"] == "reasoning") == unclosed).filter(cut).all()
    assert (both["answer"].is_null() == unclosed).all()
    assert (
        both.filter(cut)["token_ids"]
        .list.len()
        .equals(both.filter(cut)["completion_tokens"].cast(pl.UInt32))
    )
    assert (output / "_SUCCESS").exists()
    return both


@each_dataset
def test_every_row_of_a_dataset_comes_out_once_with_what_was_kept(
    tmp_path: Path, name: str
) -> None:
    job = DATASETS[name].job(tmp_path)
    engine = replay(mean_len=300.0, answer_len=150, tokens_per_step=32, max_num_seqs=256)
    assert run_replay(job, engine).exit_code == 0
    both = assert_whole(DATASETS[name], tmp_path / "out")
    assert set(both["truncated_in"]) == {None, "reasoning", "answer"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@each_dataset
def test_every_row_of_a_dataset_goes_through_r1_tiny_on_vllm(tmp_path: Path, name: str) -> None:
    summary = run_job(
        load_job(DATASETS[name].job(tmp_path)), RunOptions(show_progress=False, gpus="none")
    )
    assert (summary.exit_code, summary.tally.done) == (0, DATASETS[name].rows)
    both = assert_whole(DATASETS[name], tmp_path / "out")
    said = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
    cut = int(both["truncated"].sum())
    assert f"{DATASETS[name].rows:,} done, 0 failed, 0 pending" in said
    assert f"truncated  {cut:,} = {cut / both.height:.1%}" in said
    if "gold" in DATASETS[name].input:
        right = int(both["correct"].sum())
        assert f"correct    {right:,} of {both['correct'].count():,}" in said, (
            "few are right, and status says so"
        )
    print(said)
