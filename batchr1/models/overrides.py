"""A model's config with `engine_args.hf_overrides`, as vLLM merges it.

Source: vLLM's `config/model.py` (0.32), for the context that a scaling of positions gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchr1.errors import JobError
from batchr1.models.resolve import ModelSource

_KEPT = ("su", "longrope", "llama3", "default", "mrope", "proportional")  # scale no length

_SCALINGS = ("rope_scaling", "rope_parameters")


def overridden(source: ModelSource, overrides: Any) -> ModelSource:
    """Merge overrides into a model's config, and find its context again.

    Raises `JobError` for overrides that are no mapping.
    """
    if overrides is None:
        return source
    if not isinstance(overrides, Mapping):
        raise JobError(
            f"model.engine_args.hf_overrides: not a mapping (got {overrides!r}, need keys of "
            "config.json). Correct it."
        )
    config = merged(source.config, overrides)
    return replace(source, config=config, context_len=_context_of(config, source.context_len))


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge keys, those of inner mappings too, except a scaling's."""
    result = dict(config)
    for key, value in overrides.items():
        inner = result.get(key)
        if key in _SCALINGS:  # two names of one thing
            result = {name: old for name, old in result.items() if name not in _SCALINGS}
        result[key] = value
        if key not in _SCALINGS and isinstance(value, Mapping) and isinstance(inner, Mapping):
            result[key] = merged(inner, value)
    return result


def _context_of(config: Mapping[str, Any], before: int) -> int:
    """Find the context that positions, and a scaling of them, allow."""
    nested = config.get("text_config")
    text: Mapping[str, Any] = config
    if isinstance(nested, Mapping):
        text = {**config, **nested}
    length = text.get("max_position_embeddings", before)
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise JobError(
            "model.engine_args.hf_overrides.max_position_embeddings: not a number of tokens (got "
            f"{length!r}). Correct it."
        )
    if not isinstance(scaling, Mapping):
        return length
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    factor = scaling.get("factor")
    if kind in _KEPT:
        return length
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if factor is None or not is_number or not math.isfinite(factor) or factor <= 0:
        raise JobError(
            f"model.engine_args.hf_overrides: the scaling of positions has no factor (got "
            f"{factor!r}, need a number such as 4.0). Correct it."
        )
    original = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and isinstance(original, int) and original > 0:
        length = original
    return int(length * factor)
