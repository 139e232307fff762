"""Room that vLLM makes for LoRA adapters, beside a model's weights.

For each linear layer it allocates, once a slot, two matrices of the adapter's rank: one as wide as
the input, one as the output. Layers that it fuses (queries, keys and values; gate and up) have an
input's matrix for each part. A mixture has them for each expert. All layers have room, whichever
the adapter changes. Read from vLLM 0.32: `lora/layers`, `create_lora_weights`. Under tensor
parallelism that side is cut which the layer cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from batchr1.sizing.architecture import Architecture, stages_of

RECURRENT_PARTS = 4
"""Parts of a recurrent layer's input projection, at most; it is not looked at more closely."""


@dataclass(frozen=True, slots=True)
class AdapterRoom:
    """Slots of an engine for adapters of up to this rank."""

    rank: int
    slots: int = 1

    def bytes_in(
        self,
        arch: Architecture,
        *,
        dtype_bytes: int = 2,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
    ) -> int:
        """Count the bytes on the fullest GPU."""
        widths = []
        for number, layers in enumerate(stages_of(arch.num_layers, pipeline_parallel)):
            is_last = number == pipeline_parallel - 1
            pairs = list(_ends(arch, first=number == 0, last=is_last))
            pairs += [pair for layer in layers for pair in _layer(arch, layer, tensor_parallel)]
            widths.append(sum(pair.times * (pair.inputs + pair.outputs) for pair in pairs))
        return self.rank * self.slots * dtype_bytes * max(widths)

    def note(self, num_bytes: int) -> str:
        """Say how much of the weights' memory it is."""
        many = f"{self.slots} adapters" if self.slots > 1 else "an adapter"
        return f"{num_bytes / 2**30:.2f} GiB of the weights are room for {many} of rank {self.rank}"


class _Pair(NamedTuple):
    """Widths of a layer's two matrices: all inputs, all outputs."""

    inputs: int
    outputs: int
    times: int = 1


def _ends(arch: Architecture, *, first: bool, last: bool) -> Iterator[_Pair]:
    """Embeddings and output layer, which are not cut."""
    if not arch.adapts_ends:
        return
    if first:
        yield _Pair(arch.vocab, arch.hidden)
    if last:
        yield _Pair(arch.hidden, arch.vocab)


def _layer(arch: Architecture, layer: int, tp: int) -> Iterator[_Pair]:
    kind = arch.layers.kinds[layer]
    if kind == "recurrent":
        outputs = arch.recurrent_weights // arch.hidden // tp
        yield _Pair(RECURRENT_PARTS * arch.hidden, outputs)
    elif kind != "none":
        yield from _mla(arch, tp) if arch.attention == "mla" else _gqa(arch, tp)
    if arch.layers.alternate and kind != "none":
        return
    if layer not in arch.experts.sparse:
        yield from _block(arch, arch.intermediate // tp)
        return
    chosen = arch.experts
    yield from _block(arch, chosen.intermediate // tp, chosen.count)
    yield _Pair(arch.hidden, chosen.count)  # the router
    if chosen.shared_intermediate:
        yield from _block(arch, chosen.shared_intermediate // tp)


def _block(arch: Architecture, width: int, times: int = 1) -> Iterator[_Pair]:
    inputs = 1 + arch.gated_mlp
    yield _Pair(inputs * arch.hidden, inputs * width, times)
    yield _Pair(width, arch.hidden, times)


def _gqa(arch: Architecture, tp: int) -> Iterator[_Pair]:
    q = arch.num_heads // tp * arch.head_dim
    kv = max(1, arch.num_kv_heads // tp) * arch.head_dim
    gate = q if arch.gated_attention else 0
    yield _Pair(3 * arch.hidden, q + gate + 2 * kv)
    yield _Pair(q, arch.hidden)


def _mla(arch: Architecture, tp: int) -> Iterator[_Pair]:
    heads = arch.num_heads // tp
    key = arch.qk_nope_head_dim + arch.qk_rope_head_dim
    latent = arch.kv_lora_rank + arch.qk_rope_head_dim
    if arch.q_lora_rank:  # queries and latents are fused on their way down
        yield _Pair(2 * arch.hidden, arch.q_lora_rank + latent)
        yield _Pair(arch.q_lora_rank, heads * key)
    else:
        yield _Pair(arch.hidden, latent)
        yield _Pair(arch.hidden, heads * key)
    yield _Pair(arch.kv_lora_rank, heads * (arch.qk_nope_head_dim + arch.v_head_dim))
    yield _Pair(heads * arch.v_head_dim, arch.hidden)
