"""Plans: every row of the tables people quote, what an engine argument fixes, and what is offered
when nothing fits.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from planned import PROMPTS, gpus, job, offered, plan

from batchr1.engine.vllm.arguments import check_engine_args
from batchr1.errors import JobError
from batchr1.job.spec import ExecutorSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource
from batchr1.records import PromptLengths
from batchr1.sizing.adapters import AdapterRoom
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.devices import Device, Holder
from batchr1.sizing.fit import groups_of
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.graphs import all_sizes, captured, grid_ceil
from batchr1.sizing.lengths import default_lengths
from batchr1.sizing.machine import Machine, named_machine
from batchr1.sizing.memory import GIB, cuda_graph_bytes
from batchr1.sizing.plan import MisfitError
from batchr1.sizing.planning import cpu
from batchr1.sizing.planning.cpu import cpu_lacks_bf16
from batchr1.sizing.planning.make import make_plan


@pytest.mark.parametrize(
    ("name", "count", "split"), [("H200", 8, (8, 1)), ("H100", 8, None), ("H100", 16, (8, 2))]
)
def test_the_full_r1_in_fp8_fits_eight_h200_and_sixteen_h100_but_not_eight(
    name: str, count: int, split: tuple[int, int] | None
) -> None:
    if split is None:
        with pytest.raises(MisfitError):
            plan(job("r1-671b"), gpus(name, count))
        return
    p = plan(job("r1-671b"), gpus(name, count))
    assert (p.tensor_parallel, p.pipeline_parallel) == split
    assert p.kv_cache_tokens >= p.max_model_len == 512 + 32768


def test_a_replica_is_as_narrow_as_throughput_wants_it() -> None:
    """A model with room to spare runs once per GPU; one that leaves no room for its cache is
    shared.
    """
    assert plan(job("r1-distill-qwen-7b"), gpus("H100", 8)).device_groups == tuple(
        (str(i),) for i in range(8)
    )
    assert plan(job("r1-distill-qwen-32b"), gpus("A100 80GB", 2)).device_groups == (("0", "1"),)


def test_the_memory_adds_up_to_the_card() -> None:
    for name in ("RTX 4090", "A100 80GB", "H200"):
        for variant in ("r1-distill-qwen-1.5b", "r1-distill-qwen-7b"):
            p = plan(job(variant), gpus(name))
            assert sum(dataclasses.astuple(p.memory)) <= GPUS[name].memory_gib
            assert (
                p.kv_cache_tokens * 28 * 2 * (2 if "1.5b" in variant else 4) * 128 * 2
                <= p.memory.kv_gib * GIB
            )


def test_the_context_is_the_longest_prompt_and_what_may_follow_it() -> None:
    assert plan(job(max_tokens=1000), gpus("H200")).max_model_len == 1512
    assert plan(job(max_tokens=None), gpus("H200")).max_model_len == 131_072
    assert plan(job(max_tokens=131_000), gpus("H200")).max_model_len == 131_072


def test_where_only_a_sample_was_measured_the_context_goes_as_far_as_the_cache() -> None:
    sampled = PromptLengths(1_000_000, 200_000, 512, 128.0)
    p = plan(job(), gpus("RTX 4090"), sampled)
    assert 33_280 < p.max_model_len <= min(131_072, p.kv_cache_tokens)
    assert p.notes[-1] == "prompt lengths from a sample of 200,000 of 1,000,000 rows"


def test_no_more_sequences_than_samples() -> None:
    few = PromptLengths(6, 6, 512, 128.0)
    assert plan(job(n=4), gpus("H200"), few).max_num_seqs == 24
    shared = plan(job(n=4), gpus("H200", 8), few)
    assert shared.max_num_seqs == grid_ceil(24 // shared.replicas)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_num_seqs", 17),
        ("max_num_batched_tokens", 4096),
        ("max_model_len", 4096),
        ("gpu_memory_utilization", 0.5),
        ("tensor_parallel_size", 4),
        ("kv_cache_memory_bytes", 8 * GIB),
        ("kv_cache_dtype", "fp8"),
        ("load_format", "dummy"),
    ],
)
def test_what_the_job_sets_wins_and_the_rest_is_computed_around_it(
    argument: str, value: Any
) -> None:
    p = plan(job(**{argument: value}), gpus("H200", 4))
    assert p.engine_args[argument] == value
    assert p.fixed == (argument,)
    free = plan(job(), gpus("H200", 4))
    around = {
        "max_num_batched_tokens": p.memory.activation_gib < free.memory.activation_gib,
        "gpu_memory_utilization": p.kv_cache_tokens < free.kv_cache_tokens,
        "tensor_parallel_size": (p.replicas, p.tensor_parallel) == (1, 4),
        "kv_cache_memory_bytes": p.memory.kv_gib == 8.0,
        "kv_cache_dtype": p.kv_cache_tokens // free.kv_cache_tokens == 2
        or p.kv_cache_tokens > 1.99 * free.kv_cache_tokens,
        "max_num_seqs": p.max_num_seqs == 17,
        "max_model_len": p.max_model_len == 4096,
        "load_format": p.kv_cache_tokens == free.kv_cache_tokens,
    }
    assert around[argument]


def test_a_gpu_that_others_use_is_planned_with_what_is_free_and_says_who() -> None:
    gpu = GPUS["H200"]
    busy = Machine((Device("0", gpu, gpu.memory_gib - 60.5, (Holder(4711, "python", 60.5),)),))
    p, alone = plan(job(), busy), plan(job(), gpus("H200"))
    assert alone.memory.kv_gib - p.memory.kv_gib == pytest.approx(
        60.5 - 0.03 * gpu.memory_gib, abs=5
    )
    assert p.gpu_memory_utilization is not None
    assert p.gpu_memory_utilization * gpu.memory_gib < gpu.memory_gib - 60.5
    assert p.notes == (
        "GPU 0 is in use: process 4711 (python) 60.5 GiB; planned with the 79.3 GiB that are free",
    )


def test_hours_and_cost() -> None:
    p = plan(job(n=4), gpus("H100", 2), price=2.5)
    e = p.estimate
    assert e is not None
    assert e.lengths.startswith("6,094 tokens, DeepSeek's average for maths")
    assert e.output_tokens == pytest.approx(
        500 * 4 * 5848, rel=0.001
    )  # the mean that a cap of 32,768 leaves
    assert e.hours == pytest.approx((e.load_s + e.output_tokens / e.tokens_per_s) / 3600)
    assert e.load_s > 90 and e.output_tokens / e.tokens_per_s > e.longest_s > 200
    assert (e.gpu_hours, e.cost_usd) == (pytest.approx(2 * e.hours), pytest.approx(5 * e.hours))


def test_a_gpu_known_by_its_memory_alone_has_a_plan_and_no_estimate() -> None:
    p = plan(job(), named_machine(None, vram_gib=40))
    assert p.estimate is None
    assert p.kv_cache_tokens > 200_000


def test_a_cpu_plan_comes_from_the_memory() -> None:
    p = plan(job("r1-tiny", max_tokens=1024), Machine(ram_gib=16))
    assert (p.device, p.device_groups, p.tensor_parallel) == ("cpu", ((),), 1)
    assert p.engine_args["enforce_eager"] is True
    assert p.engine_args["kv_cache_memory_bytes"] == p.memory.kv_gib * GIB
    assert sum(dataclasses.astuple(p.memory)) < 16
    two = plan(job("r1-tiny", max_tokens=1024), Machine(ram_gib=16, cpu_replicas=2))
    assert two.replicas == 2


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [
        ("fpu sse2 avx avx2 fma", True),  # Zen 3
        ("fpu avx2 avx512f avx512bw avx512_vnni avx512_bitalg", True),  # Ice Lake
        ("fpu avx2 avx512f avx512_bf16", False),  # Zen 4, Cooper Lake
        ("fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile", False),  # Sapphire Rapids
    ],
)
def test_a_cpu_without_bf16_is_told_by_its_flags(tmp_path: Path, flags: str, lacks: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbogomips\t: 5586\n")
    assert cpu_lacks_bf16(tmp_path / "cpuinfo") is lacks
    assert not cpu_lacks_bf16(tmp_path / "none"), "not known is not lacking"


@pytest.mark.parametrize(
    ("ram_gib", "kv_gib", "dtype"),
    [
        (64.0, None, "float32"),
        (43.0, None, None),  # one sequence would fit beside the weights, not a batch
        (32.0, None, None),
        (64.0, 30, None),  # a cache of the job's own
    ],
)
def test_a_cpu_without_bf16_takes_float32_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, ram_gib: float, kv_gib: int | None, dtype: str | None
) -> None:
    monkeypatch.setattr(cpu, "cpu_lacks_bf16", lambda: True)
    args = {"kv_cache_memory_bytes": kv_gib * GIB} if kv_gib else {}
    spec = job("r1-distill-qwen-7b", max_tokens=4096, **args)
    found = plan(spec, Machine((), ram_gib=ram_gib))
    assert found.engine_args.get("dtype") == dtype
    assert len([note for note in found.notes if "no bf16 instructions" in note]) == 1


def test_quantised_weights_stay_in_16_bits_on_a_cpu_without_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM's kernels for them refuse float32."""
    monkeypatch.setattr(cpu, "cpu_lacks_bf16", lambda: True)
    spec = job("r1-distill-qwen-7b", max_tokens=1024, quantization="w4a16")
    found = plan(spec, Machine((), ram_gib=64.0))
    assert "dtype" not in found.engine_args
    assert not [note for note in found.notes if "bf16" in note]


@pytest.mark.parametrize(("rows", "max_tokens"), [(1, 1000), (2, 3072), (400, 64)])
def test_a_cpu_cache_holds_one_sequence_in_whole_blocks(rows: int, max_tokens: int) -> None:
    """vLLM's blocks are 128 tokens there, and one of them stays empty: of nine, 1,024 tokens can be
    used.
    """
    p = plan(
        job("r1-tiny", max_tokens=max_tokens),
        Machine(ram_gib=16),
        PromptLengths(rows, rows, 28, 28.0),
    )
    per_token = p.memory.kv_gib * GIB / (p.kv_cache_tokens + 128)
    assert p.kv_cache_tokens % 128 == 0
    assert p.kv_cache_tokens >= p.max_model_len
    assert p.engine_args["kv_cache_memory_bytes"] == pytest.approx(
        per_token * (p.kv_cache_tokens + 128), abs=128e3
    )


def test_float32_doubles_weights_cache_and_activations() -> None:
    """Seen on the CPU: with a cache counted in 16 bits an engine in float32 does not start."""
    one = PromptLengths(1, 1, 28, 28.0)
    machine = Machine(ram_gib=16)
    half, full = (
        plan(job("r1-tiny", max_tokens=2048, **a), machine, one)
        for a in ({"dtype": "bfloat16"}, {"dtype": "float32"})
    )
    assert full.kv_cache_tokens == half.kv_cache_tokens >= full.max_model_len
    for name in ("activation_gib", "kv_gib"):
        assert getattr(full.memory, name) > 1.9 * getattr(half.memory, name), name
    gpu = plan(job(dtype="float32"), named_machine("H200"))
    assert gpu.memory.weights_gib == pytest.approx(
        2 * plan(job(), named_machine("H200")).memory.weights_gib, rel=0.01
    )
    bf16 = plan(job(), named_machine("H200"))
    assert bf16.kv_cache_tokens > 2 * gpu.kv_cache_tokens
    assert bf16.estimate is not None and gpu.estimate is not None
    assert bf16.estimate.tokens_per_s > 1.2 * gpu.estimate.tokens_per_s


def test_kv_heads_are_cut_evenly_or_not_at_all() -> None:
    """40 attention heads, 10 KV heads: four GPUs could share the former, and not the latter."""
    config = dict(VARIANTS["r1-distill-qwen-14b"].config) | {"num_key_value_heads": 10}
    arch = Architecture.of_config(config)
    assert [tp for tp in (1, 2, 4, 5, 8, 10, 20, 40) if arch.divides_into(tp)] == [
        1,
        2,
        5,
        10,
        20,
        40,
    ]
    model = ModelSource("m", "m", None, "x", 131_072, config)
    completions = default_lengths("math", 32768)
    p = make_plan(job("r1-tiny"), model, gpus("L4", 8), PROMPTS, completions)
    assert p.tensor_parallel == 2
    with pytest.raises(JobError, match=r"KV heads \(got 4, need a divisor or multiple of 10\)"):
        make_plan(
            job("r1-tiny", tensor_parallel_size=4), model, gpus("L4", 8), PROMPTS, completions
        )


def test_a_batch_is_as_large_as_gives_the_most_tokens_per_second() -> None:
    """More sequences take memory from the cache that is to hold them; too few leave it empty."""
    spec = job("r1-distill-qwen-7b")
    rows = PromptLengths(5000, 5000, 512, 128.0)
    planned = plan(spec, gpus("RTX 4090"), rows)
    assert planned.estimate is not None
    for num_seqs in (4, 8, 16, 256, 512):
        other = plan(job("r1-distill-qwen-7b", max_num_seqs=num_seqs), gpus("RTX 4090"), rows)
        assert other.estimate is not None
        assert other.estimate.tokens_per_s < 1.001 * planned.estimate.tokens_per_s
    assert 1.5 * planned.estimate.batch < planned.max_num_seqs, "the batch never limits"


@pytest.mark.parametrize(
    ("variant", "gpu"),
    [("r1-distill-qwen-14b", "H200"), ("r1-distill-qwen-1.5b", "A100 80GB")],
)
def test_a_batch_is_as_wide_as_costs_next_to_nothing(variant: str, gpu: str) -> None:
    """On an H200 the 14B was planned with 384, and lost 2 % to vLLM, which takes all 512."""
    rows = PromptLengths(512, 512, 128, 128.0)
    assert plan(job(variant, max_tokens=2048), gpus(gpu), rows).max_num_seqs == 512


def test_a_cache_of_the_users_size_is_not_crowded_out_by_a_wide_batch() -> None:
    def planned(kv_gib: float) -> int:
        spec = job("r1-distill-qwen-7b", kv_cache_memory_bytes=int(kv_gib * GIB))
        return plan(spec, gpus("A100 80GB")).max_num_seqs

    assert planned(60.0) == 512
    assert 1 < planned(61.9) < 512
    with pytest.raises(MisfitError):
        planned(64.0)


def test_a_share_that_the_user_set_beside_others_is_not_crowded_out_either() -> None:
    """A larger batch takes more beside the share of the GPU that vLLM stays within."""
    [device] = gpus("RTX 4090").devices
    busy = dataclasses.replace(device, free_gib=device.gpu.memory_gib - 1)
    spec = job("r1-distill-qwen-1.5b", max_tokens=8192, gpu_memory_utilization=0.923)
    rows = PromptLengths(300, 300, 512, 128.0)
    assert 1 < plan(spec, Machine((busy,)), rows).max_num_seqs < grid_ceil(300)


def test_a_batch_that_the_job_asks_for_off_the_grid_gets_a_graph_of_its_own() -> None:
    config = plan(job(max_num_seqs=124), gpus("H200")).engine_args["compilation_config"]
    assert 124 in config["cudagraph_capture_sizes"]
    large = plan(job(max_num_seqs=600), gpus("H200")).engine_args["compilation_config"]
    assert large["cudagraph_capture_sizes"][-1] == 600
    own = {"cudagraph_capture_sizes": [1, 124]}
    kept = plan(job(max_num_seqs=124, compilation_config=own), gpus("H200")).engine_args
    assert kept["compilation_config"] == own
    beside = plan(job(max_num_seqs=124, cudagraph_capture_sizes=[1, 2]), gpus("H200")).engine_args
    assert "compilation_config" not in beside, "vLLM refuses both"
    merged = plan(job(max_num_seqs=124, compilation_config={"mode": 0}), gpus("H200")).engine_args
    assert merged["compilation_config"] == config | {"mode": 0}
    eager = plan(job(max_num_seqs=124, enforce_eager=True), gpus("H200")).engine_args
    assert "compilation_config" not in eager


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"max_num_batched_tokens": 16, "max_num_seqs": 64},
            "too few for max_num_seqs (got 16, need at least 64)",
        ),
        (
            {"max_num_batched_tokens": 2048, "enable_chunked_prefill": False},
            "(got 2048, need at least 33280)",
        ),
        ({"enforce_eager": "false"}, "enforce_eager: not true or false (got 'false')"),
        ({"gpu_memory_utilization": True}, "not a share of the memory (got True"),
    ],
)
@pytest.mark.parametrize("machine", ["cpu", "gpu"])
def test_what_vllm_would_refuse_is_refused_before(
    machine: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError) as caught:
        plan(job(**args), gpus("H200") if machine == "gpu" else Machine(ram_gib=64))
    assert message in str(caught.value)


def test_few_batched_tokens_mean_few_sequences_and_null_is_not_set() -> None:
    for machine in (gpus("H200"), Machine(ram_gib=64)):
        assert plan(job(max_num_batched_tokens=64), machine).max_num_seqs <= 64
        assert plan(job(enable_chunked_prefill=None), machine) == plan(job(), machine)


def test_a_share_that_leaves_no_room_outside_is_a_misfit() -> None:
    with pytest.raises(MisfitError):
        plan(job(gpu_memory_utilization=1.0), gpus("RTX 4090"))
    ways = offered(job(gpu_memory_utilization=1.0), gpus("RTX 4090"))
    assert ways[0].flags == "--set model.engine_args.gpu_memory_utilization=null"


def test_a_seed_on_the_cpu_turns_chunked_prefill_off() -> None:
    """vLLM's CPU sampler dies of a seeded request whose prefill is cut (vllm-notes, trap 4)."""
    args = plan(job("r1-tiny", seed=1, max_tokens=1024), Machine(ram_gib=16)).engine_args
    assert args["enable_chunked_prefill"] is False
    assert args["max_num_batched_tokens"] >= args["max_model_len"]
    assert "enable_chunked_prefill" not in plan(job(seed=1), gpus("H200")).engine_args


def test_the_arguments_that_a_plan_gives_are_known_to_vllm() -> None:
    for spec, machine in (
        (job("r1-tiny", seed=1, max_tokens=64), Machine(ram_gib=16)),
        (job(quantization="fp8"), gpus("H200", 2)),
        (job("r1-671b"), gpus("H100", 16)),
    ):
        check_engine_args(plan(spec, machine).engine_args)


def test_a_plan_is_plain_values() -> None:
    document = json.loads(json.dumps(plan(job(), gpus("H200", 2)).to_dict()))
    assert (
        document.items()
        >= {"fits": True, "replicas": 2, "tensor_parallel": 1, "pipeline_parallel": 1}.items()
    )
    assert set(document["memory"]) == {
        "weights_gib",
        "activation_gib",
        "cuda_graph_gib",
        "other_gib",
        "kv_gib",
    }
    assert {
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_cache_tokens",
        "estimate",
    } <= set(document)


def test_the_captured_batch_sizes_are_vllms() -> None:
    """51 sizes at 256 sequences and more, as an H200 with vLLM 0.26 logged them; up to twice the
    sequences below.
    """
    sizes = [len(captured(n)) for n in (1, 2, 4, 32, 128, 256, 512)]
    assert sizes == [2, 3, 4, 11, 35, 51, 51]
    counted = [len(all_sizes(n)) for n in (1, 8, 104, 256, 1024)]
    assert counted == [2, 5, 39, 51, 83], "an H200 captured 39, and 83 when asked for 1,024"


def test_the_graphs_of_a_batch_that_somebody_asks_for_are_counted() -> None:
    """Measured on an H200, 14B: 0.49 to 0.57 GiB at 51 sizes, 0.973 GiB at 83 (2026-12-01)."""
    assert cuda_graph_bytes(512) == pytest.approx(0.50 * GIB, abs=0.01 * GIB)
    assert cuda_graph_bytes(1024) == pytest.approx(0.97 * GIB, abs=0.02 * GIB)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (
            "tensor_parallel_size",
            3,
            "does not divide the model's attention heads (got 3, need a divisor of 28)",
        ),
        ("tensor_parallel_size", 4, "does not fit the machine (got 4, need at most 2 GPUs)"),
        (
            "gpu_memory_utilization",
            1.5,
            "not a share of the memory (got 1.5, need more than 0, at most 1)",
        ),
        ("max_num_seqs", 0, "not a positive whole number (got 0)"),
        (
            "max_model_len",
            200_000,
            "longer than the model's context (got 200000, need at most 131072)",
        ),
    ],
)
def test_engine_arguments_that_cannot_be(argument: str, value: Any, message: str) -> None:
    with pytest.raises(JobError) as caught:
        plan(job(**{argument: value}), gpus("H200", 2 if value != 3 else 4))
    assert message in str(caught.value)


def beside(*counts: tuple[str, int], node_gpus: int = 8) -> Machine:
    """GPUs of several models in one host, or, numbered on, in hosts of `node_gpus`."""
    names = [name for name, count in counts for _ in range(count)]
    return Machine(
        tuple(
            Device(str(i), GPUS[n], GPUS[n].memory_gib, node=i // node_gpus)
            for i, n in enumerate(names)
        )
    )


def test_each_model_of_gpu_in_a_host_gets_a_plan_of_its_own() -> None:
    rows = PromptLengths(20_000, 20_000, 512, 128.0)
    p = plan(job(), beside(("H100", 2), ("L4", 2)), rows)
    large, small = p.kinds
    assert p.device_groups == (*large.device_groups, *small.device_groups)
    assert large.device_groups == (("0",), ("1",))
    assert small.device_groups in ((("2",), ("3",)), (("2", "3"),))
    assert large.max_num_seqs > small.max_num_seqs
    assert large.engine_args["max_num_seqs"] == large.max_num_seqs
    assert large.max_model_len == small.max_model_len == p.max_model_len, (
        "a row does not depend on where it runs"
    )
    assert [p.kind_of(worker) for worker in range(p.replicas)] == [0, 0] + [1] * small.replicas
    assert (p.of_kind(0), p.of_kind(1)) == (large, small)
    alone = plan(job(), beside(("H100", 2)), rows)
    assert (alone.max_num_seqs, alone.engine_args) == (large.max_num_seqs, large.engine_args)
    assert p.estimate is not None and alone.estimate is not None
    assert p.estimate.tokens_per_s > alone.estimate.tokens_per_s
    assert p.notes[0].startswith("2 × H100: TP 1 × PP 1, ")


def test_a_gpu_that_the_job_does_not_fit_is_left_idle_beside_one_that_it_fits() -> None:
    p = plan(job("r1-distill-qwen-32b"), beside(("H100", 1), ("L4", 1)))
    assert p.device_groups == (("0",),)
    assert "1 × L4 left idle: the job does not fit them" in p.notes


def test_replicas_bound_the_engines() -> None:
    spec = job().model_copy(update={"executor": ExecutorSpec(replicas=3)})
    assert plan(spec, gpus("H100", 8)).replicas == 3
    assert plan(spec, beside(("H100", 2), ("L4", 2))).device_groups[:2] == (("0",), ("1",))


def test_tensor_parallel_stays_in_a_node_and_pipelines_go_over_two() -> None:
    devices = beside(("H100", 14), node_gpus=7).devices
    assert [len(group) for group in groups_of(devices, 4, 1)] == [4, 4], (
        "three of each node are left"
    )
    assert [{d.node for d in group} for group in groups_of(devices, 4, 1)] == [{0}, {1}]
    assert groups_of(devices, 8, 1) == ()
    assert [[d.node for d in group] for group in groups_of(devices, 4, 2)] == [[0] * 4 + [1] * 4]
    p = plan(job("r1-671b", tensor_parallel_size=8, pipeline_parallel_size=2), gpus("H100", 16))
    assert p.device_groups == (tuple(str(i) for i in range(16)),)
    assert p.engine_args["distributed_executor_backend"] == "ray"
    assert "distributed_executor_backend" not in plan(job("r1-671b"), gpus("H200", 8)).engine_args


# Inputs and outputs of a layer of Qwen2 7B: queries to values, their output, gate and up, down.
WIDTHS = (3 * 3584 + 4608, 3584 + 3584, 2 * 3584 + 2 * 18944, 18944 + 3584)
WIDTHS_OF_TWO = (3 * 3584 + 2304, 1792 + 3584, 2 * 3584 + 18944, 9472 + 3584)  # tensor parallel


def with_adapter(folder: Path, rank: int, **engine_args: Any) -> Any:
    """A job with an adapter of this rank, whose folder is made."""
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    spec = job(**engine_args)
    model = spec.model.model_copy(update={"adapter": str(folder)})
    return spec.model_copy(update={"model": model})


def test_an_adapters_room_is_rank_by_inputs_and_outputs_of_every_layer() -> None:
    arch = Architecture.of_config(VARIANTS["r1-distill-qwen-7b"].config)
    room = AdapterRoom(16)
    assert room.bytes_in(arch) == 2 * 16 * 28 * sum(WIDTHS)
    assert room.bytes_in(arch, tensor_parallel=2) == 2 * 16 * 28 * sum(WIDTHS_OF_TWO)
    assert room.bytes_in(arch, pipeline_parallel=2) == 2 * 16 * 14 * sum(WIDTHS)
    assert AdapterRoom(16, slots=3).bytes_in(arch, dtype_bytes=4) == 6 * room.bytes_in(arch)

    llama = Architecture.of_config(VARIANTS["r1-distill-llama-8b"].config)
    ends = 2 * 16 * 2 * (llama.vocab + llama.hidden)
    without = dataclasses.replace(llama, adapts_ends=False)
    assert room.bytes_in(llama) == room.bytes_in(without) + ends


@pytest.mark.parametrize("gpu", ["H200", None])
def test_the_plan_counts_an_adapter_as_weights_and_says_so(tmp_path: Path, gpu: str | None) -> None:
    machine = gpus(gpu) if gpu else Machine((), ram_gib=200.0)
    without, found = plan(job(), machine), plan(with_adapter(tmp_path, 33), machine)
    size = 4 if "dtype" in found.engine_args else 2  # a CPU without bf16 has float32
    room = size * 64 * 28 * sum(WIDTHS)
    grown = found.memory.weights_gib - without.memory.weights_gib
    assert grown == pytest.approx(room / GIB)
    said = f"{room / GIB:.2f} GiB of the weights are room for an adapter of rank 64"
    assert found.notes == (*without.notes, said)
    if gpu:
        shrunk = without.memory.kv_gib - found.memory.kv_gib
        assert shrunk == pytest.approx(room / GIB, abs=1e-6)

    more = plan(with_adapter(tmp_path, 33, max_lora_rank=128, max_loras=2), machine)
    assert more.memory.weights_gib - without.memory.weights_gib == pytest.approx(4 * room / GIB)
    assert "2 adapters of rank 128" in more.notes[-1]


def test_an_adapter_that_does_not_fit_beside_the_model_is_a_misfit(tmp_path: Path) -> None:
    tight = Machine((Device("0", GPUS["RTX 4090"], 24.0),))
    assert plan(job(max_tokens=4096), tight).kv_cache_tokens > 0
    with pytest.raises(MisfitError):
        plan(with_adapter(tmp_path, 512, max_tokens=4096, max_loras=4), tight)
