"""`batchr1 plan`: its JSON, its text, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchr1.cli.main import main

MATH = str(Path(__file__).parents[2] / "jobs/math.yaml")


def command(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["plan", MATH, *words], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the hub's cache and without the hub: the catalogue must do."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("empty_cache")
def test_the_plan_as_json_holds_what_is_promised() -> None:
    code, out, _ = command(
        "--variant", "r1-distill-qwen-7b", "--gpu", "H200", "--gpus", "2", "--json"
    )
    document = json.loads(out)
    assert (code, document["fits"], document["replicas"], document["tensor_parallel"]) == (
        0,
        True,
        2,
        1,
    )
    assert (
        document["estimate"]["lengths"]
        == "6,094 tokens, DeepSeek's average for maths, capped at 3,072: many will be cut"
    )
    assert document["notes"] == [
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B is not in the cache: prompts measured with "
        "r1-tiny's tokenizer, longer than they will be"
    ]


@pytest.mark.usefixtures("empty_cache")
def test_a_plan_that_does_not_fit_ends_with_two_and_says_what_would() -> None:
    words = (
        "--variant",
        "r1-distill-qwen-14b",
        "--gpu",
        "RTX 4090",
        "--set",
        "sampling.max_tokens=32768",
    )
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"batchr1: {MATH}: model r1-distill-qwen-14b: does not fit RTX 4090 (23.5 GiB each: "
    )
    assert "Add one of: --set model.quantization=w4a16 (4-bit weights (RedHatAI/" in err
    code, out, _ = command(*words, "--json")
    document = json.loads(out)
    assert (code, document["fits"], document["missing_gib"] > 10) == (2, False, True)
    assert [way["flags"] for way in document["ways_out"]] == [
        "--set model.quantization=w4a16",
        "--set model.quantization=awq",
        "--gpus 2",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--gpu", "H200", "--vram", "24"],
            "--vram: cannot be given together with --gpu. Give one of them.",
        ),
        (
            ["--vram", "-1"],
            "--vram: not an amount of memory (got -1.0, need GiB, such as 24). Correct it.",
        ),
        (["--price", "-2"], "--price: not a price (got -2, need USD per GPU-hour). Correct it."),
        (
            ["--gpu", "H200", "--devices", "0"],
            "--devices: names GPUs of this machine, and the plan is for others. Leave it out.",
        ),
        (
            ["--gpu", "H200", "--gpus", "none"],
            (
                "--gpus: not a number of GPUs (got 'none', need 1 or more with --gpu or --vram). "
                "Correct it."
            ),
        ),
    ],
)
def test_what_plan_cannot_plan_for(words: list[str], message: str) -> None:
    assert command(*words) == (2, "", f"batchr1: {message}\n")
