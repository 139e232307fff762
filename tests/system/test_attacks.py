"""Inputs that attack, against real processes: one line, in seconds, in at most 2 GB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peak_rss import forget_peak
from replay_job import MODEL, replay, set_engine, write_job

MEMORY_GB = 2.0
# Of CPU time, which other work on the machine does not use up; it takes 2 to 10.
CPU_SECONDS = 60
# Whatever waits for ever is ended then.
KILL_SECONDS = 600


def table(folder: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), folder / "in.parquet", store_schema=False)


def repeated(text: str, rows: int) -> pa.Array:
    """One value, named by every row: small in the file, and large once it is decoded."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def numbers(rows: int) -> pa.Array:
    return pa.array(range(rows)).cast(pa.string())


def fifo_in_a_folder(folder: Path) -> dict[str, Any]:
    (folder / "in").mkdir()
    os.mkfifo(folder / "in/a.parquet")
    return {"input": {"path": "in"}}


def fifo_by_name(folder: Path) -> dict[str, Any]:
    os.mkfifo(folder / "in.parquet")
    return {}


def brackets(depth: int) -> Callable[[Path], dict[str, Any]]:
    def lay(folder: Path) -> dict[str, Any]:
        nested = "[" * depth + "]" * depth
        (folder / "in.jsonl").write_text(f'{{"id":"a","problem":"1","x":{nested}}}\n')
        return {"input": {"path": "in.jsonl"}, "output": {"keep": ["x"]}}

    return lay


def endless_line(folder: Path) -> dict[str, Any]:
    with (folder / "in.jsonl").open("wb") as file:
        file.truncate(300 * 2**20)
    return {"input": {"path": "in.jsonl"}}


def where_on_large_values(folder: Path) -> dict[str, Any]:
    table(folder, id=numbers(5000), problem=["1"] * 5000, big=repeated("x" * 10**6, 5000))
    return {"input": {"where": "big LIKE 'y%'"}}


def kept_large_values(folder: Path) -> dict[str, Any]:
    table(folder, id=numbers(5000), problem=["1"] * 5000, big=repeated("x" * 10**6, 5000))
    return {"output": {"keep": ["big"]}}


def one_huge_prompt(folder: Path) -> dict[str, Any]:
    table(folder, id=["a", "b"], problem=["x" * 50_000_000, "1?"])
    return {}


def template_that_loops(folder: Path) -> dict[str, Any]:
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3
    template = f"{loops}{{{{ messages[0].content }}}}"
    table(folder, id=["a"], problem=["1"])
    (folder / "template.jinja").write_text(template)
    return {"prompting": {"template": "template.jinja"}}


def template_with_a_long_range(folder: Path) -> dict[str, Any]:
    table(folder, id=["a"], problem=["1"])
    (folder / "template.jinja").write_text("{% for i in range(99999999999) %}{% endfor %}")
    return {"prompting": {"template": "template.jinja"}}


def condition_of_brackets(folder: Path) -> dict[str, Any]:
    table(folder, id=["a"], problem=["1"])
    return {"input": {"where": "(" * 5000 + "id = 'a'" + ")" * 5000}}


def aliases_of_billions(folder: Path) -> dict[str, Any]:
    """YAML writes a list that is named often as aliases."""
    table(folder, id=["a"], problem=["1"])
    nested: list[Any] = [1] * 10
    for _ in range(11):
        nested = [nested] * 10
    return {"model": {"engine_args": {"a": nested}}}


def absurd_config(key: str) -> Callable[[Path], dict[str, Any]]:
    """Lay a copy of r1-tiny, but for one size of its config."""

    def lay(folder: Path) -> dict[str, Any]:
        table(folder, id=["a"], problem=["1"])
        (folder / "model").mkdir()
        for path in Path(MODEL).iterdir():
            (folder / "model" / path.name).symlink_to(path)
        config = json.loads((Path(MODEL) / "config.json").read_text(encoding="utf-8"))
        (folder / "model/config.json").unlink()
        (folder / "model/config.json").write_text(json.dumps({**config, key: 10**18}))
        return {"model": {"variant": None, "path": "model"}}

    return lay


ATTACKS: dict[str, tuple[Callable[[Path], dict[str, Any]], int, str]] = {
    "a FIFO among the files": (fifo_in_a_folder, 2, "in: no data files"),
    "a FIFO by its name": (fifo_by_name, 2, "not a regular file (got a FIFO, socket or device"),
    "500 brackets": (brackets(500), 2, "'x': nested too deep (got 65 levels, need at most 64)"),
    "20,000 brackets": (brackets(20_000), 2, "line 1: nested too deep (got about as many brackets"),
    "a line without end": (endless_line, 2, "line 1: too long (got more than 268,435,456 bytes)"),
    "where on 5 GB of a 100 kB file": (
        where_on_large_values,
        2,
        "input: no rows (got 0 after where",
    ),
    "5 GB of kept values in 100 kB": (kept_large_values, 0, "5,000 pending"),
    "a prompt of 50 MB": (one_huge_prompt, 0, "bad rows 1 prompt_too_long"),
    "a template that loops": (template_that_loops, 2, "its chat template does not end"),
    "a template with a long range": (
        template_with_a_long_range,
        2,
        "its chat template cannot be rendered (Range too big.",
    ),
    "a condition of brackets": (condition_of_brackets, 2, "input.where: nested too deep"),
    "aliases of billions of values": (
        aliases_of_billions,
        2,
        "not valid YAML (aliases stand for more than 100,000 values). Correct that line.",
    ),
    **{
        f"a config whose {key} is 10^18": (
            absurd_config(key),
            2,
            f"config.json's {key} is not a size (got 1000000000000000000, need a whole number",
        )
        for key in ("num_hidden_layers", "hidden_size", "vocab_size")
    },
}


def measured(folder: Path, *words: str) -> tuple[int, str, float, float]:
    """Run a command. Returns its exit code, what it said, its CPU seconds and its memory in GB."""
    forget_peak()  # of earlier tests, in the process that the command is forked from
    process = subprocess.Popen(
        [sys.executable, "-m", "batchr1", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stdout is not None
    killer = Timer(KILL_SECONDS, process.kill)
    killer.start()
    with process.stdout:
        said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return process.returncode, said, seconds, usage.ru_maxrss / 2**20


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_meets_a_line_within_seconds_and_two_gigabytes(tmp_path: Path, name: str) -> None:
    lay, expected, line = ATTACKS[name]
    job = set_engine(write_job(tmp_path, **lay(tmp_path)), replay())
    code, said, seconds, memory = measured(tmp_path, "check", str(job))
    assert code == expected, said
    assert "Traceback" not in said
    assert line in said
    assert memory <= MEMORY_GB
    assert seconds <= CPU_SECONDS


def test_a_fifo_among_the_checkpoints_is_passed_over(tmp_path: Path) -> None:
    table(tmp_path, id=["a"], problem=["1"])
    job = set_engine(write_job(tmp_path), replay())
    inflight = tmp_path / "out/.batchr1/inflight"
    assert measured(tmp_path, "run", str(job), "--json")[0] == 0
    table(tmp_path, id=["a", "b"], problem=["1", "2"])
    inflight.mkdir(parents=True, exist_ok=True)
    os.mkfifo(inflight / "snap-old-0-0-1.bin")
    os.mkfifo(inflight / "snap-old-carried.bin")
    code, said, seconds, _ = measured(tmp_path, "run", str(job), "--json")
    assert code == 0, said
    assert json.loads(said.splitlines()[-1])["done"] == 2
    assert seconds <= CPU_SECONDS
