"""Model folders of the true shapes, without weights.

    python benchmarks/shapes.py r1-distill-qwen-1.5b DIR

Under `load_format: dummy` the speed is real and the text is not. The tokenizer has the real
vocabulary's size, so that detokenising has its real cost. It is byte-level BPE over merges drawn at
random, with r1-tiny's special tokens and chat template.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from batchr1.models.catalogue import MODELS, VARIANTS

# What a config needs beyond its size to be loaded. The sizes are the catalogue's.
_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_ARCHITECTURES = {"qwen2": ["Qwen2ForCausalLM"], "llama": ["LlamaForCausalLM"]}


def config_of(name: str) -> dict[str, Any]:
    """Make config.json of a dense variant: its shape, enough to load it."""
    numbers = VARIANTS[name].config
    return _COMMON | {"architectures": _ARCHITECTURES[numbers["model_type"]]} | numbers


def write_shape(name: str, folder: Path) -> None:
    """Write config, generation config and tokenizer of a shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = json.loads((MODELS / "r1_tiny/tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((MODELS / "r1_tiny/tokenizer_config.json").read_text(encoding="utf-8"))
    vocab_size = config_of(name)["vocab_size"]
    added = tiny["added_tokens"]
    vocab = {t["content"]: t["id"] for t in added}
    free = iter(sorted(set(range(vocab_size)) - set(vocab.values())))
    tokens = [t for t in tiny["model"]["vocab"] if len(t) == 1]
    vocab |= {token: next(free) for token in tokens}
    rng, merges = random.Random(0), []
    while len(vocab) < vocab_size:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) <= 8 and left + right not in vocab:
            vocab[left + right] = next(free)
            merges.append([left, right])
            tokens.append(left + right)
    tiny["model"] |= {"vocab": vocab, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps(tiny, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, ensure_ascii=False), encoding="utf-8"
    )
    eos = vocab[settings["eos_token"]]
    (folder / "config.json").write_text(
        json.dumps(config_of(name) | {"eos_token_id": eos}), encoding="utf-8"
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": eos}), encoding="utf-8"
    )


if __name__ == "__main__":
    write_shape(sys.argv[1], Path(sys.argv[2]))
