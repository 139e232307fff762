"""Formats of weights, by the config's `quantization_config`.

Sources: the keys are those that Hugging Face's transformers, compressed-tensors, NVIDIA's ModelOpt,
AutoAWQ and GPTQModel write; which layers a method leaves alone is read from vLLM's
`quantization/` (0.32).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# Bytes per weight of a quantised linear layer. FP8: one byte, the scales (one per channel or per
# 128 × 128) are lost in the rounding. The 4-bit formats: half a byte, and per group of 128 a 16-bit
# scale and (AWQ, GPTQ) a 4-bit zero point. NVFP4: an 8-bit scale per 16 weights; MXFP4: per 32.
BYTES_PER_WEIGHT: dict[str, float] = {
    "fp8": 1.0,
    "w4a16": 0.5 + 2 / 128,
    "awq": 0.5 + 2.5 / 128,
    "gptq": 0.5 + 2.5 / 128,
    "nvfp4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
    "bitsandbytes": 0.5 + 4 / 64,
}
# Names of a tensor in repositories, by its part of a layer; experts are named after the first.
_NAMES: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.qkv_proj", "mixer.q_proj"),
    "dense": ("mlp.gate_proj", "mlp.gate_up_proj", "mixer.up_proj"),
    "experts": ("mlp.experts.0.gate_proj", "block_sparse_moe.experts.0.w1"),
    "shared": ("mlp.shared_experts.gate_proj", "mlp.shared_expert.gate_proj"),
    "recurrent": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv", "mixer.in_proj"),
}
Part = str  # of a layer: a key of `_NAMES`


class Group(NamedTuple):
    """Layers that are stored alike: their patterns, and bytes of a weight."""

    targets: tuple[str, ...]
    bytes_per_weight: float


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Formats of a repository's weights.

    `name` is what `model.quantization` calls it, where it has a word for it. What no group names,
    and what is ignored, has 16 bits. `note` says what is not known here.
    """

    name: str
    groups: tuple[Group, ...]
    ignored: tuple[str, ...] = ()
    note: str | None = None

    def bytes_of(self, part: Part, layer: int) -> float | None:
        """Count the bytes of a weight in a part of a layer.

        None: 16 bits.
        """
        names = [f"layers.{layer}.{name}" for name in _NAMES[part]]
        if _named(self.ignored, names):
            return None
        for group in self.groups:
            if _named(group.targets, names):
                return group.bytes_per_weight
        return None


def _named(patterns: tuple[str, ...], names: list[str]) -> bool:
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern names a tensor.

    It is a class of layers, a regular expression behind `re:`, or parts of the name with `*`.
    """
    if pattern in ("Linear", "*"):
        return True
    if pattern.startswith("re:"):
        try:
            return any(
                re.match(pattern[3:], full) for full in (name, f"model.{name}", f"{name}.weight")
            )
        except re.error:
            return False
    wanted, parts = pattern.split("."), name.split(".")
    if "layers" in wanted:
        wanted = wanted[wanted.index("layers") :]
    wanted = [word for word in wanted if word != ""]
    starts = range(len(parts) - len(wanted) + 1)
    return bool(wanted) and any(
        all(map(fnmatch.fnmatch, parts[i : i + len(wanted)], wanted)) for i in starts
    )


def stored_weights(config: Mapping[str, Any]) -> StoredWeights | None:
    """Read how a repository's weights are stored; None: in 16 bits."""
    given = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(given, Mapping):
        return None
    method = str(given.get("quant_method", "")).lower().replace("_", "-")
    ignored = _strings(
        given.get("modules_to_not_convert") or given.get("ignore") or given.get("ignored_layers")
    )
    if method in ("fp8", "fbgemm-fp8", "ptpc-fp8"):
        return _uniform("fp8", 1.0, ignored)
    if method in ("awq", "gptq", "auto-round", "gptq-marlin", "awq-marlin"):
        return _grouped(given, "awq" if method.startswith("awq") else "gptq", ignored)
    if method == "compressed-tensors":
        return _compressed(given, ignored)
    if method.startswith("modelopt"):
        return _modelopt(given, ignored)
    if method in ("mxfp4", "gpt-oss-mxfp4"):  # vLLM quantises nothing but experts
        experts = Group(("mlp.experts",), BYTES_PER_WEIGHT["mxfp4"])
        return StoredWeights("mxfp4", (experts,), ignored)
    if method == "bitsandbytes":
        size = BYTES_PER_WEIGHT[method]
        if given.get("load_in_8bit") is True:
            size = 1.0
        skipped = _strings(given.get("llm_int8_skip_modules"))
        return _uniform(method, size, ignored + skipped)
    return StoredWeights(
        method or "unknown",
        (),
        note=f"weights stored by {method or 'an unnamed method'} are sized as 16 bits",
    )


def stored_quantization(config: Mapping[str, Any]) -> str | None:
    """Name how weights are stored; None: in 16 bits, or unknown."""
    found = stored_weights(config)
    return found.name if found is not None and found.groups else None


def _uniform(name: str, size: float, ignored: tuple[str, ...]) -> StoredWeights:
    return StoredWeights(name, (Group(("Linear",), size),), ignored)


def _grouped(given: Mapping[str, Any], name: str, ignored: tuple[str, ...]) -> StoredWeights:
    """Read AWQ and GPTQ.

    Bits, and a scale and a zero point a group.
    """
    bits = _whole(given.get("bits", given.get("w_bit")), 4)
    group = _whole(given.get("group_size", given.get("q_group_size")), 128)
    size = bits / 8
    if group > 0:  # -1: one scale a channel
        size += (2 + bits / 8) / group
    return _uniform(name, size, ignored)


def _compressed(given: Mapping[str, Any], ignored: tuple[str, ...]) -> StoredWeights:
    """compressed-tensors: bits, scales and layers by group."""
    found = given.get("config_groups")
    groups, names = [], []
    for group in found.values() if isinstance(found, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping):
            continue
        bits = _whole(weights.get("num_bits"), 8)
        size = _size_of(weights, bits)
        names.append(_name_of(weights, bits))
        groups.append(Group(_strings(group.get("targets")) or ("Linear",), size))
    if not groups:
        groups, names = [Group(("Linear",), 1.0)], ["fp8"]
    # exact names before classes, as vLLM looks them up
    groups.sort(key=lambda group: "Linear" in group.targets)
    smallest = min(range(len(names)), key=lambda i: BYTES_PER_WEIGHT[names[i]])
    return StoredWeights(names[smallest], tuple(groups), ignored)


def _name_of(weights: Mapping[str, Any], bits: int) -> str:
    if bits == 4 and weights.get("type") == "float":
        return "mxfp4" if _whole(weights.get("group_size"), 16) == 32 else "nvfp4"
    return "w4a16" if bits == 4 else "fp8"


def _size_of(weights: Mapping[str, Any], bits: int) -> float:
    """Count the bytes of a weight and its part of the scales.

    A scale per group has 16 bits, one of 4-bit floats 8. Without a group the scales, one per
    channel, are lost in the rounding.
    """
    group = _whole(weights.get("group_size"), 0)
    if bits == 4 and weights.get("type") == "float":
        return 0.5 + 1 / (group or 16)
    if group <= 0:
        return bits / 8
    zero_point = 0.0 if weights.get("symmetric", True) else bits / 8
    return bits / 8 + (2 + zero_point) / group


def _modelopt(given: Mapping[str, Any], ignored: tuple[str, ...]) -> StoredWeights:
    """NVIDIA's ModelOpt: one algorithm, or groups as compressed-tensors has them."""
    nested = given.get("quantization")
    inner: Mapping[str, Any] = nested if isinstance(nested, Mapping) else given
    skipped = ignored + _strings(inner.get("exclude_modules") or inner.get("ignore"))
    algorithm = str(inner.get("quant_algo", "")).upper()
    if "NVFP4" in algorithm or "MXFP4" in algorithm:
        name = "nvfp4" if "NVFP4" in algorithm else "mxfp4"
        group = _whole(inner.get("group_size"), 16 if name == "nvfp4" else 32)
        return _uniform(name, 0.5 + 1 / max(1, group), skipped)
    if "W4A16" in algorithm or "W4A8" in algorithm:
        return _uniform("w4a16", BYTES_PER_WEIGHT["w4a16"], skipped)
    if "FP8" in algorithm or not given.get("config_groups"):
        return _uniform("fp8", 1.0, skipped)
    return _compressed(given, skipped)


def _strings(found: Any) -> tuple[str, ...]:
    if not isinstance(found, Iterable) or isinstance(found, str | Mapping):
        return ()
    return tuple(word for word in found if isinstance(word, str))


def _whole(value: Any, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return value
