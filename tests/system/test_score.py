"""`batchr1 score`: a model's log-probabilities of rows that exist, every row once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from process_tree import tree, until
from scorable import TINY, completion, ids_of, question, rendered, scorable_output

from batchr1.cli.main import main
from batchr1.errors import EngineError
from batchr1.scoring.score import score
from batchr1.scoring.target import Wish

ROWS = 30
# Threads that wait for one another make no way where others want the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.timeout(900)


def started(*args: object, fault: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batchr1", "score", *map(str, args), "--json"]
    return subprocess.Popen(
        command,
        env=os.environ | ONE_THREAD | {"BATCHR1_FAULT": fault, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def scored(*args: object, exit_code: int = 0) -> dict[str, Any]:
    process = started(*args)
    out, err = process.communicate()
    assert process.returncode == exit_code, err[-3000:]
    found: dict[str, Any] = json.loads(out)
    return found


def parts_of(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("part-*.parquet"))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [row for part in parts_of(folder) for row in pq.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: (row["id"], row["sample"]))


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows, scored in float32 by the model that they are of."""
    folder = tmp_path_factory.mktemp("scores")
    scorable_output(folder / "out", ROWS)
    scored(folder / "out")
    return folder / "out-scores"


def test_log_probabilities_and_top_20_are_those_of_transformers(scores: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    rows = rows_of(scores)
    assert len(rows) == ROWS
    same: list[bool] = []
    for row in rows:
        prompt, ids = row["prompt_ids"], row["token_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        right = torch.log_softmax(logits.float(), dim=-1)
        own = right[torch.arange(len(ids)), torch.tensor(ids)].numpy()
        assert np.abs(own - np.array(row["logprob"])).max() < 1e-4
        top, top_ids = right.topk(20), np.array(row["topk_ids"])
        # Two tokens as likely as each other have no order.
        of_ours = np.take_along_axis(right.numpy(), top_ids, axis=1)
        assert np.abs(of_ours - top.values.numpy()).max() < 1e-4
        is_same = top_ids == top.indices.numpy()
        assert np.abs(of_ours - top.values.numpy())[~is_same].max(initial=0.0) < 1e-5
        same += is_same.ravel().tolist()
        shown = np.array(row["topk_logprobs"], dtype=np.float32)
        np.testing.assert_allclose(shown, top.values.numpy(), rtol=1e-3, atol=1e-3)
    assert np.mean(same) > 0.999


def test_rows_have_their_tokens_and_what_follows_from_them(scores: Path) -> None:
    for row in rows_of(scores):
        number = int(row["id"].removeprefix("row/"))
        assert row["prompt_ids"] == list(rendered(number).token_ids)
        assert row["token_ids"] == ids_of(completion(number))
        reasoning, closed, _ = completion(number).partition("</think>")
        inside = len(ids_of(reasoning))
        assert row["reasoning_tokens"] == inside
        logs = np.array(row["logprob"])
        assert row["reasoning_perplexity"] == pytest.approx(np.exp(-logs[:inside].mean()), rel=1e-5)
        assert 0 <= row["reasoning_entropy"] < np.log(1000)
        if closed:  # the closing tag before it and the end token behind it are no part of it
            answer = logs[inside + 1 : -1]
            assert row["answer_tokens"] == len(answer)
            assert row["answer_perplexity"] == pytest.approx(np.exp(-answer.mean()), rel=1e-5)
        else:
            assert (row["answer_tokens"], row["answer_perplexity"]) == (0, None)


def test_the_folder_names_what_it_scored(scores: Path) -> None:
    document = json.loads((scores / ".batchr1/score.json").read_text())
    asked = document["fingerprint"]
    assert asked["scored"] == str(scores.with_name("out"))
    assert (asked["top_k"], asked["logprobs"], asked["dtype"]) == (20, "raw", "float32")
    assert len(asked["vocabulary"]) == 32 and document["model"] == "r1-tiny"
    assert (scores / "_SUCCESS").exists() and not (scores / ".batchr1/job.json").exists()


def test_polars_reads_the_scores(scores: Path) -> None:
    rows = pl.read_parquet(parts_of(scores))
    assert rows["logprob"].list.len().to_list() == rows["token_ids"].list.len().to_list()
    assert rows["topk_logprobs"][0].len() == rows["topk_ids"][0].len() > 0


def test_nothing_is_scored_twice(scores: Path) -> None:
    """The same command, where all is done, loads no engine."""
    before = {part: part.stat().st_mtime_ns for part in parts_of(scores)}
    found = scored(scores.with_name("out"))
    assert (found["done"], found["tokens"], found["plan"]) == (ROWS, 0, None)
    assert {part: part.stat().st_mtime_ns for part in parts_of(scores)} == before


def test_a_kill_at_a_part_loses_and_doubles_no_row(tmp_path: Path, scores: Path) -> None:
    """Killed with a part staged and two committed, then gone on with; the scores are the same.

    Steps are shorter than rows here, and one part was copied.
    """
    output = scorable_output(tmp_path / "out", ROWS, parts=3)
    copied = parts_of(tmp_path / "out")[1]
    copied.with_stem(f"{copied.stem}-copy").write_bytes(copied.read_bytes())
    assert len(output.parts()) == 4
    small = ["--part-mib", "0.02", "--engine-arg", "max_num_batched_tokens=40"]
    process = started(tmp_path / "out", *small, fault="stage.staged:3")
    _, err = process.communicate()
    assert process.returncode == -9, err[-3000:]
    assert 0 < len(rows_of(tmp_path / "out-scores")) < ROWS
    scored(tmp_path / "out", *small)
    after, before = rows_of(tmp_path / "out-scores"), rows_of(scores)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert len(parts_of(tmp_path / "out-scores")) > 3
    assert all(part.stat().st_size < 0.02 * 2**20 for part in parts_of(tmp_path / "out-scores"))
    for one, other in zip(after, before, strict=True):
        np.testing.assert_allclose(one["logprob"], other["logprob"], atol=1e-5)


KILLS = int(os.environ.get("BATCHR1_KILLS", "5"))
SEED = int(os.environ.get("BATCHR1_SEED", "5"))
KILLED_ROWS = 300
SMALL = ["--part-mib", "0.01", "--engine-arg", "max_num_batched_tokens=40"]
"""Many parts, and steps shorter than a row: there is work under way at nearly every moment."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_leave_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole tree, each time after a part of its own, with rows still to be scored."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    scorable_output(tmp_path / "out", KILLED_ROWS)
    scores, draw = tmp_path / "out-scores", random.Random(SEED)
    command = ["-m", "batchr1", "score", str(tmp_path / "out"), *SMALL, "--gpus", "none"]
    print(f"\nseed {SEED}, {KILLS} kills")
    for number in range(KILLS):
        before, wait_s = len(parts_of(scores)), draw.uniform(0, 0.5)
        with tree(command, tmp_path) as run:
            until(lambda before=before: len(parts_of(scores)) > before, 600, "a part")
            time.sleep(wait_s)
            assert run.driver.poll() is None, "it has ended: nothing was killed"
            killed = run.kill()
        assert run.driver.returncode == -9
        assert not run.left()
        done = len(rows_of(scores))
        print(f"kill {number + 1}: {wait_s:.3f} s on, {len(killed)} processes, {done} rows done")
        assert done < KILLED_ROWS, "nothing was under way"
    found = scored(tmp_path / "out", *SMALL)
    keys = [(row["id"], row["sample"]) for row in rows_of(scores)]
    assert len(keys) == len(set(keys)) == found["done"] == KILLED_ROWS
    assert found["tokens"] > 0, "the last run had rows to score"


def test_texts_are_scored_in_the_models_tokens(tmp_path: Path, scores: Path) -> None:
    """A row's text has the scores of its tokens; a null completion is a failed row."""
    texts = [completion(number) for number in range(4)]
    texts[1] = f"<think>\n{texts[1]}"  # the prompt ends with that already
    columns = {
        "id": [0, 1, 2, 3],
        "question": [rendered(number).text for number in range(4)],
        "text": [*texts[:3], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    args = ["--model", "r1-tiny", "--prompt", "question", "--completion", "text", "--top-k", "0"]
    found = scored(tmp_path / "data.parquet", *args, "--engine-arg", "dtype=float32", exit_code=3)
    assert (found["done"], found["failed"]) == (3, 1)
    theirs = {row["id"]: row for row in rows_of(scores)}
    for row in rows_of(tmp_path / "data.parquet-scores"):
        same = theirs[f"row/{row['id']}"]
        assert row["token_ids"] == same["token_ids"]
        np.testing.assert_allclose(row["logprob"], same["logprob"], atol=1e-5)
        assert row["topk_ids"] == [[]] * len(row["token_ids"])
        assert row["reasoning_entropy"] is None


def test_a_score_in_this_process_leaves_its_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that follows has its own way to start vLLM's processes, and its own log."""
    scorable_output(tmp_path / "out", 2)
    before, seen = dict(os.environ), {}

    def refuse(*args: object, **named: object) -> None:
        seen.update(os.environ)
        raise EngineError("no engine")

    monkeypatch.setattr("batchr1.scoring.score.VllmScorer", refuse)
    with pytest.raises(EngineError, match="no engine"):
        score(Wish(str(tmp_path / "out"), str(tmp_path / "scores"), gpus="none"))
    assert seen["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert dict(os.environ) == before


def test_a_plan_says_what_it_takes_and_writes_nothing(tmp_path: Path) -> None:
    scorable_output(tmp_path / "out", 4)
    result = click.testing.CliRunner().invoke(
        main, ["score", str(tmp_path / "out"), "--plan", "--json", "--gpus", "none"]
    )
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    tokens = sum(len(ids_of(completion(number))) for number in range(4))
    assert (plan["rows"], plan["scored_tokens"], plan["bytes_per_token"]) == (4, tokens, 128)
    assert plan["disk_bytes"] > 128 * tokens
    assert not (tmp_path / "out-scores").exists()


def _retokenised(folder: Path) -> Path:
    """r1-tiny with two tokens in each other's place."""
    folder.mkdir()
    for file in TINY.iterdir():
        if file.name != "tokenizer.json":
            (folder / file.name).symlink_to(file)
    document = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


FILES = ["--model", "r1-tiny", "--prompt", "question", "--completion", "text"]
AS_TEXT = "--prompt and --completion."

BAD: dict[str, tuple[list[str], str]] = {
    "top-k too large": (
        ["{good}", "--top-k", "129"],
        "--top-k: out of range (got 129, need 0 to 128). Correct it.",
    ),
    "top-k negative": (
        ["{good}", "--top-k", "-1"],
        "--top-k: out of range (got -1, need 0 to 128). Correct it.",
    ),
    "a part without a size": (
        ["{good}", "--part-mib", "0"],
        "--part-mib: not a size (got 0, need more than 0). Correct it.",
    ),
    "truncated rows alone": (
        ["{truncated}"],
        "{truncated}: it has no token ids of whole rows (got output.token_ids: truncated, need "
        f"always). Generate with that, or score its text with {AS_TEXT}",
    ),
    "made by a server": (
        ["{served}"],
        "{served}: its tokens are not known (made by engine.kind openai, need vllm). Score its "
        f"text: give {{served}}/data with {AS_TEXT}",
    ),
    "no output": (
        ["{empty}"],
        "{empty}: not an output of batchr1. Give the folder that a job wrote, or name the columns "
        f"of data files with {AS_TEXT}",
    ),
    "an adapter": (
        ["{adapted}"],
        "{adapted}: made with a LoRA adapter, which score does not load (got lora). Merge it into "
        "the model, and give that with --model.",
    ),
    "another vocabulary": (
        ["{good}", "--model", "{other}"],
        "{good}: its tokens are of another vocabulary (got {hash} of r1-tiny, need {other_hash} of "
        f"other). Score its text: give {{good}}/data with {AS_TEXT}",
    ),
    "another prompt": (
        ["{prompts}", "--plan"],
        "{prompts}: row 'row/0' (sample 0) has a prompt that is not made anew from its column (got "
        "other tokens: it held several messages, or the model's chat template changed). Score "
        f"texts: give {{prompts}}/data with {AS_TEXT}",
    ),
    "into a job's output": (
        ["{good}", "--to", "{truncated}"],
        "{truncated}: the output of a job (got .batchr1/job.json, need a folder of its own for "
        "scores). Give another folder.",
    ),
    "into a foreign folder": (
        ["{good}", "--to", "{foreign}"],
        "{foreign}: the folder is not empty and not scores of batchr1 (it holds notes.txt). Give a "
        "new or empty folder.",
    ),
    "into what is scored": (
        ["{good}", "--to", "{good}/data/scores"],
        "{good}/data/scores: lies in what is scored ({good}). Give the scores a folder of their "
        "own with --to.",
    ),
    "other scores": (
        ["{scored}", "--top-k", "5"],
        "{scored}-scores: holds other scores: top_k is 20 there (got 5). Give another folder.",
    ),
    "an unknown model": (
        ["{good}", "--model", "r1-tinny"],
        "--model: neither a variant, nor a folder, nor a repository (got 'r1-tinny'; batchr1 "
        "variants lists the variants). Correct it.",
    ),
    "files without a model": (
        ["{file}", *FILES[2:]],
        "--model: data files name no model that scores them. Give a variant, a folder or a "
        "repository.",
    ),
    "a file whose columns nobody named": (
        ["{file}", "--model", "r1-tiny"],
        "{file}: a file, not an output of batchr1. Give an output, or name the columns of data "
        "files with --prompt and --completion.",
    ),
    "half of the columns": (
        ["{file}", "--model", "r1-tiny", "--prompt", "question"],
        "--completion: data files need both columns (got one). Add it.",
    ),
    "a column of an output": (
        ["{good}", "--id", "id"],
        "--id: names a column of data files (got 'id' for an output). Leave it out, or add "
        "--prompt and --completion.",
    ),
    "no such column": (
        ["{file}", *FILES[:-1], "txet"],
        "{file}: there is no column 'txet' (the file has: id, question, text, number, twice). Did "
        "you mean text?",
    ),
    "a completion of numbers": (
        ["{file}", *FILES[:-1], "number"],
        "{file}: --completion: column 'number' has the wrong type (got double, need text). Name "
        "another column.",
    ),
    "samples of text": (
        ["{file}", *FILES, "--sample", "text"],
        "{file}: --sample: column 'text' has the wrong type (got string, need whole numbers). Name "
        "another column.",
    ),
    "an id twice": (
        ["{file}", *FILES, "--id", "twice", "--plan"],
        "{file}: row 1: the id '7' came before (need each once). Name a column of samples with "
        "--sample, or others with --id.",
    ),
    "an engine argument that is none": (
        ["{good}", "--engine-arg", "dtype"],
        "--engine-arg: not an argument (got 'dtype', need NAME=VALUE). Correct it.",
    ),
    "an engine argument that score sets": (
        ["{good}", "--engine-arg", "logprobs_mode=processed_logprobs"],
        "--engine-arg logprobs_mode: is for score to set. Leave it out.",
    ),
    "a glob without a folder": (
        ["{good}/*.parquet", *FILES],
        "{good}/*.parquet: a glob, beside which no folder is chosen. Name one with --to.",
    ),
    "an engine argument of another name": (
        ["{good}", "--engine-arg", "dtypee=float32"],
        "model.engine_args.dtypee: vLLM has no such argument. Did you mean dtype?",
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, scores: Path) -> dict[str, str]:
    """Folders and files that something is wrong with."""
    from batchr1.dataset.tokenizer import load_tokenizer
    from batchr1.scoring.rows import vocabulary_hash

    folder = tmp_path_factory.mktemp("bad")
    tiny = {"variant": "r1-tiny"}
    scorable_output(folder / "good", 2)
    scorable_output(folder / "truncated", 2, output={"path": "x", "token_ids": "truncated"})
    scorable_output(folder / "served", 2, engine={"kind": "openai"})
    scorable_output(folder / "adapted", 2, model=tiny | {"adapter": "lora"})
    scorable_output(folder / "prompts", 2, prompting={"instruction": "Be brief."})
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign/notes.txt").write_text("mine")
    other = _retokenised(folder / "other")
    columns: dict[str, list[Any]] = {"id": [1, 2], "question": [question(1)] * 2}
    columns |= {"text": ["a", "b"], "number": [1.5, 2.5], "twice": [7, 7]}
    pq.write_table(pa.table(columns), folder / "file.parquet")
    names = ("good", "truncated", "served", "adapted", "prompts", "empty", "foreign")
    return {name: str(folder / name) for name in names} | {
        "file": str(folder / "file.parquet"),
        "other": str(other),
        "scored": str(scores.with_name("out")),
        "hash": vocabulary_hash(load_tokenizer(str(TINY))),
        "other_hash": vocabulary_hash(load_tokenizer(str(other))),
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(case: str, places: dict[str, str]) -> None:
    args, said = BAD[case]
    command = ["score", *(arg.format(**places) for arg in args), "--gpus", "none"]
    result = click.testing.CliRunner().invoke(main, command)
    assert result.stderr == f"batchr1: {said.format(**places)}\n"
    assert result.exit_code == 2
