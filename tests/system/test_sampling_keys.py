"""Keys of `sampling` change the text as they must: r1-tiny on vLLM, greedy, float32."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from replay_job import MODEL, rows_of, run_replay, write_job

from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.errors import InputError
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
        [sys.executable, "-c", GENERATE], input=asked, capture_output=True, text=True, timeout=1200
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


OWN = {"temperature": "t", "top_p": "p", "max_tokens": "cap", "seed": "seed", "stop": "stop"}
KINDS = [(0.0, 1.0, 300, 1), (0.8, 0.9, 60, 2), (1.2, 0.7, 90, None), (None, None, 40, 4)]
SAME = ["id", "reasoning", "answer", "completion_tokens", "finish_reason", "truncated_by", "seed"]


@pytest.mark.timeout(900)
def test_rows_with_their_own_sampling_are_those_of_single_runs(tmp_path: Path) -> None:
    """48 rows of four kinds in one run, and a run of each kind."""
    job = {"temperature": 0.5, "top_p": 0.95, "max_tokens": 200, "seed": 7}
    rows = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(48)],
            "problem": [f"What is {i} + {3 * i + 5}?" for i in range(48)],
            **{name: [KINDS[i % 4][at] for i in range(48)] for at, name in enumerate("tpcs")},
            "stop": [["boxed"] if i % 2 else None for i in range(48)],
        }
    ).rename({"c": "cap", "s": "seed"})

    def run(name: str, rows: pl.DataFrame, **sections: Any) -> pl.DataFrame:
        rows.write_parquet(tmp_path / "in.parquet")
        path = write_job(tmp_path, model=FLOAT32, output={"path": name}, **sections)
        run_job(load_job(path), RunOptions(show_progress=False, gpus="none"))
        return rows_of(tmp_path / name).select(SAME)

    together = run("together", rows, input={"sampling": OWN}, sampling=job)
    single = []
    for number, (temperature, top_p, cap, seed) in enumerate(KINDS):
        own = {"temperature": temperature, "top_p": top_p, "seed": seed}
        given = {name: value for name, value in own.items() if value is not None}
        stop = {"stop": ["boxed"]} if number % 2 else {}
        of_kind = rows.gather_every(4, number).drop("t", "p", "cap", "seed", "stop")
        asked = job | given | stop | {"max_tokens": min(cap, 200)}
        single.append(run(f"single-{number}", of_kind, sampling=asked))

    assert together.equals(pl.concat(single).sort("id"))
    assert set(together["truncated_by"]) == {"max_tokens", None}
    assert not together["answer"].str.contains("boxed").all()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_rows_are_those_of_fifty_runs(tmp_path: Path) -> None:
    """Each row has its own temperature, cap and seed; each single run has one row of them."""
    rows = pl.DataFrame(
        [
            {
                "id": f"r{i:02}",
                "problem": f"What is {i} + {3 * i + 5}?",
                "t": round(0.02 * i, 2),
                "cap": 20 + 4 * i,
                "seed": 1000 + i,
            }
            for i in range(50)
        ]
    )
    common = {"model": FLOAT32, "checkpoint": {"every_s": 600}}

    def run(row: dict[str, Any]) -> pl.DataFrame:
        folder = tmp_path / row["id"]
        folder.mkdir()
        pl.DataFrame([row]).select("id", "problem").write_parquet(folder / "in.parquet")
        own = {"temperature": row["t"], "max_tokens": row["cap"], "seed": row["seed"]}
        job = write_job(folder, sampling={"top_p": 0.95} | own, **common)
        command = [sys.executable, "-m", "batchr1", "run", str(job), "--gpus", "none"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return rows_of(folder / "out").select(SAME)

    with ThreadPoolExecutor(2) as threads:
        single = pl.concat(threads.map(run, rows.iter_rows(named=True)))

    rows.write_parquet(tmp_path / "in.parquet")
    own = {"temperature": "t", "max_tokens": "cap", "seed": "seed"}
    sampling = {"temperature": 0.5, "top_p": 0.95, "max_tokens": 300, "seed": 7}
    job = write_job(tmp_path, input={"sampling": own}, sampling=sampling, **common)
    run_job(load_job(job), RunOptions(show_progress=False, gpus="none"))

    assert rows_of(tmp_path / "out").select(SAME).equals(single.sort("id"))
    assert single["truncated_by"].n_unique() == 2
    assert single["completion_tokens"].n_unique() > 10


def test_a_row_out_of_bounds_fails_alone(tmp_path: Path) -> None:
    values = [("t", 3.0), ("p", 0.0), ("seed", -1), ("stop", [""]), ("t", 1.0), ("t", float("nan"))]
    columns = {name: [v if n == name else None for n, v in values] for name in OWN.values()}
    columns |= {"id": [f"r{i}" for i in range(6)], "problem": ["?"] * 6}
    types = {"stop": pl.List(pl.String), "t": pl.Float64, "p": pl.Float64, "cap": pl.Int64}
    pl.DataFrame(columns, schema_overrides=types).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, input={"sampling": OWN})
    summary = run_replay(job)

    assert (summary.counts.done, summary.counts.failed) == (2, 4)
    failed = pl.read_parquet(tmp_path / "out/.batchr1/failed/*.parquet").sort("id")
    assert set(failed["reason"]) == {"bad_sampling"}
    assert failed["message"].to_list() == [
        "the row's own temperature is out of bounds (got 3.0, need 0 to 2)",
        "the row's own top_p is out of bounds (got 0.0, need more than 0, at most 1)",
        "the row's own seed is out of bounds (got -1, need 0 to 2^63 - 1)",
        "the row's own stop has an empty text (got '', need text of one character or more)",
    ]


def test_a_column_of_another_type_is_refused_by_check(tmp_path: Path) -> None:
    rows = {"id": ["a"], "problem": ["?"], "t": ["warm"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "in.parquet")
    job = write_job(tmp_path, input={"sampling": {"temperature": "t"}})
    with pytest.raises(InputError) as refused:
        run_replay(job)
    assert str(refused.value) == (
        f"{tmp_path}/in.parquet: input.sampling.temperature: column 't' has the wrong type "
        "(got large_string, need numbers). Name another column, or convert it."
    )
