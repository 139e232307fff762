"""A sample under way in a worker.

It has tokens so far, and rules that may end or turn it before the engine does.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from batchr1.engine.protocol import Request
from batchr1.output.checkpoints import GenerationCheckpoint
from batchr1.reasoning.budgets import Budgets
from batchr1.reasoning.loops import LoopDetector, tokens_loop
from batchr1.reasoning.results import resumed_at
from batchr1.reasoning.stops import AnswerFinder, StopStrings, StopWatch
from batchr1.reasoning.tags import ThinkTags
from batchr1.records import Completion, FinishReason, ResumePoint, SampleKey, WorkItem
from batchr1.seeds import resumed_seed

Act = Literal["close", "cut", "stop", "bind"]


@dataclass(frozen=True, slots=True)
class Rules:
    """A job's rules for generations under way.

    `binds` is given where the engine holds answers to a form: with the model's tags.
    """

    budgets: Budgets | None = None
    stop_loops: bool | Literal["close"] = False
    stops: StopStrings | None = None
    binds: ThinkTags | None = None

    def stops_of(self, item: WorkItem) -> StopStrings | None:
        """Give the stop strings of a row: its own, else the job's."""
        own = item.prompt.own.stop
        if self.stops is None or own is None:
            return self.stops
        return dataclasses.replace(self.stops, texts=own)

    def finder(self, *, opened: bool) -> AnswerFinder | None:
        """Make what finds an answer's beginning, where a rule asks for it."""
        tags = self.binds or (self.stops.tags if self.stops else None)
        return None if tags is None else AnswerFinder(tags, opened)


NO_RULES = Rules()


class Generation:
    """A sample under way, with all its tokens.

    The first `offset` of them were saved before it was submitted.
    """

    __slots__ = (
        "_binds",
        "_budgets",
        "_closed_at",
        "_closes_loops",
        "_closing",
        "_finder",
        "_loops",
        "_meter",
        "_searched_from",
        "_stopped",
        "_watch",
        "injected",
        "is_bound",
        "item",
        "offset",
        "tokens",
    )

    def __init__(self, item: WorkItem, rules: Rules = NO_RULES) -> None:
        self._finder = rules.finder(opened=item.prompt.opened)
        self._binds, self.is_bound = rules.binds is not None, False
        self._watch = None
        stops = rules.stops_of(item)
        if stops is not None and self._finder is not None:
            self._watch = StopWatch(stops, self._finder)
        self._budgets, self._meter = rules.budgets, None
        self.item = item = self._before_bound(item)
        partial = item.partial
        self.tokens = array(
            "i", partial.token_ids if partial else ()
        )  # copied in one piece by snapshots
        self.offset = len(self.tokens)
        self.injected = partial.injected if partial else 0
        self._closed_at = 0  # tokens before what was injected, as far as that happened here
        self._closes_loops = rules.stop_loops == "close"
        self._searched_from = 0  # loops are looked for from here on: behind a closing
        self._closing: array[int] | None = None
        self._loops = LoopDetector(self.offset) if rules.stop_loops else None
        if rules.budgets is not None:
            opened, injected = item.prompt.opened, self.injected
            self._meter = rules.budgets.meter(
                opened=opened, max_tokens=item.max_tokens, injected=injected
            )
            kept, act = self._meter.take(self.tokens)
            del self.tokens[kept:]  # only where the context has become smaller since
            if act == "close":
                self.close()
            elif self.injected:
                self._searched_from = self._closing_at() + self.injected
        self._stopped = self._stops_here()
        if partial is not None and partial.finish_reason is not None and self.ended() is None:
            self.item = dataclasses.replace(
                item, partial=ResumePoint(partial.token_ids, partial.resumed_at)
            )

    @property
    def at_least(self) -> int:
        return self.item.at_least_tokens

    @property
    def prompt_id(self) -> str:
        return self.item.prompt.id

    @property
    def prompt_len(self) -> int:
        return len(self.item.prompt.token_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens)

    @property
    def max_tokens(self) -> int:
        most = self._budgets.most if self._budgets else None
        return self.item.max_tokens if most is None else min(most, self.item.max_tokens)

    @property
    def expected(self) -> float | None:
        return self.item.expected_tokens

    def request(self, id: str) -> Request:
        """Build the engine's request: the prompt and all tokens so far."""
        item, length = self.item, len(self.tokens)
        seed = resumed_seed(item.seed, length)
        return Request(
            id,
            (*item.prompt.token_ids, *self.tokens),
            item.max_tokens - length,
            seed,
            is_answer=self.is_bound,
            drawing=item.prompt.own.drawing,
        )

    def take(self, new: Sequence[int]) -> Act | None:
        """Take the engine's tokens, as far as the rules let them.

        The verdict is to `close` it there, to `cut` it, to end it as `stop` strings say, to `bind`
        the answer that begins, or to go on.
        """
        begins = self._begins_bound_answer(new)
        if begins is not None:
            new = new[:begins]
        act = self._take_within_budget(new)
        if self._finder is not None:
            self._finder.update(self.tokens)
            if self._stops_here():
                self._stopped = True
                return "stop"
        if act is None and begins is not None:
            self.is_bound = True
            return "bind"
        return act

    def _take_within_budget(self, new: Sequence[int]) -> Literal["close", "cut"] | None:
        if self._meter is None:
            self.tokens.extend(new)
            act = None
        else:
            kept, act = self._meter.take(new)
            if kept < 0:  # the last ones before were the beginning of a tag that did not come
                self.tokens = self.tokens[:kept]
            else:
                self.tokens.extend(new[:kept])
        if act is None and self._loops is not None and self._looks_and_finds(self._loops):
            return "close" if self._may_close() else "cut"
        return act

    def _before_bound(self, item: WorkItem) -> WorkItem:
        """Take back a saved answer that is to be bound.

        A grammar reads an answer from its first token on.
        """
        partial, finder = item.partial, self._finder
        if finder is None or partial is None:
            return item
        finder.update(partial.token_ids)
        if not self._binds or not finder.has_closed:
            return item
        self.is_bound = True
        if partial.finish_reason is not None or finder.start is None:
            return item
        # What closed the trace may go on behind the tag: it stays, and is no part of the answer.
        length = max(finder.start, self._closing_end(partial))
        kept = dataclasses.replace(partial, token_ids=partial.token_ids[:length])
        return dataclasses.replace(item, partial=kept)

    def _begins_bound_answer(self, new: Sequence[int]) -> int | None:
        """Count the new tokens before an answer that is to be bound.

        None: none begins. Those behind were drawn freely, and are dropped.
        """
        finder, length = self._finder, len(self.tokens)
        if not self._binds or self.is_bound or finder is None:
            return None
        finder.update([*self.tokens, *new])
        if not finder.has_closed or finder.start is None:
            return None
        return finder.start - length

    def _stops_here(self) -> bool:
        """Whether a stop string is complete; tokens behind it are dropped."""
        length = self._watch.find(self.tokens) if self._watch is not None else None
        if length is None:
            return False
        del self.tokens[length:]
        return True

    def _looks_and_finds(self, loops: LoopDetector) -> bool:
        return loops.update(self.tokens, self._searched_from)

    def _may_close(self) -> bool:
        """Whether a loop may be closed here.

        It must be in the reasoning, with room for the closing and an answer.
        """
        if not self._closes_loops or self._budgets is None or self._meter is None:
            return False
        room = self.item.max_tokens - len(self.tokens) - len(self._budgets.closing)
        return self._meter.is_thinking and not self.injected and room > 0

    def _closing_at(self) -> int:
        """Count the tokens before what was put in.

        All of them where nothing was.
        """
        if not self.injected or self._budgets is None:
            return len(self.tokens)
        return _place(self._budgets.closing[: self.injected], self.tokens)

    def _closing_end(self, partial: ResumePoint) -> int:
        """Find where what was put in ends, among saved tokens.

        0 where nothing was put in.
        """
        if not partial.injected or self._budgets is None:
            return 0
        at = _place(self._budgets.closing[: partial.injected], partial.token_ids)
        return at + partial.injected if at < len(partial.token_ids) else 0

    def _closed_by(self) -> Literal["budget", "loop"] | None:
        """Name what closed the trace, by all that the tokens tell."""
        if not self.injected:
            return None
        is_loop = self._closes_loops and tokens_loop(self.tokens[: self._closing_at()])
        return "loop" if is_loop else "budget"

    def close(self) -> None:
        """Put in what closes the trace: the answer is generated from there."""
        if self._budgets is None or self._meter is None:
            raise ValueError("without a budget nothing is closed")
        self._closed_at = len(self.tokens)
        closing = array("i", self._meter.close(self._budgets.closing))
        self._closing = closing
        self.injected = len(closing)
        self.tokens.extend(closing)  # last, and at once: a snapshot may be taken meanwhile
        if self._finder is not None:
            self._finder.closed(len(self.tokens))
            self.is_bound = self._binds
        if self._loops is not None:
            self._searched_from = len(self.tokens)
            self._loops = LoopDetector(len(self.tokens))

    def ended(self) -> FinishReason | None:
        """Name the reason why nothing is left to generate.

        None when something is. A resumed one may have ended before it is submitted.
        """
        partial = self.item.partial
        if partial is None or not partial.token_ids:
            return None
        length = len(self.tokens)
        if self._stopped:
            return "stop"
        if partial.finish_reason == "stop" and length <= self.item.max_tokens:
            return "stop"
        is_cut = partial.finish_reason == "length" and self._cut_by() is not None
        return "length" if length >= self.item.max_tokens or is_cut else None

    def _cut_by(self) -> Literal["budget", "loop"] | None:
        """Name what cut it before the engine's own limit.

        All that the tokens tell counts.
        """
        if self._meter is not None and self._meter.answer_is_spent:
            return "budget"
        if self._loops is None:
            return None
        return "loop" if tokens_loop(self.tokens[self._searched_from :]) else None

    def completion(self, reason: FinishReason) -> Completion:
        """Make the completion of a generation that ended."""
        most = self.item.max_tokens
        self.tokens = self.tokens[:most]
        cut_by = self._cut_by() if reason == "length" and len(self.tokens) < most else None
        tokens, injected = tuple(self.tokens), self.injected
        return Completion(self.item, tokens, reason, injected, cut_by, self._closed_by())

    def saved(
        self, reason: FinishReason | None = None, finished_at: dt.datetime | None = None
    ) -> GenerationCheckpoint:
        """Make its checkpoint. Safe beside the step loop."""
        item, tokens = self.item, self.tokens[:]
        # It may have been closed after they were copied.
        injected = self.injected if self._has_closing(tokens) else 0
        return GenerationCheckpoint(
            item.prompt.id,
            item.sample,
            item.attempt,
            item.prompt.digest,
            tokens,
            resumed_at(item.partial),
            reason,
            finished_at,
            injected,
        )

    def _has_closing(self, tokens: array[int]) -> bool:
        if self._closing is None:
            return True
        at = self._closed_at
        return tokens[at : at + len(self._closing)] == self._closing

    @property
    def key(self) -> SampleKey:
        return self.item.key


def _place(part: Sequence[int], tokens: Sequence[int]) -> int:
    """Find where a part begins among tokens.

    Their count where it is not there.
    """
    wanted = list(part)
    for at in range(len(tokens) - len(wanted) + 1):
        if tokens[at] == wanted[0] and list(tokens[at : at + len(wanted)]) == wanted:
            return at
    return len(tokens)
