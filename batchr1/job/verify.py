"""The sections `verify` and `stop_when`: verdicts, and what follows from them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import PositiveInt, Seconds, Section
from batchr1.records import VERIFY_KINDS

_DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
_VERIFY_KIND = rf"^({'|'.join(VERIFY_KINDS)}|{_DOTTED}:{_DOTTED})$"


class VerifySpec(Section):
    """Verdicts: the way to `correct`, and the limits of a verifier.

    Needs input.gold.
    """

    kind: Annotated[str, Field(pattern=_VERIFY_KIND)] = "auto"
    """auto: by the column of right answers, else row by row: exact numbers, choices, sets,
    intervals, expressions. math: the same without choices. number, aime, choice, yes_no,
    short_text: nothing else counts. exact: the same text. regex: the right answer is a pattern.
    none. Or package.module:function of your own, called with (answer, gold, row), which gives True,
    False or None."""
    extract: str | None = None
    """A regular expression: the first group of its last match in the answer is the final answer;
    null: the last box."""
    path: str | None = None
    """The folder that the function's module is imported from; without it, the job file's folder."""
    timeout_s: Seconds = 10
    """Longest time for a row. One that takes longer gets no verdict, and the flag verify_failed."""
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2
    """Address space of a verifying process, its libraries included."""
    processes: PositiveInt = 2
    """Verifying processes beside each engine, started when a row needs one."""

    @field_validator("extract")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as exc:
            raise ValueError(f"this is no regular expression ({exc}; got {value!r})") from exc
        return value

    @model_validator(mode="after")
    def _fits_the_kind(self) -> VerifySpec:
        if self.extract is not None and self.kind == "none":
            raise ValueError("extract does nothing with kind none (got both)")
        if self.path is not None and ":" not in self.kind:
            raise ValueError(
                f"path belongs to a function as package.module:function (got kind {self.kind})"
            )
        return self


class StopWhenSpec(Section):
    """A row's early end, when its other samples are no longer wanted.

    Needs input.gold, or a verifying function.
    """

    correct: PositiveInt
    """So many of its samples are right. They then go out in waves: so many at first, then as many
    as are still wanting, doubled each time; what is under way when the last comes is dropped."""
