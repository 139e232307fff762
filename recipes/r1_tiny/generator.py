"""Draws problems: task by weight, level, wording, and the chat turns that training and evaluation
use.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from recipes.r1_tiny import noise, tasks_algebra, tasks_number, tasks_units, tasks_words
from recipes.r1_tiny.problems import Core, Problem, Task
from recipes.r1_tiny.questions import Bank, slot_text

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
TASKS: dict[str, Task] = {
    t.name: t
    for t in tasks_number.TASKS + tasks_algebra.TASKS + tasks_units.TASKS + tasks_words.TASKS
}
HELD_OUT_ONE_IN = 64
REFUSED = 0.025
_LEVEL_WEIGHTS = (14, 22, 26, 22, 16)
_NO_WORDS = frozenset(("p", "price", "price2", "x", "paid", "h", "m"))
_IN_WORDS = frozenset(("chain_words", "lin_words", "pct_what", "seq_nth"))
_CURRENCY_WORD = re.compile(r"(?:[$€£]|USD )(a hundred|[a-z]{3,9})\b")
_TWO_TIMES = re.compile(r"\b(?:2|two|Two) times\b")
_THREE_TIMES = re.compile(r"\b(?:3|three) times\b")


class Turn(NamedTuple):
    """One training example: what the user writes and what the model writes after ``<think>\\n``."""

    user: str
    response: str


@cache
def bank() -> Bank:
    """The phrasing banks, loaded once."""
    return Bank()


def is_held_out(question: str) -> bool:
    """Whether a question belongs to evaluation: one in 64, by a hash of its words."""
    normal = " ".join(question.casefold().split())
    return blake2b(normal.encode(), digest_size=8).digest()[-1] % HELD_OUT_ONE_IN == 0


_NAMES = tuple(TASKS)
_WEIGHTS = tuple(TASKS[n].weight for n in _NAMES)
_CUMULATIVE = [sum(_WEIGHTS[: i + 1]) for i in range(len(_WEIGHTS))]


def draw_problem(
    rng: Random, task: str | None = None, level: int | None = None, noisy: bool = True
) -> Problem:
    """A problem of a task and level (drawn where None); ``noisy`` adds text around, typos and the
    like.
    """
    chosen = TASKS[task or rng.choices(_NAMES, cum_weights=_CUMULATIVE)[0]]
    hardness = level or rng.choices((1, 2, 3, 4, 5), _LEVEL_WEIGHTS)[0]
    core = chosen.make(rng, hardness)
    question = word(rng, chosen, core)
    if noisy:
        question = noise.disturb(rng, noise.wrap(rng, bank(), question), "eq" not in core.slots)
    return Problem(
        question.strip(), "\n".join(core.lines), core.answer, chosen.family, chosen.name, hardness
    )


def word(rng: Random, task: Task, core: Core) -> str:
    """The question of a problem, from a template of its task."""
    separators = rng.random() < 0.12
    in_words = rng.random() < (
        0.16 if task.family == "word_problem" or task.name in _IN_WORDS else 0.02
    )
    slots = {
        name: slot_text(
            rng, value, separators, in_words and name not in _NO_WORDS and rng.random() < 0.7
        )
        for name, value in core.slots.items()
    }
    for name in ("expr", "eq", "terms"):
        if name in slots:
            slots[name] = _symbols(rng, name, slots[name])
    for name in ("price", "price2", "start", "weekly", "paid"):
        value = core.slots.get(name)
        if isinstance(value, int) and task.name != "gains_losses" and rng.random() < 0.04:
            slots[name] = f"{value}.00"
    question = bank().question(rng, task.name, slots)
    if in_words:
        question = _CURRENCY_WORD.sub(r"\1 dollars", question)
    if task.name in ("times_as_many", "lin_words"):
        question = _times_word(rng, question)
    return question


def _symbols(rng: Random, name: str, text: str) -> str:
    if name == "terms":
        kind = rng.random()
        if kind < 0.06:
            return text.replace(", ", " ")
        if kind < 0.10:
            return text.replace(", ", "; ")
        if kind < 0.16:
            head, _, last = text.rpartition(", ")
            return f"{head} and {last}"
        if kind < 0.22:
            return text.replace(", ", ",")
        return text + rng.choice(("", "", "", "", ", ...", "...", ", …", ", _", ", ?", ", __"))
    if rng.random() < 0.3:
        text = text.replace("×", rng.choice(("*", "x", "·", "times") if name == "expr" else ("*",)))
    if rng.random() < 0.12:
        text = text.replace("-", rng.choice("−–"))
    if name == "expr" and rng.random() < 0.06:
        text = text.replace("+", "plus").replace("-", "minus").replace("×", "times")
    elif rng.random() < 0.2 and "times" not in text:
        text = text.replace(" ", "")
    if name == "eq" and rng.random() < 0.12:
        sign = rng.choice(("*", "·", " ", " * ", " × "))
        text = re.sub(r"(\d)([a-z(])", rf"\1{sign}\2", text)
    elif name == "eq" and rng.random() < 0.03:
        text = text.replace("+", "plus").replace("=", "equals") if " " in text else text
    return text


def _times_word(rng: Random, question: str) -> str:
    if rng.random() < 0.65:
        question = _TWO_TIMES.sub(rng.choice(("twice", "twice", "twice", "double")), question)
    if rng.random() < 0.15:
        question = _THREE_TIMES.sub(rng.choice(("thrice", "triple")), question)
    return question


_ANSWERS = (
    "The answer is \\boxed{%s}.",
    "The answer is \\boxed{%s}.",
    "The final answer is \\boxed{%s}.",
    "So the answer is \\boxed{%s}.",
    "The result is \\boxed{%s}.",
    "Answer: \\boxed{%s}",
    "We get \\boxed{%s}.",
    "This gives \\boxed{%s}.",
)


def user_turn(rng: Random, question: str) -> str:
    """The question with the instruction of the main job, mostly; without it or with another one at
    times.
    """
    kind = rng.random()
    if kind < 0.75:
        return f"{question}\n\n{INSTRUCTION}"
    if kind < 0.90:
        return question
    other = bank().phrase(rng, "instruction")
    if kind < 0.93:
        return f"{other}\n\n{question}"
    return f"{question}{rng.choice((' ', chr(10), chr(10) * 2))}{other}"


def answer_text(rng: Random, answer: str) -> str:
    """A short sentence with the boxed answer."""
    return rng.choice(_ANSWERS) % answer


def draw_turn(rng: Random) -> Turn:
    """A training example that is not held out."""
    if rng.random() < REFUSED:
        ask = bank().phrase(rng, "ask")
        if rng.random() < 0.3:
            ask = f"{bank().phrase(rng, 'lead')} {ask}"
        thought = bank().phrase(rng, "refuse_think")
        return Turn(user_turn(rng, ask), f"{thought}\n</think>\n\n{bank().phrase(rng, 'refuse')}")
    while True:
        problem = draw_problem(rng)
        if not is_held_out(problem.question):
            break
    response = f"{problem.reasoning}\n</think>\n\n{answer_text(rng, problem.answer)}"
    return Turn(user_turn(rng, problem.question), response)
