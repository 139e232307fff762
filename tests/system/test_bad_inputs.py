"""Bad inputs end with one exact line and an exit code, and leave nothing behind.

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
from replay_job import MODEL, replay, scripted
from s3_fakes import S3, FaultyS3

from batchr1.cli.main import main
from batchr1.dataset.prompts import PromptRenderer, load_tokenizer
from batchr1.storage.base import open_storage
from batchr1.storage.lock import Lock

DROP = object()
TABLE = yaml.safe_load(
    (Path(__file__).parents[1] / "data/bad_jobs.yaml").read_text(encoding="utf-8")
)


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


def batchr1(*args: str | Path, engine: dict[str, Any] | None = None) -> click.testing.Result:
    """Run the command line; an exception of another kind than ours fails the test."""
    runner = click.testing.CliRunner()
    words = [str(a) for a in args]
    if engine is not None:
        scripted(words, engine)
    return runner.invoke(main, words, prog_name="batchr1", catch_exceptions=False)


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


def from_table(section: str) -> list[Bad]:
    """Cases of tests/data/bad_jobs.yaml."""
    cases = []
    for case in TABLE[section]:
        changes = {
            key: DROP if value == "<drop>" else value
            for key, value in case.pop("changes", {}).items()
        }
        if "job" in case:
            case["make"] = text(case.pop("job"))
        cases.append(Bad(**case | {"changes": changes, "args": tuple(case.get("args", ()))}))
    return cases


JOB_FILES = [
    *from_table("job_files"),
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
]
DEVICES = [
    *from_table("devices"),
]
DATASETS = [
    *from_table("datasets"),
    Bad(
        "folder without data",
        "TMP/folder: no data files (got .txt, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first.",
        {"input.path": "folder"},
        lambda tmp: write_input(tmp, "folder/notes.txt"),
    ),
    Bad(
        "empty folder",
        "TMP/folder: no data files (got no file, need .parquet, .jsonl, .csv or .tsv). "
        "Convert the data first.",
        {"input.path": "folder"},
        lambda tmp: (tmp / "folder").mkdir(),
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
        "gold column of lists",
        "TMP/in.parquet: input.gold: column 'answer' has the wrong type (got list<element: "
        "string>, need text or numbers). Name another column, or convert it.",
        {"input.gold": "answer"},
        lambda tmp: write_input(tmp, answer=[["1"], ["2"]]),
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
        "(got string, need int64). Convert it, or do not keep it.",
        {"input.path": "*.parquet", "output.keep": ["level"]},
        lambda tmp: write_input(tmp, "second.parquet", id=["x", "y"], level=["hard", "easy"]),
    ),
    Bad(
        "non-unique id",
        "TMP/in.parquet: row 2: the id 'a' came before, in row 0 (3 in all; rows count from 0). "
        "Take repeated rows out, give input.id a unique column, or leave it out: then equal "
        "prompts are one row.",
        make=lambda tmp: write_input(tmp, id=["a", "b", "a", "c", "b", "a"]),
    ),
    Bad(
        "non-unique id over two files",
        "TMP/second.parquet: row 0: the id 'row-0' came before, in TMP/in.parquet: row 0 (2 in "
        "all; rows count from 0). Take repeated rows out, give input.id a unique column, or leave "
        "it out: then equal prompts are one row.",
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
        "path, where and limit, or set input.allow_empty: true where a night may bring none.",
        make=lambda tmp: write_input(
            tmp,
            id=pa.array([], pa.string()),
            problem=pa.array([], pa.string()),
            level=pa.array([], pa.int64()),
        ),
    ),
    Bad(
        "garbage instead of Parquet",
        "TMP/in.parquet: not a readable Parquet file (Parquet magic bytes not found in footer. "
        "Either the file is corrupted or this is not a parquet file). Write it again, or take it "
        "out.",
        make=lambda tmp: (tmp / "in.parquet").write_bytes(b"garbage" * 100),
    ),
    Bad(
        "truncated Parquet",
        "TMP/in.parquet: not a readable Parquet file (Parquet magic bytes not found in footer. "
        "Either the file is corrupted or this is not a parquet file). Write it again, or take it "
        "out.",
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
            "it again, or take it out."
        ),
        make=damage_page,
    ),
    Bad(
        "text that is not UTF-8",
        "TMP/in.parquet: not a readable Parquet file (In column 0: Invalid: Invalid UTF8 sequence "
        "at string index 1). Write it again, or take it out.",
        make=not_utf8,
    ),
    Bad(
        "broken JSON line",
        "TMP/in.jsonl: line 2: not a readable JSON lines file (Expecting value). Correct the line, "
        "or take it out.",
        {"input.path": "in.jsonl"},
        lambda tmp: (tmp / "in.jsonl").write_text(
            '{"id": "a", "problem": "x"}\n{"id": "b", "problem": \n'
        ),
    ),
    Bad(
        "empty JSON lines file",
        (
            "TMP/in.jsonl: not a readable data file (no row, no column). Write it again, or take "
            "it out."
        ),
        {"input.path": "in.jsonl"},
        lambda tmp: (tmp / "in.jsonl").write_text(""),
    ),
]
OUTPUTS = [
    *from_table("outputs"),
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
        "'prompt' in TMP/in.parquet). List the columns to keep, or give them names: keep: "
        "{new_name: old_name}.",
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
        "input. Give the output a folder of its own.",
        {"input.path": "rows", "output.path": "rows/out"},
        lambda tmp: write_input(tmp, "rows/in.parquet"),
    ),
    Bad(
        "output beneath input, as a URI",
        "TMP/rows/out: output.path lies beneath input.path file://TMP/rows, so that results would "
        "become input. Give the output a folder of its own.",
        {"input.path": "file://TMP/rows", "output.path": "rows/out"},
        lambda tmp: write_input(tmp, "rows/in.parquet"),
    ),
    Bad(
        "input beneath output",
        "TMP/out: the input file TMP/out/rows/in.parquet lies beneath output.path. Give the output "
        "a folder of its own.",
        {"input.path": "out/rows/in.parquet"},
        lambda tmp: write_input(tmp, "out/rows/in.parquet"),
    ),
    Bad(
        "foreign folder",
        "TMP/out: the folder is not empty and not an output of batchr1 (it holds thesis.parquet). "
        "Give output.path a new or empty folder.",
        make=lambda tmp: write_input(tmp, "out/thesis.parquet"),
    ),
    Bad(
        "damaged job.json",
        "TMP/out/.batchr1/job.json: not the record of a job (something else changed it). Put it "
        "back, or start over with --fresh (deletes these results).",
        make=lambda tmp: (
            (tmp / "out/.batchr1").mkdir(parents=True),
            (tmp / "out/.batchr1/job.json").write_text("[]"),
        ),
    ),
]
REASONING_MODELS = [
    *from_table("reasoning_models"),
    Bad(
        "a template that is broken",
        "TMP/job.yaml: model MODEL: its chat template cannot be rendered (Unexpected end of "
        "template. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost "
        "block that needs to be closed is 'for'.). Correct it, or give one in prompting.template.",
        {"prompting.template": "broken.jinja"},
        lambda tmp: (tmp / "broken.jinja").write_text("{% for m in messages %}"),
    ),
    Bad(
        "a template without the user's words",
        "TMP/job.yaml: model MODEL: its chat template leaves out what the user says (got a prompt "
        "without the question). Give one that renders it in prompting.template.",
        {"prompting.template": "mute.jinja"},
        lambda tmp: (tmp / "mute.jinja").write_text("{{ bos_token }}<think>\n"),
    ),
    Bad(
        "a template that closes the block",
        "TMP/job.yaml: model MODEL: its chat template closes the think block at once, so the "
        "model would not reason (got an empty block, need an open one). Use a template for "
        "reasoning, or set prompting.think to auto.",
        {"prompting.template": "closed.jinja"},
        lambda tmp: (tmp / "closed.jinja").write_text(
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}<think>\n</think>\n"
        ),
    ),
    Bad(
        "an adapter without a config",
        "TMP/job.yaml: model.adapter TMP/a: no readable adapter_config.json (got "
        "FileNotFoundError). Give the folder that PEFT saved.",
        {"model.adapter": "a"},
        lambda tmp: (tmp / "a").mkdir(),
    ),
]
MODELS = [
    *from_table("models"),
    Bad(
        "model without safetensors",
        "TMP/job.yaml: model TMP/model: no weights that batchr1 loads (got .bin, need "
        "*.safetensors). Give the folder of the model's original safetensors.",
        {"model.path": "model"},
        lambda tmp: empty_model(tmp, "config.json", "pytorch_model.bin"),
    ),
    Bad(
        "model with GGUF only",
        "TMP/job.yaml: model.path: GGUF is not supported (got 'TMP/model/model.gguf', need "
        "safetensors). Give the original model's repository as model.repo, or its folder as "
        "model.path: a GGUF's card names it as base_model. For 4 bits use a variant with "
        "model.quantization w4a16.",
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
        "enclosed in double quotes: line 1 column 2 (char 1)). Download it again.",
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
        "chat_template.jinja, or chat_template in tokenizer_config.json). Use an instruction-tuned "
        "model, or give a template in prompting.template.",
        {"model.path": "model"},
        lambda tmp: (copy_model(tmp) / "tokenizer_config.json").write_text("{}"),
    ),
]


CASES = [*JOB_FILES, *DEVICES, *DATASETS, *OUTPUTS, *MODELS, *REASONING_MODELS]


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
    scripted([str(job)], replay())
    before = snapshot(tmp_path)
    for command in ("run", "check"):
        result = batchr1(command, job)
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            "batchr1: TMP/out: this output was made by a job that differs in what decides the "
            "answers:\n"
            "  sampling.temperature: 0.6 → 0.9\n"
            "Run the job as it was, or give a new output.path, or start over with --fresh (deletes "
            "these results).\n",
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
        "batchr1: TMP/in.parquet: row 1: the id 'same' came before, in row 0 (1 in all; rows count "
        "from 0). Take repeated rows out, give input.id a unique column, or leave it out: then "
        "equal prompts are one row.\n",
        2,
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("complete", [False, True])
def test_an_output_that_another_run_holds_is_refused(tmp_path: Path, complete: bool) -> None:
    ready_output(tmp_path)
    if not complete:
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
        f"{os.getpid()}, since {lock.info.started}, need it free). Wait for that run, stop it, or "
        "choose another output.\n",
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
    assert result.exit_code == 3
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
            "need at most 4095)"
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
        "unknown role": [{"role": "narrator", "content": "x"}, user],
        "no call": [{"role": "tool", "content": "x"}, user],
        "no content": [{"role": "user", "content": None}],
        "model last": [user, {"role": "assistant", "content": "2"}],
    }
    pl.DataFrame({"id": list(chats), "chat": list(chats.values())}).write_parquet(
        tmp_path / "in.parquet"
    )
    job = write_job(tmp_path, {"input.prompt": DROP, "input.messages": "chat"})
    result = batchr1("run", job, engine=replay())
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0] == "7 rows = 1 done + 6 failed + 0 pending"
    status = batchr1("status", tmp_path / "out", "--failed")
    assert sorted(status.stdout.splitlines()) == [
        "model last\t0\tbad_messages\tthe last message must be the user's (got role assistant)",
        "no call\t0\tbad_messages\ta tool's answer has no call in the dialogue",
        "no content\t0\tbad_messages\tthe content of a message must be text",
        "none\t0\tbad_messages\tthe list of messages is empty",
        "null\t0\tempty_prompt\tthe prompt is null",
        (
            "unknown role\t0\tbad_messages\ta message has an unknown role (need one of system, "
            "developer, user, assistant, tool)"
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
    with mounted(disk, "size=96k"):
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
        assert again.exit_code == 0
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
            "batchr1: TMP/disk/out/.batchr1/lock: the disk is full (got ENOSPC). Free some space, "
            "then run the same command again.\n",
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
                "TMP/disk). Give another path.\n",
                2,
                "",
            )
        assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_system_that_takes_no_folders_is_refused(tmp_path: Path) -> None:
    """Its mode says that root may write there, and making a folder says "no such file"."""
    write_input(tmp_path)
    job = write_job(tmp_path, {"output.path": "/proc/out"})
    for command in ("check", "run"):
        result = batchr1(command, job)
        assert (said(result, tmp_path), result.exit_code, result.stdout) == (
            "batchr1: /proc/out: no folder can be made here (got ENOENT). Choose another path.\n",
            2,
            "",
        )


def test_check_tries_whether_the_output_takes_files_and_leaves_none(tmp_path: Path) -> None:
    write_input(tmp_path)
    job = write_job(tmp_path, {"output.path": "new/out"})
    before = snapshot(tmp_path)
    assert batchr1("check", job).exit_code == 0
    assert snapshot(tmp_path) == before


def test_check_finds_a_bucket_that_can_be_read_but_not_written(
    tmp_path: Path, faulty_s3: FaultyS3
) -> None:
    write_input(tmp_path)
    endpoint = faulty_s3.options.endpoint
    job = write_job(tmp_path, {"output.path": "s3://bucket/out", "storage.endpoint": endpoint})
    nothing = "200 <ListBucketResult></ListBucketResult>"
    faulty_s3.script = ["404 NoSuchKey", nothing, *["403 AccessDenied"] * 9]
    result = batchr1("check", job)
    assert (said(result, tmp_path), result.exit_code, result.stdout) == (
        "batchr1: s3://bucket/out: access is denied (got AccessDenied 403). Give these "
        "credentials the permission, or use others.\n",
        2,
        "",
    )


S3_CASES = [
    *from_table("s3"),
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
        f"{where}: access is denied (got HTTP 403). Give these credentials the permission, or use "
        "others."
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
