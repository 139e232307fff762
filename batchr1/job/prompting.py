"""Section `prompting` of a job."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import Section

_TEMPLATES_OWN = frozenset(
    {"messages", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
    | {"strftime_now", "bos_token", "eos_token", "pad_token", "unk_token", "return_dict"}
)


class TagsSpec(Section):
    """Think tags of a model that no named format is right for."""

    open: Annotated[str, Field(min_length=1)]
    """The opening tag, as the model writes it."""
    close: Annotated[str, Field(min_length=1)]
    """The closing tag."""
    answer_open: str | None = None
    """What stands before the answer and is no part of it; null: nothing."""
    answer_close: str | None = None
    """What stands behind the answer; null: nothing."""

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> TagsSpec:
        if self.open == self.close:
            raise ValueError(f"open and close must differ (got {self.open!r} twice)")
        return self


class PromptingSpec(Section):
    """Prompts: the instruction, the think tags, the chat template."""

    instruction: str = "math"
    """math ("Please reason step by step, …"), none, or a text of your own; appended to the user
    turn."""
    think: Literal["force", "auto"] = "force"
    """force: the prompt ends inside an open think block; auto: as the model's chat template
    leaves it."""
    format: str | TagsSpec = "auto"
    """Family of think tags. auto: found in the model's chat template and vocabulary. Else r1,
    mistral, seed, harmony, … (docs/models.md lists them; a wrong name gets the list), or the
    tags themselves as {open, close}."""
    template_args: dict[str, Any] = {}
    """Variables of the chat template, such as {enable_thinking: true} or {reasoning_effort:
    high}."""
    template: str | None = None
    """A Jinja file to use instead of the model's own chat template, or for a model without one."""
    system: Literal["auto", "fold", "keep"] = "auto"
    """System messages. fold: into the first user turn. keep: as a turn of their own. auto:
    folded for R1 and its distills, which are meant to have none, and kept where the model's chat
    template has such a turn."""

    @field_validator("template_args")
    @classmethod
    def _are_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_template_args(value)


def check_template_args(value: dict[str, Any]) -> dict[str, Any]:
    """Check variables of a chat template.

    Raises `ValueError` for those that batchr1 fills.
    """
    for name in value:
        if name in _TEMPLATES_OWN:
            raise ValueError(f"{name} is filled by batchr1 (give switches of the template only)")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"this cannot be said in JSON ({exc})") from exc
    return value
