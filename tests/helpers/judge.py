"""Verdicts of one answer against one gold answer."""

from __future__ import annotations

from typing import Any

from batchr1.reasoning.verify import (
    Verdict,
    Verify,
    full_verdict,
    quick_verdict,
)


def verdict(kind: str, answer: str | None, gold: str | None, **options: Any) -> Verdict:
    """As a run comes to it: quickly if it can be, else in full."""
    verify = Verify(kind, **options)
    quick = quick_verdict(verify, answer, gold)
    if quick is not None or answer is None:
        assert quick is not None
        return quick
    return full_verdict(verify, None, answer, gold, {})


def boxed(text: str) -> str:
    return f"So the answer is \\boxed{{{text}}}."
