"""Logic with three values: True, False, and None for unknown."""

from __future__ import annotations

from collections.abc import Sequence


def all_of(outcomes: Sequence[bool | None]) -> bool | None:
    """True where all are, False where one is not; else not known."""
    if False in outcomes:
        return False
    return None if None in outcomes else True


def any_of(outcomes: Sequence[bool | None]) -> bool | None:
    """True where one is, False where none is; else not known."""
    if True in outcomes:
        return True
    return None if None in outcomes else False
