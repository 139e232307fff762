"""Bad inputs: each one ends with one exact line on stderr and its exit code, and leaves nothing behind.

The real command line runs, in this process. What can be seen to be wrong is refused before an engine is made, so that
these tests never load a model. Where rows fail or a disk fills up, the replay engine stands in for vLLM: driver,
worker process, tokenizer and Parquet are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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

from batchr1.cli.main import main
from batchr1.data.lock import Lock
from batchr1.data.prompts import load_tokenizer
from batchr1.data.storage import open_storage
from batchr1.engine.protocol import Sampling
from batchr1.run.messages import EngineSpec
from batchr1.sizing.catalogue import MODELS
from tests.conftest import S3, FaultyS3

DROP = object()
CONTEXT_LEN = 4096


def model_folder() -> Path:
    """r1-tiny, or the same model with random weights while r1-tiny is not there: nothing here depends on weights."""
    shipped = MODELS / "r1_tiny"
    return shipped if (shipped / "model.safetensors").exists() else Path("/tmp/rt/model")


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written to the machine's temporary folder is written below tmp_path, where it is seen."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("BATCHR1_TEST_UNSET", "CUDA_VISIBLE_DEVICES", "VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
        monkeypatch.delenv(name, raising=False)


def write_input(tmp: Path, name: str = "in.parquet", **columns: Any) -> Path:
    """A Parquet file of two good rows; `columns` replace or add to theirs (None takes one out)."""
    rows = len(next(iter(columns.values()), [0, 0]) or [0, 0])
    good = {"id": [f"row-{i}" for i in range(rows)], "problem": [f"What is {i} + 1?" for i in range(rows)]}
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
        "model": {"path": str(model_folder())},
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
    return runner.invoke(main, [str(a) for a in args], prog_name="batchr1", obj=engine, catch_exceptions=False)


def said(result: click.testing.Result, tmp: Path) -> str:
    """What came on stderr, this machine's folders replaced."""
    return result.stderr.replace(str(model_folder()), "MODEL").replace(str(tmp), "TMP")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, every folder with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@dataclass(frozen=True)
class Bad:
    """A bad input: how it comes about (on top of a good job and good rows), and what is said about it."""

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
    ids = pa.table({"id": [f"row-{i}" for i in range(5000)], "problem": ["x"] * 5000})
    pq.write_table(ids, path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:600] = b"\xff" * 400
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


def not_utf8(tmp: Path) -> None:
    bad = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": bad, "problem": ["a", "b"]}), tmp / "in.parquet")


def copy_model(tmp: Path, **config: Any) -> Path:
    """A folder with the model's files; `config` changes its config.json."""
    folder = tmp / "model"
    shutil.copytree(model_folder(), folder, ignore=shutil.ignore_patterns("recipe", "*.md"))
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def empty_model(tmp: Path, *names: str) -> None:
    (tmp / "model").mkdir()
    for name in names:
        (tmp / "model" / name).write_bytes(b"")


JOB_FILE = [
    Bad("unknown key with a suggestion", "", {"sampling.temprature": 0.6}),
    Bad("unknown key without a suggestion", "", {"sampling.zzz": 1}),
    Bad("unknown section", "", {"wrokers": 3}),
    Bad("wrong type", "", {"sampling.n": "four"}),
    Bad("wrong type, of several that are right", "", {"input.path": 3}),
    Bad("keep of a wrong type", "", {"output.keep": 5}),
    Bad("a value out of range", "", {"sampling.temperature": 3}),
    Bad("an endless interval", "", {"output.part_every_s": float("inf")}),
    Bad("a word that is not one of the choices", "", {"prompting.think": "always"}),
    Bad("a section that is not a mapping", "", {"sampling": "greedy"}),
    Bad("missing required key", "", {"input.path": DROP}),
    Bad("missing section", "", {"output": DROP}),
    Bad("two things wrong at once", "", {"sampling.n": 0, "sampling.temprature": 1}),
    Bad("a name that is not one", "", {"name": "a/b"}),
    Bad("duplicate key", "", make=text("name: a\nmodel: {variant: r1-tiny}\nname: b\n")),
    Bad("a key that is a list", "", make=text("name: a\n? [x, y]\n: 1\n")),
    Bad("YAML syntax error", "", make=text("name: a\nmodel: {variant: r1-tiny\ninput: 3\n")),
    Bad("not a mapping", "", make=text("- run\n- this\n")),
    Bad("empty job file", "", make=text("")),
    Bad("binary job file", "", make=lambda tmp: (tmp / "job.yaml").write_bytes(b"\xff\xfe\x00")),
    Bad("missing job file", "", make=lambda tmp: (tmp / "job.yaml").unlink()),
    Bad("a folder as job file", "", make=lambda tmp: ((tmp / "job.yaml").unlink(), (tmp / "job.yaml").mkdir())),
    Bad("--set without a value", "", args=("--set", "sampling.n")),
    Bad("--set of an unknown key", "", args=("--set", "sampling.max_token=5")),
    Bad("--set of a wrong type", "", args=("--set", "sampling.n=many")),
    Bad("--set below a value", "", args=("--set", "name.first=x")),
    Bad("--set of broken YAML", "", args=("--set", "output.keep=[a")),
    Bad("--limit below zero", "", args=("--limit", "-1")),
    Bad("two prompt sources", "", {"input.messages": "chat"}),
    Bad("no prompt source", "", {"input.prompt": DROP}),
    Bad("two models", "", {"model.variant": "r1-tiny"}),
    Bad("unset environment variable", "", {"input.path": "${BATCHR1_TEST_UNSET}/in.parquet"}),
    Bad("unknown variable", "", {"output.path": "out-{{ model }}"}),
    Bad("empty path", "", {"output.path": ""}),
    Bad("storage of another kind", "", {"output.path": "gs://bucket/out"}),
    Bad("credentials in the endpoint", "", {"storage.endpoint": "http://user:hunter2@host:9000"}),
    Bad("an endpoint that is no URL", "", {"storage.endpoint": "minio:9000"}),
    Bad("credentials in an input", "", {"input.path": "s3://key:hunter2@bucket/in.parquet"}),
]
MACHINE = [
    Bad("--gpus without GPUs", "", args=("--gpus", "3")),
    Bad("--gpus that is no number", "", args=("--gpus", "some")),
    Bad("--devices without GPUs", "", args=("--devices", "0,1")),
    Bad("--devices with --gpus", "", args=("--devices", "0", "--gpus", "1")),
    Bad("bad --stop-after", "", args=("--stop-after", "soon"), checked=False),
    Bad("malformed --stop-after", "", args=("--stop-after", "1.2.3h"), checked=False),
    Bad("bad --date", "", args=("--date", "today")),
]
DATASET = [
    Bad("missing input file", "", {"input.path": "nothing.parquet"}),
    Bad("empty glob", "", {"input.path": "parts/*.parquet"}),
    Bad("folder without data", "", {"input.path": "folder"}, lambda tmp: write_input(tmp, "folder/notes.csv")),
    Bad("empty folder", "", {"input.path": "folder"}, lambda tmp: (tmp / "folder").mkdir()),
    Bad("empty list of inputs", "", {"input.path": []}),
    Bad("missing id column", "", {"input.id": "key"}),
    Bad("missing prompt column", "", {"input.prompt": "question"}),
    Bad("missing gold column", "", {"input.gold": "answer"}),
    Bad("missing keep column", "", {"output.keep": ["subject"]}),
    Bad("missing renamed keep column", "", {"output.keep": {"topic": "subject"}}),
    Bad("missing where column", "", {"input.where": "grade > 2"}),
    Bad("missing template column", "", {"input.prompt": DROP, "input.template": "{problem} in {language}"}),
    Bad("missing max_tokens column", "", {"input.max_tokens": "budget"}),
    Bad("a column that is in the first file only", "", {"input.path": "*.parquet"},
        lambda tmp: write_input(tmp, "second.parquet", problem=None)),
    Bad("prompt column of numbers", "", {"input.prompt": "level"}),
    Bad("messages column of text", "", {"input.prompt": DROP, "input.messages": "problem"}),
    Bad("gold column of lists", "", {"input.gold": "answer"}, lambda tmp: write_input(tmp, answer=[["1"], ["2"]])),
    Bad("max_tokens column of text", "", {"input.max_tokens": "problem"}),
    Bad("id column of floats", "", make=lambda tmp: write_input(tmp, id=[0.5, 1.5])),
    Bad("kept column whose type changes", "", {"input.path": "*.parquet", "output.keep": ["level"]},
        lambda tmp: write_input(tmp, "second.parquet", id=["x", "y"], level=["hard", "easy"])),
    Bad("non-unique id", "", make=lambda tmp: write_input(tmp, id=["a", "b", "a", "c", "b", "a"])),
    Bad("non-unique id over two files", "", {"input.path": "*.parquet"}, lambda tmp: write_input(tmp, "second.parquet")),
    Bad("null id", "", make=lambda tmp: write_input(tmp, id=["a", "b", None])),
    Bad("empty dataset", "", make=lambda tmp: write_input(tmp, id=pa.array([], pa.string()), problem=pa.array([], pa.string()), level=pa.array([], pa.int64()))),
    Bad("where that keeps nothing", "", {"input.where": "level > 100"}),
    Bad("--limit 0", "", args=("--limit", "0")),
    Bad("where that is not SQL", "", {"input.where": "level >="}),
    Bad("where that is not a condition", "", {"input.where": "level + 1"}),
    Bad("where over many rows", "", {"input.where": "max(level) > 0"}),
    Bad("where without a column", "", {"input.where": "1 = 1"}),
    Bad("where that compares text with a number", "", {"input.where": "problem > 3"}),
    Bad("template with a lone brace", "", {"input.prompt": DROP, "input.template": "{problem"}),
    Bad("template without a column", "", {"input.prompt": DROP, "input.template": "Tell a joke."}),
    Bad("template with an expression", "", {"input.prompt": DROP, "input.template": "{problem.upper()}"}),
    Bad("garbage instead of Parquet", "", make=lambda tmp: (tmp / "in.parquet").write_bytes(b"garbage" * 100)),
    Bad("truncated Parquet", "", make=lambda tmp: truncate(write_input(tmp))),
    Bad("empty file instead of Parquet", "", make=lambda tmp: (tmp / "in.parquet").write_bytes(b"")),
    Bad("Parquet with a damaged page", "", make=damage_page),
    Bad("text that is not UTF-8", "", make=not_utf8),
    Bad("broken JSON line", "", {"input.path": "in.jsonl"},
        lambda tmp: (tmp / "in.jsonl").write_text('{"id": "a", "problem": "x"}\n{"id": "b", "problem": \n')),
    Bad("empty JSON lines file", "", {"input.path": "in.jsonl"}, lambda tmp: (tmp / "in.jsonl").write_text("")),
    Bad("exclude that is no output", "", {"input.exclude": ["yesterday"]}),
]  # fmt: skip
OUTPUT = [
    Bad("keep that collides with a column", "", {"output.keep": ["problem", "prompt"]}, lambda tmp: write_input(tmp, prompt=["x", "y"])),
    Bad("keep all that collides with itself", "", {"output.keep": "all"}, lambda tmp: write_input(tmp, prompt=["x", "y"], input_prompt=["v", "w"])),
    Bad("a file in the output's way", "", make=lambda tmp: (tmp / "out").write_text("mine")),
    Bad("a file above the output", "", {"output.path": "file/out"}, lambda tmp: (tmp / "file").write_text("mine")),
    Bad("output beneath input", "", {"input.path": "rows", "output.path": "rows/out"}, lambda tmp: write_input(tmp, "rows/in.parquet")),
    Bad("output beneath input, as a URI", "", {"input.path": "file://TMP/rows", "output.path": "rows/out"}, lambda tmp: write_input(tmp, "rows/in.parquet")),
    Bad("output beneath a glob", "", {"input.path": "**/*.parquet"}),
    Bad("input beneath output", "", {"input.path": "out/rows/in.parquet"}, lambda tmp: write_input(tmp, "out/rows/in.parquet")),
    Bad("foreign folder", "", make=lambda tmp: write_input(tmp, "out/thesis.parquet")),
    Bad("damaged job.json", "", make=lambda tmp: ((tmp / "out/.batchr1").mkdir(parents=True), (tmp / "out/.batchr1/job.json").write_text("[]"))),
]  # fmt: skip
MODEL = [
    Bad("unknown variant with a suggestion", "", {"model": {"variant": "r1-distill-qwen7b"}}),
    Bad("unknown variant without a suggestion", "", {"model": {"variant": "gpt"}}),
    Bad("--variant that is unknown", "", args=("--variant", "R1-Tiny!")),
    Bad("missing model folder", "", {"model.path": "model"}),
    Bad("model without safetensors", "", {"model.path": "model"}, lambda tmp: empty_model(tmp, "config.json", "pytorch_model.bin")),
    Bad("model with GGUF only", "", {"model.path": "model"}, lambda tmp: empty_model(tmp, "config.json", "model.gguf")),
    Bad("model without config.json", "", {"model.path": "model"}, lambda tmp: (copy_model(tmp) / "config.json").unlink()),
    Bad("broken config.json", "", {"model.path": "model"}, lambda tmp: (copy_model(tmp) / "config.json").write_text("{")),
    Bad("config.json without a context", "", {"model.path": "model"}, lambda tmp: copy_model(tmp, max_position_embeddings=None)),
    Bad("broken tokenizer", "", {"model.path": "model"}, lambda tmp: (copy_model(tmp) / "tokenizer.json").write_text("{")),
    Bad("no chat template", "", {"model.path": "model"}, lambda tmp: (copy_model(tmp) / "tokenizer_config.json").write_text("{}")),
    Bad("revision of a local model", "", {"model.revision": "main"}),
    Bad("unknown engine argument with a suggestion", "", {"model.engine_args": {"max_num_seq": 8}}),
    Bad("unknown engine argument without a suggestion", "", {"model.engine_args": {"turbo": True}}),
    Bad("max_model_len above the context", "", {"model.engine_args": {"max_model_len": 5000}}),
    Bad("max_num_seqs that is no number", "", {"model.engine_args": {"max_num_seqs": "many"}}),
    Bad("tensor_parallel_size of zero", "", {"model.engine_args": {"tensor_parallel_size": 0}}),
]  # fmt: skip
CASES = [*JOB_FILE, *MACHINE, *DATASET, *OUTPUT, *MODEL]


@pytest.mark.parametrize("bad", CASES, ids=[bad.id for bad in CASES])
def test_a_bad_input_is_refused_in_exact_words_and_leaves_no_trace(bad: Bad, tmp_path: Path) -> None:
    write_input(tmp_path)
    changes = json.loads(json.dumps(bad.changes, default=lambda v: None).replace("TMP", str(tmp_path)))
    job = write_job(tmp_path, {k: DROP if bad.changes[k] is DROP else v for k, v in changes.items()})
    bad.make(tmp_path)
    before = snapshot(tmp_path)
    results = [batchr1("run", job, *bad.args)]
    if bad.checked:
        results.append(batchr1("check", job, *bad.args))
    for result in results:
        print("@@", bad.id, "@@", repr(said(result, tmp_path)), result.exit_code, result.stdout)
    for result in results:
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (bad.message, bad.code, "")
    assert snapshot(tmp_path) == before
