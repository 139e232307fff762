"""Outputs of r1-tiny that no engine made, with the token ids that it could have chosen."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from made_output import good_row, table_of, write_output

from batchr1.dataset.prompts import Prompt, PromptRenderer
from batchr1.dataset.tokenizer import load_tokenizer
from batchr1.dataset.without_torch import keep_torch
from batchr1.models.catalogue import VARIANTS
from batchr1.output.folder import Output

TINY = Path(str(VARIANTS["r1-tiny"].path))


@functools.cache
def tokenizer() -> Any:
    keep_torch()
    return load_tokenizer(str(TINY))


@functools.cache
def renderer() -> PromptRenderer:
    return PromptRenderer(tokenizer())


def question(number: int) -> str:
    return f"What is {number} + {7 * number % 13}?"


def completion(number: int) -> str:
    """A trace and its answer; every fifth one is never closed."""
    steps = f"{number} + {7 * number % 13} is asked.\n" * (1 + number % 4)
    if number % 5 == 4:
        return steps
    return f"{steps}</think>\n\nIt is \\boxed{{{number + 7 * number % 13}}}.<｜end▁of▁sentence｜>"


def rendered(number: int) -> Prompt:
    return renderer().render(str(number), question(number))


def ids_of(text: str) -> list[int]:
    found: list[int] = tokenizer()(text, add_special_tokens=False).input_ids
    return found


def scorable_output(folder: Path, rows: int, *, parts: int = 2, **changes: Any) -> Output:
    """An output with so many rows; `changes` replace keys of the job's spec."""
    made = []
    for number in range(rows):
        prompt = rendered(number)
        ids, digest = ids_of(completion(number)), prompt.digest.hex()
        values = {"prompt": prompt.text, "prompt_hash": digest, "token_ids": ids}
        made.append(good_row(number, **values))
    tables = [table_of(made[at::parts]) for at in range(parts)]
    spec: dict[str, Any] = {
        "model": {"variant": "r1-tiny", "engine_args": {"dtype": "float32"}},
        "output": {"path": str(folder), "token_ids": "always"},
    }
    return write_output(folder, tables, **spec | changes)
