"""The grid of CUDA graphs: every batch that is planned lies on it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from planned import gpus, job, source_of

from batchr1.models.catalogue import VARIANTS
from batchr1.records import PromptLengths
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.fit import EngineConstraints, best_fit
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.graphs import captured, compilation_for, grid_ceil, grid_floor, is_on_grid
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.oom import MemoryProblem, next_rung
from batchr1.sizing.planning.arguments import workload_of

DISTILLS = [name for name in VARIANTS if name not in ("r1-tiny", "r1-0528-671b")]


@pytest.mark.parametrize("variant", DISTILLS)
@pytest.mark.parametrize("rows", [3, 100, 5000])
def test_every_batch_is_on_the_grid_of_cuda_graphs(variant: str, rows: int) -> None:
    """Every catalogued GPU, 1, 2, 4 and 8 of it: whatever the rows are divided into."""
    prompts = PromptLengths(rows, rows, 512, 128.0)
    arch = Architecture.of_config(VARIANTS[variant].config)
    workload = workload_of(
        job(variant), source_of(job(variant)), prompts, default_lengths("math", 32768)
    )
    for quantization in (None, "fp8", *VARIANTS[variant].quantized):
        for name in GPUS:
            for count in (1, 2, 4, 8):
                devices = gpus(name, count).devices
                found = best_fit(arch, quantization, workload, EngineConstraints(), devices)
                assert found is None or is_on_grid(found.max_num_seqs), (name, count, quantization)


def test_a_batch_with_empty_slots_is_padded_to_a_graph_within_the_batch() -> None:
    """So a refill that leaves slots empty, or the last batch of a job, keeps its graphs."""
    for running in range(1, 513):
        num_seqs = grid_ceil(running)
        assert next(size for size in captured(num_seqs) if size >= running) <= num_seqs
        assert grid_floor(num_seqs) == num_seqs and grid_floor(running) <= running


@pytest.mark.parametrize("num_seqs", [24, 40, 72, 104, 248, 272, 400, 496, 512])
def test_a_batch_that_is_stepped_down_stays_on_the_grid(num_seqs: int) -> None:
    args = {"max_num_seqs": num_seqs, "max_num_batched_tokens": 2048}
    problem = MemoryProblem("oom_running", "memory ran out")
    while rung := next_rung(args, problem, fixed=()):
        args |= rung.changes
        assert is_on_grid(args["max_num_seqs"])
    assert args["max_num_seqs"] == 8


def test_a_prompt_beside_a_small_batch_has_a_graph_too() -> None:
    """vLLM's own sizes end at twice the batch, too few for 128 tokens of prompt."""
    for num_seqs in (16, 24, 104, 248):
        sizes = (compilation_for(num_seqs, None) or {})["cudagraph_capture_sizes"]
        assert set(captured(num_seqs)) <= set(sizes) and max(sizes) == 512
        gaps = [b - a for a, b in pairwise(sizes)]
        assert max(gaps) <= 32 and len(sizes) == len(set(sizes))
    assert compilation_for(256, None) is None and compilation_for(8, None) is None
    assert compilation_for(104, {"max_cudagraph_capture_size": 208}) is None, "the user's own"
