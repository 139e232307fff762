r"""Whether an answer is right, in the form that the job asks for.

    quick_verdict   what needs no library and no pattern of the user's: exact numbers, equal LaTeX, choices, equal text
    full_verdict    everything; may hang, crash or eat memory, and so runs in processes of its own (`run.verification`)

The final answer is what `extract` finds, else what the last `\boxed{}` holds, else what the kind
says. Where there is no final answer, the answer is wrong; where there is no right answer to compare
with, it is neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchr1.reasoning.answers import boxed_answer, is_correct, right_answer, same_number
from batchr1.records import VERIFY_KINDS

MAX_MATH_CHARS = 2000  # longer ones are compared as text only: parsing takes more than linear time

_NUMBER_IN_TEXT = re.compile(
    r"(?<![\w.,/])[-\u2212+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?![\w/])"
)
_BASED = re.compile(r"(?P<digits>[0-9A-Z]+)_(?:\{(?:\\text\{)?(?P<long>\d+)\}?\}|(?P<short>\d))")
_MEMBER = re.compile(r"^ *[A-Za-z](?:_\{?\w{1,8}\}?)? *\\in(?![A-Za-z])")

_STYLE = r"(?:\\(?:text|textbf|textit|mathrm|mathbf|mathsf|boxed|bf|rm) *\{?|[*_`\"'$({\[ ]){0,9}"
_CHOICE = re.compile(
    rf"^(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)? *:? "
    rf"*)?{_STYLE}([A-J]|[a-j](?=\W*$))"
    r"(?:[)\]}*_`\"'$ ]*[.:)}]+(?: .*)?|[)\]}*_`\"'$ ]*)$",
    re.IGNORECASE | re.DOTALL,
)
_CHOICE_IN_TEXT = re.compile(
    r"(?:\b(?i:answer|option|choice)(?i:\s(?:is|must be|should be))?\s?:?"
    r"|答案(?:是|为|選|选)?\s?[:：]?|[选選](?:择|擇)?\s?[:：]?)"
    rf"\s{{0,4}}{_STYLE}([A-HJ]|(?<=[(*])I)(?![A-Za-z'’])"
)


@dataclass(frozen=True, slots=True)
class Verify:
    """What the job says about verification. `kind` is one of VERIFY_KINDS or a function as package.module:function.

    `path` is the folder that the function's module is imported from, besides what is installed;
    `timeout_s` bounds a row, `memory_gib` the address space of a verifying process, `processes` is
    how many of them a worker has.
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
    """The final answer, and whether it is right; None: there is nothing to compare it with, or a
    function said so.
    """

    final: str | None
    correct: bool | None


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
    """A verifying process's word that a row has no verdict, and whether the process is still good
    for others.
    """

    why: str
    is_spoilt: bool


Function = Callable[[str | None, str | None, dict[str, Any]], object]


def quick_verdict(verify: Verify, answer: str | None, gold: str | None) -> Verdict | None:
    """The verdict, where it is certain without running anything that might not return; else None.

    Linear in the length of the texts, and accepts any.
    """
    if verify.kind == "none":
        return Verdict(None if answer is None else boxed_answer(answer), None)
    if answer is None:  # there is no text to be right
        return Verdict(None, None if gold is None and not verify.is_function else False)
    if verify.extract is not None or verify.is_function:
        return None
    final = _final(verify.kind, answer, gold)
    if gold is None:
        return Verdict(final, None)
    if final is None:
        return Verdict(None, False)
    return _without_library(verify.kind, final, gold)


def full_verdict(
    verify: Verify, function: Function | None, answer: str, gold: str | None, row: Mapping[str, Any]
) -> Verdict:
    """The verdict by whatever it takes. `function` is the one that `kind` names.

    Raises whatever the function or a library raises, `re.error` when the right answer of a row is
    no pattern, and `BadVerdictError`.
    """
    final = (
        _extracted(verify.extract, answer) if verify.extract else _final(verify.kind, answer, gold)
    )
    if function is not None:
        verdict = function(answer, gold, {**row, "final_answer": final})
        if verdict is not None and not isinstance(verdict, bool):
            if type(verdict).__name__ not in ("bool", "bool_"):  # numpy has a truth of its own
                raise BadVerdictError(f"gave {type(verdict).__name__}, not True, False or None")
            verdict = bool(verdict)
        return Verdict(final, verdict)
    if gold is None or final is None:
        return Verdict(final, None if gold is None else False)
    if verify.kind == "regex":
        return Verdict(final, re.fullmatch(gold, final) is not None)
    known = _without_library(verify.kind, final, gold)
    return known or Verdict(final, _mathematically_equal(final, gold))


def choice_of(text: str) -> str | None:
    r"""The letter that a final answer or a right one chooses, as a capital: of `C`, `(c)`,
    `\text{(C)}`, `C. 5 cm`.
    """
    match = _CHOICE.match(text.strip()[:200])
    return match[1].upper() if match else None


def _final(kind: str, answer: str, gold: str | None) -> str | None:
    boxed = boxed_answer(answer)
    if boxed is not None:
        return boxed
    if kind == "choice" or (kind == "auto" and gold is not None and choice_of(gold)):
        return _choice_in(answer)
    if kind == "number":
        return _number_in(answer)
    if kind in ("exact", "regex"):
        return answer.strip()
    return None


def _choice_in(answer: str) -> str | None:
    """The choice of an answer without a box: the last that is announced as one, or a line that is
    nothing else.
    """
    found = _CHOICE_IN_TEXT.findall(answer)
    if found:
        return str(found[-1])
    lines = [line for line in answer.splitlines() if line.strip()]
    return choice_of(lines[-1]) if lines and len(lines[-1]) < 60 else None


def _number_in(answer: str) -> str | None:
    """The number of an answer without a box: what follows ####, or else the last one in the text."""
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    found = _NUMBER_IN_TEXT.findall(answer)
    return str(found[-1]) if found else None


def _extracted(pattern: str, answer: str) -> str | None:
    """The first group of the last match (all of it without groups), in the whole text of the
    answer.
    """
    matches = list(re.finditer(pattern, answer))
    found = matches[-1][1 if matches[-1].re.groups else 0] if matches else None
    return None if found is None else found.strip()


def _without_library(kind: str, final: str, gold: str) -> Verdict | None:
    match kind:
        case "regex":
            return None
        case "exact":
            return Verdict(final, final.strip() == gold.strip())
        case "number":
            return Verdict(final, same_number(final, gold) or False)
        case "choice":
            return Verdict(final, _same_choice(final, gold))
    based = _same_in_base(final, gold)
    if based is not None:
        return Verdict(final, based)
    if is_correct(final, gold) or (kind == "auto" and _same_choice(final, gold)):
        return Verdict(final, True)
    if kind == "auto" and (same_number(final, gold) is False or choice_of(gold)):
        return Verdict(final, False)
    if max(len(final), len(gold)) > MAX_MATH_CHARS:
        return Verdict(final, False)
    return None


def _same_choice(final: str, gold: str) -> bool:
    right = choice_of(right_answer(gold))
    return right is not None and choice_of(final) == right


def _same_in_base(final: str, gold: str) -> bool | None:
    """Of numbers like 52_8, which Math-Verify takes for 52: the base may be left out, but not be
    another one.
    """
    a, b = (_BASED.fullmatch(re.sub(r"[\s$,]|\\[,!]", "", text)) for text in (final, gold))
    if b is None:
        return None
    if a is None:
        return True if re.sub(r"[\s$]", "", final) == b["digits"] else None
    return (a["digits"], a["long"] or a["short"]) == (b["digits"], b["long"] or b["short"])


def _mathematically_equal(final: str, gold: str) -> bool:
    """Math-Verify's word on it, without its own time limits: they need the main thread's signals,
    and we have ours.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def parsed(text: str) -> Any:
        text = _MEMBER.sub("", text.replace("\\$", "").strip(" $"))
        config = LatexExtractionConfig(boxed_match_priority=0)
        return parse(f"\\boxed{{{text}}}", extraction_config=[config], parsing_timeout=None)

    return bool(
        verify(
            parsed(right_answer(gold)),
            parsed(final),
            allow_set_relation_comp=True,
            timeout_seconds=None,
        )
    )
