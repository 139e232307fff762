"""Reasoning and answer of what a model generated. Pure functions; nothing heavy is loaded."""

from __future__ import annotations

from batchr1.reasoning.answers import boxed_answer, final_answer, is_correct
from batchr1.reasoning.formats import ThinkTags, text_decoder
from batchr1.reasoning.results import to_result
from batchr1.reasoning.split import Split, split, split_text

__all__ = [
    "Split",
    "ThinkTags",
    "boxed_answer",
    "final_answer",
    "is_correct",
    "split",
    "split_text",
    "text_decoder",
    "to_result",
]
