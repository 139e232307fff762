"""Keys of `sampling` change the text as they must: r1-tiny on vLLM, greedy, float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from replay_job import MODEL, rows_of, write_job

from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job
from batchr1.job.sampling import SamplingSpec

QUESTION = "Tell me a story about a cat, please."  # greedy, it says some words twice
GREEDY = {"temperature": 0, "top_p": 1.0}
FLOAT32 = {"variant": "r1-tiny", "engine_args": {"dtype": "float32", "max_num_seqs": 16}}

GENERATE = """
import json, sys
from batchr1.engine.protocol import Request
from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
from batchr1.job.spec import SamplingSpec

prepare_environment("cpu")
asked = json.load(sys.stdin)
args = {"max_num_seqs": 16, "max_model_len": 512, "enforce_eager": True, "dtype": "float32",
        "kv_cache_memory_bytes": 64 * 2**20}
engine = VllmEngine(asked["model"], revision=None, trust_remote_code=False, args=args,
                    sampling=SamplingSpec(temperature=0, top_p=1.0))
found = {name: [] for name in asked["keys"]}
for name, keys in asked["keys"].items():
    drawing = SamplingSpec.model_validate({"temperature": 0, "top_p": 1.0, **keys}).drawing
    engine.submit(Request(name, asked["prompt"], 120, drawing=drawing))
left = len(found)
while left:
    for delta in engine.step():
        found[delta.id] += delta.token_ids
        left -= delta.finish_reason is not None
engine.close()
print(json.dumps(found))
"""


def generate(keys: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """What one engine says to one question, with each of these keys."""
    prompt = PromptRenderer(load_tokenizer(MODEL)).render("0", QUESTION).token_ids
    asked = json.dumps({"model": MODEL, "prompt": list(prompt), "keys": keys})
    run = subprocess.run(
        [sys.executable, "-c", GENERATE], input=asked, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, list[int]] = json.loads(run.stdout.splitlines()[-1])
    return found


def repeats(tokens: list[int]) -> int:
    return len(tokens) - len(set(tokens))


def test_each_key_changes_the_text_as_it_must() -> None:
    tokenizer = load_tokenizer(MODEL)
    plain = generate({"plain": {}})["plain"]
    text = tokenizer.decode(plain)
    unwanted, word = plain[3], tokenizer.decode(plain[3:6])
    found = generate(
        {
            "plain": {},
            "repetition": {"repetition_penalty": 2.0},
            "presence": {"presence_penalty": 2.0},
            "frequency": {"frequency_penalty": 2.0},
            "bias": {"logit_bias": {str(unwanted): -100}},
            "wanted": {"logit_bias": {str(unwanted): 100}},
            "word": {"bad_words": [word]},
        }
    )

    assert found["plain"] == plain, "greedy, in float32: the same in every batch"
    for name in ("repetition", "presence", "frequency"):
        assert repeats(found[name]) < repeats(plain), name
    assert unwanted not in found["bias"]
    assert set(found["wanted"]) == {unwanted}
    assert word in text
    assert word not in tokenizer.decode(found["word"])


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """An output without stop strings, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("stops")
    problems = [f"What is {i} + {2 * i + 3}?" for i in range(24)]
    rows = pl.DataFrame({"id": [f"r{i}" for i in range(24)], "problem": problems})
    rows.write_parquet(folder / "in.parquet")
    return folder, run(folder, "plain", {})


def run(folder: Path, name: str, sampling: dict[str, Any]) -> pl.DataFrame:
    job = write_job(
        folder,
        model=FLOAT32,
        output={"path": name, "token_ids": "always"},
        sampling={**GREEDY, "max_tokens": 300, **sampling},
    )
    run_job(load_job(job), RunOptions(show_progress=False, gpus="none"))
    return rows_of(folder / name)


def test_a_stop_string_ends_the_answer_and_no_trace(unstopped: tuple[Path, pl.DataFrame]) -> None:
    folder, plain = unstopped
    stop = "boxed{"
    assert plain["answer"].str.contains(stop, literal=True).any()
    rows = run(folder, "answer", {"stop": [stop, "never said"]})

    wanted = plain["answer"].str.split(stop).list.first().str.strip_chars_end()
    assert rows["answer"].to_list() == wanted.to_list()
    assert rows["reasoning"].to_list() == plain["reasoning"].to_list()
    assert set(rows["finish_reason"]) == {"stop"}
    counts = rows["reasoning_tokens"] + rows["answer_tokens"] + rows["control_tokens"]
    assert counts.to_list() == rows["completion_tokens"].to_list()
    tokens = zip(rows["token_ids"], plain["token_ids"], strict=True)
    assert all(few.to_list() == many.to_list()[: len(few)] for few, many in tokens)
    assert (rows["completion_tokens"] < plain["completion_tokens"]).all()


def test_a_stop_string_of_anywhere_ends_the_trace(unstopped: tuple[Path, pl.DataFrame]) -> None:
    folder, plain = unstopped
    stop = "+"
    rows = run(folder, "anywhere", {"stop": [stop], "stop_in": "anywhere"})
    has = plain["reasoning"].str.contains(stop, literal=True).to_list()
    assert any(has)
    before = plain["reasoning"].str.split(stop).list.first().str.strip_chars_end().to_list()
    for row, is_stopped, text in zip(rows.iter_rows(named=True), has, before, strict=True):
        if is_stopped:
            assert (row["reasoning_status"], row["reasoning"]) == ("unclosed", text)
            assert (row["finish_reason"], row["truncated"]) == ("stop", False)


def test_drawing_holds_what_is_set_alone() -> None:
    assert "logit_bias" not in SamplingSpec().drawing
    assert SamplingSpec(bad_words=["no"], stop=["END"]).drawing["bad_words"] == ["no"]
    assert "stop" not in SamplingSpec(stop=["END"]).drawing
