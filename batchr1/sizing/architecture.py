"""A model's size by its `config.json`.

Parameters, bytes of weights, bytes of KV cache.

Sources: the keys are Hugging Face's; which tensors exist and how they are cut over GPUs is read
from vLLM's model files (`qwen2.py`, `llama.py`, `deepseek_v2.py`, 0.26; `gpt_oss.py`,
`glm4_moe.py`, `qwen3_moe.py`, `qwen3_next.py`, 0.32); the byte counts of the first three are
checked against an H200 (docs/sizing.md).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from batchr1.sizing.shape.experts import Experts, experts_of
from batchr1.sizing.shape.layers import KvCache, Layers, layers_of
from batchr1.sizing.shape.numbers import number, text_part
from batchr1.sizing.shape.weights import BYTES_PER_WEIGHT, Part, StoredWeights, stored_weights

Attention = Literal["gqa", "mla"]

_MIB = 2**20
_LARGE_TENSOR = 10 * _MIB  # torch's caching allocator gives larger tensors blocks of whole 2 MiB
_LARGE_BLOCK = 2 * _MIB
# To which vLLM's kernels pad the hidden and the experts' width: Marlin's, and Triton's on Hopper
# (`mxfp4_round_up_hidden_size_and_intermediate_size`).
_MXFP4_TILE, _MXFP4_HOPPER_TILE = (256, 128), (1, 64)
_HOPPER = (9, 0)
# Models of vLLM whose embeddings and output layer take no adapter (no `embedding_modules`).
_ENDS_AS_THEY_ARE = frozenset(
    ("qwen2", "qwen2_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "gpt_oss")
) | {"glm4", "glm4_moe", "gemma2", "gemma3", "gemma3_text", "minimax_m2"}
_GATED = ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")


class _Tensor(NamedTuple):
    """Tensor of one GPU. `part` None: never quantised."""

    rows: int
    cols: int
    part: Part | None


class _LayerKind(NamedTuple):
    """Features that tell the tensors of one layer from those of others."""

    remembers: str
    is_sparse: bool
    sizes: tuple[float | None, ...]  # bytes of a weight, by `_PARTS`


_PARTS = ("attention", "recurrent", "dense", "experts", "shared")


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
    gated_mlp: bool = True  # two matrices into the block, not one
    gated_attention: bool = False  # a gate as wide as the queries
    # multi-head latent attention
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    index_head_dim: int = 0  # of a sparse attention's index: one key per layer and token, in FP8
    experts: Experts = field(default_factory=Experts)
    layers: Layers = field(default_factory=Layers)
    recurrent_weights: int = 0  # of one recurrent layer
    vision_weights: int = 0  # beside the decoder; loaded, and not used
    stored_as: StoredWeights | None = None
    adapts_ends: bool = True  # whether a LoRA adapter has room at embeddings and output layer

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Read a `config.json`.

        Raises `ModelError` when a number that everything depends on is missing.
        """
        text = text_part(config)
        layers = number(text, "num_hidden_layers", "n_layer")
        hidden = number(text, "hidden_size", "n_embd")
        heads = number(text, "num_attention_heads", "n_head")
        mla = number(text, "kv_lora_rank", default=0)
        tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
        model_type = str(text.get("model_type"))
        return cls(
            num_layers=layers,
            hidden=hidden,
            intermediate=number(
                text, "intermediate_size_mlp", "intermediate_size", "n_inner", default=4 * hidden
            ),
            num_heads=heads,
            num_kv_heads=number(text, "num_key_value_heads", default=heads),
            head_dim=number(text, "head_dim", default=hidden // heads),
            vocab=number(text, "vocab_size"),
            tied=bool(tied),
            attention="mla" if mla else "gqa",
            max_position=number(text, "max_position_embeddings", "n_positions", default=8192),
            gated_mlp=str(text.get("mlp_hidden_act", text.get("hidden_act"))) != "relu2",
            qkv_bias=model_type == "qwen2" or bool(text.get("attention_bias")),
            gated_attention=bool(text.get("attn_output_gate", model_type in _GATED)),
            q_lora_rank=number(text, "q_lora_rank", default=0),
            kv_lora_rank=mla,
            qk_nope_head_dim=number(text, "qk_nope_head_dim", default=0),
            qk_rope_head_dim=number(text, "qk_rope_head_dim", default=0),
            v_head_dim=number(text, "v_head_dim", default=0),
            index_head_dim=number(text, "index_head_dim", default=0),
            experts=experts_of(text, layers),
            layers=layers_of(text, layers),
            recurrent_weights=_recurrent_weights(text, hidden),
            vision_weights=_vision_weights(config),
            stored_as=stored_weights(config),
            adapts_ends=model_type not in _ENDS_AS_THEY_ARE,
        )

    @property
    def stored(self) -> str | None:
        """Name how the weights are stored.

        None: in 16 bits, or in a format that is unknown here.
        """
        if self.stored_as is None or not self.stored_as.groups:
            return None
        return self.stored_as.name

    @property
    def note(self) -> str | None:
        """Say where a part of the model is not known."""
        notes = [self.layers.note, self.stored_as.note if self.stored_as else None]
        return "; ".join(note for note in notes if note) or None

    @property
    def num_experts(self) -> int:
        return self.experts.count

    def divides_into(self, tensor_parallel: int) -> bool:
        """Whether vLLM can cut the model so.

        Attention heads are cut evenly, KV heads evenly or into even copies.
        """
        heads = self.num_heads % tensor_parallel == 0
        kv = self.num_kv_heads % tensor_parallel == 0 or tensor_parallel % self.num_kv_heads == 0
        return heads and (kv or self.attention == "mla")

    def parameters(self) -> int:
        """Weights of the model, embeddings included."""
        ends = self._ends(1, first=True, last=True)
        inner = range(self.num_layers)
        return sum(t.rows * t.cols for t in ends) + sum(
            t.rows * t.cols for layer in inner for t in self._layer(layer, 1)
        )

    def active_parameters(self) -> int:
        """Count the weights that one token passes through.

        Of a mixture of experts these are the chosen ones alone.
        """
        chosen = self.experts
        idle = (chosen.count - chosen.per_token) * 3 * self.hidden * chosen.intermediate
        return self.parameters() - idle * len(chosen.sparse)

    def bytes_per_weight(
        self, quantization: str | None = None, *, dtype_bytes: int = 2, of_experts: bool = False
    ) -> float:
        """Average the bytes of a weight that can be quantised.

        `of_experts`: of routed experts, otherwise of all others.

        `quantization` None means as stored, and `dtype_bytes` if that is not.
        """
        total, count = 0.0, 0
        for layer in range(self.num_layers):
            sizes = self._sizes(layer, quantization)
            for tensor in self._layer(layer, 1):
                if tensor.part is not None and (tensor.part == "experts") == of_experts:
                    weights = tensor.rows * tensor.cols
                    total += weights * (sizes[_PARTS.index(tensor.part)] or dtype_bytes)
                    count += weights
        return total / count if count else float(dtype_bytes)

    def weight_bytes(
        self,
        quantization: str | None = None,
        *,
        dtype_bytes: int = 2,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        capability: tuple[int, int] | None = None,
    ) -> int:
        """Count the bytes of weights on the fullest GPU.

        As vLLM loads them. `quantization` None means as stored. Embeddings, the output layer, norms
        and routers are never quantised, and take `dtype_bytes`. With them is counted the table of
        rotary angles, and what the allocator rounds up. `capability`: of the GPU, whose kernels
        pad.
        """
        tile = _MXFP4_HOPPER_TILE if capability == _HOPPER else _MXFP4_TILE
        stages = []
        for stage, layers in enumerate(stages_of(self.num_layers, pipeline_parallel)):
            last = stage == pipeline_parallel - 1
            total = 0.0
            for tensor in self._ends(tensor_parallel, first=stage == 0, last=last):
                total += _allocated(tensor.rows * tensor.cols * dtype_bytes)
            alike = Counter(self._kind(layer, quantization) for layer in layers)
            of_kind = {self._kind(layer, quantization): layer for layer in layers}
            for kind, count in alike.items():
                for tensor in self._layer(of_kind[kind], tensor_parallel):
                    size: float | None = None
                    if tensor.part is not None:
                        size = kind.sizes[_PARTS.index(tensor.part)]
                    weights = self._padded(tensor, quantization, tile)
                    total += count * _allocated(weights * (size or dtype_bytes))
            stages.append(total)
        rotary = self.max_position * (self.qk_rope_head_dim or self.head_dim) * 2
        vision = self.vision_weights * dtype_bytes
        return int(max(stages)) + rotary + vision + 16 * _MIB

    def kv_cache(
        self, *, kv_dtype_bytes: int = 2, tensor_parallel: int = 1, pipeline_parallel: int = 1
    ) -> KvCache:
        """Cache of one GPU, of the stage whose layers hold most.

        GQA: a key and a value per KV head; heads are cut over GPUs, and copied once there are more
        GPUs than heads. MLA: one latent vector and one rotary key per layer, on every GPU.
        """
        if self.attention == "mla":
            per_layer = (self.kv_lora_rank + self.qk_rope_head_dim) * kv_dtype_bytes
            if self.index_head_dim:  # with a 32-bit scale
                per_layer += self.index_head_dim + 4
        else:
            heads = max(1, self.num_kv_heads // tensor_parallel)
            per_layer = 2 * heads * self.head_dim * kv_dtype_bytes
        stages = [self.layers.of(stage) for stage in stages_of(self.num_layers, pipeline_parallel)]
        full, windowed, recurrent = max(stages)
        state = self.layers.state_bytes // tensor_parallel
        return KvCache(per_layer, full, windowed, recurrent, self.layers.window, state)

    def kv_bytes_per_token(
        self, *, kv_dtype_bytes: int = 2, tensor_parallel: int = 1, pipeline_parallel: int = 1
    ) -> int:
        """Count the bytes that all layers keep of a token.

        On one GPU.
        """
        cache = self.kv_cache(
            kv_dtype_bytes=kv_dtype_bytes,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
        )
        return cache.per_layer * (cache.full + cache.windowed)

    def _sizes(self, layer: int, quantization: str | None) -> tuple[float | None, ...]:
        """List the bytes of a weight, by part of a layer.

        None: not quantised.
        """
        if self.stored_as is not None and quantization in (None, self.stored_as.name):
            return tuple(self.stored_as.bytes_of(part, layer) for part in _PARTS)
        size = None
        if quantization is not None:
            size = BYTES_PER_WEIGHT[quantization]
        return (size,) * len(_PARTS)

    def _kind(self, layer: int, quantization: str | None) -> _LayerKind:
        sparse = layer in self.experts.sparse
        return _LayerKind(self.layers.kinds[layer], sparse, self._sizes(layer, quantization))

    def _padded(self, tensor: _Tensor, quantization: str | None, tile: tuple[int, int]) -> int:
        """Count a tensor's weights as kernels want them.

        Those of MXFP4 take whole tiles.
        """
        chosen = self.experts
        if tensor.part != "experts" or (quantization or self.stored) != "mxfp4":
            return tensor.rows * tensor.cols
        hidden, width = (
            math.ceil(size / step) * step / size
            for size, step in zip((self.hidden, chosen.intermediate), tile, strict=True)
        )
        return int(tensor.rows * tensor.cols * hidden * width)

    def _ends(self, tp: int, *, first: bool, last: bool) -> Iterator[_Tensor]:
        """Embeddings, the output layer, the last norm: what one GPU holds."""
        vocab = math.ceil(self.vocab / 64 / tp) * 64
        if first:
            yield _Tensor(vocab, self.hidden, None)
        if last and not (self.tied and first):
            yield _Tensor(vocab, self.hidden, None)
        yield _Tensor(self.hidden, 1, None)

    def _layer(self, layer: int, tp: int) -> Iterator[_Tensor]:
        """Tensors of a layer on one GPU, fused as vLLM fuses them."""
        kind = self.layers.kinds[layer]
        yield _Tensor(2 * self.hidden, 1, None)  # norms
        if kind == "recurrent":
            yield _Tensor(self.recurrent_weights // tp, 1, "recurrent")
        elif kind != "none":
            yield from self._mla(tp) if self.attention == "mla" else self._gqa(tp)
        if self.layers.alternate and kind != "none":
            return
        if layer not in self.experts.sparse:
            inputs = 1 + self.gated_mlp
            yield _Tensor(inputs * self.intermediate // tp, self.hidden, "dense")
            yield _Tensor(self.hidden, self.intermediate // tp, "dense")
            return
        chosen = self.experts
        width, shared = chosen.intermediate // tp, chosen.shared_intermediate // tp
        yield _Tensor(2 * width * chosen.count, self.hidden, "experts")
        yield _Tensor(self.hidden * chosen.count, width, "experts")
        yield _Tensor(chosen.count, self.hidden, None)  # the router
        if shared:
            yield _Tensor(2 * shared, self.hidden, "shared")
            yield _Tensor(self.hidden, shared, "shared")

    def _gqa(self, tp: int) -> Iterator[_Tensor]:
        q = self.num_heads // tp * self.head_dim
        kv = max(1, self.num_kv_heads // tp) * self.head_dim
        gate = q if self.gated_attention else 0
        yield _Tensor(q + gate + 2 * kv, self.hidden, "attention")
        yield _Tensor(self.hidden, q, "attention")
        if self.qkv_bias:
            yield _Tensor(q + 2 * kv, 1, None)

    def _mla(self, tp: int) -> Iterator[_Tensor]:
        heads = self.num_heads // tp
        key = self.qk_nope_head_dim + self.qk_rope_head_dim
        down = self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim
        yield _Tensor(down, self.hidden, "attention")
        yield _Tensor(heads * key, self.q_lora_rank or self.hidden, "attention")
        up = self.qk_nope_head_dim + self.v_head_dim
        yield _Tensor(heads * up, self.kv_lora_rank, "attention")
        yield _Tensor(self.hidden, heads * self.v_head_dim, "attention")

    def absorbed_bytes(self, *, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> int:
        """Count what vLLM keeps a second time under MLA, for decoding.

        It is the up-projection of keys and values, in 16 bits.
        """
        if self.attention != "mla":
            return 0
        layers = max(len(stage) for stage in stages_of(self.num_layers, pipeline_parallel))
        per_layer = (
            (self.qk_nope_head_dim + self.v_head_dim)
            * self.kv_lora_rank
            * self.num_heads
            // tensor_parallel
        )
        return 2 * layers * per_layer


def _allocated(size: float) -> float:
    return math.ceil(size / _LARGE_BLOCK) * _LARGE_BLOCK if size >= _LARGE_TENSOR else size


def stages_of(num_layers: int, pipeline_parallel: int) -> list[range]:
    """Divide the layers over pipeline stages.

    An equal share each; what is left over goes to the stages before the last.
    """
    share, left = divmod(num_layers, pipeline_parallel)
    sizes = [share] * pipeline_parallel
    for i in range(left):
        sizes[-(i + 2) % pipeline_parallel] += 1
    edges = [sum(sizes[:i]) for i in range(pipeline_parallel + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def _recurrent_weights(text: Mapping[str, Any], hidden: int) -> int:
    """Count the weights of one recurrent layer.

    They are as many as attention's where its kind is not known.
    """
    if text.get("linear_num_value_heads"):  # gated delta net: q, k, v, gate, two scalars a head
        key = number(text, "linear_num_key_heads") * number(text, "linear_key_head_dim")
        heads = number(text, "linear_num_value_heads")
        value = heads * number(text, "linear_value_head_dim")
        return hidden * (2 * key + 2 * value + 2 * heads) + value * hidden
    heads = number(text, "mamba_num_heads", "mamba_n_heads", default=0)
    if heads:  # Mamba 2: gate and input, two states a group, a step a head
        inner = heads * number(text, "mamba_head_dim", "mamba_d_head", default=64)
        state = number(text, "ssm_state_size", "mamba_d_state", default=128)
        groups = number(text, "n_groups", "mamba_n_groups", default=1)
        return hidden * (2 * inner + 2 * groups * state + heads) + inner * hidden
    return 4 * hidden * hidden


def _vision_weights(config: Mapping[str, Any]) -> int:
    """Count the weights of a vision tower.

    A layer has four square matrices and an MLP.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or not isinstance(config.get("text_config"), Mapping):
        return 0
    layers = number(vision, "depth", "num_hidden_layers", default=0)
    hidden = number(vision, "hidden_size", "embed_dim", default=0)
    wide = number(vision, "intermediate_size", default=4 * hidden) if hidden else 0
    return layers * (4 * hidden * hidden + 2 * hidden * wide)
