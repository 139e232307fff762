"""Families of think tags from job to export: split and budgets exact, resumed, laid out again.

Three run r1-tiny under renamed tags through vLLM; families that need a trained model of their own
run through the replay engine, with r1-tiny's letters.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from killed_runs import started, wait_for_saved
from renamed_model import renamed_model, retold_model
from replay_job import questions, replay, rows_of, run_replay, write_job

from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.export.export import export_outputs
from batchr1.export.options import ExportOptions
from batchr1.job import load_job
from batchr1.output.folder import Output
from batchr1.reasoning.formats import FORMATS
from batchr1.reasoning.tags import ThinkTags
from batchr1.storage.base import open_storage

ROWS, BUDGET, ANSWER = 24, 40, 5
TURNS = "{{ bos_token }}{% for m in messages %}<｜User｜>{{ m.content }}{% endfor %}<｜Assistant｜>"
HARMONY = (
    "<|start|>system<|message|>Reasoning: medium. Today: {{ strftime_now('%Y-%m-%d') }}<|end|>"
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "<|start|>assistant"
)
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "harmony": (HARMONY, ("<|start|>", "<|end|>", "<|message|>", "<|channel|>")),
    "thought": (TURNS + "<thought>{{ '\\n' }}", ()),
    "openthinker": (TURNS + "<|begin_of_thought|>{{ '\\n' }}", ()),
    "cohere": (
        TURNS + "<|START_THINKING|>",
        ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    "gemma": (TURNS + "<|channel>thought{{ '\\n' }}", ("<|channel>", "<channel|>")),
}


# Lengths are said, since a run that is to be killed has others by default.
SCRIPT = replay(tokens_per_step=1, answer_len=ANSWER, max_num_seqs=8, mean_len=60.0, sigma=0.8)


def family_job(folder: Path, model: Path, **prompting: Any) -> Path:
    folder.mkdir(exist_ok=True)
    questions(ROWS).write_parquet(folder / "in.parquet")
    return write_job(
        folder,
        model={"path": str(model), "variant": None},
        prompting=prompting,
        sampling={"max_tokens": 600, "thinking_budget": BUDGET},
        checkpoint={"every_s": 0.05},
        output={"rows_per_part": 1000, "token_ids": "always"},
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_split_bounded_resumed_and_exported(tmp_path: Path, name: str) -> None:
    template, tokens = FAMILIES[name]
    model = retold_model(tmp_path / "model", template, tokens)
    calm = family_job(tmp_path / "calm", model)
    assert run_replay(calm, SCRIPT).exit_code == 0
    rows = rows_of(tmp_path / "calm/out").sort("id")
    assert rows.height == ROWS and (rows["reasoning_status"] == "closed").all()
    total = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert (total == rows["completion_tokens"]).all()
    forced = rows.filter(pl.col("injected_tokens") > 0)
    others = rows.filter(pl.col("injected_tokens") == 0)
    assert 0 < forced.height < ROWS
    assert (forced["reasoning_tokens"] == BUDGET).all()
    assert others["reasoning_tokens"].max() <= BUDGET  # type: ignore[operator]
    assert (others["answer_tokens"] == ANSWER).all()
    assert all(len(answer) == ANSWER and answer.isalpha() for answer in others["answer"])
    assert all(text.isalpha() for text in rows["reasoning"])

    killed = family_job(tmp_path / "killed", model)
    with started(killed, **{**SCRIPT, "step_s": 0.03}) as run:
        wait_for_saved(run, tmp_path / "killed/out", 150)
        run.kill()
    assert run_replay(killed, SCRIPT).exit_code == 0
    again = rows_of(tmp_path / "killed/out").sort("id")
    assert again["token_ids"].to_list() == rows["token_ids"].to_list()
    assert again["resumed_at"].list.len().max() == 1

    format = ThinkTags.of(load_tokenizer(str(model)), format=FORMATS[name]).format
    output = Output(open_storage(str(tmp_path / "calm/out")))
    options = ExportOptions("sft", reasoning="inline", format="jsonl")
    export_outputs([output], open_storage(str(tmp_path / "data")), options)
    [file] = (tmp_path / "data/data").glob("*.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines()
    turns = [json.loads(line)["messages"][1]["content"] for line in lines]
    assert len(turns) == rows.filter(~pl.col("truncated")).height >= ROWS - 2
    assert all(turn.startswith(format.opening) and format.close in turn for turn in turns)


def test_a_dated_template_grows_and_resumes_on_a_later_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, tokens = FAMILIES["harmony"]
    model = retold_model(tmp_path / "model", template, tokens)
    job = family_job(tmp_path / "job", model)
    assert run_replay(job, SCRIPT).exit_code == 0
    before = rows_of(tmp_path / "job/out")
    record = json.loads((tmp_path / "job/out/.batchr1/job.json").read_text(encoding="utf-8"))
    assert record["format"]["name"] == "harmony"

    class Tomorrow(dt.date):
        @classmethod
        def today(cls) -> dt.date:
            return dt.date.fromisoformat(record["prompt_day"]) + dt.timedelta(days=1)

    monkeypatch.setattr("batchr1.backends.renderers.dt.date", Tomorrow)
    questions(ROWS + 2).write_parquet(tmp_path / "job/in.parquet")
    assert run_replay(job, SCRIPT).exit_code == 0
    rows = rows_of(tmp_path / "job/out")
    assert rows.height == ROWS + 2
    old = rows.join(before.select("id", "prompt_hash"), on="id")
    assert (old["prompt_hash"] == old["prompt_hash_right"]).all()
    new = PromptRenderer(
        load_tokenizer(str(model)), day=dt.date.fromisoformat(record["prompt_day"])
    )
    added = rows.filter(~pl.col("id").is_in(before["id"].to_list()))
    source = dict(questions(ROWS + 2).select("id", "problem").rows())
    for id, found in added.select("id", "prompt_hash").rows():
        assert new.render(id, source[id]).digest.hex() == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [
        ("seed", "<seed:think>", "</seed:think>"),
        ("mistral", "[THINK]", "[/THINK]"),
        ("suffixed", "<think:os>", "</think:os>"),
    ],
)
def test_r1_tiny_under_other_tags_is_as_good(
    tmp_path: Path, name: str, opening: str, closing: str
) -> None:
    from batchr1.driver.run_job import run_job

    model = renamed_model(tmp_path / "model", opening, closing)
    problems = pl.read_parquet(Path(__file__).parents[2] / "jobs/data/math.parquet").head(40)
    problems.write_parquet(tmp_path / "in.parquet")
    job = write_job(
        tmp_path,
        model={"path": str(model), "variant": None},
        input={"gold": "answer"},
        sampling={"max_tokens": 2048},
    )
    assert run_job(load_job(job)).exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert rows["correct"].mean() >= 0.95  # type: ignore[operator]
    assert (rows["reasoning_status"] == "closed").all()
    assert not rows["flags"].list.contains("extra_think_tag").any()
    total = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert (total == rows["completion_tokens"]).all()
