"""Answers in texts of a megabyte, found and compared in linear time."""

from __future__ import annotations

import time

import pytest

from batchr1.reasoning import boxed_answer, is_correct

SLOW = [
    "\\boxed{",
    "{",
    "\\text{",
    "\\frac{1",
    " ",
    "\\boxed ",
    "1",
    "1,",
    "1.",
    "x=",
    "\\",
    "$",
    "\\boxed\\frac{",
    "\\text ",
    "\\text{a}",
    "\\boxed{x}",
    "}",
    "\\frac{1}{",
    "####",
    "%",
    "\\left",
    "-",
    "/1",
    "\\,",
    "^\\circ",
    "A_{",
    "\n",
]


@pytest.mark.parametrize("unit", SLOW)
def test_a_megabyte_takes_no_longer_than_it_must(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    boxed_answer(text)
    boxed_answer("\\boxed{" + text + "}")
    is_correct(text, text + "1")
    is_correct("5", text)
    assert time.process_time() - start < 5
