"""Prompts for a server that renders them: chat messages, no tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from batchr1.dataset.rendering.turns import (
    FEW_SHOT,
    NO_TOOLS,
    PromptRow,
    RowError,
    append_instruction,
    dialogue,
    has_tools,
    instruction_text,
    turns_of,
    user_turn,
)
from batchr1.records import Prompt

if TYPE_CHECKING:
    import datetime as dt

    from batchr1.reasoning.formats import Format

log = logging.getLogger(__name__)


class ChatRenderer:
    """Turns rows into messages, as `PromptRenderer` turns them into token ids.

    System messages are folded into the first user turn, or kept with `system="keep"`, and the
    instruction is appended to the last. `format` names the think tags of the server's text.

    What the server's chat template makes of them is not known here: neither how many tokens they
    are, nor whether the prompt ends inside a think block. Text that spells a special token is sent
    as it is.
    """

    notes: tuple[str, ...] = ()
    prompt_day: dt.date | None = None

    def __init__(
        self,
        *,
        instruction: str = "math",
        system: Literal["auto", "fold", "keep"] = "auto",
        format: Format | None = None,
    ) -> None:
        self.instruction = instruction_text(instruction)
        self.warnings: list[str] = []
        self.format = format
        self._keeps_system = system == "keep"

    def render_many(self, rows: Iterable[PromptRow]) -> list[Prompt | RowError]:
        """The rows as prompts, in order.

        A row that cannot become a prompt gives its RowError instead.
        """
        return [self._render(row) for row in rows]

    def show(self, prompt: Prompt) -> str:
        """The messages as they are sent."""
        return "\n".join(f"{role}: {content}" for role, content in prompt.messages)

    def _render(self, row: PromptRow) -> Prompt | RowError:
        try:
            turns = turns_of(row, keeps_system=self._keeps_system)
        except RowError as error:
            return error
        if has_tools(turns):  # nothing says what the server's template makes of them
            return RowError(row.id, "bad_messages", f"{NO_TOOLS} for sure: a server renders it")
        if FEW_SHOT not in self.warnings and any(turn["role"] == "assistant" for turn in turns):
            self.warnings.append(FEW_SHOT)
            log.warning(FEW_SHOT)
        append_instruction(turns, self.instruction)
        messages = tuple((turn["role"], turn["content"]) for turn in turns)
        return Prompt(
            id=row.id,
            text=user_turn(turns),
            token_ids=(),
            opened=False,
            digest=messages_digest(messages),
            gold=row.gold,
            max_tokens=row.max_tokens,
            kept=row.kept,
            messages=messages,
            own=row.own,
            dialogue=dialogue(turns),
        )


def messages_digest(messages: Sequence[tuple[str, str]]) -> bytes:
    """128-bit BLAKE2b of the messages as JSON: the same on every platform."""
    text = json.dumps(
        [list(message) for message in messages], ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
