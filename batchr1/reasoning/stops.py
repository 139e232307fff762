"""Stop strings, looked for in the text of a generation under way.

The engine knows nothing of them: it draws token ids, and would look in the reasoning too. All is a
function of the token ids, so that an interrupted generation ends where it would have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchr1.reasoning.budgets import Meter
from batchr1.reasoning.tags import Decode, ThinkTags

TAIL_TOKENS = 16
"""Tokens decoded before the new ones, beyond those that a stop string can fill.

Some tokenizers write the first token of a text differently.
"""


def cut_at(text: str | None, stops: Sequence[str]) -> str | None:
    """Give the text before the first stop string, as `split` trims it."""
    if text is None:
        return None
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)].rstrip() if places else text


class AnswerFinder:
    """Finds where the answer begins in the tokens of one generation.

    `start` is that place; None while the trace is open. Without a think block the answer begins at
    once, until a block is opened.
    """

    __slots__ = ("_meter", "_seen", "start")

    def __init__(self, tags: ThinkTags, opened: bool) -> None:
        self._meter = Meter(tags, None, None, opened)
        self._seen = 0
        self.start: int | None = None if opened else 0

    @property
    def has_closed(self) -> bool:
        """Whether the closing tag has come."""
        return self._meter.has_closed

    def update(self, tokens: Sequence[int]) -> None:
        """Look at the tokens that came since the last call."""
        for at in range(self._seen, len(tokens)):
            was_thinking, had_closed = self._meter.is_thinking, self._meter.has_closed
            self._meter.take((tokens[at],))
            if self._meter.is_thinking:
                self.start = None
            elif was_thinking or self._meter.has_closed != had_closed:
                self.start = at + 1
        self._seen = len(tokens)

    def closed(self, length: int) -> None:
        """Note that batchr1 has closed the trace: the answer begins here."""
        self._meter.closed()
        self._seen = self.start = length


@dataclass(frozen=True, slots=True)
class StopStrings:
    """Stop strings of a job, in the text of one vocabulary.

    `anywhere`: in the reasoning too.
    """

    texts: tuple[str, ...]
    tags: ThinkTags
    decode: Decode
    anywhere: bool = False

    def complete_at(self, tokens: Sequence[int], start: int, new: int) -> int | None:
        """Count the tokens that complete the first stop string.

        None: there is none. The text begins at token `start`. The last `new` tokens were not
        looked at before.
        """
        longest = max(len(text.encode()) for text in self.texts)
        tail = max(start, len(tokens) - new - longest - TAIL_TOKENS)
        if not self._holds(tokens[tail:]) or not self._holds(tokens[start:]):
            return None
        low, high = max(start, len(tokens) - new), len(tokens)
        while low < high:
            middle = (low + high) // 2
            if self._holds(tokens[start:middle]):
                high = middle
            else:
                low = middle + 1
        return low

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = self.decode(tokens).lstrip()
        return any(stop in text for stop in self.texts)


class StopWatch:
    """Looks for stop strings in one generation, as its tokens come."""

    __slots__ = ("_finder", "_looked", "_stops")

    def __init__(self, stops: StopStrings, finder: AnswerFinder) -> None:
        self._stops, self._finder, self._looked = stops, finder, 0

    def find(self, tokens: Sequence[int]) -> int | None:
        """Count the tokens that complete the first stop string.

        None: there is none. The finder has seen all tokens.
        """
        if not self._stops.texts:
            return None
        start = 0 if self._stops.anywhere else self._finder.start
        looked, self._looked = self._looked, len(tokens)
        if start is None or start >= len(tokens):
            return None
        return self._stops.complete_at(
            tokens, start, len(tokens) - max(start, min(looked, len(tokens)))
        )
