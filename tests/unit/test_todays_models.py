"""Sizes of today's checkpoints: parameters, bytes as stored, caches by what they hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from planned import PROMPTS, gpus, job, plan
from todays_models import GEMMA_3_27B, GLM_4_5_AIR, MODELS, QWEN3_30B_A3B, V3_1, gpt_oss

from batchr1.job.spec import ModelSpec
from batchr1.models.resolve import ModelSource, resolve_model
from batchr1.sizing import memory
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.memory import GIB
from batchr1.sizing.plan import MisfitError, Plan
from batchr1.sizing.planning.make import make_plan
from batchr1.sizing.shape.weights import stored_weights

# Parameters in 10⁹, by the models' own cards; without heads for drafts and towers for pictures.
CARDS = {
    "openai/gpt-oss-20b": 20.9,
    "openai/gpt-oss-120b": 116.8,
    "Qwen/Qwen3-30B-A3B-Thinking-2507": 30.5,
    "Qwen/Qwen3-Next-80B-A3B-Thinking": 79.7,
    "Qwen/Qwen3.5-35B-A3B": 34.7,
    "zai-org/GLM-4.5-Air": 106.9,
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": 8.19,
    "deepseek-ai/DeepSeek-V3.1": 671.0,
    "google/gemma-3-27b-it": 27.0,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8.89,
}


def planned(config: dict[str, Any], gpu: str, count: int = 1, **options: Any) -> Plan:
    text = config.get("text_config", config)
    context = text["max_position_embeddings"]
    model = ModelSource("m", "m", None, "x", context, config)
    spec = job("r1-tiny", **options)
    return make_plan(spec, model, gpus(gpu, count), PROMPTS, default_lengths("math", 32768))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_card(name: str) -> None:
    found = Architecture.of_config(MODELS[name]).parameters() / 1e9
    assert found == pytest.approx(CARDS[name], rel=0.005)
    assert Architecture.of_config(MODELS[name]).note is None


@pytest.mark.parametrize(
    ("name", "file_gb"),
    [("openai/gpt-oss-20b", 13.76), ("openai/gpt-oss-120b", 65.25)],  # the sum of its files
)
def test_mxfp4_is_sized_as_it_is_stored(name: str, file_gb: float) -> None:
    """Kernels pad experts to whole tiles: 2,880 becomes 3,072 and 2,944."""
    arch = Architecture.of_config(MODELS[name])
    assert 1.0 < arch.weight_bytes() / (file_gb * 1e9) < 1.10
    assert arch.stored == "mxfp4"
    assert arch.bytes_per_weight(of_experts=True) == 0.5 + 1 / 32
    assert arch.bytes_per_weight() == 2.0


@pytest.mark.parametrize(
    ("config", "gpu", "count"),
    [
        (gpt_oss(24, 32), "RTX 4090", 1),
        (gpt_oss(24, 32), "RTX A6000", 1),
        (gpt_oss(36, 128), "H100", 1),
        (gpt_oss(36, 128), "RTX PRO 6000", 1),
        (QWEN3_30B_A3B, "A100 80GB", 1),
        (GLM_4_5_AIR, "H200", 2),
        (V3_1, "H200", 8),
        (V3_1, "H20", 16),
        (V3_1, "B300", 4),
    ],
)
def test_models_fit_the_gpus_that_people_run_them_on(
    config: dict[str, Any], gpu: str, count: int
) -> None:
    found = planned(config, gpu, count)
    assert found.kv_cache_tokens >= found.max_model_len


@pytest.mark.parametrize(
    ("config", "gpu", "count"),
    [
        (gpt_oss(36, 128), "RTX A6000", 1),
        (GLM_4_5_AIR, "H200", 1),
        (V3_1, "H20", 4),
        (V3_1, "L40", 16),  # vllm-project/vllm#14726: out of memory
    ],
)
def test_models_are_refused_where_they_do_not_fit(
    config: dict[str, Any], gpu: str, count: int
) -> None:
    with pytest.raises(MisfitError):
        planned(config, gpu, count)


def test_r1_in_awq_runs_on_sixteen_3090_as_it_did() -> None:
    found = plan(job("r1-671b", quantization="awq", max_tokens=4096), gpus("RTX 3090", 16))
    assert (found.tensor_parallel, found.pipeline_parallel) == (8, 2)
    assert found.memory.weights_gib == pytest.approx(21.21, abs=0.5)


# What vLLM 0.26 gave to the KV cache of an H200 at its first start, in GiB, on 2026-11-30:
# `python benchmarks/kv_memory.py --today`. The share of the GPU, the cache, the bound.
MEASURED = [
    ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 0.57, 62.871, 0.01),
    ("Qwen/Qwen3-30B-A3B-Thinking-2507", 0.90, 67.010, 0.01),
    ("openai/gpt-oss-20b", 0.57, 64.729, 0.5),
    ("openai/gpt-oss-120b", 0.90, 62.422, 0.5),
]


@pytest.mark.parametrize(("name", "share", "cache_gib", "bound"), MEASURED)
def test_the_cache_is_the_one_that_vllm_had(
    name: str, share: float, cache_gib: float, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "vllm_version", lambda: (0, 26))
    found = planned(
        MODELS[name],
        "H200",
        gpu_memory_utilization=share,
        max_num_batched_tokens=8192,
        max_num_seqs=256,
        max_model_len=32768,
    )
    assert found.memory.kv_gib == pytest.approx(cache_gib, abs=bound)


def test_a_newer_vllm_takes_the_graphs_off_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []
    for version in ((0, 26), (0, 27)):
        monkeypatch.setattr(memory, "vllm_version", lambda version=version: version)
        found = plan(job(gpu_memory_utilization=0.9), gpus("H200", 1))
        caches.append(found.memory.kv_gib)
    assert caches[0] - caches[1] == pytest.approx(found.memory.cuda_graph_gib, abs=0.01)


# Bytes of the cache of one sequence of 32,768 tokens: layers × KV heads × head × 2 × 2.
FULL = {
    "openai/gpt-oss-20b": 12 * 8 * 64 * 4 * 32768,
    "Qwen/Qwen3-Next-80B-A3B-Thinking": 12 * 2 * 256 * 4 * 32768,
    "Qwen/Qwen3.5-35B-A3B": 10 * 2 * 256 * 4 * 32768,
    "google/gemma-3-27b-it": 10 * 16 * 128 * 4 * 32768,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 4 * 8 * 128 * 4 * 32768,
}


@pytest.mark.parametrize("name", FULL)
def test_windows_and_states_take_what_they_hold(name: str) -> None:
    """Layers that see everything take their bytes, the others what does not grow."""
    cache = Architecture.of_config(MODELS[name]).kv_cache()
    fixed = cache.bytes_of(32768) - FULL[name]
    assert 0 < fixed < 0.6 * FULL[name]
    growth = cache.bytes_of(4 * 32768) - cache.bytes_of(32768)
    assert growth == pytest.approx(3 * FULL[name], rel=0.01)


def test_a_window_holds_no_more_than_a_short_sequence_has() -> None:
    cache = Architecture.of_config(GEMMA_3_27B).kv_cache()
    per_token = 60 * cache.per_layer  # six groups of ten layers, two of them padded
    assert cache.bytes_of(160) == pytest.approx(62 * 160 * cache.per_layer, rel=0.3)
    assert cache.bytes_of(1024) >= per_token * 1024


def test_the_tokens_of_a_cache_are_those_of_whole_sequences_as_vllm_counts_them() -> None:
    cache = Architecture.of_config(gpt_oss(24, 32)).kv_cache()
    one = cache.bytes_of(32768, in_flight=8192)
    windows = math.ceil((127 + 8192) / 16) + 1
    assert one == (32768 // 16 + windows) * 16 * 12 * 2048
    assert cache.tokens_in(10 * one, length=32768, in_flight=8192) == 10 * 32768


def test_a_plan_for_windows_has_room_for_more_sequences() -> None:
    windowed = planned(gpt_oss(24, 32), "H100")
    config = gpt_oss(24, 32) | {"layer_types": None, "sliding_window": None}
    assert windowed.kv_cache_tokens > 1.5 * planned(config, "H100").kv_cache_tokens


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


@pytest.mark.parametrize(
    ("quantization", "experts", "attention", "name"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, 0.5625, 0.5625, 0),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "NVFP4",
                "ignore": ["lm_head", "model.layers.*.self_attn*"],
            },
            0.5625,
            2.0,
            "nvfp4",
        ),
        (
            {
                "quant_method": "modelopt",
                "quantization": {
                    "quant_algo": "NVFP4",
                    "exclude_modules": [f"model.layers.{i}.self_attn.q_proj" for i in range(48)],
                },
            },
            0.5625,
            2.0,
            "nvfp4",
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0, 1.0, "fp8"),
        ({"quant_method": "mxfp4"}, 0.53125, 2.0, "mxfp4"),
        (AWQ, 0.51953125, 0.51953125, "awq"),
        (AWQ | {"group_size": 64}, 0.5390625, 0.5390625, "awq"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 1.0234375, 1.0234375, "gptq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, 0.5, 0.5, "gptq"),
        (AWQ | {"modules_to_not_convert": ["self_attn"]}, 0.51953125, 2.0, "awq"),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["mlp.gate", "lm_head"]},
            1.0,
            1.0,
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "targets": ["re:.*mlp.experts.*"],
                        "weights": {"num_bits": 4, "type": "int", "group_size": 32},
                    },
                    "group_1": {
                        "targets": ["Linear"],
                        "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    },
                },
                "ignore": ["lm_head", "re:.*mlp.gate$"],
            },
            0.5625,
            1.0,
            "w4a16",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {
                    "group_0": {
                        "targets": ["Linear"],
                        "weights": {"num_bits": 4, "type": "float", "group_size": 16},
                    }
                },
                "ignore": ["re:.*self_attn.*"],
            },
            0.5625,
            2.0,
            "nvfp4",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5625, 0.5625, "bitsandbytes"),
        ({"quant_method": "quip"}, 2.0, 2.0, None),
    ],
)
def test_weights_are_sized_as_they_are_stored(
    quantization: dict[str, Any], experts: float, attention: float, name: Any
) -> None:
    arch = Architecture.of_config(QWEN3_30B_A3B | {"quantization_config": quantization})
    assert arch.bytes_per_weight(of_experts=True) == pytest.approx(experts, rel=1e-6)
    assert arch.bytes_per_weight() == pytest.approx(attention, rel=1e-6)
    assert arch.stored == (name or ("nvfp4" if name == 0 else None))
    quantised = sum(
        48 * size
        for size in (experts * 128 * 3 * 2048 * 768, attention * 2 * 2048 * 128 * (32 + 4))
    )
    others = 2 * (2 * 151_936 * 2048 + 48 * 128 * 2048)
    assert arch.weight_bytes() == pytest.approx(quantised + others, rel=0.01)


def test_what_modelopt_says_in_a_file_of_its_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_30B_A3B))
    (tmp_path / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")  # no tensors
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    config = resolve_model(ModelSpec(path=str(tmp_path))).config
    assert Architecture.of_config(config).stored == "nvfp4"


def test_a_method_that_is_not_known_is_named() -> None:
    arch = Architecture.of_config(QWEN3_30B_A3B | {"quantization_config": {"quant_method": "quip"}})
    assert arch.note == "weights stored by quip are sized as 16 bits"


@pytest.mark.parametrize("given", [None, 3, "fp8", {}, {"quant_method": None}])
def test_odd_configs_of_quantisation_do_not_break_sizes(given: Any) -> None:
    found = stored_weights({"quantization_config": given})
    assert found is None or found.groups == ()


def test_layers_of_an_unknown_type_are_full_and_named() -> None:
    config = gpt_oss(24, 32) | {"layer_types": ["sliding_attention", "retention"] * 12}
    arch = Architecture.of_config(config)
    assert arch.note == "layers of an unknown type (retention) are sized as full attention"
    assert arch.kv_cache().full == 12


@pytest.mark.parametrize(
    ("change", "sparse"),
    [
        ({}, 48),
        ({"mlp_only_layers": [0, 1]}, 46),
        ({"decoder_sparse_step": 2}, 24),
        ({"first_k_dense_replace": 3}, 45),
        ({"num_experts": 0}, 0),
    ],
)
def test_layers_with_experts_are_counted(change: dict[str, Any], sparse: int) -> None:
    arch = Architecture.of_config(QWEN3_30B_A3B | change)
    assert len(arch.experts.sparse) == sparse


@pytest.mark.parametrize(
    ("gpu", "note"),
    [
        (
            "V100",
            "V100 has no bf16: vLLM computes in float16, whose range some models leave; many of "
            "its kernels want an A100 or newer",
        ),
        (
            "H100",
            "H100 has no FP4 arithmetic: the weights are read in 4 bits and computed in 16",
        ),
    ],
)
def test_formats_that_a_gpu_lacks_are_said(gpu: str, note: str) -> None:
    config = MODELS["openai/gpt-oss-20b"]
    assert note in planned(config, gpu, 8).notes
    assert not planned(config, "GB200").notes


@pytest.mark.parametrize(
    ("settings", "gpu", "count"),
    [
        ({"gpu_memory_utilization": 1.0}, "H200", 16),
        ({"gpu_memory_utilization": 0.99}, "RTX 3090", 16),
        ({"kv_cache_memory_bytes": 200 * GIB}, "H200", 16),
        ({}, "RTX 3090", 8),
        ({}, "H100", 8),
        ({"max_num_batched_tokens": 131_072}, "H100", 8),
    ],
)
def test_the_figures_of_a_refusal_add_up(settings: Any, gpu: str, count: int) -> None:
    quantization = None
    if gpu == "RTX 3090":
        quantization = "awq"
    with pytest.raises(MisfitError) as caught:
        plan(job("r1-671b", quantization=quantization, **settings), gpus(gpu, count))
    message = str(caught.value)
    figures = message[message.index("(") + 1 : message.rindex(" GiB per GPU are missing")]
    total, _, parts = figures.partition(" GiB each: ")
    parts, _, missing = parts.rpartition("; ")
    if "gpu_memory_utilization" in parts:
        share = float(parts.split(" is ")[1].split(",")[0])
        outside = float(parts.split(" and ")[1].split()[0])
        assert share + outside - float(missing) == pytest.approx(float(total), abs=0.21)
        return
    amounts = [float(part.split()[0]) for part in parts.split(", ") if part[0].isdigit()]
    assert sum(amounts) - float(missing) == pytest.approx(float(total), abs=0.21)
