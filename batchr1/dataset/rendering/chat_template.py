"""Chat template with the job's switches, on a pinned day."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from batchr1.errors import ModelError

# Switches that turn thinking on, under the names that public templates give them.
SWITCHES: tuple[tuple[str, Any], ...] = (
    ("enable_thinking", True),
    ("thinking", True),
    ("reasoning", True),
    ("thinking_mode", "enabled"),
    ("reasoning_effort", "high"),
)


class ChatTemplate:
    """Chat template of a model, or the job's own.

    `args` are the template's variables. `day` is what a template that asks for the date is told, so
    that a prompt is the same whenever it is rendered. `as_parts`: the template wants the content of
    a message as a list of parts.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str | None = None,
        args: Mapping[str, Any] | None = None,
        day: dt.date | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._args = dict(args or {})
        self.source = source if source is not None else _own_source(tokenizer)
        self.day = day or dt.date.today()
        self.as_parts = False
        self._check_args()

    @property
    def where(self) -> str:
        return f"model {self._tokenizer.name_or_path or '(unnamed)'}"

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        args: Mapping[str, Any] | None = None,
        day: dt.date | None = None,
    ) -> str:
        """Render messages up to where the model's turn begins.

        `args` and `day` are for probes.
        """
        messages = [
            {**turn, "content": [{"type": "text", "text": turn["content"]}]}
            if self.as_parts
            else dict(turn)
            for turn in turns
        ]
        noon = dt.datetime.combine(day or self.day, dt.time(12))
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=True,
                strftime_now=noon.strftime,
                **{**self._args, **(args or {})},
            )
        )

    def open_switches(self) -> list[tuple[str, Any]]:
        """List the template's switches that the job leaves unset, with values."""
        return [
            (name, value)
            for name, value in SWITCHES
            if name not in self._args and self._mentions(name)
        ]

    def _mentions(self, name: str) -> bool:
        return re.search(rf"(?<![\w.'\"]){re.escape(name)}(?![\w'\"])", self.source) is not None

    def _check_args(self) -> None:
        unknown = [name for name in self._args if not self._mentions(name)]
        if not unknown:
            return
        has = [name for name, _ in SWITCHES if self._mentions(name)]
        known = f"it has {', '.join(has)}" if has else "it has no switch that batchr1 knows"
        raise ModelError(
            f"prompting.template_args: the chat template of {self.where} has no variable "
            f"{unknown[0]} (got {', '.join(self._args)}; {known}). Correct or remove it."
        )


def _own_source(tokenizer: Any) -> str:
    """Read the model's own template; of several, the default."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default") or next(iter(own.values()))
    return str(own or "")
