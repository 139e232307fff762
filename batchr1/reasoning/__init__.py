"""Reasoning and answer of a completion: pure functions.

They run in the worker, where no other process is named.

formats         families of think tags, as values
tags            a family in the ids of one vocabulary
split           reasoning and answer, found on token ids
budgets         limits of thinking and of the answer, token by token
stops           stop strings, in the answer alone or anywhere
loops           exact repetition at the end of a text or of tokens
repetition      repetition in other words or another order
soup            tails of meaningless signs and scraps
results         a completion to an output row
server_replies  a server's reply to an output row
answers         the final answer, and whether it is right
verify          the comparison that a job asks for (in the verifier's process)
verdicts        stages of comparing an answer with the right one (there too)
flags           what is odd about a row
contents        refusals, code and leaks in a text
languages       whether a trace keeps to its prompt's languages
"""

from __future__ import annotations

from batchr1.reasoning.answers import boxed_answer, final_answer, is_correct
from batchr1.reasoning.results import to_result
from batchr1.reasoning.split import Split, split, split_text
from batchr1.reasoning.tags import ThinkTags, text_decoder

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
