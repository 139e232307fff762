"""The catalogue: sizes that follow from its numbers, names refused or resolved, and what comes from
the hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchr1.errors import JobError, ModelError
from batchr1.job.spec import ModelSpec
from batchr1.models.catalogue import VARIANTS, variant
from batchr1.models.resolve import CATALOGUE, catalogue_source, resolve_model, resolve_or_catalogue
from batchr1.sizing.architecture import Architecture

DISTILLS = [name for name in VARIANTS if "distill" in name]
FULL = ["r1-671b", "r1-0528-671b"]

# Parameters as the hub counts them in the files (for R1 as the paper does: without the layer that
# predicts two tokens).
PUBLISHED = {
    "r1-distill-qwen-1.5b": 1.78e9,
    "r1-distill-qwen-7b": 7.62e9,
    "r1-distill-llama-8b": 8.03e9,
    "r1-distill-qwen-14b": 14.8e9,
    "r1-distill-qwen-32b": 32.8e9,
    "r1-distill-llama-70b": 70.6e9,
    "r1-671b": 671e9,
    "r1-0528-671b": 671e9,
    "r1-0528-qwen3-8b": 8.19e9,
    "r1-tiny": 5.874e6,
}

# The way from a GGUF file to what is taken.
ORIGINAL = (
    "need safetensors). Give the original model's repository as model.repo, or its folder as "
    "model.path: a GGUF's card names it as base_model. For 4 bits use a variant with "
    "model.quantization w4a16."
)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_computed_from_the_numbers_are_the_published_count(name: str) -> None:
    assert Architecture.of_config(VARIANTS[name].config).parameters() == pytest.approx(
        PUBLISHED[name], rel=0.01
    )


def test_the_full_model_passes_a_token_through_37_billion_parameters() -> None:
    """DeepSeek's figure leaves out the embedding table, which is 0.9 billion more."""
    assert Architecture.of_config(VARIANTS["r1-671b"].config).active_parameters() == pytest.approx(
        37e9, rel=0.02
    )


# Bytes of KV cache per token: 2 × layers × KV heads × head size × 2; for R1 layers × (512 + 64) ×
# 2.
KV_BYTES = {
    "r1-distill-qwen-1.5b": 28_672,
    "r1-distill-qwen-7b": 57_344,
    "r1-distill-llama-8b": 131_072,
    "r1-distill-qwen-14b": 196_608,
    "r1-distill-qwen-32b": 262_144,
    "r1-distill-llama-70b": 327_680,
    "r1-671b": 70_272,
    "r1-0528-qwen3-8b": 147_456,
}


@pytest.mark.parametrize("name", KV_BYTES)
def test_kv_bytes_per_token(name: str) -> None:
    assert Architecture.of_config(VARIANTS[name].config).kv_bytes_per_token() == KV_BYTES[name]


# Sizes of *.safetensors on the hub, in GB, and how far off loaded weights may be (allocator, rotary
# table).
FILES = [
    ("r1-distill-qwen-1.5b", "awq", 1.61),
    ("r1-distill-qwen-7b", "awq", 4.48 + 1.09),
    ("r1-distill-qwen-14b", "awq", 4.99 + 4.99),
]


@pytest.mark.parametrize(("name", "quantization", "gigabytes"), FILES)
def test_quantised_weights_are_as_large_as_the_files_that_hold_them(
    name: str, quantization: str, gigabytes: float
) -> None:
    weights = Architecture.of_config(VARIANTS[name].config).weight_bytes(quantization)
    assert gigabytes <= weights / 1e9 <= gigabytes * 1.05


def test_r1_tiny_is_catalogued_with_the_config_that_ships() -> None:
    entry = VARIANTS["r1-tiny"]
    assert entry.path is not None
    source = resolve_model(ModelSpec(variant="r1-tiny"))
    assert (source.name, source.context_len) == ("r1-tiny", entry.context_len)
    assert Path(source.location).is_dir()
    assert entry.config == json.loads((entry.path / "config.json").read_text())
    assert entry.context_len == entry.config["max_position_embeddings"] == entry.generation_len
    size = sum(f.stat().st_size for f in entry.path.glob("*.safetensors"))
    assert 2 * Architecture.of_config(entry.config).parameters() == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_a_repository_or_ships_and_its_context_is_the_configs(name: str) -> None:
    entry = variant(name)
    assert entry is VARIANTS[name]
    assert entry.name == name
    assert (entry.repo is None) != (entry.path is None)
    assert entry.context_len == entry.config["max_position_embeddings"]
    assert entry.context_len == (
        4096 if name == "r1-tiny" else 163_840 if name in FULL else 131_072
    )
    by_card = {"r1-tiny": 4096, "r1-0528-671b": 65_536, "r1-0528-qwen3-8b": 65_536}
    assert entry.generation_len == by_card.get(name, 32_768)


@pytest.mark.parametrize("name", DISTILLS)
def test_a_distill_stands_under_deepseeks_licence_and_its_bases(name: str) -> None:
    licence = VARIANTS[name].licence
    assert licence.startswith("MIT (DeepSeek); derived from ")
    expected = {
        "r1-distill-llama-8b": "Llama 3.1 Community",
        "r1-distill-llama-70b": "Llama 3.3 Community",
    }
    assert expected.get(name, "Apache-2.0") in licence


@pytest.mark.parametrize("name", DISTILLS)
def test_each_distill_has_fp8_and_4_bit_repositories(name: str) -> None:
    size = name.removeprefix("r1-distill-").split("-")[1]
    assert set(VARIANTS[name].quantized) == {"fp8", "w4a16", "awq"}
    for repository in VARIANTS[name].quantized.values():
        owner, _, rest = repository.partition("/")
        assert owner in ("RedHatAI", "casperhansen")
        assert size in rest.lower()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "r1-zero",
            "model.variant: R1-Zero is not supported (got 'r1-zero': it repeats without end and "
            "mixes languages, as its card says). Use variant r1-671b.",
        ),
        (
            "DeepSeek-R1-GGUF",
            f"model.variant: GGUF is not supported (got 'DeepSeek-R1-GGUF', {ORIGINAL}",
        ),
    ],
)
def test_a_variant_that_is_not_supported_is_refused_with_what_to_use(
    name: str, message: str
) -> None:
    with pytest.raises(JobError) as caught:
        variant(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("deepseek-r1:14b", "r1-distill-qwen-14b"),  # as Ollama names them
        ("deepseek-r1:8b", "r1-distill-llama-8b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "r1-distill-qwen-7b"),
        ("deepseek-ai/DeepSeek-R1", "r1-671b"),
        ("DeepSeek-R1-0528", "r1-0528-671b"),
        ("r1_distill_qwen_7b", "r1-distill-qwen-7b"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(name: str, near: str) -> None:
    message = f"model.variant: unknown variant (got {name!r}). Did you mean {near}?"
    with pytest.raises(JobError) as caught:
        variant(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"repo": "deepseek-ai/DeepSeek-R1-Zero"},
            "model.repo: R1-Zero is not supported (got 'deepseek-ai/DeepSeek-R1-Zero': it repeats "
            "without end and mixes languages, as its card says). Use variant r1-671b.",
        ),
        (
            {"repo": "unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF"},
            "model.repo: GGUF is not supported (got 'unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF', "
            f"{ORIGINAL}",
        ),
        (
            {"path": "/models/r1-q4_k_m.gguf"},
            f"model.path: GGUF is not supported (got '/models/r1-q4_k_m.gguf', {ORIGINAL}",
        ),
        (
            {"path": "/models/DeepSeek-R1-Zero/"},
            "model.path: R1-Zero is not supported (got '/models/DeepSeek-R1-Zero/': it repeats "
            "without end and mixes languages, as its card says). Use variant r1-671b.",
        ),
        (
            {"variant": "r1-distill-qwen-7b", "quantization": "gptq"},
            "model.quantization: no repository of r1-distill-qwen-7b is known for it (got 'gptq', "
            "need fp8 or w4a16 or awq). Take one of these, or give model.repo.",
        ),
        (
            {"variant": "r1-tiny", "quantization": "awq"},
            "model.quantization: the weights of r1-tiny are not stored so (got 'awq', its "
            "config.json says 16 bits). Leave it null, or give a repository that holds awq.",
        ),
    ],
)
def test_a_model_that_cannot_be_run_is_refused_before_anything_is_looked_up(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError) as caught:
        resolve_model(ModelSpec(**spec))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["zero-shot-7b", "r1-zerobot", "ggufless", "big-guff"])
def test_names_that_only_look_like_it_are_not_refused_for_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        resolve_model(ModelSpec(path=str(tmp_path / name)))


def test_a_folder_of_gguf_files_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "q4.gguf").touch()
    with pytest.raises(
        JobError, match=r"^model.path: GGUF is not supported \(got '.*/q4.gguf', need safetensors\)"
    ):
        resolve_model(ModelSpec(path=str(tmp_path)))


def model_folder(tmp_path: Path, **config: Any) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64} | config))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return str(tmp_path)


AWQ = {"quantization_config": {"quant_method": "awq"}}
OTHER = {"quantization_config": {"quant_method": "a-new-method"}}


@pytest.mark.parametrize(
    ("asked", "config", "refused_for"),
    [
        (None, AWQ, None),
        ("awq", AWQ, None),
        ("w4a16", AWQ, "awq"),
        ("fp8", AWQ, "awq"),
        ("fp8", {}, None),  # vLLM converts 16-bit weights
        ("gptq", {}, "16 bits"),
        ("awq", OTHER, None),  # vLLM knows more methods than we do
    ],
)
def test_a_quantisation_that_the_weights_do_not_have_is_refused(
    asked: Any, config: dict[str, Any], refused_for: str | None, tmp_path: Path
) -> None:
    spec = ModelSpec(path=model_folder(tmp_path, **config), quantization=asked)
    if refused_for is None:
        assert resolve_model(spec).location == str(tmp_path)
        return
    with pytest.raises(JobError) as caught:
        resolve_model(spec)
    assert str(caught.value) == (
        f"model.quantization: the weights of {tmp_path} are not stored so (got {asked!r}, its "
        f"config.json says {refused_for}). Leave it null, or give a repository that holds {asked}."
    )


@pytest.mark.parametrize(
    ("name", "quantization", "location", "stored"),
    [
        ("r1-distill-qwen-7b", None, "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None),
        ("r1-distill-qwen-7b", "fp8", "RedHatAI/DeepSeek-R1-Distill-Qwen-7B-FP8-dynamic", "fp8"),
        (
            "r1-distill-llama-70b",
            "w4a16",
            "RedHatAI/DeepSeek-R1-Distill-Llama-70B-quantized.w4a16",
            "w4a16",
        ),
        ("r1-distill-qwen-1.5b", "awq", "casperhansen/deepseek-r1-distill-qwen-1.5b-awq", "awq"),
        ("r1-671b", None, "deepseek-ai/DeepSeek-R1", "fp8"),
        ("r1-671b", "fp8", "deepseek-ai/DeepSeek-R1", "fp8"),
        ("r1-671b", "awq", "QuixiAI/DeepSeek-R1-AWQ", "awq"),
        ("r1-0528-671b", "w4a16", "RedHatAI/DeepSeek-R1-0528-quantized.w4a16", "w4a16"),
    ],
)
def test_a_quantised_variant_is_the_repository_that_holds_it(
    name: str, quantization: Any, location: str, stored: str | None
) -> None:
    source = catalogue_source(ModelSpec(variant=name, quantization=quantization))
    assert source is not None
    assert (source.name, source.location, source.identity) == (name, location, CATALOGUE)
    assert Architecture.of_config(source.config).stored == stored
    assert source.context_len == VARIANTS[name].context_len


def test_only_variants_of_the_hub_are_made_from_the_catalogue_alone() -> None:
    assert catalogue_source(ModelSpec(path="/models/mine")) is None
    assert catalogue_source(ModelSpec(repo="some/model")) is None
    assert catalogue_source(ModelSpec(variant="r1-tiny")) is None
    assert resolve_or_catalogue(ModelSpec(variant="r1-tiny")).identity.startswith("sha256:")
