"""The section `engine`: its kind, and the keys of each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from batchr1.job.base import Seconds, Section
from batchr1.job.kinds import KINDS
from batchr1.job.replay_script import ReplayScript
from batchr1.job.server_rules import check_api_key_env, check_base_url, check_extra_body

MILLION = 1_000_000


class PriceSpec(Section):
    """A server's price list, in USD per million tokens."""

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Of the prompt, at its full price: what a server's cache makes cheaper is not looked at."""
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Of what is generated, reasoning included."""

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price so many tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / MILLION


class EngineKind(Section):
    """The engine: vLLM started by batchr1, a server, or a script.

    Only `kind` and `extra_body` decide answers.
    """

    kind: Literal[tuple(KINDS)] = "vllm"  # type: ignore[valid-type]
    """vllm: engines on this machine's GPUs, or a cluster's. openai: any server that has OpenAI's
    chat completions. replay: a scripted engine without a model, for dry runs."""
    base_url: str | None = None
    """Where /chat/completions is beneath, such as http://localhost:8000/v1. No credentials here."""
    api_key_env: str | None = None
    """The environment variable that holds the key. Without it, that of OPENAI_API_KEY is sent, if
    there is one. The key itself stands nowhere."""
    concurrency: Annotated[int, Field(gt=0, le=4096)] = 32
    """Requests under way at a time, at most."""
    timeout_s: Seconds = 1800
    """Longest time for one request, from sending it to its last token. One that takes longer is
    tried again, as an attempt of its row."""
    patience_s: Seconds = 600
    """After so long with nothing but errors from the server the run stops, resumably."""
    stream: bool = True
    """Whether tokens come as they are made: a connection without a word for minutes is cut by many
    a gateway."""
    extra_body: dict[str, Any] = {}
    """More of the request's body, for the server's own parameters. No secrets here."""
    price: PriceSpec | None = None
    """For the cost in summary and record, and for max_cost."""
    max_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """USD that this output may cost, all its runs together: then nothing more is sent. Needs
    price."""
    script: ReplayScript | None = None
    """How the scripted engine behaves; only with kind replay."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        return None if value is None else check_api_key_env(value)

    @field_validator("extra_body")
    @classmethod
    def _is_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_extra_body(value)

    @property
    def key_env(self) -> str:
        return self.api_key_env or "OPENAI_API_KEY"
