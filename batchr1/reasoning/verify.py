r"""Verification of an answer, in the form that the job asks for.

    quick_verdict   needs no library and no pattern of the user's: bounded in time, in the worker
    full_verdict    everything; may hang, crash or eat memory, so it runs in `verifier`'s processes

The final answer is found by `extract`, else in the last `\boxed{}`, else by the kind's own rule.
Without a final answer a row is wrong. Without a right answer it has no verdict. Where the stages of
`reasoning.verdicts` do not settle it, there is none either: `Verdict.unsure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchr1.reasoning.answers import boxed_answer, last_answer, right_answer, same_number
from batchr1.reasoning.verdicts.choices import (
    choice_in,
    choice_of,
    same_aime,
    same_choice,
    same_short_text,
    same_yes_no,
    short_text_in,
    yes_no_in,
)
from batchr1.reasoning.verdicts.judge import Judgement, judge
from batchr1.records import VERIFY_KINDS

_NUMBER_IN_TEXT = re.compile(
    r"(?<![\w.,/])[-\u2212+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?![\w/])"
)


@dataclass(frozen=True, slots=True)
class Verify:
    """Verification that a job asks for.

    `kind` is one of VERIFY_KINDS or a function as package.module:function. `path` is the folder
    that the function's module is imported from, besides what is installed; `timeout_s` bounds a
    row, `memory_gib` the address space of a verifying process. A worker has `processes` of them.
    """

    kind: str = "auto"
    extract: str | None = None
    path: str | None = None
    timeout_s: float = 10.0
    memory_gib: float = 2.0
    processes: int = 2

    @property
    def is_function(self) -> bool:
        return self.kind not in VERIFY_KINDS


AUTO = Verify()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Final answer, its correctness, and the stage that decided.

    Stages are `records.VERDICT_STAGES`. `correct` is None without a right answer, where a function
    gave None, and where the stages do not settle it (`unsure`). Two verdicts are equal by answer
    and outcome alone.
    """

    final: str | None
    correct: bool | None
    by: str | None = field(default=None, compare=False)
    unsure: bool = field(default=False, compare=False)


class BadVerdictError(Exception):
    """A function gave something else than true, false or None."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verifying process's word that it is ready.

    `digest`: of the file that the function's module came from.
    """

    digest: str | None


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Word of a verifying process that a row has no verdict.

    It says whether the process is still good for others.
    """

    why: str
    is_spoilt: bool


Function = Callable[[str | None, str | None, dict[str, Any]], object]


def quick_verdict(verify: Verify, answer: str | None, gold: str | None) -> Verdict | None:
    """Give the verdict where it is certain without unbounded work.

    None where something would have to run that might not return. Linear in the length of the texts,
    and accepts any.
    """
    if verify.kind == "none":
        return Verdict(None if answer is None else boxed_answer(answer), None)
    if answer is None:  # there is no text to be right
        return Verdict(None, None if gold is None and not verify.is_function else False)
    if verify.extract is not None or verify.is_function:
        return None
    final = final_of(verify.kind, answer, gold)
    if gold is None:
        return Verdict(final, None)
    if final is None:
        return Verdict(None, False)
    return _by_stages(verify.kind, final, gold, deep=False)


def full_verdict(
    verify: Verify, function: Function | None, answer: str, gold: str | None, row: Mapping[str, Any]
) -> Verdict:
    """Give the verdict by all means; `function` is the one of `kind`.

    Raises whatever the function or a library raises, `re.error` when the right answer of a row is
    no pattern, and `BadVerdictError`.
    """
    if verify.extract:
        final = _extracted(verify.extract, answer)
    else:
        final = final_of(verify.kind, answer, gold)
    if function is not None:
        return _function_verdict(function, final, answer, gold, row)
    if gold is None or final is None:
        return Verdict(final, None if gold is None else False)
    if verify.kind == "regex":
        return Verdict(final, re.fullmatch(gold, final) is not None, "text")
    known = _by_stages(verify.kind, final, gold, deep=True)
    return known or Verdict(final, None, unsure=True)


def final_of(kind: str, answer: str, gold: str | None) -> str | None:
    """Find a text's final answer: its last box, or by kind."""
    boxed = last_answer(answer)
    if boxed is not None:
        return boxed
    if kind == "choice" or (kind == "auto" and gold is not None and choice_of(gold)):
        return choice_in(answer)
    match kind:
        case "number" | "aime":
            return _number_in(answer)
        case "yes_no":
            return yes_no_in(answer)
        case "short_text":
            return short_text_in(answer)
        case "exact" | "regex":
            return answer.strip()
    return None


def _function_verdict(
    function: Function, final: str | None, answer: str, gold: str | None, row: Mapping[str, Any]
) -> Verdict:
    verdict = function(answer, gold, {**row, "final_answer": final})
    if verdict is not None and not isinstance(verdict, bool):
        if type(verdict).__name__ not in ("bool", "bool_"):  # numpy has a truth of its own
            raise BadVerdictError(f"gave {type(verdict).__name__}, not True, False or None")
        verdict = bool(verdict)
    return Verdict(final, verdict, None if verdict is None else "function")


def _number_in(answer: str) -> str | None:
    """Find the number of an answer without a box.

    It follows ####, or else is the last one in the text.
    """
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    found = _NUMBER_IN_TEXT.findall(answer)
    return str(found[-1]) if found else None


def _extracted(pattern: str, answer: str) -> str | None:
    """Find the first group of the last match in the whole answer.

    All of the match without groups.
    """
    matches = list(re.finditer(pattern, answer))
    found = matches[-1][1 if matches[-1].re.groups else 0] if matches else None
    return None if found is None else found.strip()


def _by_stages(kind: str, final: str, gold: str, *, deep: bool) -> Verdict | None:
    """Give a built-in kind's verdict; None where a library may know."""
    match kind:
        case "regex":
            return None
        case "exact":
            return Verdict(final, final.strip() == gold.strip(), "text")
    right = right_answer(gold)
    match kind:
        case "number":
            return Verdict(final, same_number(final, right) or False, "number")
        case "aime":
            return _settled(final, same_aime(final, right), "number")
        case "choice":
            return _settled(final, same_choice(final, right), "choice")
        case "yes_no":
            return _settled(final, same_yes_no(final, right), "choice")
        case "short_text":
            return Verdict(final, same_short_text(final, right), "text")
    found: Judgement = judge(final, right, deep=deep, with_choices=kind == "auto")
    if found.wants_more and not deep:
        return None
    return _settled(final, found.correct, found.by)


def _settled(final: str, correct: bool | None, by: str | None) -> Verdict:
    return Verdict(final, correct, None if correct is None else by, unsure=correct is None)
