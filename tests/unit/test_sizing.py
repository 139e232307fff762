"""From a job's model to files, a hash and a plan; and which devices a run may use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from model_config import CONFIG

from batchr1.errors import JobError
from batchr1.job.spec import ModelSpec
from batchr1.models.resolve import WHOLE_FILE_LIMIT, content_hash, resolve_model
from batchr1.sizing.devices import choose_devices, visible_devices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder: real names, small contents."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + b"weights" * 100)
    (model / "tokenizer.json").write_text("{}")
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    (model / "README.md").write_text("a model")
    return model


def test_a_local_model_is_its_folder_its_content_and_its_context(folder: Path) -> None:
    source = resolve_model(ModelSpec(path=str(folder)))
    assert (source.name, source.location, source.revision) == ("model", str(folder), None)
    assert (source.context_len, source.config) == (4096, CONFIG)
    assert source.identity == f"sha256:{content_hash(folder)}"


def test_the_hash_is_of_the_content_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere/model.safetensors", (0, 0))
    assert content_hash(tmp_path / "elsewhere") == content_hash(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_changed_byte_in_any_file_that_decides_answers_changes_the_hash(
    folder: Path, name: str
) -> None:
    before = content_hash(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert content_hash(folder) != before


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_a_file_more_less_or_of_another_name_changes_the_hash(folder: Path, change: str) -> None:
    before = content_hash(folder)
    if change == "add":
        (folder / "chat_template.jinja").write_text("")
    elif change == "remove":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").rename(folder / "tokenizer2.json")
    assert content_hash(folder) != before


def test_what_decides_no_answer_leaves_the_hash(folder: Path) -> None:
    before = content_hash(folder)
    (folder / "README.md").write_text("another card")
    (folder / "recipe").mkdir()
    (folder / "recipe/train.py").write_text("")
    assert content_hash(folder) == before


def test_large_weights_are_sampled_and_their_first_and_last_bytes_count(folder: Path) -> None:
    weights = folder / "model.safetensors"
    size = WHOLE_FILE_LIMIT + 12345
    with weights.open("wb") as file:
        file.truncate(size)
    seen = {content_hash(folder)}
    for at in (0, size - 1):
        with weights.open("r+b") as file:
            file.seek(at)
            file.write(b"\x01")
        seen.add(content_hash(folder))
    with weights.open("ab") as file:
        file.write(b"\x00")
    seen.add(content_hash(folder))
    assert len(seen) == 4


def test_the_context_is_found_where_vision_models_keep_it(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"text_config": {"max_position_embeddings": 99}})
    )
    assert resolve_model(ModelSpec(path=str(folder))).context_len == 99


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("gpus", "devices", "chosen"),
    [
        (None, None, ("2", "3", "5", "7")),
        ("all", None, ("2", "3", "5", "7")),
        ("none", None, ()),
        ("2", None, ("2", "3")),
        (None, ("5", "2"), ("5", "2")),
    ],
)
def test_chosen_devices(
    gpus: str | None, devices: tuple[str, ...] | None, chosen: tuple[str, ...]
) -> None:
    assert choose_devices(gpus, devices) == chosen


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("gpus", "devices", "message"),
    [
        ("5", None, "--gpus: not so many GPUs here (got 5, found 4). Give --gpus 4."),
        (
            "0",
            None,
            "--gpus: not a number of GPUs (got '0', need 1 or more, all or none). Correct it.",
        ),
        (
            "²",
            None,
            "--gpus: not a number of GPUs (got '²', need 1 or more, all or none). Correct it.",
        ),
        (
            None,
            ("2", "4"),
            "--devices: there is no such GPU (got 4, found 2, 3, 5, 7). Give some of these.",
        ),
        (
            None,
            ("2", "2"),
            "--devices: not a list of GPUs (got '2,2', need each once, such as 0,1). Correct it.",
        ),
        (
            None,
            (),
            "--devices: not a list of GPUs (got '', need each once, such as 0,1). Correct it.",
        ),
    ],
)
def test_devices_that_are_not_there_are_refused(
    gpus: str | None, devices: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(JobError) as caught:
        choose_devices(gpus, devices)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus_are_not_seen(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_devices() == ()
