"""Layers by what they remember: the context, a window, or a state.

Sources: the keys are Hugging Face's, under each model's own names; sizes of states are read from
vLLM's `MambaStateShapeCalculator`, the way layers share blocks from its `kv_cache_utils` (0.32).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.sizing.shape.numbers import number

Kind = Literal["full", "window", "recurrent", "none"]

BLOCK_TOKENS = 16  # of a block of KV cache
SIMILAR = 1.5  # kinds with fewer layers than this share of another are padded to its number
STATES = 2  # of a sequence in the cache: the running one, and the one that a prefix cache keeps

# Names of layers in `layer_types` and its likes. A name that is not here counts as full attention.
_KINDS: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "global_attention": "full",
    "sliding_attention": "window",
    "local_attention": "window",
    "chunked_attention": "window",
    "linear_attention": "recurrent",
    "mamba": "recurrent",
    "mamba2": "recurrent",
    "conv": "recurrent",
    "recurrent": "recurrent",
    "mlp": "none",
    "moe": "none",
    "M": "recurrent",
    "*": "full",
    "-": "none",
    "E": "none",
}
_LISTS = ("layer_types", "layers_block_type", "block_types")
_STATEFUL = ("ssm_state_size", "mamba_d_state", "linear_num_key_heads", "linear_attn_config")


@dataclass(frozen=True, slots=True)
class Layers:
    """Kinds of all layers; `window` in tokens, `state_bytes` of one recurrent layer.

    `alternate`: a layer is attention, a state or a feed-forward block, and never two of them.
    `note` says what is not known here.
    """

    kinds: tuple[Kind, ...] = ()
    window: int = 0
    state_bytes: int = 0
    alternate: bool = False
    note: str | None = None

    def of(self, stage: range) -> tuple[int, int, int]:
        """Count full, windowed and recurrent layers of a stage."""
        kinds = [self.kinds[layer] for layer in stage]
        return kinds.count("full"), kinds.count("window"), kinds.count("recurrent")


def layers_of(text: Mapping[str, Any], num_layers: int) -> Layers:
    """Read which layers keep what."""
    kinds, note = _kinds(text, num_layers)
    window = _window(text)
    if "window" in kinds and not window:
        kinds = tuple("full" if kind == "window" else kind for kind in kinds)
    state = 0
    if "recurrent" in kinds:
        state = state_bytes(text)
        if not state:
            note = "the state of its recurrent layers is not known; sized as full attention"
            kinds = tuple("full" if kind == "recurrent" else kind for kind in kinds)
    elif note is None and any(text.get(key) for key in _STATEFUL):
        note = "a hybrid of attention and a recurrent state; sized as if every layer were attention"
    return Layers(kinds, window, state, "none" in kinds, note)


def _window(text: Mapping[str, Any]) -> int:
    for name in ("sliding_window", "sliding_window_size", "attention_chunk_size"):
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _kinds(text: Mapping[str, Any], num_layers: int) -> tuple[tuple[Kind, ...], str | None]:
    """Find the kind of each layer, and what is unknown of them."""
    named: list[Any] | None = None
    for key in _LISTS:
        if isinstance(text.get(key), list):
            named = text[key]
            break
    pattern = text.get("hybrid_override_pattern")
    if named is None and isinstance(pattern, str):
        named = list(pattern)
    if named is not None and len(named) == num_layers:
        unknown = sorted({str(name) for name in named} - _KINDS.keys())
        note = None
        if unknown:
            note = f"layers of an unknown type ({', '.join(unknown)}) are sized as full attention"
        return tuple(_KINDS.get(str(name), "full") for name in named), note
    return tuple(_kind_by_rule(text, layer) for layer in range(num_layers)), None


def _kind_by_rule(text: Mapping[str, Any], layer: int) -> Kind:
    """Find a layer's kind where the model gives no list."""
    every = text.get("full_attention_interval")
    if isinstance(every, int) and every > 0 and text.get("linear_num_value_heads"):
        return "full" if (layer + 1) % every == 0 else "recurrent"
    linear = text.get("linear_attn_config")
    if isinstance(linear, Mapping) and isinstance(linear.get("full_attn_layers"), list):
        return "full" if layer + 1 in linear["full_attn_layers"] else "recurrent"  # from 1
    listed = text.get("attn_type_list")
    if isinstance(listed, list) and layer < len(listed):
        return "full" if listed[layer] == 1 else "recurrent"
    period, offset = text.get("attn_layer_period"), text.get("attn_layer_offset", 0)
    if isinstance(period, int) and period > 0 and isinstance(offset, int):
        return "full" if layer % period == offset else "recurrent"
    if not _window(text) or text.get("use_sliding_window") is False:
        return "full"
    return _windowed_by_rule(text, layer)


def _windowed_by_rule(text: Mapping[str, Any], layer: int) -> Kind:
    model_type = str(text.get("model_type"))
    pattern = text.get("sliding_window_pattern")
    if not isinstance(pattern, int) or pattern < 1:
        pattern = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}.get(model_type, 0)
    if pattern:
        return "full" if (layer + 1) % pattern == 0 else "window"
    first = text.get("max_window_layers")  # Qwen's: the layers before it see everything
    if isinstance(first, int) and not isinstance(first, bool):
        return "window" if layer >= first else "full"
    return "full" if model_type.startswith("llama4") else "window"


def state_bytes(text: Mapping[str, Any]) -> int:
    """Bytes of one recurrent layer's state of one sequence; 0: not known.

    A convolution's last inputs have 16 bits, the state itself what the config says.
    """
    size = 2
    if str(text.get("mamba_ssm_dtype", text.get("mamba_ssm_cache_dtype"))) == "float32":
        size = 4
    if text.get("linear_num_value_heads"):  # gated delta net
        keys, values = number(text, "linear_num_key_heads"), number(text, "linear_num_value_heads")
        key, value = number(text, "linear_key_head_dim"), number(text, "linear_value_head_dim")
        kernel = number(text, "linear_conv_kernel_dim", default=4)
        conv = (kernel - 1) * (2 * keys * key + values * value)
        return 2 * conv + size * values * value * key
    linear = text.get("linear_attn_config")
    if isinstance(linear, Mapping) and linear.get("num_heads"):  # Kimi's delta attention
        heads, width = number(linear, "num_heads"), number(linear, "head_dim")
        kernel = number(linear, "short_conv_kernel_size", default=4)
        return 2 * (kernel - 1) * 3 * heads * width + 4 * heads * width * width
    heads = number(text, "mamba_num_heads", "mamba_n_heads", default=0)
    if heads:  # Mamba 2
        width = number(text, "mamba_head_dim", "mamba_d_head", default=64)
        state = number(text, "ssm_state_size", "mamba_d_state", default=128)
        groups = number(text, "n_groups", "mamba_n_groups", default=1)
        kernel = number(text, "conv_kernel", "mamba_d_conv", default=4)
        conv = (kernel - 1) * (heads * width + 2 * groups * state)
        return 2 * conv + size * heads * width * state
    if text.get("mamba_d_state"):  # Mamba 1
        inner = number(text, "mamba_expand", default=2) * number(text, "hidden_size")
        kernel = number(text, "mamba_d_conv", default=4)
        return 2 * (kernel - 1) * inner + size * inner * number(text, "mamba_d_state")
    if text.get("attn_type_list"):  # lightning attention
        width = number(text, "head_dim", default=128)
        return 4 * number(text, "num_attention_heads") * width * width
    return 0


@dataclass(frozen=True, slots=True)
class KvCache:
    """Cache of one GPU, and what sequences take of it.

    `per_layer`: bytes of a token in one layer. `full`, `window` and `recurrent` count layers of the
    GPU. `state_bytes` is the GPU's part of one layer's state.
    """

    per_layer: int
    full: int
    windowed: int = 0
    recurrent: int = 0
    window: int = 0
    state_bytes: int = 0

    @property
    def is_uniform(self) -> bool:
        """Whether every layer keeps the whole context."""
        return not (self.windowed or self.recurrent)

    def bytes_of(self, tokens: int, *, in_flight: int = 0) -> int:
        """Bytes of one sequence of so many tokens, in whole blocks.

        Layers of each kind are divided into groups of equal size, and all groups draw their blocks
        from one pool. A window holds what a step computes beside it (`in_flight`), and a block
        more. A recurrent group holds its states, each in a block as large as the others'.
        """
        block = self._block_tokens
        blocks = math.ceil(tokens / block)
        held = min(self.window - 1 + max(1, in_flight), tokens)
        groups = [(self.full, blocks), (self.windowed, math.ceil(held / block) + 1)]
        if self.recurrent:
            groups.append((self.recurrent, STATES))
        sizes = [layers for layers, _ in groups if layers]
        if not sizes:
            return 0
        together = min(sizes)
        if max(sizes) < SIMILAR * together:
            together = max(sizes)
        number_of_blocks = sum(math.ceil(layers / together) * n for layers, n in groups if layers)
        return number_of_blocks * together * block * self._per_token

    @property
    def _per_token(self) -> int:
        """Bytes of a token in a layer: a block must hold something."""
        return max(1, self.per_layer)

    @property
    def _block_tokens(self) -> int:
        """Tokens of a block, which is no smaller than a state."""
        least = math.ceil(self.state_bytes / self._per_token) if self.recurrent else 1
        return max(1, math.ceil(least / BLOCK_TOKENS)) * BLOCK_TOKENS

    def tokens_in(self, kv_bytes: int, *, length: int, in_flight: int = 0) -> int:
        """Tokens that so many bytes hold, of sequences of one length."""
        if self.is_uniform:
            one = self.full * self.per_layer * BLOCK_TOKENS
            return max(0, kv_bytes // max(1, one)) * BLOCK_TOKENS
        return max(0, int(kv_bytes / self.bytes_of(length, in_flight=in_flight) * length))

    def per_token(self, length: float) -> float:
        """Bytes a token, of a sequence of some length."""
        if self.is_uniform:
            return float(self.full * self.per_layer)
        whole = max(1, round(length))
        return self.bytes_of(whole) / whole
