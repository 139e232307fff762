"""Attention inside each packed example: three ways to compute the same, quickest first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.r1_tiny.model import Attend

# makes the attention of a batch from (example numbers rows × length, starts of the examples in the
# flattened rows)
Prepare = Callable[[Tensor, Tensor], Any]
Use = Callable[[Any], Attend]


def dense_prepare(example: Tensor, starts: Tensor) -> Tensor:
    """A mask rows × 1 × length × length."""
    length = example.shape[1]
    causal = torch.ones((length, length), dtype=torch.bool, device=example.device).tril()
    return ((example[:, :, None] == example[:, None, :]) & causal)[:, None]


def dense_use(mask: Tensor) -> Attend:
    """Attention with a mask; works everywhere, slow."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def varlen_prepare(example: Tensor, starts: Tensor) -> Tensor:
    """The starts are all that is needed."""
    return starts


def varlen_use(starts: Tensor) -> Attend:
    """Flash attention over sequences of various lengths (CUDA)."""
    from torch.nn.attention.varlen import varlen_attn

    names = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = (
        {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, heads, length, dim = q.shape
        groups = heads // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        q, k, v = (t.transpose(1, 2).reshape(rows * length, heads, dim) for t in (q, k, v))
        y: Tensor = varlen_attn(q, k, v, starts, starts, length, length, **causal)
        return y.view(rows, length, heads, dim).transpose(1, 2)

    return attend


def flex_prepare(example: Tensor, starts: Tensor) -> Any:
    """A block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    def inside(row: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (example[row, q] == example[row, k])

    rows, length = example.shape
    return create_block_mask(inside, rows, None, length, length, device=str(example.device))


def flex_use(block_mask: Any) -> Attend:
    """FlexAttention (CUDA, compiled)."""
    from torch.nn.attention.flex_attention import flex_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True)
        assert isinstance(y, Tensor)
        return y

    return attend


WAYS: dict[str, tuple[Prepare, Use]] = {
    "varlen": (varlen_prepare, varlen_use),
    "flex": (flex_prepare, flex_use),
    "dense": (dense_prepare, dense_use),
}
