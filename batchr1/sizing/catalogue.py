"""The model variants that batchr1 knows by name.

Sources: the repositories' own `config.json` and model cards (huggingface.co/deepseek-ai). Licences: DeepSeek publishes
all of them under MIT; the distills also stand under their base model's licence (Qwen2.5: Apache-2.0; Llama 3.1 and
3.3: Meta's community licences).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from batchr1.errors import JobError

MODELS = Path(__file__).parent.parent / "models"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model by name. Either a repository on the hub or a folder that ships with batchr1."""

    name: str
    licence: str
    context_len: int
    repo: str | None = None
    path: Path | None = None


_R1_CONTEXT = 131_072

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("r1-tiny", "Apache-2.0", 4096, path=MODELS / "r1_tiny"),
        Variant("r1-distill-qwen-1.5b", "MIT; Apache-2.0", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
        Variant("r1-distill-qwen-7b", "MIT; Apache-2.0", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
        Variant("r1-distill-llama-8b", "MIT; Llama 3.1", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        Variant("r1-distill-qwen-14b", "MIT; Apache-2.0", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        Variant("r1-distill-qwen-32b", "MIT; Apache-2.0", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"),
        Variant("r1-distill-llama-70b", "MIT; Llama 3.3", _R1_CONTEXT, "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"),
        Variant("r1-671b", "MIT", 163_840, "deepseek-ai/DeepSeek-R1"),
        Variant("r1-0528-671b", "MIT", 163_840, "deepseek-ai/DeepSeek-R1-0528"),
    )
}


def variant(name: str) -> Variant:
    """The catalogue's entry, or a `JobError` that names the nearest one."""
    if name in VARIANTS:
        return VARIANTS[name]
    close = difflib.get_close_matches(name.lower(), VARIANTS, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(VARIANTS)}."
    raise JobError(f"model.variant: unknown variant (got {name!r}). {hint}")
