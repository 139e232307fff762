"""Qwen2 in plain PyTorch, with Hugging Face's parameter names, so that the weights load unchanged
elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

# (query, key, value), each batch × heads × length × head_dim, to the attended values in the same
# shape
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model, named as in config.json."""

    vocab_size: int = 1408
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


class Norm(nn.Module):  # type: ignore[misc]
    """RMSNorm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


def rotary(positions: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions (batch × length), each batch × 1 × length × head_dim."""
    exponent = (
        torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32)
        / shape.head_dim
    )
    angles = positions[..., None].float() / shape.rope_theta**exponent
    both = torch.cat((angles, angles), dim=-1)[:, None]
    return both.cos(), both.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), dim=-1) * sin.to(x.dtype)


class Attention(nn.Module):  # type: ignore[misc]
    """Grouped-query attention; q, k and v have biases, o has none."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.head_dim)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.heads * self.head_dim, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        y = attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        out: Tensor = self.o_proj(
            y.transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        )
        return out


class Mlp(nn.Module):  # type: ignore[misc]
    """Gated feed-forward network."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):  # type: ignore[misc]
    """One transformer block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):  # type: ignore[misc]
    """Embedding, layers and last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)


class Qwen2(nn.Module):  # type: ignore[misc]
    """The language model; its output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(
                    p, std=0.02 / (2 * shape.num_hidden_layers) ** 0.5 if deep else 0.02
                )
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Callable[[int], Attend],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Last hidden states of ids (batch × length); ``attend(layer)`` gives the attention of a
        layer.
        """
        x = self.model.embed_tokens(ids).to(dtype or self.model.embed_tokens.weight.dtype)
        cos, sin = rotary(positions, self.shape)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, attend(i))
        out: Tensor = self.model.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary."""
        return F.linear(hidden, self.model.embed_tokens.weight)


def save_model(model: Qwen2, folder: Path) -> None:
    """Writes model.safetensors (bf16), config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        k: v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in model.state_dict().items()
    }
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    sizes = asdict(model.shape)
    theta = sizes.pop("rope_theta")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **sizes,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }
    sampling = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
    }
    for name, content in (("config.json", config), ("generation_config.json", sampling)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> Qwen2:
    """The model of a folder written by ``save_model``, in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Qwen2(Shape(**{k: config[k] for k in asdict(Shape())}))
    model.load_state_dict(
        {k: v.float() for k, v in load_file(str(folder / "model.safetensors")).items()}
    )
    return model
