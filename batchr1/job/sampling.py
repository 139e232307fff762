"""The section `sampling`: what an engine is given."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from batchr1.job.base import PositiveInt, Section

# Keys of `sampling` that batchr1 itself acts on: no engine draws by them.
_NOT_DRAWING = {
    "n",
    "max_tokens",
    "seed",
    "preset",
    "thinking_budget",
    "answer_budget",
    "closing_sentence",
    "stop_loops",
    "stop",
    "stop_in",
    "answer_schema",
    "answer_regex",
}
# Keys that need a generation's tokens as they come: a server gives none.
NEED_TOKENS = ("thinking_budget", "answer_budget", "closing_sentence", "stop_loops", "ignore_eos")
_StopText = Annotated[str, Field(min_length=1)]


def _number_of(key: object) -> object:
    """Read the key of a mapping, which JSON has as text."""
    return int(key) if isinstance(key, str) and key.isdecimal() else key


_TokenId = Annotated[int, BeforeValidator(_number_of), Field(ge=0)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `ValueError` for what is no JSON Schema."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as exc:
        at = "".join(f".{part}" for part in exc.path)
        raise ValueError(f"answer_schema{at} is no JSON Schema ({exc.message})") from None


def check_regex(pattern: str) -> None:
    """Raise `ValueError` for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"answer_regex is no regular expression ({exc})") from None


class SamplingSpec(Section):
    """Drawing of tokens. The defaults are DeepSeek's recommendation for R1."""

    n: PositiveInt = 1
    """Samples per row."""
    preset: Literal["model"] | None = None
    """model: temperature, top_p, top_k and min_p that are not set here come from the model's
    generation_config.json; null: from the defaults below."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.6
    """0 is greedy; R1 is meant to run at 0.5 to 0.7."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Only the most probable tokens that together reach this probability."""
    top_k: PositiveInt | None = None
    """Only this many of the most probable tokens; null: all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only tokens at least this probable, relative to the most probable one; null: all."""
    max_tokens: PositiveInt | None = 32768
    """New tokens per sample, reasoning and answer together; null: as far as the context goes."""
    stop: Annotated[list[_StopText], Field(min_length=1)] | None = None
    """Texts that end a generation. The row's text ends before the first of them. White space at the
    beginning of an answer is not looked at."""
    stop_in: Literal["answer", "anywhere"] = "answer"
    """Where `stop` is looked for: in the answer alone, or in the reasoning too."""
    answer_schema: dict[str, Any] | None = None
    """A JSON Schema that binds the answer, from the closing tag on and never before."""
    answer_regex: Annotated[str, Field(min_length=1)] | None = None
    """The same by a regular expression, which matches the answer as a whole."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    """Above 1, tokens of the prompt and of the text so far become less probable; null: none."""
    presence_penalty: _Penalty | None = None
    """Taken off the logit of each token that was generated. It counts from where a generation was
    last taken up, as `resumed_at` says."""
    frequency_penalty: _Penalty | None = None
    """The same, as often as the token was generated."""
    logit_bias: dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Added to the logits of tokens, by their ids: {1234: -100} forbids one."""
    bad_words: Annotated[list[_StopText], Field(min_length=1)] | None = None
    """Texts that are never generated, in reasoning and answer."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Each sample's own seed is derived from it; null sends none to the engine."""
    ignore_eos: bool = False
    """Generate up to max_tokens whatever the model says: for measuring speed."""
    thinking_budget: PositiveInt | None = None
    """Reasoning tokens per sample, at most: there the trace is closed and the answer begins; null:
    no bound."""
    answer_budget: PositiveInt | None = None
    """Tokens of the answer, at most; thinking is closed early enough to leave room for them. null:
    no bound."""
    closing_sentence: str | None = None
    """Said at the end of a trace that a budget closes, as a paragraph of its own; null: nothing is
    said."""
    stop_loops: bool | Literal["close"] = False
    """What becomes of a generation that has been repeating itself for long. true: it ends there,
    truncated by loop. close: a loop in its reasoning is closed, and the model answers; one in its
    answer ends it."""

    @property
    def drawing(self) -> dict[str, Any]:
        """Keys that an engine draws by, under its own names.

        Those that are null are left out.
        """
        return self.model_dump(exclude=_NOT_DRAWING, exclude_none=True)

    @property
    def binds_answers(self) -> bool:
        """Whether answers have a form."""
        return self.answer_schema is not None or self.answer_regex is not None

    @property
    def has_budget(self) -> bool:
        return self.thinking_budget is not None or self.answer_budget is not None

    @property
    def closes_traces(self) -> bool:
        """Whether batchr1 may put in the closing tag itself."""
        return self.has_budget or self.stop_loops == "close"

    @model_validator(mode="after")
    def _has_one_form(self) -> SamplingSpec:
        if self.answer_schema is not None and self.answer_regex is not None:
            raise ValueError("answer_schema and answer_regex both bind the answer (give one)")
        if self.answer_schema is not None:
            check_schema(self.answer_schema)
        if self.answer_regex is not None:
            check_regex(self.answer_regex)
        return self

    @model_validator(mode="after")
    def _leaves_room_for_an_answer(self) -> SamplingSpec:
        for name in ("thinking_budget", "answer_budget"):
            budget = getattr(self, name)
            if budget is not None and self.max_tokens is not None and budget >= self.max_tokens:
                raise ValueError(
                    f"{name} leaves no room for the rest (got {budget}, need less than max_tokens, "
                    f"{self.max_tokens})"
                )
        if self.closing_sentence is not None and not self.closes_traces:
            raise ValueError(
                "closing_sentence is said where batchr1 closes a trace, and nothing does (set "
                "thinking_budget, answer_budget, or stop_loops: close)"
            )
        return self
