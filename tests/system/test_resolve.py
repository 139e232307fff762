"""Models resolved offline, in processes with a hub cache of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from made_up_nvml import GIB, A, machine
from model_config import CONFIG

from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import (
    CATALOGUE,
)
from batchr1.sizing.devices import (
    Holder,
    holders_of,
)


def resolved(tmp_path: Path, how: str, **spec: Any) -> list[str]:
    """name, location, revision, identity; or the error.

    In a process whose hub cache is `tmp_path`, offline.
    """
    code = (
        "import sys, json; from batchr1.job.spec import ModelSpec; from batchr1.models import "
        "resolve\n"
        "from batchr1.errors import ModelError\n"
        f"try: s = resolve.{how}(ModelSpec(**json.loads(sys.argv[1])))\n"
        "except ModelError as exc: print(json.dumps([str(exc)]))\n"
        "else: print(json.dumps([s.name, s.location, s.revision, s.identity]))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_without_the_hub_a_variant_can_be_planned_and_not_run(tmp_path: Path) -> None:
    spec = {"variant": "r1-distill-qwen-7b", "quantization": "w4a16"}
    repository = "RedHatAI/DeepSeek-R1-Distill-Qwen-7B-quantized.w4a16"
    assert resolved(tmp_path, "resolve_or_catalogue", **spec) == [
        "r1-distill-qwen-7b",
        repository,
        None,
        CATALOGUE,
    ]
    (message,) = resolved(tmp_path, "resolve_model", **spec)
    assert message.startswith(
        f"model {repository}: not in the local cache, and the hub cannot be reached."
    )
    (message,) = resolved(tmp_path, "resolve_or_catalogue", repo="some/model")
    assert message.startswith(
        "model some/model: not in the local cache, and the hub cannot be reached."
    )


def test_the_quantised_repository_in_the_cache_is_what_runs_under_its_own_commit(
    tmp_path: Path,
) -> None:
    repository = "RedHatAI/DeepSeek-R1-Distill-Qwen-7B-FP8-dynamic"
    snapshot = tmp_path / f"hub/models--{repository.replace('/', '--')}/snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    config = VARIANTS["r1-distill-qwen-7b"].config | {
        "quantization_config": {"quant_method": "compressed-tensors"}
    }
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("b" * 40)
    found = resolved(tmp_path, "resolve_model", variant="r1-distill-qwen-7b", quantization="fp8")
    assert found == ["r1-distill-qwen-7b", repository, "b" * 40, f"{repository}@{'b' * 40}"]


def test_a_repository_that_cannot_be_reached_is_refused_with_the_way_out(tmp_path: Path) -> None:
    code = (
        "from batchr1.job.spec import ModelSpec; from batchr1.models.resolve import resolve_model\n"
        "from batchr1.errors import ModelError\n"
        "try: resolve_model(ModelSpec(variant='r1-distill-qwen-7b'))\n"
        "except ModelError as exc: print(exc)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B: not in the local cache, and the hub cannot "
        "be reached. Run `batchr1 fetch deepseek-ai/DeepSeek-R1-Distill-Qwen-7B` with network, or "
        "set model.path.\n"
    )


def test_a_repository_in_the_cache_is_its_commit(tmp_path: Path) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "hub/models--deepseek-ai--DeepSeek-R1-Distill-Qwen-7B/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    code = (
        "from batchr1.job.spec import ModelSpec; from batchr1.models.resolve import resolve_model\n"
        "s = resolve_model(ModelSpec(variant='r1-distill-qwen-7b')); print(s.name, s.location, "
        "s.revision, s.identity)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    repo = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert done.stdout.split() == ["r1-distill-qwen-7b", repo, commit, f"{repo}@{commit}"]


def test_a_process_without_an_open_gpu_is_another_one_than_nvml_means() -> None:
    """In the real /proc."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        board = dataclasses.replace(A, processes=[(other.pid, GIB)])
        found = holders_of("0", nvml=machine(board))
        other.kill()
    assert found == (Holder(other.pid, None, 1),)
