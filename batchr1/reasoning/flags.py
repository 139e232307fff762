"""Flags: what is odd about a row, so that it can be filtered out without reading it."""

from __future__ import annotations

from batchr1.reasoning.answers import boxed_answer
from batchr1.reasoning.split import Split


def flags_of(split: Split, *, expects_box: bool = False) -> tuple[str, ...]:
    r"""The flags of a completion, always in this order.

    `no_think`: no think block. `empty_think`: nothing in it. `extra_think_tag`: think tags were left in the text.
    `answer_without_box`: there is an answer but no final one in it; only where `expects_box`, that is where the
    instruction asked for `\boxed{}`.
    """
    unboxed = expects_box and split.answer is not None and boxed_answer(split.answer) is None
    seen = {
        "no_think": split.status == "missing",
        "empty_think": split.status == "empty",
        "extra_think_tag": split.extra_think_tags > 0,
        "answer_without_box": unboxed,
    }
    return tuple(flag for flag, is_set in seen.items() if is_set)
