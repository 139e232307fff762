"""Engine arguments against the installed vLLM."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from replay_job import write_job

from batchr1.cli.main import main
from batchr1.engine.vllm import arguments
from batchr1.engine.vllm.arguments import engine_arg_names, require_vllm
from batchr1.engine.vllm.imports import start_error
from batchr1.errors import BatchError, EngineError, FailedError

ROOT = Path(__file__).parents[2]


def test_the_names_of_engine_arguments_are_those_of_the_installed_class() -> None:
    code = (
        "import dataclasses, json; from vllm import EngineArgs; print(json.dumps([f.name for f in "
        "dataclasses.fields(EngineArgs)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(engine_arg_names()) == set(json.loads(done.stdout.splitlines()[-1]))


def test_a_job_is_checked_without_vllm_and_run_with_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(tmp_path, model={"variant": "r1-tiny", "engine_args": {"max_num_seqs": 4}})
    rows = pl.DataFrame({"id": ["a"], "problem": ["What is 1 + 1?"]})
    rows.write_parquet(tmp_path / "in.parquet")
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    checked = CliRunner().invoke(main, ["check", str(job)])
    run = CliRunner().invoke(main, ["run", str(job)])

    assert checked.exit_code == 0
    assert "note     vllm: not installed here (need it to run a model). " in checked.stdout
    assert run.exit_code == 2
    assert "vllm: not installed here (need" in run.stderr
    assert not (tmp_path / "out").exists()


def run_with_vllm(tmp_path: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Run a job of one row where `import vllm` finds `source` first."""
    job = write_job(tmp_path, model={"variant": "r1-tiny"})
    pl.DataFrame({"id": ["a"], "problem": ["1 + 1?"]}).write_parquet(tmp_path / "in.parquet")
    package = tmp_path / "packages/vllm/__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(source)
    env = os.environ | {"PYTHONPATH": f"{package.parents[1]}:{ROOT}"}
    command = [sys.executable, "-m", "batchr1", "run", str(job)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ("raise RuntimeError('operator a::b does not exist')", "RuntimeError: operator a::b does"),
        ("import a_package_of_nobody", "ModuleNotFoundError: No module named 'a_package_of_nobody"),
        ("", "ModuleNotFoundError: No module named 'vllm.v1'"),
    ],
)
def test_packages_that_do_not_fit_end_a_run_for_good(tmp_path: Path, source: str, got: str) -> None:
    done = run_with_vllm(tmp_path, source)

    assert done.returncode == 1
    assert f"vllm: it cannot be imported here (got {got}" in done.stderr
    assert "Install those that requirements/cpu.txt or cuda.txt of batchr1 pins." in done.stderr
    assert "goes on from here" not in done.stdout


@pytest.mark.parametrize(
    "source",
    [
        "import errno; raise OSError(errno.EIO, 'no matter')",
        "raise ImportError('lib.so: cannot open shared object file: Too many open files')",
        "raise MemoryError",
    ],
)
def test_a_fault_of_the_machine_while_vllm_is_imported_may_pass(
    tmp_path: Path, source: str
) -> None:
    done = run_with_vllm(tmp_path, source)

    assert done.returncode == 75
    assert "(goes on from here)" in done.stdout


def test_a_value_that_vllm_refuses_ends_a_run_for_good(tmp_path: Path) -> None:
    args = {"kv_cache_dtype": "fp8_of_nobody"}
    job = write_job(tmp_path, model={"variant": "r1-tiny", "engine_args": args})
    pl.DataFrame({"id": ["a"], "problem": ["1 + 1?"]}).write_parquet(tmp_path / "in.parquet")
    command = [sys.executable, "-m", "batchr1", "run", str(job)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 1
    assert "refuses its configuration (CacheConfig.cache_dtype: Input should be" in done.stderr
    assert "Correct model.engine_args" in done.stderr
    assert "goes on from here" not in done.stdout
    assert not (tmp_path / "out/.batchr1/job.json").exists()


def caused_by(cause: BaseException) -> ValueError:
    """As vLLM's validators raise one; pydantic takes no other in."""
    error = ValueError("the configuration cannot be read")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ValueError("no such dtype"), FailedError),
        (caused_by(FileNotFoundError(errno.ENOENT, "config.json")), FailedError),
        (caused_by(OSError(errno.EIO, "config.json")), EngineError),
        (caused_by(caused_by(MemoryError())), EngineError),
    ],
    ids=repr,
)
def test_a_fault_of_the_machine_while_values_are_checked_may_pass(
    fault: Exception, kind: type[BatchError]
) -> None:
    refusal = ValidationError.from_exception_data(
        "ModelConfig", [{"type": "value_error", "loc": ("model",), "ctx": {"error": fault}}]
    )
    assert type(start_error("vLLM 0", refusal)) is kind


def test_vllm_is_found_without_being_imported() -> None:
    code = (
        "import sys; from batchr1.engine.vllm.arguments import *; "
        "check_engine_args(['max_num_seqs']); print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert (require_vllm() / "engine").is_dir()
