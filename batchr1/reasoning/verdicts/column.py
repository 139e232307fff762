"""Kind of verification that a column of right answers asks for.

One letter among numbers is a name, a column of letters is multiple choice: only all right answers
together decide. What is no closed form is compared as mathematics, row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from batchr1.reasoning.verdicts.choices import choice_of, choices_of, yes_no_of

SHARE = 0.98  # of a column's right answers that must be of the kind
MIN_GOLDS = 5  # fewer say nothing about a column
MAX_EXAMPLE_CHARS = 200

_AIME = re.compile(r"\d{1,3}")


@dataclass(slots=True)
class GoldColumn:
    """Counts of right answers by form, for the kind of all."""

    golds: int = 0
    choices: int = 0
    letters: set[str] = field(default_factory=set)
    yes_no: int = 0
    aime: int = 0
    padded: int = 0

    def add(self, golds: Iterable[str | None]) -> None:
        """Count right answers; null ones are none."""
        for gold in golds:
            if gold is None:
                continue
            self.golds += 1
            text = gold.strip()
            if len(text) > MAX_EXAMPLE_CHARS:
                continue
            letter = choice_of(text)
            if letter is not None or (choices_of(text) is not None and len(text) < 40):
                self.choices += 1
                self.letters.add(letter or "several")
            elif yes_no_of(text) is not None:
                self.yes_no += 1
            elif _AIME.fullmatch(text):
                self.aime += 1
                self.padded += len(text) == 3 and text.startswith("0")

    @property
    def kind(self) -> str:
        """choice, yes_no, aime, or auto: row by row."""
        wanted = max(MIN_GOLDS, SHARE * self.golds)
        if self.choices >= wanted and len(self.letters) > 1:
            return "choice"
        if self.yes_no >= wanted:
            return "yes_no"
        if self.aime >= self.golds >= MIN_GOLDS and self.padded:
            return "aime"
        return "auto"

    @property
    def why(self) -> str:
        """Explain the choice, for people."""
        match self.kind:
            case "choice":
                return f"{self.choices:,} of {self.golds:,} right answers are letters from A to J"
            case "yes_no":
                return f"{self.yes_no:,} of {self.golds:,} right answers are yes or no"
            case "aime":
                return f"all {self.golds:,} right answers are integers below 1000, some as 012"
        return f"{self.golds:,} right answers, neither all letters, nor yes or no, nor as AIME's"
