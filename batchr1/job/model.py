"""The section `model`: one model, and how vLLM loads it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import Section


class ModelSpec(Section):
    """A model, and how vLLM loads it.

    Give one of `variant`, `path`, `repo` or `served`.
    """

    variant: str | None = None
    """A catalogued variant: r1-tiny, r1-distill-qwen-7b, … (a wrong name gets the list)."""
    path: str | None = None
    """A folder in Hugging Face layout, here or on S3 (s3://…); any model with think tags."""
    repo: str | None = None
    """A Hugging Face repository; any model with think tags."""
    served: Annotated[str, Field(min_length=1)] | None = None
    """The name under which a server serves it; only with engine.kind openai. A variant or repo is
    asked for by the repository's name, which is what vllm serve calls it."""
    revision: str | None = None
    """Branch, tag or commit of `repo` (or of the variant's repository). The commit it resolves to
    is recorded."""
    quantization: Literal["fp8", "awq", "gptq", "w4a16"] | None = None
    """null means as the weights are stored."""
    adapter: Annotated[str, Field(min_length=1)] | None = None
    """A folder with a LoRA adapter of the model, as PEFT saves it; vLLM applies it to every row."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run on this machine."""
    engine_args: dict[str, Any] = {}
    """Passed to vLLM as they are; names are checked against the installed version before any
    weights load."""

    @field_validator("engine_args")
    @classmethod
    def _holds_no_credentials(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, one in value.items():
            if re.search(r"://[^/@\s]*@", str(one)):
                raise ValueError(
                    f"a job is copied into its output, and the URL in {name} holds credentials"
                )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [k for k in ("variant", "path", "repo", "served") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of variant, path, repo, served (got "
                f"{', '.join(given) or 'none'})"
            )
        if self.path and self.revision:
            raise ValueError("revision belongs to repo or variant; a path has none (got both)")
        return self
