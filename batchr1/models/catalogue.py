"""Catalogue of model variants by name: place, size and licence.

Architecture numbers: each repository's `config.json` on the hub (huggingface.co/deepseek-ai), under
its own keys; copies of them in the quantised repositories agree. Generation limit: DeepSeek's model
card, "the maximum generation length is set to 32,768 tokens" for all models but R1-0528 and its 8B
distill (64K). Context: `max_position_embeddings` (131,072 for the distills, as documented; R1's own
config says 163,840 where its card says 128K).

Licences: DeepSeek publishes all weights under MIT, and its card names what the distills were
derived from: Qwen2.5 and Qwen2.5-Math (Apache-2.0), Llama-3.1-8B and Llama-3.3-70B-Instruct (Meta's
community licences, whose terms go on to apply to derivatives).

Quantised repositories: those seen on the hub. FP8 (dynamic) and w4a16 (GPTQ, 128 weights a group,
compressed-tensors format) from Red Hat's collection "DeepSeek-R1-Distill Quantized", and its w4a16
of R1 and R1-0528; AWQ from the author of AutoAWQ, and for R1 from QuixiAI (once
cognitivecomputations).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchr1.errors import JobError

MODELS = Path(__file__).parent.parent / "models"
GENERATION_LEN = 32_768


@dataclass(frozen=True, slots=True)
class Variant:
    """Model by name: a repository on the hub, or a bundled folder.

    `context_len` and `generation_len` in tokens. `config` holds the numbers of config.json that
    sizes follow from, `quantized` the repositories of the same model in "fp8", "awq" or "w4a16".
    `mean_completion_tokens` where a task's average is known better than from DeepSeek's traces;
    `length_factor`: how much longer completions are than R1's. `defaults`: values that the model's
    own card gives to keys of a job, by section, where the job leaves them out.
    """

    name: str
    licence: str
    context_len: int
    repo: str | None = None
    path: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    quantized: Mapping[str, str] = field(default_factory=dict)
    generation_len: int = GENERATION_LEN
    mean_completion_tokens: float | None = None
    length_factor: float = 1.0
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _qwen(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    *,
    rope_theta: float,
    eps: float,
) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "rope_theta": rope_theta,
        "rms_norm_eps": eps,
    }


def _llama(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5,
    }


_R1: dict[str, Any] = {  # DeepSeek-R1, and R1-0528 with the same numbers
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129_280,
    "max_position_embeddings": 163_840,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
}

_QWEN3_8B: dict[str, Any] = {
    **_qwen(4096, 12_288, 36, 32, 8, 151_936, rope_theta=1_000_000.0, eps=1e-6),
    "model_type": "qwen3",
    "head_dim": 128,
    "attention_bias": False,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32_768,
    },
}


def _distill(name: str, base: str, licence: str, config: dict[str, Any]) -> Variant:
    return Variant(
        name,
        f"MIT (DeepSeek); derived from {base}: {licence}",
        131_072,
        f"deepseek-ai/DeepSeek-R1-Distill-{_title(name)}",
        config=config,
        quantized={
            "fp8": f"RedHatAI/DeepSeek-R1-Distill-{_title(name)}-FP8-dynamic",
            "w4a16": f"RedHatAI/DeepSeek-R1-Distill-{_title(name)}-quantized.w4a16",
            "awq": f"casperhansen/deepseek-{name}-awq",
        },
    )


def _title(name: str) -> str:
    """r1-distill-qwen-1.5b → Qwen-1.5B, as in the names of repositories"""
    family, size = name.removeprefix("r1-distill-").split("-")
    return f"{family.title()}-{size.upper()}"


# DeepSeek's card of R1-0528 and its 8B distill: a system prompt is supported, thinking need not be
# forced, up to 64 K new tokens; 23 K tokens a question of AIME where R1 took 12 K.
_0528_GENERATION_LEN = 65_536
_0528_LENGTH_FACTOR = 23 / 12
_0528_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "prompting": {"think": "auto", "system": "keep"},
    "sampling": {"max_tokens": _0528_GENERATION_LEN},
}

_APACHE, _LLAMA = "Apache-2.0", "Llama {} Community Licence"

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant(
            "r1-tiny",
            "Apache-2.0",
            4096,
            path=MODELS / "r1_tiny",
            config=json.loads((MODELS / "r1_tiny/config.json").read_text(encoding="utf-8")),
            generation_len=4096,
            mean_completion_tokens=277,  # over the 400 problems of jobs/data/math.parquet
        ),
        _distill(
            "r1-distill-qwen-1.5b",
            "Qwen2.5-Math-1.5B",
            _APACHE,
            _qwen(1536, 8960, 28, 12, 2, 151_936, rope_theta=10_000.0, eps=1e-6),
        ),
        _distill(
            "r1-distill-qwen-7b",
            "Qwen2.5-Math-7B",
            _APACHE,
            _qwen(3584, 18_944, 28, 28, 4, 152_064, rope_theta=10_000.0, eps=1e-6),
        ),
        _distill(
            "r1-distill-llama-8b",
            "Llama-3.1-8B",
            _LLAMA.format("3.1"),
            _llama(4096, 14_336, 32, 32),
        ),
        _distill(
            "r1-distill-qwen-14b",
            "Qwen2.5-14B",
            _APACHE,
            _qwen(5120, 13_824, 48, 40, 8, 152_064, rope_theta=1_000_000.0, eps=1e-5),
        ),
        _distill(
            "r1-distill-qwen-32b",
            "Qwen2.5-32B",
            _APACHE,
            _qwen(5120, 27_648, 64, 40, 8, 152_064, rope_theta=1_000_000.0, eps=1e-5),
        ),
        _distill(
            "r1-distill-llama-70b",
            "Llama-3.3-70B-Instruct",
            _LLAMA.format("3.3"),
            _llama(8192, 28_672, 80, 64),
        ),
        Variant(
            "r1-671b",
            "MIT (DeepSeek)",
            163_840,
            "deepseek-ai/DeepSeek-R1",
            config=_R1,
            quantized={
                "fp8": "deepseek-ai/DeepSeek-R1",
                "w4a16": "RedHatAI/DeepSeek-R1-quantized.w4a16",
                "awq": "QuixiAI/DeepSeek-R1-AWQ",
            },
        ),
        Variant(
            "r1-0528-671b",
            "MIT (DeepSeek)",
            163_840,
            "deepseek-ai/DeepSeek-R1-0528",
            config=_R1,
            quantized={
                "fp8": "deepseek-ai/DeepSeek-R1-0528",
                "w4a16": "RedHatAI/DeepSeek-R1-0528-quantized.w4a16",
            },
            generation_len=_0528_GENERATION_LEN,
            length_factor=_0528_LENGTH_FACTOR,
            defaults=_0528_DEFAULTS,
        ),
        Variant(
            "r1-0528-qwen3-8b",
            "MIT (DeepSeek); derived from Qwen3-8B-Base: Apache-2.0",
            131_072,
            "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
            config=_QWEN3_8B,
            generation_len=_0528_GENERATION_LEN,
            length_factor=_0528_LENGTH_FACTOR,
            defaults=_0528_DEFAULTS,
        ),
    )
}


def variant(name: str) -> Variant:
    """Look up a variant by name.

    Raises `JobError`, which names the nearest one, or says why there is none.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    refuse_unsupported("model.variant", name)
    near = _nearest(name)
    hint = f"Did you mean {near}?" if near else f"Known: {', '.join(VARIANTS)}."
    raise JobError(f"model.variant: unknown variant (got {name!r}). {hint}")


def repository_named(name: str) -> str:
    """The repository behind a variant, or `name` itself where it is one.

    Raises `JobError` where there is none.
    """
    if "/" in name:
        refuse_unsupported("model", name)
        return name
    entry = variant(name)
    if entry.repo is None:
        raise JobError(
            f"model: {name} ships with batchr1 (it is {entry.path}). There is nothing to fetch."
        )
    return entry.repo


def refuse_unsupported(key: str, name: str) -> None:
    """Raise `JobError` for models that batchr1 does not run.

    They are known by the name of a variant, repository or folder.
    """
    last = name.rstrip("/").rpartition("/")[2].lower()
    if re.search(r"\br1-?zero\b", last):
        raise JobError(
            f"{key}: R1-Zero is not supported (got {name!r}: it repeats without end and mixes "
            "languages, as its card says). Use variant r1-671b."
        )
    if last.endswith(".gguf") or (
        key != "model.path" and re.search(r"(^|[^a-z])gguf($|[^a-z])", last)
    ):
        raise JobError(
            f"{key}: GGUF is not supported (got {name!r}, need safetensors). Give the original "
            "model's repository as model.repo, or its folder as model.path: a GGUF's card names it "
            "as base_model. For 4 bits use a variant with model.quantization w4a16."
        )


def _nearest(name: str) -> str | None:
    """Find the variant that a wrong name means.

    A repository, a size ("deepseek-r1:14b", as other programs have it), or a similar name.
    """
    lower = name.lower()
    for entry in VARIANTS.values():
        if lower == str(entry.repo).lower() or lower == str(entry.repo).lower().partition("/")[2]:
            return entry.name
    plain = re.sub(r"[:_ ]", "-", lower.rpartition("/")[2]).removeprefix("deepseek-")
    if size := re.fullmatch(r"r1-([\d.]+b)", plain):
        of_size = [known for known in VARIANTS if known.endswith(f"-{size.group(1)}")]
        plain = of_size[0] if of_size else plain
    close = difflib.get_close_matches(plain, VARIANTS, n=1, cutoff=0.5)
    return close[0] if close else None
