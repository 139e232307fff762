"""The tally of a run: its commits, and its work under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchr1.engine.openai.server import Spent
from batchr1.executors.messages import PartCounts


@dataclass(slots=True)
class Tally:
    """Counts of a run alone. Tokens are generated ones."""

    done: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    truncated: int = 0
    correct: int = 0
    judged: int = 0
    carried: int = 0  # of tokens: saved by an earlier engine, not generated again
    discarded: int = 0  # tokens of attempts that were not kept, beside `tokens`
    spared: int = 0  # samples of rows of which enough are right
    dropped_tokens: int = 0  # generated of such samples before that was known
    parts: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    first_submit: float | None = None
    last_commit: float | None = None
    restarts: int = 0
    spent: Spent | None = None  # at a server: all answers, kept or not

    def add(self, counts: PartCounts) -> None:
        self.done += counts.rows
        self.tokens += counts.tokens
        self.prompt_tokens += counts.prompt_tokens
        self.truncated += counts.truncated
        self.correct += counts.correct
        self.judged += counts.judged
        self.carried += counts.carried
        self.discarded += counts.discarded
