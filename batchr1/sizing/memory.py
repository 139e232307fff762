"""How vLLM divides a GPU's memory, in bytes per GPU.

    total × utilisation = weights + activation peak + other + KV cache    (what vLLM stays within)
    outside of that     = CUDA context + CUDA graphs + the sampler's buffers  (what it takes on top)

vLLM loads the weights, runs one forward pass of `max_num_batched_tokens` made-up tokens and one
sampling step of `max_num_seqs` rows, and takes for the KV cache what the peak of these left over.
Source: vLLM 0.26, model runner V2 and `Worker.determine_available_memory`; constants from an H200
(docs/sizing.md says how each was found).
"""

from __future__ import annotations

from dataclasses import dataclass

from batchr1.sizing.architecture import Architecture
from batchr1.sizing.graphs import captured, prefill_sizes

GIB = 2**30
_MIB = 2**20

CONTEXT_BYTES = (
    530 * _MIB
)  # CUDA context and loaded kernels, before vLLM looks at the memory for the first time
OTHER_BYTES = (
    230 * _MIB
)  # what vLLM calls non-torch: libraries that came in while the model was profiled
NCCL_BYTES = 600 * _MIB  # communication buffers of a tensor-parallel group, before the first look
CUBLAS_BYTES = 32 * _MIB  # cuBLAS' workspace on Hopper
L2_BYTES = 60 * _MIB  # an H200's L2 cache; smaller ones elsewhere
BLOCK_TOKENS = 16  # tokens of a block of KV cache


@dataclass(frozen=True, slots=True)
class Memory:
    """One GPU's memory, in bytes.

    The first four and `other` are within what vLLM is asked to stay within.
    """

    weights: int
    activation: int
    other: int
    kv: int
    outside: int  # CUDA context, communication and the sampler's buffers
    cuda_graph: int


def activation_bytes(
    arch: Architecture,
    *,
    num_batched_tokens: int,
    num_seqs: int,
    tensor_parallel: int = 1,
    dtype_bytes: int = 2,
    eager: bool = False,
    first_start: bool = True,
) -> int:
    """The activation peak: the largest of three moments while vLLM measures.

    Forward, at the widest point of a block (16-bit elements per token): the joint gate-and-up
    projection (2 × intermediate) and its product (1 ×) live together, beside the block's input, the
    attention's output and the residual (3 × hidden); with cuBLAS' workspace. Under tensor
    parallelism the first two are cut, the others are not. A mixture of experts holds the chosen
    experts' inputs and outputs instead.

    Sampling: a row of logits per sequence and the hidden states of the whole pass. Dense models'
    logits stay in 16 bits and are worked on in place (model runner V2); those of a mixture of
    experts (V1) are copied to 32 bits, sorted with their indices, and summed up.

    Compiling, at the first start with these settings: the compiler tries kernels on made-up
    arguments, among them a copy of the embedding table and two of the hidden states, and empties
    the L2 cache with a buffer of its size. Later starts find the compiled code and have that much
    more KV cache; a plan counts on the first.

    All of this is in 16 bits. With another `dtype_bytes` the whole is taken in proportion, the
    buffers too: not less.
    """
    forward = (
        2 * num_batched_tokens * (_widest(arch, tensor_parallel) + 3 * arch.hidden) + CUBLAS_BYTES
    )
    per_logit = 20 if arch.num_experts else 2
    sampling = (
        num_seqs * arch.vocab * per_logit + 2 * num_batched_tokens * arch.hidden + CUBLAS_BYTES
    )
    if eager or not first_start:
        peak = max(forward, sampling)
    else:
        compiling = 2 * arch.hidden * (arch.vocab // tensor_parallel + 2 * num_batched_tokens)
        peak = max(forward + L2_BYTES, sampling, compiling)
    return peak * dtype_bytes // 2


def _widest(arch: Architecture, tensor_parallel: int) -> int:
    """Elements per token of a block's widest intermediate results."""
    wide = 3 * arch.intermediate // tensor_parallel
    if arch.num_experts:
        routed = arch.experts_per_token * (
            3 * arch.moe_intermediate // tensor_parallel + arch.hidden
        )
        shared = 3 * arch.moe_intermediate * arch.num_shared_experts // tensor_parallel
        wide = max(wide, routed + shared)
    if arch.attention == "mla":  # prefill unpacks keys and values of all heads of the rank
        heads = arch.num_heads // tensor_parallel
        per_head = 2 * (arch.qk_nope_head_dim + arch.qk_rope_head_dim) + 2 * arch.v_head_dim
        wide = max(wide, heads * per_head)
    return wide


def graph_sizes(num_seqs: int) -> int:
    """Count the batch sizes that are captured: vLLM's own, and those for prefills."""
    return len(captured(num_seqs)) + len(prefill_sizes(num_seqs))


def cuda_graph_bytes(num_seqs: int, *, eager: bool = False) -> int:
    """CUDA graphs: a fixed pool, and a little per captured size, twice (piecewise, and whole decode
    steps).
    """
    return 0 if eager else (100 + 8 * graph_sizes(num_seqs)) * _MIB


def outside_bytes(arch: Architecture, *, num_seqs: int, tensor_parallel: int = 1) -> int:
    """Sum what vLLM takes without counting it.

    The CUDA context, communication buffers, the sampler's tables of counts (32 bits per sequence
    and token of the vocabulary), and the room that top-p takes for logits in 32 bits.
    """
    sampler = num_seqs * arch.vocab * 4
    return CONTEXT_BYTES + (NCCL_BYTES if tensor_parallel > 1 else 0) + sampler * 33 // 32 + sampler


def kv_tokens(kv_bytes: int, bytes_per_token: int) -> int:
    """Tokens that fit into so many bytes of KV cache, in whole blocks."""
    return max(0, kv_bytes // (bytes_per_token * BLOCK_TOKENS)) * BLOCK_TOKENS
