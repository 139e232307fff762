"""Plans of every variant on every machine: golden tables, and promises at random."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import PROMPTS, gpus, job, offered, plan, source_of

from batchr1.driver.planning import NoFitError
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.records import PromptLengths
from batchr1.sizing.devices import Device, Holder
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.graphs import grid_ceil, is_on_grid
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import Machine, named_machine
from batchr1.sizing.memory import GIB
from batchr1.sizing.plan import MisfitError
from batchr1.sizing.planning.make import make_plan

GOLDEN = Path(__file__).parents[1] / "golden/plans.txt"


MISFITS_GOLDEN = GOLDEN.with_name("misfits.txt")


MACHINES = [
    ("RTX 3090", 1),
    ("RTX 4090", 1),
    ("RTX 4090", 2),
    ("A100 80GB", 1),
    ("A100 80GB", 2),
    ("H100", 8),
    ("H200", 8),
]


DISTILLS = [name for name in VARIANTS if name != "r1-tiny" and "0528" not in name]


WEIGHTS = [(None, "stored"), ("fp8", "FP8"), ("w4a16", "4 bit"), ("awq", "AWQ")]


def line(variant: str, quantization: Any, label: str, name: str, count: int) -> str | None:
    if quantization not in (None, "fp8") and quantization not in VARIANTS[variant].quantized:
        return None
    head = f"{variant:22} {label:7} {count:2} x {name:9}"
    try:
        p = plan(job(variant, quantization=quantization), gpus(name, count))
    except MisfitError as exc:
        return f"{head} lacks {exc.missing_gib:.1f} GiB per GPU"
    m = p.memory
    return (
        f"{head} {p.replicas} x TP {p.tensor_parallel} PP {p.pipeline_parallel}, "
        f"{p.max_num_seqs:3} seqs, {p.max_num_batched_tokens:5} batched, at "
        f"{p.gpu_memory_utilization:.2f}: {m.weights_gib:.1f} weights + {m.activation_gib:.1f} "
        f"activation + {m.cuda_graph_gib + m.other_gib:.1f} engine + {m.kv_gib:.1f} KV = "
        f"{p.kv_cache_tokens:,} tokens"
    )


def test_the_plan_of_every_row_of_the_tables() -> None:
    """The cards and variants that people's tables name, with a maths job of 32,768 new tokens."""
    lines = [
        row
        for variant in DISTILLS
        for quantization, label in WEIGHTS
        for name, count in [*MACHINES, *([("H100", 16), ("H200", 16)] if "671b" in variant else [])]
        if (row := line(variant, quantization, label, name, count))
    ]
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@settings(deadline=None)
@given(
    st.sampled_from(DISTILLS),
    st.sampled_from(sorted(GPUS)),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(256, 131_072),
    st.integers(1, 5_000_000),
    st.integers(1, 30_000),
)
def test_no_plan_breaks_its_own_promises(
    variant: str, gpu: str, count: int, max_tokens: int, rows: int, longest: int
) -> None:
    prompts = PromptLengths(rows, min(rows, 200_000), longest, longest / 2)
    spec = job(variant, max_tokens=max_tokens)
    machine = gpus(gpu, count)
    try:
        p = plan(spec, machine, prompts)
    except MisfitError as exc:
        assert exc.missing_gib > 0
        return
    assert p.kv_cache_tokens >= p.max_model_len
    assert p.replicas * p.tensor_parallel * p.pipeline_parallel <= count
    assert 1 <= p.max_num_seqs <= min(512, grid_ceil(rows)) and is_on_grid(p.max_num_seqs)
    assert p.max_num_batched_tokens >= p.max_num_seqs
    assert sum(dataclasses.astuple(p.memory)) <= GPUS[gpu].memory_gib
    assert 0 < p.gpu_memory_utilization <= 0.95 if p.gpu_memory_utilization else False
    used = [d for group in p.device_groups for d in group]
    assert len(used) == len(set(used))


MISFITS: list[tuple[str, JobSpec, Machine]] = [
    ("14B on a 4090", job("r1-distill-qwen-14b"), gpus("RTX 4090")),
    ("14B on a 3090", job("r1-distill-qwen-14b"), gpus("RTX 3090")),
    ("32B on a 4090", job("r1-distill-qwen-32b"), gpus("RTX 4090")),
    ("32B 4bit on 4090", job("r1-distill-qwen-32b", quantization="w4a16"), gpus("RTX 4090")),
    ("32B on two 4090", job("r1-distill-qwen-32b"), gpus("RTX 4090", 2)),
    ("32B on A100 40", job("r1-distill-qwen-32b"), gpus("A100 40GB")),
    ("70B on A100 80", job("r1-distill-llama-70b"), gpus("A100 80GB")),
    ("70B on H100 FP8 short", job("r1-distill-llama-70b", quantization="fp8"), gpus("H100")),
    (
        "70B 4 bit on two 4090",
        job("r1-distill-llama-70b", quantization="w4a16"),
        gpus("RTX 4090", 2),
    ),
    ("671B on 8 H100", job("r1-671b"), gpus("H100", 8)),
    ("671B on 8 A100", job("r1-671b"), gpus("A100 80GB", 8)),
    ("671B on one H200", job("r1-671b"), gpus("H200")),
    ("7B with the whole context on an L4", job("r1-distill-qwen-7b", max_tokens=None), gpus("L4")),
    (
        "8B with the whole context on a 4090",
        job("r1-distill-llama-8b", max_tokens=None),
        gpus("RTX 4090"),
    ),
    ("7B on 12 GiB", job("r1-distill-qwen-7b"), named_machine(None, vram_gib=12)),
    (
        "8B with half a 4090, by the user's wish",
        job("r1-distill-llama-8b", gpu_memory_utilization=0.5),
        gpus("RTX 4090"),
    ),
    (
        "32B not shared, by the user's wish, on two L40S",
        job("r1-distill-qwen-32b", tensor_parallel_size=1),
        gpus("L40S", 2),
    ),
    (
        "more KV cache than the card has, by the user's wish",
        job("r1-distill-qwen-7b", kv_cache_memory_bytes=100 * GIB),
        gpus("A100 80GB"),
    ),
    (
        "too many batched tokens, by the user's wish",
        job("r1-distill-qwen-7b", max_num_batched_tokens=262144),
        gpus("RTX 4090"),
    ),
    (
        "7B in 32 bits on a 4090, by the user's wish",
        job("r1-distill-qwen-7b", dtype="float32"),
        gpus("RTX 4090"),
    ),
    (
        "a card that another process fills",
        job("r1-distill-qwen-32b"),
        Machine((Device("0", GPUS["H200"], 30.0, (Holder(1, "python", 109.0),)),)),
    ),
]


def test_misfits_their_messages_and_their_ways_out() -> None:
    """Each way out that is named was tried: with its flags added, the job fits."""
    text = ""
    for name, spec, machine in MISFITS:
        model = source_of(spec)
        completions = default_lengths("math", spec.sampling.max_tokens or model.context_len)
        with pytest.raises(MisfitError) as caught:
            make_plan(spec, model, machine, PROMPTS, completions)
        text += f"# {name}\n{NoFitError(caught.value, offered(spec, machine))}\n\n"
    if os.environ.get("UPDATE_GOLDEN"):
        MISFITS_GOLDEN.write_text(text, encoding="utf-8")
    assert text == MISFITS_GOLDEN.read_text(encoding="utf-8")
    assert len(MISFITS) >= 15
