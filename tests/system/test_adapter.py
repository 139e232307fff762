"""A LoRA adapter through vLLM: its tokens are those of a model with the adapter merged in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from replay_job import MODEL, rows_of, write_job

from batchr1.driver.context import RunOptions
from batchr1.driver.run_job import run_job
from batchr1.job import load_job
from batchr1.sizing.adapters import AdapterRoom
from batchr1.sizing.architecture import Architecture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROBLEMS = Path(__file__).parents[2] / "jobs/data/math.parquet"
RANK, ALPHA = 5, 10  # a rank between two of those that vLLM makes room for
TARGETS = ("q_proj", "v_proj", "down_proj")
BASE, LORA = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of r1-tiny as PEFT saves it, and r1-tiny with its product added."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(5)
    adapter = tmp_path_factory.mktemp("adapter")
    merged = shutil.copytree(MODEL, tmp_path_factory.mktemp("merged") / "model")
    weights = {name: value.float() for name, value in load_file(merged / BASE).items()}
    pairs = {}
    targets = [f"{target}.weight" for target in TARGETS]
    for name in [name for name in weights if name.endswith(tuple(targets))]:
        outputs, inputs = weights[name].shape
        a, b = torch.randn(RANK, inputs) * 0.16, torch.randn(outputs, RANK) * 0.16
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        pairs |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        weights[name] += ALPHA / RANK * (b @ a)
    save_file(weights, merged / BASE, {"format": "pt"})
    save_file(pairs, adapter / LORA, {"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": [*TARGETS]}
    config |= {"bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": MODEL}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return adapter, merged


def rows_with(folder: Path, **model: str | None) -> pl.DataFrame:
    folder.mkdir()
    job = write_job(
        folder,
        model={**model, "engine_args": {"dtype": "float32"}},
        input={"path": str(PROBLEMS), "limit": 40},
        output={"token_ids": "always"},
        sampling={"max_tokens": 48, "temperature": 0.0, "top_p": 1.0},
    )
    assert run_job(load_job(job), RunOptions(gpus="none", show_progress=False)).exit_code == 0
    return rows_of(folder / "out").sort("id")


def test_its_tokens_are_those_of_the_merged_model(
    tmp_path: Path, models: tuple[Path, Path]
) -> None:
    adapter, merged = models
    plain = rows_with(tmp_path / "plain", variant="r1-tiny")["token_ids"]
    wanted = rows_with(tmp_path / "merged", variant=None, path=str(merged))["token_ids"]
    rows = rows_with(tmp_path / "lora", variant="r1-tiny", adapter=str(adapter))
    same = (rows["token_ids"] == wanted).sum()
    assert (plain == wanted).sum() <= 10, "the adapter must change most rows"
    assert same >= 38, "sums in another order may flip a token between two that are nearly equal"
    [name] = rows["model"].unique()
    assert name.startswith(f"r1-tiny + {adapter.name} (sha256:")


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MIXTURE = {
    **LLAMA,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}
ALLOCATE = str(Path(__file__).parents[1] / "helpers/adapter_room.py")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["qwen2", "llama", "mixture"])
def test_the_plan_counts_what_vllm_allocates_for_adapters(tmp_path: Path, kind: str) -> None:
    """To the byte, in float32: a layer's two matrices, of embeddings where the model has them."""
    folder = Path(MODEL)
    if kind != "qwen2":
        folder = tmp_path
        config = LLAMA if kind == "llama" else MIXTURE
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ALLOCATE, str(folder)], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    allocated = int(done.stdout.splitlines()[-1].removeprefix("bytes "))
    arch = Architecture.of_config(json.loads((folder / "config.json").read_text()))
    assert AdapterRoom(8).bytes_in(arch, dtype_bytes=4) == allocated > 0
