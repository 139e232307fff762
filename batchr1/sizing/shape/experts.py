"""Experts of a model: how many, how wide, and in which layers.

Sources: the keys are Hugging Face's, under each model's own names (DeepSeek, Qwen, GLM, gpt-oss,
Mixtral, Llama 4, MiniMax, ERNIE, Hunyuan, Jamba); defaults are those of their configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchr1.sizing.shape.numbers import number

_COUNT = (
    "n_routed_experts",
    "num_experts",
    "num_local_experts",
    "moe_num_experts",
    "num_experts_per_layer",
)
_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_k",
)
_LISTED = {*_COUNT, *_PER_TOKEN, "moe_intermediate_size", "num_shared_experts"}


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts; without any, no layer is sparse.

    `intermediate` is an expert's width, `shared_intermediate` that of all shared ones together.
    """

    count: int = 0
    per_token: int = 0
    intermediate: int = 0
    shared_intermediate: int = 0
    sparse: frozenset[int] = frozenset()


def experts_of(text: Mapping[str, Any], num_layers: int) -> Experts:
    """Read a model's experts."""
    text = {key: _first(value) if key in _LISTED else value for key, value in text.items()}
    count = number(text, *_COUNT, default=0)
    if count < 2:
        return Experts()
    width = number(text, "moe_intermediate_size", "intermediate_size", default=0)
    shared = number(
        text, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", default=0
    )
    if not shared:
        together = number(
            text, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0
        )
        if text.get("model_type") == "llama4_text":
            together = 1
        shared = together * width
    sparse = frozenset(layer for layer in range(num_layers) if _is_sparse(text, layer))
    return Experts(count, number(text, *_PER_TOKEN, default=0), width, shared, sparse)


def _first(value: Any) -> Any:
    """Take the first of a list: some give a number a layer."""
    return value[0] if isinstance(value, list) and value else value


def _is_sparse(text: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has experts."""
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and layer < len(pattern) and "E" in pattern:
        return pattern[layer] == "E"
    listed = text.get("moe_layers")
    if isinstance(listed, list) and listed:
        return layer in listed
    dense = text.get("mlp_only_layers")
    if isinstance(dense, list) and layer in dense:
        return False
    first = number(text, "first_k_dense_replace", "moe_layer_start_index", default=0)
    if layer < first:
        return False
    period = number(text, "expert_layer_period", default=0)
    if period:
        return layer % period == number(text, "expert_layer_offset", default=0)
    step = number(text, "decoder_sparse_step", "interleave_moe_layer_step", default=1)
    return (layer + 1) % step == 0
