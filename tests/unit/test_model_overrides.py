"""What `hf_overrides` and adapters make of a model, and arguments that would replace it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planned import job
from todays_models import R1_0528_QWEN3_8B

from batchr1.backends.vllm import BACKEND
from batchr1.engine.vllm.arguments import refuse_another_model
from batchr1.errors import JobError
from batchr1.job.fingerprint import fingerprint
from batchr1.job.spec import JobSpec
from batchr1.models.adapter import read_adapter
from batchr1.models.overrides import merged, overridden
from batchr1.models.resolve import ModelSource
from batchr1.sizing.planning.arguments import check_arguments

MODEL = ModelSource("m", "m", None, "x", 40_960, R1_0528_QWEN3_8B)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    ("overrides", "context"),
    [
        (None, 40_960),
        ({"rope_scaling": YARN}, 131_072),
        ({"rope_parameters": YARN | {"rope_theta": 1e6}}, 131_072),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 262_144),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, 131_072),
        ({"max_position_embeddings": 65_536}, 65_536),
        ({"max_position_embeddings": 65_536, "rope_scaling": YARN}, 131_072),
    ],
)
def test_overrides_give_the_context_that_vllm_gives(overrides: Any, context: int) -> None:
    assert overridden(MODEL, overrides).context_len == context


def test_a_longer_context_by_yarn_may_be_asked_for() -> None:
    spec = job("r1-tiny", max_model_len=100_000)
    with pytest.raises(JobError, match="longer than the model's context"):
        check_arguments(spec, MODEL, num_gpus=1)
    found = overridden(MODEL, {"rope_scaling": YARN})
    assert check_arguments(spec, found, num_gpus=1).max_model_len == 100_000


def test_nested_keys_are_merged_and_a_scaling_is_replaced() -> None:
    config = {"text_config": {"a": 1, "b": 2}, "rope_scaling": {"factor": 2, "type": "linear"}}
    changed = merged(config, {"text_config": {"b": 3}, "rope_scaling": YARN})
    assert changed == {"text_config": {"a": 1, "b": 3}, "rope_scaling": YARN}
    assert config["text_config"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "yarn",
            "model.engine_args.hf_overrides: not a mapping (got 'yarn', need keys of config.json). "
            "Correct it.",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn"}},
            "model.engine_args.hf_overrides: the scaling of positions has no factor (got None, "
            "need a number such as 4.0). Correct it.",
        ),
        (
            {"max_position_embeddings": "64K"},
            "model.engine_args.hf_overrides.max_position_embeddings: not a number of tokens (got "
            "'64K'). Correct it.",
        ),
    ],
)
def test_overrides_that_say_nothing_are_refused(overrides: Any, message: str) -> None:
    with pytest.raises(JobError) as caught:
        overridden(MODEL, overrides)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("model", "model.variant, model.path or model.repo"),
        ("tokenizer", "model.path, a folder that holds the tokenizer"),
        ("revision", "model.revision"),
        ("tokenizer_revision", "model.revision"),
        ("hf_config_path", "model.path, a folder that holds the config"),
    ],
)
def test_arguments_that_would_replace_the_model_are_refused(name: str, instead: str) -> None:
    with pytest.raises(JobError) as caught:
        refuse_another_model(name)
    assert str(caught.value) == (
        f"model.engine_args.{name}: would replace the model that rows are recorded as. Leave it "
        f"out, and give {instead}."
    )


def adapter_folder(folder: Path, rank: Any = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def with_adapter(path: Path | None, **engine_args: Any) -> JobSpec:
    document = job("r1-tiny", **engine_args).model_dump()
    document["model"]["adapter"] = None if path is None else str(path)
    return JobSpec.model_validate(document)


def test_an_adapter_has_room_for_its_rank_and_is_known_by_its_files(tmp_path: Path) -> None:
    adapter = read_adapter(str(adapter_folder(tmp_path / "a")))
    assert adapter.rank == 8
    before = adapter.identity
    (tmp_path / "a/adapter_model.safetensors").write_bytes(b"other weights")
    assert read_adapter(str(tmp_path / "a")).identity != before
    assert read_adapter(str(adapter_folder(tmp_path / "b", 33))).rank == 64


def test_an_adapter_decides_answers_and_without_one_the_fingerprint_is_as_it_was(
    tmp_path: Path,
) -> None:
    def semantic(path: Path | None) -> dict[str, Any]:
        return fingerprint(with_adapter(path), model_identity="x", kept={})

    plain = semantic(None)
    assert not any("adapter" in key for key in plain)
    adapted = semantic(adapter_folder(tmp_path / "a"))
    assert adapted == plain | {"model.adapter": read_adapter(str(tmp_path / "a")).identity}


def test_rows_of_an_adapter_name_it(tmp_path: Path) -> None:
    spec = with_adapter(adapter_folder(tmp_path / "teacher-v2"))
    found = BACKEND.model(spec, spec.storage.options, lambda *_, **__: MODEL)
    assert found.name == "m + teacher-v2"


def test_files_that_are_no_adapter_are_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(JobError) as caught:
            read_adapter(str(path))
        return str(caught.value).replace(str(tmp_path), "TMP")

    (tmp_path / "empty").mkdir()
    bad = adapter_folder(tmp_path / "bad", "four")
    bare = adapter_folder(tmp_path / "bare")
    (bare / "adapter_model.safetensors").unlink()
    assert refusal(tmp_path / "none") == (
        "model.adapter TMP/none: there is no such folder. Give the folder that PEFT saved."
    )
    assert refusal(tmp_path / "empty") == (
        "model.adapter TMP/empty: no readable adapter_config.json (got FileNotFoundError). Give "
        "the folder that PEFT saved."
    )
    assert refusal(bare) == (
        "model.adapter TMP/bare: has no adapter_model.safetensors. Save it with safe_serialization."
    )
    assert refusal(bad) == (
        "model.adapter TMP/bad: adapter_config.json has no rank that vLLM takes (got 'four', need "
        "r from 1 to 512). Correct it."
    )
