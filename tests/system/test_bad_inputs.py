"""Bad inputs: each one ends with one exact line on stderr and its exit code, and leaves nothing behind.

The real command line runs, in this process. What can be seen to be wrong is refused before an
engine is made, so that these tests never load a model. Where rows fail or a disk fills up, the
replay engine stands in for vLLM: driver, worker process, tokenizer and Parquet are the real ones.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click.testing
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from replay_job import MODEL, replay
from s3_fakes import S3, FaultyS3

from batchr1.cli.main import main
from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.executors.messages import EngineSpec
from batchr1.storage.base import open_storage
from batchr1.storage.lock import Lock

DROP = object()


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written to the machine's temporary folder is written below tmp_path, where it is
    seen.
    """
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("BATCHR1_TEST_UNSET", "CUDA_VISIBLE_DEVICES", "VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        monkeypatch.delenv(name, raising=False)


def write_input(tmp: Path, name: str = "in.parquet", **columns: Any) -> Path:
    """A Parquet file of two good rows; `columns` replace or add to theirs (None takes one out)."""
    rows = len(next(iter(columns.values()), [0, 0]) or [0, 0])
    good = {
        "id": [f"row-{i}" for i in range(rows)],
        "problem": [f"What is {i} + 1?" for i in range(rows)],
    }
    good |= {"level": list(range(rows))}
    table = pa.table({k: v for k, v in {**good, **columns}.items() if v is not None})
    path = tmp / name
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path)
    return path


def write_job(tmp: Path, changes: dict[str, Any] | None = None) -> Path:
    """A good job file with some keys changed, or taken out (DROP)."""
    job: dict[str, Any] = {
        "name": "bad",
        "model": {"path": MODEL},
        "input": {"path": "in.parquet", "id": "id", "prompt": "problem"},
        "output": {"path": "out"},
        "sampling": {"max_tokens": 50},
    }
    for key, value in (changes or {}).items():
        *sections, last = key.split(".")
        target = job
        for section in sections:
            target = target.setdefault(section, {})
        if value is DROP:
            del target[last]
        else:
            target[last] = value
    path = tmp / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def batchr1(*args: str | Path, engine: EngineSpec | None = None) -> click.testing.Result:
    """Run the command line; an exception that is not one of ours fails the test with its traceback."""
    runner = click.testing.CliRunner()
    return runner.invoke(
        main, [str(a) for a in args], prog_name="batchr1", obj=engine, catch_exceptions=False
    )


def said(result: click.testing.Result, tmp: Path) -> str:
    """What came on stderr, this machine's folders replaced."""
    return result.stderr.replace(MODEL, "MODEL").replace(str(tmp), "TMP")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, every folder with None; not the one that torch
    makes.
    """
    paths = [p for p in sorted(folder.rglob("*")) if not p.name.startswith("torchinductor_")]
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


@dataclass(frozen=True)
class Bad:
    """A bad input: how it comes about (on top of a good job and good rows), and what is said about
    it.
    """

    id: str
    message: str
    changes: dict[str, Any] = field(default_factory=dict)
    make: Callable[[Path], object] = lambda tmp: None
    args: tuple[str, ...] = ()
    code: int = 2
    checked: bool = True  # `batchr1 check` says the same


def text(content: str) -> Callable[[Path], object]:
    """Replaces the job file."""
    return lambda tmp: (tmp / "job.yaml").write_text(content)


def damage_page(tmp: Path) -> None:
    """A Parquet file whose footer is whole, and whose first column cannot be decompressed."""
    path = tmp / "in.parquet"
    rows = {"id": [f"row-{i}" for i in range(5000)], "problem": ["?"] * 5000}
    pq.write_table(pa.table(rows), path, compression="snappy", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:220] = b"\xff" * 20
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def not_utf8(tmp: Path) -> None:
    bad = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": bad, "problem": ["a", "b"]}), tmp / "in.parquet")


def copy_model(tmp: Path, **config: Any) -> Path:
    """A folder with the model's files; `config` changes its config.json."""
    folder = tmp / "model"
    shutil.copytree(Path(MODEL), folder, ignore=shutil.ignore_patterns("recipe", "*.md"))
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in values.items() if v is not None})
    )
    return folder


def empty_model(tmp: Path, *names: str) -> None:
    (tmp / "model").mkdir()
    for name in names:
        (tmp / "model" / name).write_bytes(b"")


JOB_FILES = [
    Bad(
        "unknown key with a suggestion",
        "TMP/job.yaml: sampling.temprature: unknown key. Did you mean temperature?",
        {"sampling.temprature": 0.6},
    ),
    Bad(
        "unknown key without a suggestion",
        "TMP/job.yaml: sampling.zzz: unknown key. Allowed here: n, temperature, top_p, top_k, "
        "min_p, "
        "max_tokens, seed, ignore_eos, thinking_budget, answer_budget, closing_sentence, "
        "stop_loops.",
        {"sampling.zzz": 1},
    ),
    Bad(
        "unknown section",
        "TMP/job.yaml: wrokers: unknown key. Allowed here: name, model, engine, input, output, "
        "prompting, "
        "sampling, schedule, checkpoint, retry, verify, stop_when, storage, executor, on_finish, "
        "max_failed.",
        {"wrokers": 3},
    ),
    Bad(
        "wrong type",
        "TMP/job.yaml: sampling.n: wrong value (got text 'four', need a whole number). Correct it.",
        {"sampling.n": "four"},
    ),
    Bad(
        "wrong type, of several that are right",
        "TMP/job.yaml: input.path: wrong value (got a number 3, need text or a list). Correct it.",
        {"input.path": 3},
    ),
    Bad(
        "keep of a wrong type",
        (
            "TMP/job.yaml: output.keep: wrong value (got a number 5, need a list or a mapping or "
            "all). Correct it."
        ),
        {"output.keep": 5},
    ),
    Bad(
        "a value out of range",
        "TMP/job.yaml: sampling.temperature: wrong value (got a number 3, need a number less than "
        "or equal "
        "to 2). Correct it.",
        {"sampling.temperature": 3},
    ),
    Bad(
        "an endless interval",
        (
            "TMP/job.yaml: output.part_every_s: wrong value (got a number inf, need a finite "
            "number). "
            "Correct it."
        ),
        {"output.part_every_s": float("inf")},
    ),
    Bad(
        "a word that is not one of the choices",
        (
            "TMP/job.yaml: prompting.think: wrong value (got text 'always', need force or auto). "
            "Correct it."
        ),
        {"prompting.think": "always"},
    ),
    Bad(
        "a section that is not a mapping",
        "TMP/job.yaml: sampling: wrong value (got text 'greedy', need a mapping). Correct it.",
        {"sampling": "greedy"},
    ),
    Bad(
        "missing required key",
        "TMP/job.yaml: input.path: this key is required. Add it.",
        {"input.path": DROP},
    ),
    Bad("missing section", "TMP/job.yaml: output: this key is required. Add it.", {"output": DROP}),
    Bad(
        "two things wrong at once",
        "TMP/job.yaml: sampling.n: wrong value (got a number 0, need a number greater than 0). "
        "Correct it.\n"
        "TMP/job.yaml: sampling.temprature: unknown key. Did you mean temperature?",
        {"sampling.n": 0, "sampling.temprature": 1},
    ),
    Bad(
        "a name that is not one",
        (
            "TMP/job.yaml: name: wrong value (got text 'a/b', need letters, digits, dot, dash, "
            "underscore). Correct it."
        ),
        {"name": "a/b"},
    ),
    Bad(
        "duplicate key",
        "TMP/job.yaml:3: not valid YAML (the key 'name' is given twice). Correct that line.",
        make=text("name: a\nmodel: {variant: r1-tiny}\nname: b\n"),
    ),
    Bad(
        "a key that is a list",
        "TMP/job.yaml:2: not valid YAML (a key is not plain text). Correct that line.",
        make=text("name: a\n? [x, y]\n: 1\n"),
    ),
    Bad(
        "YAML syntax error",
        "TMP/job.yaml:3: not valid YAML (expected ',' or '}', but got ':'). Correct that line.",
        make=text("name: a\nmodel: {variant: r1-tiny\ninput: 3\n"),
    ),
    Bad(
        "not a mapping",
        "TMP/job.yaml: a job file is a mapping of keys (got a list). See jobs/math.yaml for one.",
        make=text("- run\n- this\n"),
    ),
    Bad(
        "empty job file",
        "TMP/job.yaml: a job file is a mapping of keys (got nothing). See jobs/math.yaml for one.",
        make=text(""),
    ),
    Bad(
        "binary job file",
        "TMP/job.yaml: the job file cannot be read (not UTF-8 text). Give the path of a YAML file.",
        make=lambda tmp: (tmp / "job.yaml").write_bytes(b"\xff\xfe\x00"),
    ),
    Bad(
        "missing job file",
        "TMP/job.yaml: there is no such job file. Give the path of a YAML file.",
        make=lambda tmp: (tmp / "job.yaml").unlink(),
    ),
    Bad(
        "a folder as job file",
        "TMP/job.yaml: the job file cannot be read (is a directory). Give the path of a YAML file.",
        make=lambda tmp: ((tmp / "job.yaml").unlink(), (tmp / "job.yaml").mkdir()),
    ),
    Bad(
        "--set without a value",
        "--set sampling.n: not key.path=value (got 'sampling.n'). Write --set sampling.n=4.",
        args=("--set", "sampling.n"),
    ),
    Bad(
        "--set of an unknown key",
        "TMP/job.yaml: sampling.max_token: unknown key. Did you mean max_tokens?",
        args=("--set", "sampling.max_token=5"),
    ),
    Bad(
        "--set of a wrong type",
        "TMP/job.yaml: sampling.n: wrong value (got text 'many', need a whole number). Correct it.",
        args=("--set", "sampling.n=many"),
    ),
    Bad(
        "--set below a value",
        "--set name.first: name is not a mapping (got text). Set name itself.",
        args=("--set", "name.first=x"),
    ),
    Bad(
        "--set of broken YAML",
        "--set output.keep: the value is not valid YAML (got '[a'). Quote it.",
        args=("--set", "output.keep=[a"),
    ),
    Bad(
        "--limit below zero",
        "TMP/job.yaml: input.limit: wrong value (got a number -1, need a number greater than or "
        "equal to "
        "0). Correct it.",
        args=("--limit", "-1"),
    ),
    Bad(
        "two prompt sources",
        (
            "TMP/job.yaml: input: give exactly one of prompt, messages, template (got prompt, "
            "messages). Correct it."
        ),
        {"input.messages": "chat"},
    ),
    Bad(
        "no prompt source",
        (
            "TMP/job.yaml: input: give exactly one of prompt, messages, template (got none). "
            "Correct "
            "it."
        ),
        {"input.prompt": DROP},
    ),
    Bad(
        "two models",
        (
            "TMP/job.yaml: model: give exactly one of variant, path, repo, served (got variant, "
            "path). Correct it."
        ),
        {"model.variant": "r1-tiny"},
    ),
    Bad(
        "unset environment variable",
        "TMP/job.yaml: input.path: the environment variable BATCHR1_TEST_UNSET is not set. Set "
        "it, or "
        "write the path out.",
        {"input.path": "${BATCHR1_TEST_UNSET}/in.parquet"},
    ),
    Bad(
        "unknown variable",
        (
            "TMP/job.yaml: output.path: unknown variable (got {{ model }}, need {{ ds }} or {{ "
            "variant }}). Correct it."
        ),
        {"output.path": "out-{{ model }}"},
    ),
    Bad(
        "empty path",
        "TMP/job.yaml: output.path: the path is empty. Name a file or folder.",
        {"output.path": ""},
    ),
    Bad(
        "storage of another kind",
        "TMP/job.yaml: gs://…: storage of this kind is not supported (got 'gs', need a path, "
        "file:// or "
        "s3://). Copy the data, or use the store's S3 interface with storage.endpoint.",
        {"output.path": "gs://bucket/out"},
    ),
    Bad(
        "credentials in the endpoint",
        (
            "TMP/job.yaml: storage.endpoint: the URL holds credentials. Set AWS_ACCESS_KEY_ID and "
            "its "
            "secret instead."
        ),
        {"storage.endpoint": "http://user:hunter2@host:9000"},
    ),
    Bad(
        "an endpoint that is no URL",
        (
            "TMP/job.yaml: storage.endpoint: not a URL (need http://host:port or https://host). "
            "Correct it."
        ),
        {"storage.endpoint": "minio:9000"},
    ),
    Bad(
        "credentials in an input",
        (
            "TMP/job.yaml: s3://…: the URI holds credentials. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY instead."
        ),
        {"input.path": "s3://key:hunter2@bucket/in.parquet"},
    ),
]
DEVICES = [
    Bad(
        "--gpus without GPUs",
        "--gpus: not so many GPUs here (got 3, found 0). Give --gpus none.",
        args=("--gpus", "3"),
    ),
    Bad(
        "--gpus that is no number",
        "--gpus: not a number of GPUs (got 'some', need 1 or more, all or none). Correct it.",
        args=("--gpus", "some"),
    ),
    Bad(
        "--devices without GPUs",
        "--devices: there is no such GPU (got 0, found none). Give --gpus none.",
        args=("--devices", "0,1"),
    ),
    Bad(
        "--devices with --gpus",
        "--devices: cannot be given together with --gpus. Give one of them.",
        args=("--devices", "0", "--gpus", "1"),
    ),
    Bad(
        "bad --stop-after",
        "--stop-after: not a duration (got 'soon', need 6h, 90m, 1h30m or the like). Correct it.",
        args=("--stop-after", "soon"),
        checked=False,
    ),
    Bad(
        "malformed --stop-after",
        "--stop-after: not a duration (got '1.2.3h', need 6h, 90m, 1h30m or the like). Correct it.",
        args=("--stop-after", "1.2.3h"),
        checked=False,
    ),
    Bad(
        "bad --date",
        "--date: not a date (got 'today', need YYYY-MM-DD). Correct it.",
        args=("--date", "today"),
    ),
]
DATASETS = [
    Bad(
        "missing input file",
        (
            "TMP/nothing.parquet: no such file or folder (need .parquet or .jsonl files). Check "
            "the "
            "path."
        ),
        {"input.path": "nothing.parquet"},
    ),
    Bad(
        "empty glob",
        (
            "TMP/parts/*.parquet: the glob matches no file (got none below TMP/parts). Check the "
            "pattern."
        ),
        {"input.path": "parts/*.parquet"},
    ),
    Bad(
        "folder without data",
        "TMP/folder: no data files (got .csv, need .parquet or .jsonl). Convert the data first.",
        {"input.path": "folder"},
        lambda tmp: write_input(tmp, "folder/notes.csv"),
    ),
    Bad(
        "empty folder",
        "TMP/folder: no data files (got no file, need .parquet or .jsonl). Convert the data first.",
        {"input.path": "folder"},
        lambda tmp: (tmp / "folder").mkdir(),
    ),
    Bad(
        "empty list of inputs",
        (
            "TMP/job.yaml: input.path: an empty list (got no path, need at least one). Name a "
            "file, "
            "glob or folder."
        ),
        {"input.path": []},
    ),
    Bad(
        "missing id column",
        (
            "TMP/in.parquet: input.id: there is no column 'key' (the file has: id, problem, "
            "level). "
            "Name one of these."
        ),
        {"input.id": "key"},
    ),
    Bad(
        "missing prompt column",
        "TMP/in.parquet: input.prompt: there is no column 'question' (the file has: id, problem, "
        "level). "
        "Name one of these.",
        {"input.prompt": "question"},
    ),
    Bad(
        "missing gold column",
        "TMP/in.parquet: input.gold: there is no column 'answer' (the file has: id, problem, "
        "level). Name "
        "one of these.",
        {"input.gold": "answer"},
    ),
    Bad(
        "missing keep column",
        "TMP/in.parquet: output.keep: there is no column 'subject' (the file has: id, problem, "
        "level). "
        "Name one of these.",
        {"output.keep": ["subject"]},
    ),
    Bad(
        "missing renamed keep column",
        "TMP/in.parquet: output.keep: there is no column 'subject' (the file has: id, problem, "
        "level). "
        "Name one of these.",
        {"output.keep": {"topic": "subject"}},
    ),
    Bad(
        "missing where column",
        "TMP/in.parquet: input.where: there is no column 'grade' (the file has: id, problem, "
        "level). Name "
        "one of these.",
        {"input.where": "grade > 2"},
    ),
    Bad(
        "missing template column",
        "TMP/in.parquet: input.template: there is no column 'language' (the file has: id, "
        "problem, level). "
        "Name one of these.",
        {"input.prompt": DROP, "input.template": "{problem} in {language}"},
    ),
    Bad(
        "missing max_tokens column",
        "TMP/in.parquet: input.max_tokens: there is no column 'budget' (the file has: id, "
        "problem, level). "
        "Name one of these.",
        {"input.max_tokens": "budget"},
    ),
    Bad(
        "a column that is in the first file only",
        (
            "TMP/second.parquet: input.prompt: there is no column 'problem' (the file has: id, "
            "level). Name one of these."
        ),
        {"input.path": "*.parquet"},
        lambda tmp: write_input(tmp, "second.parquet", problem=None),
    ),
    Bad(
        "prompt column of numbers",
        "TMP/in.parquet: input.prompt: column 'level' has the wrong type (got int64, need text). "
        "Name "
        "another column, or convert it.",
        {"input.prompt": "level"},
    ),
    Bad(
        "messages column of text",
        "TMP/in.parquet: input.messages: column 'problem' has the wrong type (got string, need a "
        "list of "
        "{role, content}). Name another column, or convert it.",
        {"input.prompt": DROP, "input.messages": "problem"},
    ),
    Bad(
        "gold column of lists",
        "TMP/in.parquet: input.gold: column 'answer' has the wrong type (got list<element: "
        "string>, need "
        "text or numbers). Name another column, or convert it.",
        {"input.gold": "answer"},
        lambda tmp: write_input(tmp, answer=[["1"], ["2"]]),
    ),
    Bad(
        "max_tokens column of text",
        "TMP/in.parquet: input.max_tokens: column 'problem' has the wrong type (got string, need "
        "whole "
        "numbers). Name another column, or convert it.",
        {"input.max_tokens": "problem"},
    ),
    Bad(
        "id column of floats",
        "TMP/in.parquet: input.id: column 'id' has the wrong type (got double, need text or whole "
        "numbers). Name another column, or convert it.",
        make=lambda tmp: write_input(tmp, id=[0.5, 1.5]),
    ),
    Bad(
        "kept column whose type changes",
        "TMP/second.parquet: output.keep: column 'level' has another type than in the first file "
        "(got "
        "string, need int64). Convert it, or do not keep it.",
        {"input.path": "*.parquet", "output.keep": ["level"]},
        lambda tmp: write_input(tmp, "second.parquet", id=["x", "y"], level=["hard", "easy"]),
    ),
    Bad(
        "non-unique id",
        "TMP/in.parquet: row 2: the id 'a' came before (got 3 repeated ids, need unique ones). "
        "Give "
        "input.id a unique column, or leave it out to use a hash of the prompt.",
        make=lambda tmp: write_input(tmp, id=["a", "b", "a", "c", "b", "a"]),
    ),
    Bad(
        "non-unique id over two files",
        "TMP/second.parquet: row 0: the id 'row-0' came before (got 2 repeated ids, need unique "
        "ones). "
        "Give input.id a unique column, or leave it out to use a hash of the prompt.",
        {"input.path": "*.parquet"},
        lambda tmp: write_input(tmp, "second.parquet"),
    ),
    Bad(
        "null id",
        (
            "TMP/in.parquet: row 2: the id is null (got null, need a unique id). Fill it, or drop "
            "input.id."
        ),
        make=lambda tmp: write_input(tmp, id=["a", "b", None]),
    ),
    Bad(
        "empty dataset",
        "TMP/job.yaml: input: no rows (got 0 after where and limit, need at least 1). Look at "
        "path, where and limit, "
        "or set input.allow_empty: true where a night may bring none.",
        make=lambda tmp: write_input(
            tmp,
            id=pa.array([], pa.string()),
            problem=pa.array([], pa.string()),
            level=pa.array([], pa.int64()),
        ),
    ),
    Bad(
        "where that keeps nothing",
        "TMP/job.yaml: input: no rows (got 0 after where and limit, need at least 1). Look at "
        "path, where and limit, "
        "or set input.allow_empty: true where a night may bring none.",
        {"input.where": "level > 100"},
    ),
    Bad(
        "--limit 0",
        "TMP/job.yaml: input: no rows (got 0 after where and limit, need at least 1). Look at "
        "path, where and limit, "
        "or set input.allow_empty: true where a night may bring none.",
        args=("--limit", "0"),
    ),
    Bad(
        "where that is not SQL",
        "TMP/job.yaml: input.where: not a SQL predicate (got 'level >=': unable to parse 'level "
        ">=' as "
        "Expr). Write one such as level >= 4.",
        {"input.where": "level >="},
    ),
    Bad(
        "where that is not a condition",
        "TMP/job.yaml: input.where: not a condition on a row (got Int64, need true or false for "
        "each). "
        "Write one such as level >= 4.",
        {"input.where": "level + 1"},
    ),
    Bad(
        "where over many rows",
        "TMP/job.yaml: input.where: not a condition on a row (got one value for many rows, need "
        "true or "
        "false for each). Write one such as level >= 4.",
        {"input.where": "max(level) > 0"},
    ),
    Bad(
        "where without a column",
        (
            "TMP/job.yaml: input.where: names no column (got '1 = 1'). Write a condition such as "
            "level >= 4."
        ),
        {"input.where": "1 = 1"},
    ),
    Bad(
        "where that compares text with a number",
        "TMP/job.yaml: input.where: cannot be evaluated (got 'problem > 3': cannot compare string "
        "with "
        "numeric type (i32)). Correct the condition.",
        {"input.where": "problem > 3"},
    ),
    Bad(
        "template with a lone brace",
        "TMP/job.yaml: input.template: braces do not match (expected '}' before end of string). "
        "Write {{ "
        "and }} for literal braces.",
        {"input.prompt": DROP, "input.template": "{problem"},
    ),
    Bad(
        "template without a column",
        (
            "TMP/job.yaml: input.template: names no column. Write {column} where a column's text "
            "belongs."
        ),
        {"input.prompt": DROP, "input.template": "Tell a joke."},
    ),
    Bad(
        "template with an expression",
        (
            "TMP/job.yaml: input.template: {problem.upper()} is not a plain column name. Write {{ "
            "and "
            "}} for braces."
        ),
        {"input.prompt": DROP, "input.template": "{problem.upper()}"},
    ),
    Bad(
        "garbage instead of Parquet",
        "TMP/in.parquet: not a readable Parquet file (Parquet magic bytes not found in footer. "
        "Either the "
        "file is corrupted or this is not a parquet file). Write it again, or take it out.",
        make=lambda tmp: (tmp / "in.parquet").write_bytes(b"garbage" * 100),
    ),
    Bad(
        "truncated Parquet",
        "TMP/in.parquet: not a readable Parquet file (Parquet magic bytes not found in footer. "
        "Either the "
        "file is corrupted or this is not a parquet file). Write it again, or take it out.",
        make=lambda tmp: truncate(write_input(tmp)),
    ),
    Bad(
        "empty file instead of Parquet",
        (
            "TMP/in.parquet: not a readable Parquet file (Parquet file size is 0 bytes). Write it "
            "again, or take it out."
        ),
        make=lambda tmp: (tmp / "in.parquet").write_bytes(b""),
    ),
    Bad(
        "Parquet with a damaged page",
        (
            "TMP/in.parquet: not a readable Parquet file (Corrupt snappy compressed data). Write "
            "it "
            "again, or take it out."
        ),
        make=damage_page,
    ),
    Bad(
        "text that is not UTF-8",
        "TMP/in.parquet: not a readable Parquet file (In column 0: Invalid: Invalid UTF8 sequence "
        "at "
        "string index 1). Write it again, or take it out.",
        make=not_utf8,
    ),
    Bad(
        "broken JSON line",
        "TMP/in.jsonl: not a readable JSON lines file (JSON parse error: Invalid value. in row "
        "1). Write "
        "it again, or take it out.",
        {"input.path": "in.jsonl"},
        lambda tmp: (tmp / "in.jsonl").write_text(
            '{"id": "a", "problem": "x"}\n{"id": "b", "problem": \n'
        ),
    ),
    Bad(
        "empty JSON lines file",
        (
            "TMP/in.jsonl: not a readable JSON lines file (Empty JSON stream). Write it again, or "
            "take it out."
        ),
        {"input.path": "in.jsonl"},
        lambda tmp: (tmp / "in.jsonl").write_text(""),
    ),
    Bad(
        "exclude that is no output",
        (
            "TMP/yesterday: input.exclude names no output of batchr1. Give the folder of an "
            "earlier "
            "output."
        ),
        {"input.exclude": ["yesterday"]},
    ),
]
OUTPUTS = [
    Bad(
        "keep that collides with a column",
        "TMP/job.yaml: output.keep: 'prompt' is a column of the output already. Rename it: keep: "
        "{input_prompt: prompt}.",
        {"output.keep": ["problem", "prompt"]},
        lambda tmp: write_input(tmp, prompt=["x", "y"]),
    ),
    Bad(
        "keep all that collides with itself",
        "TMP/job.yaml: output.keep: all would give two columns the name 'input_prompt' (one is "
        "'prompt' in "
        "TMP/in.parquet). List the columns to keep, or give them names: keep: {new_name: "
        "old_name}.",
        {"output.keep": "all"},
        lambda tmp: write_input(tmp, prompt=["x", "y"], input_prompt=["v", "w"]),
    ),
    Bad(
        "a file in the output's way",
        "TMP/out: cannot be a folder (got a file at TMP/out). Give another path.",
        make=lambda tmp: (tmp / "out").write_text("mine"),
    ),
    Bad(
        "a file above the output",
        "TMP/file/out: cannot be a folder (got a file at TMP/file). Give another path.",
        {"output.path": "file/out"},
        lambda tmp: (tmp / "file").write_text("mine"),
    ),
    Bad(
        "output beneath input",
        "TMP/rows/out: output.path lies beneath input.path TMP/rows, so that results would become "
        "input. "
        "Give the output a folder of its own.",
        {"input.path": "rows", "output.path": "rows/out"},
        lambda tmp: write_input(tmp, "rows/in.parquet"),
    ),
    Bad(
        "output beneath input, as a URI",
        "TMP/rows/out: output.path lies beneath input.path file://TMP/rows, so that results would "
        "become "
        "input. Give the output a folder of its own.",
        {"input.path": "file://TMP/rows", "output.path": "rows/out"},
        lambda tmp: write_input(tmp, "rows/in.parquet"),
    ),
    Bad(
        "output beneath a glob",
        "TMP/out: output.path lies beneath input.path TMP/**/*.parquet, so that results would "
        "become "
        "input. Give the output a folder of its own.",
        {"input.path": "**/*.parquet"},
    ),
    Bad(
        "input beneath output",
        "TMP/out: the input file TMP/out/rows/in.parquet lies beneath output.path. Give the "
        "output a "
        "folder of its own.",
        {"input.path": "out/rows/in.parquet"},
        lambda tmp: write_input(tmp, "out/rows/in.parquet"),
    ),
    Bad(
        "foreign folder",
        "TMP/out: the folder is not empty and not an output of batchr1 (it holds thesis.parquet). "
        "Give "
        "output.path a new or empty folder.",
        make=lambda tmp: write_input(tmp, "out/thesis.parquet"),
    ),
    Bad(
        "damaged job.json",
        "TMP/out/.batchr1/job.json: not the record of a job (something else changed it). Put it "
        "back, or "
        "start over with --fresh (deletes these results).",
        make=lambda tmp: (
            (tmp / "out/.batchr1").mkdir(parents=True),
            (tmp / "out/.batchr1/job.json").write_text("[]"),
        ),
    ),
]
MODELS = [
    Bad(
        "unknown variant with a suggestion",
        (
            "TMP/job.yaml: model.variant: unknown variant (got 'r1-distill-qwen7b'). Did you mean "
            "r1-distill-qwen-7b?"
        ),
        {"model": {"variant": "r1-distill-qwen7b"}},
    ),
    Bad(
        "unknown variant without a suggestion",
        "TMP/job.yaml: model.variant: unknown variant (got 'gpt'). Known: r1-tiny, "
        "r1-distill-qwen-1.5b, "
        "r1-distill-qwen-7b, r1-distill-llama-8b, r1-distill-qwen-14b, r1-distill-qwen-32b, "
        "r1-distill-llama-70b, r1-671b, r1-0528-671b.",
        {"model": {"variant": "gpt"}},
    ),
    Bad(
        "--variant that is unknown",
        "TMP/job.yaml: model.variant: unknown variant (got 'R1-Tiny!'). Did you mean r1-tiny?",
        args=("--variant", "R1-Tiny!"),
    ),
    Bad(
        "missing model folder",
        (
            "TMP/job.yaml: model TMP/model: there is no such folder. Give a folder with "
            "config.json "
            "and *.safetensors."
        ),
        {"model.path": "model"},
    ),
    Bad(
        "model without safetensors",
        "TMP/job.yaml: model TMP/model: no weights that batchr1 loads (got .bin, need "
        "*.safetensors). Give "
        "the folder of the model's original safetensors.",
        {"model.path": "model"},
        lambda tmp: empty_model(tmp, "config.json", "pytorch_model.bin"),
    ),
    Bad(
        "model with GGUF only",
        "TMP/job.yaml: model.path: GGUF is not supported (got 'TMP/model/model.gguf', need "
        "safetensors). "
        "Use the original model; for 4 bits, a variant with model.quantization w4a16.",
        {"model.path": "model"},
        lambda tmp: empty_model(tmp, "config.json", "model.gguf"),
    ),
    Bad(
        "model without config.json",
        "TMP/job.yaml: model TMP/model: has no config.json. Give a folder in Hugging Face layout.",
        {"model.path": "model"},
        lambda tmp: (copy_model(tmp) / "config.json").unlink(),
    ),
    Bad(
        "broken config.json",
        "TMP/job.yaml: model TMP/model: config.json is not readable JSON (Expecting property name "
        "enclosed "
        "in double quotes: line 1 column 2 (char 1)). Download it again.",
        {"model.path": "model"},
        lambda tmp: (copy_model(tmp) / "config.json").write_text("{"),
    ),
    Bad(
        "config.json without a context",
        "TMP/job.yaml: model TMP/model: config.json does not say how long the context is (need "
        "max_position_embeddings). Add it there.",
        {"model.path": "model"},
        lambda tmp: copy_model(tmp, max_position_embeddings=None),
    ),
    Bad(
        "broken tokenizer",
        "TMP/job.yaml: model TMP/model: its tokenizer cannot be loaded (JSONDecodeError: Expecting "
        "property name enclosed in double quotes: line 1 column 2 (char 1)). Give a folder with "
        "tokenizer.json and tokenizer_config.json, or a repository that is reachable or cached.",
        {"model.path": "model"},
        lambda tmp: (copy_model(tmp) / "tokenizer.json").write_text("{"),
    ),
    Bad(
        "no chat template",
        "TMP/job.yaml: model TMP/model: its tokenizer has no chat template (need "
        "chat_template.jinja, or "
        "chat_template in tokenizer_config.json). Use an instruction-tuned model, or add the "
        "template.",
        {"model.path": "model"},
        lambda tmp: (copy_model(tmp) / "tokenizer_config.json").write_text("{}"),
    ),
    Bad(
        "revision of a local model",
        (
            "TMP/job.yaml: model: revision belongs to repo or variant; a path has none (got both). "
            "Correct it."
        ),
        {"model.revision": "main"},
    ),
    Bad(
        "unknown engine argument with a suggestion",
        (
            "TMP/job.yaml: model.engine_args.max_num_seq: vLLM has no such argument. Did you mean "
            "max_num_seqs?"
        ),
        {"model.engine_args": {"max_num_seq": 8}},
    ),
    Bad(
        "unknown engine argument without a suggestion",
        "TMP/job.yaml: model.engine_args.turbo: vLLM has no such argument. See `vllm serve "
        "--help` for the "
        "names (with underscores).",
        {"model.engine_args": {"turbo": True}},
    ),
    Bad(
        "max_model_len above the context",
        "TMP/job.yaml: model.engine_args.max_model_len: longer than the model's context (got "
        "5000, need at "
        "most 4096). Lower it, or leave it out.",
        {"model.engine_args": {"max_model_len": 5000}},
    ),
    Bad(
        "max_num_seqs that is no number",
        (
            "TMP/job.yaml: model.engine_args.max_num_seqs: not a positive whole number (got "
            "'many'). "
            "Correct it."
        ),
        {"model.engine_args": {"max_num_seqs": "many"}},
    ),
    Bad(
        "tensor_parallel_size of zero",
        (
            "TMP/job.yaml: model.engine_args.tensor_parallel_size: not a positive whole number "
            "(got "
            "0). Correct it."
        ),
        {"model.engine_args": {"tensor_parallel_size": 0}},
    ),
]
CASES = [*JOB_FILES, *DEVICES, *DATASETS, *OUTPUTS, *MODELS]


@pytest.mark.parametrize("bad", CASES, ids=[bad.id for bad in CASES])
def test_a_bad_input_is_refused_in_exact_words_and_leaves_no_trace(
    bad: Bad, tmp_path: Path
) -> None:
    write_input(tmp_path)
    changes = json.loads(
        json.dumps(bad.changes, default=lambda v: None).replace("TMP", str(tmp_path))
    )
    job = write_job(
        tmp_path, {k: DROP if bad.changes[k] is DROP else v for k, v in changes.items()}
    )
    bad.make(tmp_path)
    before = snapshot(tmp_path)
    results = [batchr1("run", job, *bad.args)]
    if bad.checked:
        results.append(batchr1("check", job, *bad.args))
    for result in results:
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            f"batchr1: {bad.message}\n",
            bad.code,
            "",
        )
    assert snapshot(tmp_path) == before


def ready_output(tmp: Path, rows: int = 2) -> Path:
    """An output that the job of `write_job` has completed."""
    write_input(tmp, id=[f"row-{i}" for i in range(rows)])
    result = batchr1("run", write_job(tmp), engine=replay())
    assert result.exit_code == 0, result.stderr
    return tmp / "out"


def test_a_job_with_other_sampling_is_refused_with_the_difference_and_the_three_ways_out(
    tmp_path: Path,
) -> None:
    ready_output(tmp_path)
    job = write_job(tmp_path, {"sampling.temperature": 0.9})
    before = snapshot(tmp_path)
    for command in ("run", "check"):
        result = batchr1(command, job)
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            "batchr1: TMP/out: this output was made by a job that differs in what decides the "
            "answers:\n"
            "  sampling.temperature: 0.6 → 0.9\n"
            "Run the job as it was, or give a new output.path, or start over with --fresh "
            "(deletes these "
            "results).\n",
            2,
            "",
        )
    assert snapshot(tmp_path) == before


def test_fresh_without_a_terminal_wants_yes_and_deletes_nothing(tmp_path: Path) -> None:
    ready_output(tmp_path)
    before = snapshot(tmp_path)
    result = batchr1("run", tmp_path / "job.yaml", "--fresh")
    assert (said(result, tmp_path), result.exit_code, result.stdout) == (
        "batchr1: TMP/out: --fresh would delete 1 result files. Add --yes to agree.\n",
        2,
        "",
    )
    assert snapshot(tmp_path) == before


def test_fresh_asks_on_a_terminal_and_a_no_deletes_nothing(tmp_path: Path) -> None:
    ready_output(tmp_path)
    before = snapshot(tmp_path)
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    command = [sys.executable, "-m", "batchr1", "run", str(tmp_path / "job.yaml"), "--fresh"]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=120)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert f"{tmp_path}/out: delete 1 result files? [y/N]: " in done.stderr
    assert done.stderr.endswith("out: --fresh would delete 1 result files. Add --yes to agree.\n")
    assert snapshot(tmp_path) == before


def test_fresh_refuses_a_bad_input_before_it_deletes(tmp_path: Path) -> None:
    ready_output(tmp_path)
    write_input(tmp_path, id=["same", "same"])
    before = snapshot(tmp_path)
    result = batchr1("run", tmp_path / "job.yaml", "--fresh", "--yes")
    assert (said(result, tmp_path), result.exit_code) == (
        "batchr1: TMP/in.parquet: row 1: the id 'same' came before (got 1 repeated ids, need "
        "unique ones). "
        "Give input.id a unique column, or leave it out to use a hash of the prompt.\n",
        2,
    )
    assert snapshot(tmp_path) == before


def test_an_output_that_another_run_holds_is_refused(tmp_path: Path) -> None:
    ready_output(tmp_path)
    (tmp_path / "out/_SUCCESS").unlink()
    held = tmp_path / "out/.batchr1/lock"
    without_lock = {
        k: v for k, v in snapshot(tmp_path).items() if not k.startswith("out/.batchr1/lock")
    }
    with Lock.acquire(open_storage(tmp_path / "out"), run="night", heartbeat_s=0.1) as lock:
        result = batchr1("run", tmp_path / "job.yaml")
    assert held.exists()
    assert (said(result, tmp_path), result.exit_code, result.stdout) == (
        f"batchr1: TMP/out: another run holds the output (got run night on {lock.info.host}, pid "
        f"{os.getpid()}, since "
        f"{lock.info.started}, need it free). Wait for that run, stop it, or choose another "
        f"output.\n",
        4,
        "",
    )
    assert {
        k: v for k, v in snapshot(tmp_path).items() if not k.startswith("out/.batchr1/lock")
    } == without_lock


def test_rows_that_cannot_be_asked_fail_alone_and_status_names_them(tmp_path: Path) -> None:
    write_input(
        tmp_path,
        id=["good", "null", "blank", "long", "capped"],
        problem=["What is 1 + 1?", None, " \n", "What is 1 + 1? " * 2000, "What is 2 + 2?"],
        cap=[9, 9, 9, 9, 0],
    )
    job = write_job(tmp_path, {"input.max_tokens": "cap"})
    result = batchr1("run", job, engine=replay())
    assert (result.stderr, result.exit_code) == ("", 3)
    lines = result.stdout.splitlines()
    assert lines[0] == "5 rows = 1 done + 4 failed + 0 pending"
    assert lines[2:] == [
        "failed: 1 bad_max_tokens, 2 empty_prompt, 1 prompt_too_long",
        f"output: {tmp_path}/out",
        f"next: batchr1 status {tmp_path}/out --failed    (why rows failed)",
    ]
    status = batchr1("status", tmp_path / "out", "--failed")
    long = len(prompt_ids("What is 1 + 1? " * 2000))
    assert sorted(status.stdout.splitlines()) == [
        "blank\t0\tempty_prompt\tthe prompt is empty",
        "capped\t0\tbad_max_tokens\tthe row's own cap allows no token (got 0, need at least 1)",
        (
            f"long\t0\tprompt_too_long\tthe prompt is longer than the context (got {long} tokens, "
            f"need at most 4095)"
        ),
        "null\t0\tempty_prompt\tthe prompt is null",
    ]
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert left_behind(tmp_path) == []


def test_bad_messages_fail_alone_and_status_names_them(tmp_path: Path) -> None:
    user = {"role": "user", "content": "What is 1 + 1?"}
    chats = {
        "good": [user],
        "null": None,
        "none": [],
        "unknown role": [{"role": "tool", "content": "x"}, user],
        "no content": [{"role": "user", "content": None}],
        "model last": [user, {"role": "assistant", "content": "2"}],
    }
    pl.DataFrame({"id": list(chats), "chat": list(chats.values())}).write_parquet(
        tmp_path / "in.parquet"
    )
    job = write_job(tmp_path, {"input.prompt": DROP, "input.messages": "chat"})
    result = batchr1("run", job, engine=replay())
    assert (result.stderr, result.exit_code) == ("", 3)
    assert result.stdout.splitlines()[0] == "6 rows = 1 done + 5 failed + 0 pending"
    status = batchr1("status", tmp_path / "out", "--failed")
    assert sorted(status.stdout.splitlines()) == [
        "model last\t0\tbad_messages\tthe last message must be the user's (got role assistant)",
        "no content\t0\tbad_messages\tthe content of a message must be text",
        "none\t0\tbad_messages\tthe list of messages is empty",
        "null\t0\tempty_prompt\tthe prompt is null",
        (
            "unknown role\t0\tbad_messages\ta message has an unknown role (need one of system, "
            "developer, user, assistant)"
        ),
    ]


def test_max_failed_says_how_many_failed_rows_are_fine(tmp_path: Path) -> None:
    write_input(tmp_path, problem=["What is 1 + 1?", None])
    job = write_job(tmp_path, {"max_failed": 1})
    assert batchr1("run", job, engine=replay()).exit_code == 0
    assert (tmp_path / "out/_SUCCESS").exists()


def prompt_ids(problem: str) -> tuple[int, ...]:
    return PromptRenderer(load_tokenizer(MODEL)).render("0", problem).token_ids


def left_behind(folder: Path) -> list[str]:
    """Files that only an unfinished write leaves: temporaries, staged parts, anything in the
    temporary folder.
    """
    found = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    return [
        f for f in found if f.startswith("tmp/") or f.endswith(".tmp") or ".batchr1/staging/" in f
    ]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own at `folder`; skips the test where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_run_with_whole_files_only_and_the_run_goes_on_when_there_is_space(
    tmp_path: Path,
) -> None:
    ids = [f"row-{i}" for i in range(400)]
    write_input(tmp_path, id=ids, problem=[f"What is {i} + 1?" for i in range(400)])
    disk = tmp_path / "disk"
    job = write_job(
        tmp_path,
        {"output.path": "disk/out", "output.rows_per_part": 50, "output.token_ids": "always"},
    )
    with mounted(disk, "size=64k"):
        (tmp_path / "script.json").write_text("{}")
        program = [
            sys.executable,
            str(Path(__file__).parents[1] / "helpers/replay_job.py"),
            str(tmp_path / "script.json"),
        ]
        # A process of its own: where it cannot free its lock on the full disk, its death does.
        stopped = subprocess.run(
            [*program, "run", str(job)], capture_output=True, text=True, timeout=120
        )
        assert stopped.returncode == 75
        full = "the disk is full (got ENOSPC). Free some space, then run the same command again."
        assert "Traceback" not in stopped.stderr
        *_, why, _, go_on = stopped.stdout.splitlines()  # the summary that every run ends with
        assert why.startswith(f"stopped: {disk}/out/")
        assert why.endswith(f": {full}")
        assert go_on == f"next: batchr1 run {job}    (goes on from here)"
        done = sum(pq.read_table(part).num_rows for part in (disk / "out/data").iterdir())
        assert 0 < done < 400
        assert not (disk / "out/_SUCCESS").exists()
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        again = batchr1("run", job, engine=replay())
        assert (again.exit_code, again.stderr) == (0, "")
        assert again.stdout.splitlines()[0] == "400 rows = 400 done + 0 failed + 0 pending"
        assert f"this run: {400 - done:,} rows" in again.stdout.splitlines()[1]
        assert sorted(pl.read_parquet(disk / "out/data/*.parquet")["id"]) == sorted(ids)
        assert left_behind(tmp_path) == []


def test_a_disk_that_is_full_from_the_start_stops_the_run(tmp_path: Path) -> None:
    write_input(tmp_path)
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k"):
        (disk / "filler").write_bytes(b"x" * 65536)
        job = write_job(tmp_path, {"output.path": "disk/out"})
        result = batchr1("run", job, engine=replay())
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            "batchr1: TMP/disk/out/.batchr1/lock: the disk is full (got ENOSPC). "
            "Free some space, then run the same command again.\n",
            75,
            "",
        )
        assert [p.name for p in disk.rglob("*") if p.is_file()] == ["filler"]


def test_a_read_only_output_is_refused(tmp_path: Path) -> None:
    write_input(tmp_path)
    job = write_job(tmp_path, {"output.path": "disk/out"})
    with mounted(tmp_path / "disk", "ro"):
        before = snapshot(tmp_path)
        for command in ("run", "check"):
            result = batchr1(command, job)
            assert (said(result, tmp_path), result.exit_code, result.stdout) == (
                "batchr1: TMP/disk/out: cannot be written to (got no permission, or read-only: "
                "TMP/disk). "
                "Give another path.\n",
                2,
                "",
            )
        assert snapshot(tmp_path) == before


S3_CASES = [
    Bad(
        "missing bucket of an input",
        "s3://no-such-bucket-here/in.parquet: no such bucket (got NoSuchBucket 404). Check the "
        "bucket's "
        "name, storage.endpoint and storage.region.",
        {"input.path": "s3://no-such-bucket-here/in.parquet"},
    ),
    Bad(
        "missing key of an input",
        (
            "s3://BUCKET/nothing.parquet: no such file or folder (need .parquet or .jsonl files). "
            "Check the path."
        ),
        {"input.path": "s3://BUCKET/nothing.parquet"},
    ),
    Bad(
        "missing bucket of an output",
        "s3://no-such-bucket-here/out: no such bucket (got NoSuchBucket 404). Check the bucket's "
        "name, "
        "storage.endpoint and storage.region.",
        {"output.path": "s3://no-such-bucket-here/out"},
    ),
    Bad(
        "foreign prefix",
        "s3://BUCKET/theirs: the folder is not empty and not an output of batchr1 (it holds "
        "thesis.parquet). Give output.path a new or empty folder.",
        {"output.path": "s3://BUCKET/theirs"},
    ),
    Bad(
        "output beneath input on s3",
        "s3://BUCKET/theirs/out: output.path lies beneath input.path s3://BUCKET/theirs, so that "
        "results "
        "would become input. Give the output a folder of its own.",
        {"input.path": "s3://BUCKET/theirs", "output.path": "s3://BUCKET/theirs/out"},
    ),
    Bad(
        "no such profile",
        (
            "s3://BUCKET/in.parquet: no such AWS profile (got ProfileNotFound). Check "
            "storage.profile "
            "and AWS_PROFILE."
        ),
        {"input.path": "s3://BUCKET/in.parquet", "storage.profile": "nobody"},
    ),
]


@pytest.mark.parametrize("bad", S3_CASES, ids=[bad.id for bad in S3_CASES])
def test_a_bad_place_on_s3_is_refused_in_exact_words_and_leaves_no_trace(
    bad: Bad, tmp_path: Path, s3_moto: S3
) -> None:
    write_input(tmp_path)
    client = s3_moto.client()
    client.put_object(
        Bucket=s3_moto.bucket,
        Key="theirs/thesis.parquet",
        Body=(tmp_path / "in.parquet").read_bytes(),
    )
    changes = {k: v.replace("BUCKET", s3_moto.bucket) for k, v in bad.changes.items()}
    job = write_job(tmp_path, {"storage.endpoint": s3_moto.endpoint, **changes})
    before = snapshot(tmp_path)
    for command in ("run", "check"):
        result = batchr1(command, job)
        message = said(result, tmp_path).replace(s3_moto.bucket, "BUCKET")
        assert (message, result.exit_code, result.stdout) == (
            f"batchr1: {bad.message}\n",
            bad.code,
            "",
        )
    assert snapshot(tmp_path) == before
    assert [o["Key"] for o in client.list_objects_v2(Bucket=s3_moto.bucket)["Contents"]] == [
        "theirs/thesis.parquet"
    ]


@pytest.mark.parametrize(
    "answer", ["403 AccessDenied", "403 InvalidAccessKeyId", "403 SignatureDoesNotMatch"]
)
@pytest.mark.parametrize(
    ("key", "uri", "where"),
    [
        ("input.path", "s3://bucket/in.parquet", "s3://bucket/in.parquet"),
        ("output.path", "s3://bucket/out", "s3://bucket/out/.batchr1/job.json"),
    ],
)
def test_a_bucket_that_refuses_these_credentials_is_named_without_a_secret(
    key: str, uri: str, where: str, answer: str, tmp_path: Path, faulty_s3: FaultyS3
) -> None:
    write_input(tmp_path)
    job = write_job(tmp_path, {key: uri, "storage.endpoint": faulty_s3.options.endpoint})
    # The first request is a HEAD, whose answer has no body: the status is all that is known.
    message = (
        f"{where}: access is denied (got HTTP 403). Give these credentials the permission, "
        f"or use others."
    )
    before = snapshot(tmp_path)
    for command in ("run", "check"):
        faulty_s3.script = [answer] * 20
        result = batchr1(command, job)
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            f"batchr1: {message}\n",
            2,
            "",
        )
    assert snapshot(tmp_path) == before
