"""docs/tutorial.md: every block runs, in order, and prints the lines that are shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(python|yaml|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_block_runs_and_prints_what_is_shown(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 10

    for kind, text in blocks:
        if kind == "yaml":
            (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        elif kind == "python":
            output_of([sys.executable, "-c", text], tmp_path)
        else:
            run_commands(text, tmp_path)


def run_commands(text: str, folder: Path) -> None:
    """Run the commands of a block, and look for the lines below each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        program, *args = shlex.split(command)
        assert program == "batchr1"
        printed = output_of([sys.executable, "-m", "batchr1", *args], folder)
        printed = printed.replace(f"{folder}/", "")
        missing = [line for line in shown if line not in printed.splitlines()]
        assert missing == [], f"{command}: not in\n{printed}"


def output_of(command: list[str], folder: Path) -> str:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
