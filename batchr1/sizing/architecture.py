"""A model's size by its `config.json`.

Parameters, bytes of weights, bytes of KV cache per token.

Sources: the keys are Hugging Face's; which tensors exist and how they are cut over GPUs is read
from vLLM's model files (`qwen2.py`, `llama.py`, `deepseek_v2.py`, 0.26); the byte counts are
checked against an H200 (docs/sizing.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batchr1.errors import ModelError

Attention = Literal["gqa", "mla"]
Quantization = Literal["fp8", "awq", "gptq", "w4a16"]

# Bytes per weight of a quantised linear layer. FP8: one byte, the scales (one per channel or per
# 128 × 128) are lost in the rounding. The 4-bit formats: half a byte, and per group of 128 a 16-bit
# scale and (AWQ, GPTQ) a 4-bit zero point.
BYTES_PER_WEIGHT: dict[str, float] = {
    "fp8": 1.0,
    "w4a16": 0.5 + 2 / 128,
    "awq": 0.5 + 2.5 / 128,
    "gptq": 0.5 + 2.5 / 128,
}
_MIB = 2**20
MAX_LAYERS = 10_000  # formulas go over them one by one
MAX_SIZE = 10**9
_LARGE_TENSOR = 10 * _MIB  # torch's caching allocator gives larger tensors blocks of whole 2 MiB
_LARGE_BLOCK = 2 * _MIB


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder's dimensions, in elements.

    `head_dim` is a key's and a value's, except under MLA.

    `note` says why an estimate is on the safe side, where a part of the model is not known here.
    """

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    attention: Attention
    max_position: int
    qkv_bias: bool = False
    # multi-head latent attention
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    # mixture of experts: layers before `num_dense_layers` have a dense block of `intermediate`
    num_experts: int = 0
    experts_per_token: int = 0
    num_shared_experts: int = 0
    moe_intermediate: int = 0
    num_dense_layers: int = 0
    stored: Quantization | None = None
    note: str | None = None

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a `config.json`.

        Raises `ModelError` when a number that everything depends on is missing.
        """
        nested = config.get("text_config")
        text: Mapping[str, Any] = nested if isinstance(nested, Mapping) else config

        def number(*names: str, default: int | None = None) -> int:
            for name in names:
                value = text.get(name)
                if value is None:
                    continue
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int)
                    or value < (0 if default == 0 else 1)
                    or value > (MAX_LAYERS if "layer" in name else MAX_SIZE)
                ):
                    raise ModelError(
                        f"model: config.json's {name} is not a size (got {value!r}, need a "
                        f"whole "
                        f"number). Correct it."
                    )
                return value
            if default is None:
                raise ModelError(
                    f"model: config.json does not say {names[0]} (need it to size the engine). "
                    f"Add it there."
                )
            return default

        layers, hidden = number("num_hidden_layers", "n_layer"), number("hidden_size", "n_embd")
        heads = number("num_attention_heads", "n_head")
        mla = number("kv_lora_rank", default=0)
        experts = number("n_routed_experts", "num_experts", "num_local_experts", default=0)
        dense = number("first_k_dense_replace", default=0) if experts else layers
        moe_intermediate = (
            number("moe_intermediate_size", "intermediate_size", default=0) if experts else 0
        )
        return cls(
            num_layers=layers,
            hidden=hidden,
            intermediate=number("intermediate_size", "n_inner", default=4 * hidden),
            num_heads=heads,
            num_kv_heads=number("num_key_value_heads", default=heads),
            head_dim=number("head_dim", default=hidden // heads),
            vocab=number("vocab_size"),
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            attention="mla" if mla else "gqa",
            max_position=number("max_position_embeddings", "n_positions", default=8192),
            qkv_bias=text.get("model_type") == "qwen2" or bool(text.get("attention_bias")),
            q_lora_rank=number("q_lora_rank", default=0),
            kv_lora_rank=mla,
            qk_nope_head_dim=number("qk_nope_head_dim", default=0),
            qk_rope_head_dim=number("qk_rope_head_dim", default=0),
            v_head_dim=number("v_head_dim", default=0),
            num_experts=experts,
            experts_per_token=number("num_experts_per_tok", "num_experts_per_token", default=0),
            num_shared_experts=number("n_shared_experts", default=0),
            moe_intermediate=moe_intermediate,
            num_dense_layers=dense,
            stored=stored_quantization(config),
            note=_unknown_parts(text),
        )

    def divides_into(self, tensor_parallel: int) -> bool:
        """Whether vLLM can cut the model so: attention heads evenly, KV heads evenly or into even
        copies.
        """
        heads = self.num_heads % tensor_parallel == 0
        kv = self.num_kv_heads % tensor_parallel == 0 or tensor_parallel % self.num_kv_heads == 0
        return heads and (kv or self.attention == "mla")

    def parameters(self) -> int:
        """Weights of the model, embeddings included."""
        return sum(
            rows * cols * count
            for rows, cols, count, _ in self._tensors(
                1, range(self.num_layers), first=True, last=True
            )
        )

    def active_parameters(self) -> int:
        """Weights that one token passes through: of a mixture of experts, only the chosen ones."""
        if not self.num_experts:
            return self.parameters()
        idle = (self.num_experts - self.experts_per_token) * 3 * self.hidden * self.moe_intermediate
        return self.parameters() - idle * (self.num_layers - self.num_dense_layers)

    def bytes_per_weight(self, quantization: str | None = None, *, dtype_bytes: int = 2) -> float:
        """Of a weight that can be quantised.

        `quantization` None means as stored, and `dtype_bytes` if that is not.
        """
        kind = quantization or self.stored
        return BYTES_PER_WEIGHT[kind] if kind else dtype_bytes

    def weight_bytes(
        self,
        quantization: str | None = None,
        *,
        dtype_bytes: int = 2,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
    ) -> int:
        """Bytes of GPU memory that the weights take on the fullest GPU, as vLLM loads them.

        `quantization` None means as stored. Embeddings, the output layer, norms and routers are
        never quantised, and take `dtype_bytes`. With them is counted the table of rotary angles,
        and what the allocator rounds up.
        """
        per_weight = self.bytes_per_weight(quantization, dtype_bytes=dtype_bytes)
        stages = []
        for stage, layers in enumerate(_stages(self.num_layers, pipeline_parallel)):
            last = stage == pipeline_parallel - 1
            total = 0.0
            for rows, cols, count, linear in self._tensors(
                tensor_parallel, layers, first=stage == 0, last=last
            ):
                total += count * _allocated(rows * cols * (per_weight if linear else dtype_bytes))
            stages.append(total)
        rotary = self.max_position * (self.qk_rope_head_dim or self.head_dim) * 2
        return int(max(stages)) + rotary + 16 * _MIB

    def kv_bytes_per_token(
        self, *, kv_dtype_bytes: int = 2, tensor_parallel: int = 1, pipeline_parallel: int = 1
    ) -> int:
        """Bytes of KV cache that a token takes on one GPU (the one with most layers).

        GQA: a key and a value per KV head; heads are cut over GPUs, and copied once there are more
        GPUs than heads. MLA: one latent vector and one rotary key per layer, on every GPU.
        """
        layers = max(len(stage) for stage in _stages(self.num_layers, pipeline_parallel))
        if self.attention == "mla":
            return layers * (self.kv_lora_rank + self.qk_rope_head_dim) * kv_dtype_bytes
        heads = max(1, self.num_kv_heads // tensor_parallel)
        return 2 * layers * heads * self.head_dim * kv_dtype_bytes

    def _tensors(
        self, tp: int, layers: range, *, first: bool, last: bool
    ) -> Iterator[tuple[int, int, int, bool]]:
        """(rows, columns, how many, whether quantised) of what one GPU holds, fused as vLLM fuses
        them.
        """
        vocab = math.ceil(self.vocab / 64 / tp) * 64
        if first:
            yield vocab, self.hidden, 1, False
        if last and not (self.tied and first):
            yield vocab, self.hidden, 1, False
        yield self.hidden, 1, 2 * len(layers) + 1, False  # norms
        attention = self._mla(tp) if self.attention == "mla" else self._gqa(tp)
        for rows, cols, linear in attention:
            yield rows, cols, len(layers), linear
        dense = sum(layer < self.num_dense_layers for layer in layers)
        sparse = len(layers) - dense
        if dense:
            yield 2 * self.intermediate // tp, self.hidden, dense, True
            yield self.hidden, self.intermediate // tp, dense, True
        if sparse:
            width = self.moe_intermediate // tp
            yield 2 * width * self.num_experts, self.hidden, sparse, True
            yield self.hidden * self.num_experts, width, sparse, True
            yield self.num_experts, self.hidden, sparse, False  # the router
            if self.num_shared_experts:
                yield 2 * width * self.num_shared_experts, self.hidden, sparse, True
                yield self.hidden, width * self.num_shared_experts, sparse, True

    def _gqa(self, tp: int) -> Iterator[tuple[int, int, bool]]:
        q = self.num_heads // tp * self.head_dim
        kv = max(1, self.num_kv_heads // tp) * self.head_dim
        yield q + 2 * kv, self.hidden, True
        yield self.hidden, q, True
        if self.qkv_bias:
            yield q + 2 * kv, 1, False

    def _mla(self, tp: int) -> Iterator[tuple[int, int, bool]]:
        heads = self.num_heads // tp
        key = self.qk_nope_head_dim + self.qk_rope_head_dim
        yield self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim, self.hidden, True
        yield heads * key, self.q_lora_rank or self.hidden, True
        yield heads * (self.qk_nope_head_dim + self.v_head_dim), self.kv_lora_rank, True
        yield self.hidden, heads * self.v_head_dim, True

    def absorbed_bytes(self, *, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> int:
        """Under MLA vLLM keeps the up-projection of keys and values a second time, in 16 bits, for
        decoding.
        """
        if self.attention != "mla":
            return 0
        layers = max(len(stage) for stage in _stages(self.num_layers, pipeline_parallel))
        per_layer = (
            (self.qk_nope_head_dim + self.v_head_dim)
            * self.kv_lora_rank
            * self.num_heads
            // tensor_parallel
        )
        return 2 * layers * per_layer


def _allocated(size: float) -> float:
    return math.ceil(size / _LARGE_BLOCK) * _LARGE_BLOCK if size >= _LARGE_TENSOR else size


def _stages(num_layers: int, pipeline_parallel: int) -> list[range]:
    """Layers per pipeline stage: an equal share each, what is left over goes to the stages before
    the last.
    """
    share, left = divmod(num_layers, pipeline_parallel)
    sizes = [share] * pipeline_parallel
    for i in range(left):
        sizes[-(i + 2) % pipeline_parallel] += 1
    edges = [sum(sizes[:i]) for i in range(pipeline_parallel + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def stored_quantization(config: Mapping[str, Any]) -> Quantization | None:
    """How the weights lie in the repository, from `quantization_config`."""
    given = config.get("quantization_config")
    if not isinstance(given, Mapping):
        return None
    method = str(given.get("quant_method", "")).lower()
    if method == "fp8":
        return "fp8"
    if method in ("awq", "gptq"):
        return "awq" if method == "awq" else "gptq"
    if method == "compressed-tensors":
        groups = given.get("config_groups", {})
        found = groups.values() if isinstance(groups, Mapping) else []
        weights = [g.get("weights") or {} for g in found if isinstance(g, Mapping)]
        return "w4a16" if any(w.get("num_bits") == 4 for w in weights) else "fp8"
    return None


def _unknown_parts(text: Mapping[str, Any]) -> str | None:
    """Name what makes the KV cache smaller than by the formula."""
    if isinstance(text.get("layer_types"), list) and len(set(text["layer_types"])) > 1:
        return (
            "some layers keep less than the whole context; sized as if all of them kept all of it"
        )
    if text.get("sliding_window") and text.get("use_sliding_window", True):
        return "attention is over a sliding window; sized as if it were over the whole context"
    if any(key in text for key in ("ssm_state_size", "mamba_d_state", "linear_num_key_heads")):
        return "a hybrid of attention and a recurrent state; sized as if every layer were attention"
    return None
