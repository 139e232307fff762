"""The wheel: what is in it, and a run from it in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_BYTES = 12 * 10**6  # 9.4 MB of them are r1-tiny


def ran(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def built(folder: Path) -> Path:
    """Build the wheel from a copy of what it is made of."""
    source = folder / "source"
    shutil.copytree(ROOT / "batchr1", source / "batchr1", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "-w", folder]
    ran(sys.executable, "-m", "pip", "wheel", *options, source, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_copied_job_runs_from_the_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    wheel = built(tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "batchr1/models/r1_tiny/model.safetensors" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"batchr1"}
    assert wheel.stat().st_size < MOST_BYTES

    ran(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    pinned = ROOT / "requirements/cpu.txt"
    [torch] = re.findall(r"^torch==\S+", pinned.read_text(), re.MULTILINE)
    index = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
    ran(*pip, "--extra-index-url", index, torch, cwd=tmp_path)
    ran(*pip, "-r", pinned, cwd=tmp_path)
    ran(*pip, wheel, cwd=tmp_path)

    (tmp_path / "mine/jobs/data").mkdir(parents=True)
    for name in ("math.yaml", "data/math.parquet"):
        shutil.copy(ROOT / "jobs" / name, tmp_path / "mine/jobs" / name)
    batchr1 = tmp_path / "venv/bin/batchr1"
    said = ran(batchr1, "run", "jobs/math.yaml", "--limit", "8", cwd=tmp_path / "mine")
    assert said.startswith("8 rows = 8 done + 0 failed + 0 pending\n")
    ran(batchr1, "schema", "job", cwd=tmp_path)
