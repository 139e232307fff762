"""SmolLM2-135M-Instruct through vLLM: greedy in 32 bits, its ids are those of transformers.

Several turns, long prompts, several end tokens, a kill and what goes on after it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from killed_runs import inflight
from process_tree import tree, until
from replay_job import rows_of
from smollm2 import install, write_model

from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NEW_TOKENS = 32
TOPICS = (
    *("rain", "bread", "a lighthouse", "prime numbers", "the moon", "a violin", "tea", "snow"),
    *("a river", "an old clock", "honey", "chess", "a bridge", "salt", "a comet", "paper"),
    *("glass", "a fox", "the sea", "winter"),
)
Turns = list[dict[str, str]]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def dialogues() -> list[Turns]:
    """28 of them: one turn, several turns, a system turn, and long prompts."""
    short = [[said("user", f"Write one sentence about {topic}.")] for topic in TOPICS]
    several = [
        [
            said("user", f"Name one thing about {topic}."),
            said("assistant", f"I like {topic} very much."),
            said("user", "Why? Answer in a few words."),
        ]
        for topic in TOPICS[:3]
    ]
    system = [
        [said("system", "You answer in French."), said("user", f"What is {topic}?")]
        for topic in TOPICS[3:5]
    ]
    facts = " ".join(f"Room {i} holds {i * 7 % 31} chairs." for i in range(120))
    long = [
        [said("user", f"{facts} How many chairs does room {room} hold?")] for room in (3, 50, 117)
    ]
    return [*short, *several, *system, *long]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = tmp_path_factory.mktemp("packages")
    if (reason := install(packages)) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    write_model(packages, folder)
    return folder


@pytest.fixture(scope="module")
def wanted(model: Path) -> list[list[int]]:
    """What transformers generates, greedily, one dialogue at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    own = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    found = []
    for turns in dialogues():
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            made = own.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        found.append(made[0, ids.shape[1] :].tolist())
    return found


def write_job(folder: Path, model: Path, /, **sections: Any) -> Path:
    folder.mkdir(exist_ok=True)
    turns = dialogues()
    table = pl.DataFrame({"id": [f"{i:02}" for i in range(len(turns))], "turns": turns})
    table.write_parquet(folder / "in.parquet")
    job: dict[str, Any] = {
        "name": "smollm2",
        "model": {"path": str(model), "engine_args": {"dtype": "float32"}},
        "input": {"path": "in.parquet", "id": "id", "messages": "turns"},
        "output": {"path": "out", "token_ids": "always"},
        "prompting": {"instruction": "none", "think": "auto", "system": "keep"},
        "sampling": {"temperature": 0, "top_p": 1.0, "max_tokens": NEW_TOKENS},
        **sections,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def rows_by_id(folder: Path) -> pl.DataFrame:
    return rows_of(folder / "out").sort("id")


def run(job: Path) -> None:
    assert run_job(load_job(job), RunOptions(gpus="none", show_progress=False)).exit_code == 0


def test_its_tokens_are_those_of_transformers(
    tmp_path: Path, model: Path, wanted: list[list[int]]
) -> None:
    run(write_job(tmp_path / "job", model))
    rows = rows_by_id(tmp_path / "job")
    assert rows.height == len(wanted) == 28
    assert rows["token_ids"].to_list() == wanted
    assert (rows["prompt_tokens"].max() or 0) > 1000, "some prompts are long"
    assert set(rows["finish_reason"]) == {"stop", "length"}
    assert not rows["answer"].str.contains("<|im_end|>", literal=True).any()
    ended = rows.filter(pl.col("finish_reason") == "stop")
    assert (ended["control_tokens"] == 1).all(), "the end token is no part of the answer"


def test_end_tokens_that_config_json_alone_names_end_a_row_and_are_no_answer(
    tmp_path: Path, model: Path, wanted: list[list[int]]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    [full_stop] = tokenizer.encode(".", add_special_tokens=False)
    other = tmp_path / "model"
    other.mkdir()
    for path in model.iterdir():
        if path.name not in ("config.json", "generation_config.json"):
            os.link(path, other / path.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["eos_token_id"] = [tokenizer.eos_token_id, full_stop]
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run(write_job(tmp_path / "job", other))
    rows = rows_by_id(tmp_path / "job")
    expected = [ids[: ids.index(full_stop) + 1] if full_stop in ids else ids for ids in wanted]
    assert rows["token_ids"].to_list() == expected
    cut = rows.filter(pl.col("token_ids").list.last() == full_stop)
    assert cut.height >= 10
    assert (cut["finish_reason"] == "stop").all() and (cut["control_tokens"] == 1).all()
    assert not cut["answer"].str.ends_with(".").any()


def test_a_kill_costs_no_token_and_changes_none(
    tmp_path: Path, model: Path, wanted: list[list[int]]
) -> None:
    job = write_job(
        tmp_path / "job",
        model,
        model={"path": str(model), "engine_args": {"dtype": "float32", "max_num_seqs": 4}},
        checkpoint={"every_s": 0.2},
    )
    output = tmp_path / "job/out"
    with tree(["-m", "batchr1", "run", str(job), "--gpus", "none"], tmp_path) as started:
        until(
            lambda: (output / ".batchr1/inflight").exists() and inflight(output).tokens >= 60,
            280,
            "60 saved tokens",
        )
        started.kill()
    run(job)
    rows = rows_by_id(tmp_path / "job")
    assert rows["token_ids"].to_list() == wanted
    assert rows["resumed_at"].list.len().max() == 1
