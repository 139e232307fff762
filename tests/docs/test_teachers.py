"""The script of docs/teachers.md teaches: the student comes nearer to the teacher."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scorable import TINY, scorable_output

from batchr1.scoring.columns import COLUMNS

PAGE = (Path(__file__).parents[2] / "docs/teachers.md").read_text(encoding="utf-8")


def test_the_page_lists_the_columns_with_their_types() -> None:
    rows = re.findall(r"^\| (`.+?) \| (`.+?) \|", PAGE, re.MULTILINE)
    names = [name for cell, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert names == [column.name for column in COLUMNS]
    for cell, types in rows:
        kinds = re.findall(r"`([^`]+)`", types)
        for at, name in enumerate(re.findall(r"`(\w+)`", cell)):
            [column] = [column for column in COLUMNS if column.name == name]
            said = re.sub(r"(element|item): |\[.*\]", "", str(column.type))
            assert kinds[min(at, len(kinds) - 1)] == said


@pytest.mark.timeout(900)
def test_twenty_steps_bring_a_noisy_student_nearer(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scorable_output(tmp_path / "out", 8)
    command = [sys.executable, "-m", "batchr1", "score", str(tmp_path / "out"), "--gpus", "none"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    torch.manual_seed(1)
    student = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(torch.randn_like(weight) * weight.std().nan_to_num(0.0) * 0.4)
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path / "student")
    [script] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "distil.py").write_text(script, encoding="utf-8")
    args = [sys.executable, "distil.py", "out-scores", "student"]
    done = subprocess.run(
        args, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True, env=env
    )
    losses = [float(kl) for kl in re.findall(r"KL ([\d.]+)", done.stdout)]
    assert len(losses) == 20
    assert losses[-1] < losses[0] / 4
