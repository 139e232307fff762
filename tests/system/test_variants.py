"""`batchr1 variants`: what each variant needs, and what fits given GPUs."""

from __future__ import annotations

import functools
import json
from typing import Any

import click.testing
import pytest

from batchr1.cli.main import main
from batchr1.models.catalogue import VARIANTS
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.offers.smallest_gpus import (
    COMMON,
    GPU_COUNTS,
    on_gpus,
    precisions,
    smallest_set,
)


@functools.cache
def variants(*args: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(
        main, ["variants", *args], prog_name="batchr1", catch_exceptions=False
    )


def documents(*args: str) -> dict[str, dict[str, Any]]:
    return {d["name"]: d for d in json.loads(variants(*args, "--json").stdout)["variants"]}


# GiB of weights: parameters × 2 bytes, × 1 and × 0.52 with embeddings and output layer at 2 bytes.
WEIGHTS = {
    "r1-distill-qwen-1.5b": (3.4, 2.2, 1.54),
    "r1-distill-qwen-7b": (14.3, 8.2, 5.2),
    "r1-distill-llama-8b": (15.0, 8.5, 5.4),
    "r1-distill-qwen-14b": (27.6, 15.3, 9.3),
    "r1-distill-qwen-32b": (61.0, 32.0, 17.8),
    "r1-distill-llama-70b": (131.4, 67.7, 36.6),
    "r1-671b": (1249.9, 626.7, 325.0),
}


def test_every_variant_is_listed_with_its_weights_at_three_precisions() -> None:
    found = documents()
    assert list(found) == list(VARIANTS)
    for name, expected in WEIGHTS.items():
        weights = [p["weights_gib"] for p in found[name]["precisions"]]
        assert weights == pytest.approx(expected, rel=0.04)
        assert [p["precision"] for p in found[name]["precisions"]] == ["bf16", "FP8", "4 bit"]


def test_a_smallest_set_fits_and_no_smaller_one_does() -> None:
    for name in ("r1-distill-qwen-14b", "r1-671b"):
        entry = VARIANTS[name]
        for precision in precisions(entry):
            smallest = smallest_set(entry, precision)
            assert smallest is not None
            assert smallest.fit.fits
            assert smallest.fit.kv_cache_tokens >= smallest.fit.max_model_len == 1024 + 32_768
            memory = GPUS[smallest.gpu].memory_gib * smallest.count
            for gpu in (GPUS[known] for known in COMMON):
                for count in GPU_COUNTS:
                    if gpu.memory_gib * count < memory:
                        fit = on_gpus(entry, precision, gpu.name, count)
                        assert fit is None or not fit.fits, (name, precision.name, gpu.name, count)


def test_smallest_sets_of_the_ends_of_the_family() -> None:
    found = documents()
    sets = {
        n: [(p["smallest"]["gpus"], p["smallest"]["gpu"]) for p in d["precisions"]]
        for n, d in found.items()
    }
    assert sets["r1-distill-qwen-7b"] == [(1, "A10")] * 3
    assert sets["r1-671b"][:2] == [(8, "B200"), (4, "B200")]


def test_published_weights_are_told_from_those_that_nobody_publishes() -> None:
    found = {
        n: [(p["repository"], p["converted_while_loading"]) for p in d["precisions"]]
        for n, d in documents().items()
    }
    assert found["r1-671b"] == [
        (None, False),
        ("deepseek-ai/DeepSeek-R1", False),
        ("RedHatAI/DeepSeek-R1-quantized.w4a16", False),
    ]
    assert found["r1-distill-qwen-7b"] == [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", False),
        ("RedHatAI/DeepSeek-R1-Distill-Qwen-7B-FP8-dynamic", False),
        ("RedHatAI/DeepSeek-R1-Distill-Qwen-7B-quantized.w4a16", False),
    ]
    assert [converted for _, converted in found["r1-tiny"]] == [False, True, False]


@pytest.mark.parametrize(
    ("gpu", "count", "fitting"),
    [
        ("H200", 8, [False, True, True]),
        ("H100", 8, [False, False, True]),
        ("H100", 16, [False, True, True]),
    ],
)
def test_the_full_model_by_the_number_of_gpus(gpu: str, count: int, fitting: list[bool]) -> None:
    found = documents("--gpu", gpu, "--gpus", str(count))["r1-671b"]
    assert [p["fit"]["fits"] for p in found["precisions"]] == fitting


def test_what_fits_two_rtx_4090_and_how() -> None:
    found = {n: d["precisions"] for n, d in documents("--gpu", "rtx4090", "--gpus", "2").items()}
    assert [p["fit"]["fits"] for p in found["r1-distill-qwen-32b"]] == [False, True, True]
    assert [p["fit"]["fits"] for p in found["r1-distill-llama-70b"]] == [False, False, False]
    small, large = found["r1-distill-qwen-1.5b"][0]["fit"], found["r1-distill-qwen-14b"][0]["fit"]
    assert (small["replicas"], small["tensor_parallel"]) == (2, 1)
    assert (large["replicas"], large["tensor_parallel"], large["max_model_len"]) == (1, 2, 33_792)
    assert found["r1-distill-llama-70b"][0]["fit"]["missing_gib"] > 40


def test_the_text_says_what_the_json_says() -> None:
    lines = variants().stdout.splitlines()
    assert " ".join(lines[0].split()) == (
        "variant parameters bf16, smallest GPUs FP8, smallest GPUs 4 bit, smallest GPUs"
    )
    assert [line.split()[0] for line in lines[1 : 1 + len(VARIANTS)]] == list(VARIANTS)
    row = next(line for line in lines if line.startswith("r1-671b"))
    assert row.split()[1:5] == ["671", "B", "1,250.0", "GiB*"]
    text = variants("--gpu", "RTX 4090", "--gpus", "2").stdout
    assert text.startswith(
        "2 × RTX 4090, 23.5 GiB each; maths, prompts up to 1,024 tokens, up to 32,768 new ones\n"
    )
    assert "r1-distill-qwen-14b  bf16     27.6 GiB  1 × TP 2, KV cache of " in text
    assert "r1-distill-llama-70b bf16    131.5 GiB  lacks " in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--gpus", "2"],
            "--gpus: says how many of which GPU (got 2 of none, need --gpu). Add --gpu NAME.",
        ),
        (
            ["--gpu", "A100"],
            "--gpu: unknown GPU (got 'A100'). Did you mean A100 40GB or A100 80GB? For any other "
            "give --vram GIB.",
        ),
        (
            ["--gpu", "MI300X"],
            "--gpu: AMD GPUs are not supported (got 'MI300X', need NVIDIA's CUDA). Use an NVIDIA "
            "GPU, such as RTX 4090 or H200; small models also run on the CPU (--gpus none).",
        ),
    ],
)
def test_gpus_that_cannot_be_are_refused(args: list[str], message: str) -> None:
    result = variants(*args)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"batchr1: {message}\n", "")
