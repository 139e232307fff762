"""Think-tag families: one value, which prompts, split, budgets, flags and export take alike."""

from __future__ import annotations

import re
from pathlib import Path

import batchr1
from batchr1.reasoning.formats import R1

PACKAGE = Path(batchr1.__file__).parent
HOME = PACKAGE / "reasoning/formats.py"


def test_tags_are_spelled_in_one_module_only() -> None:
    spelled = [
        path
        for path in PACKAGE.rglob("*.py")
        if path != HOME and re.search(r"""["'](?:</?think>)""", path.read_text(encoding="utf-8"))
    ]
    assert spelled == []


def test_a_prompt_that_is_opened_ends_open_and_not_empty() -> None:
    prompt = f"<｜Assistant｜>{R1.opening}"
    assert R1.ends_open(prompt) and not R1.ends_empty(prompt)
    closed = f"{prompt}\n{R1.close}\n\n"
    assert R1.ends_empty(closed) and not R1.ends_open(closed)
    assert not R1.ends_open(f"{prompt}Okay,")


def test_a_turn_is_laid_out_with_its_tags() -> None:
    assert R1.inline("so", "42") == "<think>\nso\n</think>\n\n42"
