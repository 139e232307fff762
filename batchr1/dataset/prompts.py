r"""Rendering of rows through a chat template to token ids.

What a model's card advises is done here: for DeepSeek's R1 no system message, the instruction to
box the final answer in the user turn, and a prompt that ends inside an open think block. The
template is the model's own, or the job's.

Text that comes from a row stays text: where it spells a special token (`<｜User｜>`, `</think>`)
a mark is set behind the token's first character before the template is rendered, and the rendered
prompt is encoded in pieces, cut at the marks, so that no piece holds the whole token.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchr1.dataset.rendering.chat_template import ChatTemplate
from batchr1.dataset.rendering.probe import TEMPLATE_FAULTS, Facts, State, probe
from batchr1.dataset.rendering.turns import (
    FEW_SHOT,
    MATH_INSTRUCTION,
    NO_TOOLS,
    Content,
    PromptRow,
    RowError,
    Turn,
    append_instruction,
    dialogue,
    has_tools,
    instruction_text,
    turns_of,
    user_turn,
)
from batchr1.dataset.tokenizer import (
    break_specials,
    joined_encoder,
    load_tokenizer,
    mark_for,
    pattern_of,
    special_tokens,
)
from batchr1.reasoning.formats import Format
from batchr1.records import Prompt

__all__ = [
    "FEW_SHOT",
    "MATH_INSTRUCTION",
    "PromptRenderer",
    "PromptRow",
    "Renderer",
    "RowError",
    "append_instruction",
    "digest",
    "instruction_text",
    "load_tokenizer",
    "turns_of",
    "user_turn",
]

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

OLD_THOUGHTS = (
    "the chat template keeps the reasoning of earlier assistant turns in the prompt (a dialogue "
    "with reasoning in it was seen)"
)
_TAIL_CHARS = 200


class Renderer(Protocol):
    """Turns rows into prompts.

    `instruction` is what is appended to the last user turn. `format` is the family of think tags;
    None: whichever a server's text shows. `notes` are what is odd about the template, and
    `prompt_day` is the day in its prompts.
    """

    instruction: str
    warnings: list[str]
    format: Format | None
    notes: tuple[str, ...]
    prompt_day: dt.date | None

    def render_many(self, rows: Iterable[PromptRow]) -> list[Prompt | RowError]:
        """Render rows, in order.

        A row that cannot become a prompt gives its RowError instead.
        """
        ...

    def show(self, prompt: Prompt) -> str:
        """Show a prompt as the model is given it."""
        ...


class PromptRenderer:
    r"""Turns rows into prompts for one model.

    `instruction` is `math` (`MATH_INSTRUCTION`), `none`, or a text of one's own; it is appended to
    the last user turn after a blank line, unless the turn already holds it. With `think="force"` a
    prompt always ends inside one open think block; with `auto` it ends as the template leaves it.
    `format` names a family of think tags, or is one; `auto` finds the model's. `template` is the
    text of a chat template instead of the model's own, `template_args` its variables. `system`:
    `fold` puts system messages into the first user turn, `keep` leaves them a turn, `auto` keeps
    them where `keeps_system` or the model's template asks for it. `day` is what a template that
    asks for the date is told. `warnings` collects what a user should know, each once.

    Raises ModelError if the template cannot be rendered, or not to prompts as the job asks for.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        instruction: str = "math",
        think: Literal["force", "auto"] = "force",
        format: str | Format = "auto",
        template: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        system: Literal["auto", "fold", "keep"] = "auto",
        day: dt.date | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self._tokenizer = tokenizer
        self.instruction = instruction_text(instruction)
        self._force = think == "force"
        special = special_tokens(tokenizer)
        self._special_ids = frozenset(special.values()) - {tokenizer.unk_token_id}
        self._special = pattern_of(special)
        self._template = ChatTemplate(tokenizer, source=template, args=template_args, day=day)
        self._facts: Facts = probe(self._template, format=format, force=self._force, tokens=special)
        self.format: Format | None = self._facts.format
        self._keeps_system = _keeps_system(system, self._facts, self._template)
        own = {self._facts.format.open, self._facts.format.close, *self._facts.format.pieces}
        self._special_but_tags = pattern_of(text for text in special if text not in own)
        self._bos_id: int | None = tokenizer.bos_token_id
        encoded = tokenizer("a").input_ids
        self._adds_bos = self._bos_id is not None and list(encoded[:1]) == [self._bos_id]
        self._encode_pieces = joined_encoder(tokenizer)
        self.notes: tuple[str, ...] = self._facts.notes
        self.prompt_day: dt.date | None = self._template.day if self._facts.is_dated else None

    def render(
        self,
        id: str,
        content: Content,
        *,
        gold: str | None = None,
        max_tokens: int | None = None,
        kept: pa.RecordBatch | None = None,
    ) -> Prompt:
        """Render one row. Raises RowError if it cannot become a prompt."""
        [prompt] = self.render_many([PromptRow(id, content, gold, max_tokens, kept)])
        if isinstance(prompt, RowError):
            raise prompt
        return prompt

    def render_many(self, rows: Iterable[PromptRow]) -> list[Prompt | RowError]:
        """Render rows, encoding them all in one call.

        A row that cannot become a prompt gives its RowError instead.
        """
        drafts = [self._draft(row) for row in rows]
        encoded = iter(
            self._encode_pieces([draft.pieces for draft in drafts if isinstance(draft, _Draft)])
        )
        return [
            draft if isinstance(draft, RowError) else self._finish(draft, encoded)
            for draft in drafts
        ]

    def show(self, prompt: Prompt) -> str:
        """Show a prompt, its special tokens in ⟦ and ⟧.

        Text can spell them too.
        """
        ids, shown, seen = prompt.token_ids, "", ""
        for at, token in enumerate(ids, start=1):
            if token in self._special_ids:
                before, through = self.as_text(ids[: at - 1]), self.as_text(ids[:at])
                shown += f"{before[len(seen) :]}⟦{through[len(before) :]}⟧"
                seen = through
        return shown + self.as_text(ids)[len(seen) :]

    def as_text(self, token_ids: Sequence[int]) -> str:
        """A rendered prompt as the model sees it, special tokens included."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _draft(self, row: PromptRow) -> _Draft | RowError:
        try:
            turns = turns_of(row, keeps_system=self._keeps_system)
        except RowError as error:
            return error
        if has_tools(turns) and self._facts.tool_arguments is None:
            return RowError(row.id, "bad_messages", NO_TOOLS)
        self._look_at_history(turns)
        append_instruction(turns, self.instruction)
        text, turns_as_json = user_turn(turns), dialogue(turns)
        mark = mark_for(text)
        for turn in turns:
            # Think tags of earlier assistant turns are for the template, which usually takes the
            # block out.
            special = self._special_but_tags if turn["role"] == "assistant" else self._special
            turn["content"] = break_specials(turn["content"], special, mark)
            if "tool_calls" in turn or turn["role"] == "tool":
                self._break_tools(turn, mark)
        try:
            rendered = self._template.render(turns)
        except TEMPLATE_FAULTS as error:
            return RowError(
                row.id,
                "bad_messages",
                f"the model's chat template refuses the messages: {error}"[:300],
            )
        state = self._state_of(rendered)
        if self._force and state in ("neutral", "closed"):
            if state == "closed":
                return RowError(
                    row.id,
                    "bad_messages",
                    "the chat template closes the think block for these messages",
                )
            rendered += self._facts.format.opening
            state = "open"
        expected = len(self._special.findall(rendered)) if self._special else 0
        pieces = [piece for piece in rendered.split(mark) if piece]
        return _Draft(row, (text, turns_as_json), pieces, state in ("open", "begun"), expected)

    def _break_tools(self, turn: Turn, mark: str) -> None:
        """Break special tokens in calls; give arguments as the template wants."""
        for name in ("name", "tool_call_id"):
            if name in turn:
                turn[name] = break_specials(turn[name], self._special, mark)
        for call in turn.get("tool_calls", []):
            function = call["function"]
            for name in ("name", "arguments"):
                function[name] = break_specials(function[name], self._special, mark)
            if self._facts.tool_arguments == "object":
                function["arguments"] = json.loads(function["arguments"])

    def _state_of(self, rendered: str) -> State:
        """Tell what the end of a prompt does to the think block."""
        if rendered.endswith(self._facts.tail):
            return self._facts.state
        tail, format = rendered[-_TAIL_CHARS:], self._facts.format
        if format.ends_open(tail):
            return "open"
        return "closed" if format.ends_empty(tail) else "neutral"

    def _look_at_history(self, turns: list[Turn]) -> None:
        said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        if said:
            self._warn(FEW_SHOT)
        close = self._facts.format.close
        if self._facts.keeps_thoughts and any(close in content for content in said):
            self._warn(OLD_THOUGHTS)

    def _finish(self, draft: _Draft, encoded: Iterator[list[int]]) -> Prompt | RowError:
        [ids] = islice(encoded, 1)
        if sum(map(self._special_ids.__contains__, ids)) > draft.special_tokens:
            # Some tokenizers change text before they look for special tokens in it, so that it
            # cannot be cut there.
            return RowError(
                draft.row.id,
                "special_text",
                "the tokenizer reads a part of the row as a special token",
            )
        if self._bos_id is not None:
            start = 0
            while start < len(ids) and ids[start] == self._bos_id:
                start += 1
            ids = [self._bos_id] * (start > 0 or self._adds_bos) + ids[start:]
        return Prompt(
            id=draft.row.id,
            text=draft.texts[0],
            token_ids=tuple(ids),
            opened=draft.opened,
            digest=digest(ids),
            gold=draft.row.gold,
            max_tokens=draft.row.max_tokens,
            kept=draft.row.kept,
            own=draft.row.own,
            dialogue=draft.texts[1],
        )

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning(message)


@dataclass(frozen=True, slots=True)
class _Draft:
    """Rendered prompt before encoding.

    `texts`: the columns `prompt` and `prompt_messages`. `special_tokens` is how many the
    template put into it.
    """

    row: PromptRow
    texts: tuple[str, str | None]
    pieces: list[str]
    opened: bool
    special_tokens: int


def _keeps_system(
    system: Literal["auto", "fold", "keep"], facts: Facts, template: ChatTemplate
) -> bool:
    """Tell whether system messages stay a turn.

    `auto` folds them for R1's templates, and keeps them where the template shows such a turn.
    """
    if system == "auto":
        return facts.shows_system and "<｜User｜>" not in template.source
    return system == "keep"


def digest(token_ids: Sequence[int]) -> bytes:
    """Hash token ids, the same on every platform.

    128-bit BLAKE2b of the ids as little-endian 32-bit integers.
    """
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return hashlib.blake2b(packed.tobytes(), digest_size=16).digest()
