"""Out of memory: recognised by the engine's words, answered one rung lower, nothing lost.

The texts are those of vLLM 0.26 and 0.32 and of torch 2.11 and 2.13, with the prefixes that vLLM's
processes give them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from replay_job import (
    keys_of,
    questions,
    replay,
    rows_of,
    run_replay,
    setup_of,
    wanted_keys,
    with_script,
    write_job,
)

from batchr1.cli.run import as_text
from batchr1.driver import oom_restart as step_down
from batchr1.driver.worker_setup import WorkerSetups
from batchr1.engine.protocol import MeasuredMemory
from batchr1.engine.replay.engine import OOM_TEXTS
from batchr1.engine.vllm.memory_probe import MemoryProbe, measured
from batchr1.errors import EngineMemoryError
from batchr1.executors.setup import Assignment, WorkerSetup
from batchr1.sizing.devices import Holder
from batchr1.sizing.gpus import gpu_named
from batchr1.sizing.oom import GIB, Cause, MemoryProblem, Rung, blocking, next_rung, problem_in
from batchr1.storage.base import open_storage

CORE = "(EngineCore pid=4242) ERROR 11-25 03:12:00 [core.py:1104] "
ALLOCATED = (
    "Of the allocated memory 68.83 GiB is allocated by PyTorch, with 660.00 MiB allocated in "
    "private pools (e.g., CUDA Graphs), and 331.08 MiB is reserved by PyTorch but unallocated."
)

TABLES = yaml.safe_load((Path(__file__).parents[1] / "data/oom.yaml").read_text(encoding="utf-8"))


def problem_of(fields: dict[str, Any]) -> MemoryProblem:
    """A problem by its fields in the table; where it has no words, they are "why"."""
    others = tuple((pid, size) for pid, size in fields.get("others", ()))
    return MemoryProblem(**{"message": "why"} | fields | {"others": others})


@pytest.mark.parametrize("case", TABLES["texts"], ids=[case["name"] for case in TABLES["texts"]])
def test_the_cause_is_read_from_the_engines_own_words(case: dict[str, Any]) -> None:
    lines = [
        line.replace("{CORE}", CORE).replace("{ALLOCATED}", ALLOCATED) for line in case["lines"]
    ]
    found = problem_in(lines, running=case.get("running", False))
    problem = problem_of(case["problem"]) if case["problem"] else None
    if problem is None or found is None:
        assert found == problem
        return
    for size in ("needed_gib", "available_gib"):
        assert getattr(found, size) == pytest.approx(getattr(problem, size))
    same = {"needed_gib": None, "available_gib": None}
    assert replace(found, **same) == replace(problem, **same)


def problem(cause: Cause, **sizes: Any) -> MemoryProblem:
    return MemoryProblem(cause, "why", **sizes)


GPU_ARGS: dict[str, Any] = {
    "max_model_len": 4096,
    "max_num_batched_tokens": 16384,
    "max_num_seqs": 512,
    "gpu_memory_utilization": 0.92,
}
CPU_ARGS: dict[str, Any] = {
    "max_model_len": 4096,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 8,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2 * GIB,
}
BOTTOM = GPU_ARGS | {"max_num_batched_tokens": 2048, "max_num_seqs": 8, "enforce_eager": True}

BASES = {"gpu": GPU_ARGS, "cpu": CPU_ARGS, "bottom": BOTTOM}


@pytest.mark.parametrize("case", TABLES["rungs"], ids=[case["name"] for case in TABLES["rungs"]])
def test_the_next_rung(case: dict[str, Any]) -> None:
    args = BASES[case["args"]] | case.get("with", {})
    rung = next_rung(args, problem_of(case["seen"]), fixed=set(case.get("fixed", ())))
    changes = case["changes"]
    if changes is None:
        assert rung is None
    else:
        assert rung == Rung(next(iter(changes), "again"), changes, "why")


@pytest.mark.parametrize(
    "seen", [problem("unsteady"), problem("busy", available_gib=139.0, total_gib=139.8)]
)
def test_the_same_is_tried_again_only_once(seen: MemoryProblem) -> None:
    assert next_rung(GPU_ARGS, seen, fixed=set(), taken=["max_num_seqs", "again"]) is None


def test_the_users_arguments_that_stand_in_the_way_are_named() -> None:
    fixed = {"max_num_seqs", "gpu_memory_utilization", "max_model_len"}
    args = GPU_ARGS | {"max_num_batched_tokens": 2048, "enforce_eager": True}
    assert blocking(args, problem("oom_start"), fixed=fixed) == (
        "gpu_memory_utilization",
        "max_num_seqs",
    )
    assert blocking(args, problem("kv_too_small"), fixed=fixed) == ("max_num_seqs",)


engine_args = st.fixed_dictionaries(
    {"max_model_len": st.integers(1, 200_000), "max_num_batched_tokens": st.integers(1, 70_000)},
    optional={
        "max_num_seqs": st.integers(1, 5000),
        "enforce_eager": st.booleans(),
        "enable_chunked_prefill": st.booleans(),
        "gpu_memory_utilization": st.floats(0.01, 1.0),
        "kv_cache_memory_bytes": st.none() | st.integers(1, 200 * GIB),
    },
)
gib = st.none() | st.floats(0.0, 200.0)
problems = st.builds(
    MemoryProblem,
    st.sampled_from(["busy", "kv_too_small", "oom_load", "oom_start", "oom_running", "unsteady"]),
    st.just("why"),
    available_gib=gib,
    total_gib=st.none() | st.floats(1.0, 200.0),
)


@given(
    engine_args, st.lists(problems, min_size=1), st.sets(st.sampled_from([*GPU_ARGS, *CPU_ARGS]))
)
def test_every_ladder_ends_and_only_goes_down(
    args: dict[str, Any], seen: list[MemoryProblem], fixed: set[str]
) -> None:
    first, taken = dict(args), []
    while rung := next_rung(args, seen[len(taken) % len(seen)], fixed=fixed, taken=taken):
        taken.append(rung.name)
        assert len(taken) <= 200
        for name, value in rung.changes.items():
            assert name not in fixed
            assert name not in ("max_model_len", "max_tokens")
            assert (
                (value is True and not args.get(name))
                if name == "enforce_eager"
                else 0 < value < args[name]
            )
        args = args | rung.changes
        if "max_num_batched_tokens" in rung.changes:
            assert args["max_num_batched_tokens"] >= args.get("max_num_seqs", 0)
    assert {name: args.get(name) for name in fixed} == {name: first.get(name) for name in fixed}


# The driver's part: setup and problem in, lower setup or a message out.


def setup(
    folder: Path, args: dict[str, Any], *fixed: str, devices: tuple[str, ...] = ("0",)
) -> WorkerSetup:
    plan = {
        "device": "cuda",
        "engine_args": args,
        "max_num_seqs": args["max_num_seqs"],
        "fixed": fixed,
    }
    assignment = Assignment("r", 0, devices=devices)
    return setup_of(open_storage(str(folder)), assignment=assignment, plan=plan)


@pytest.fixture
def held_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which a process holds 60 GiB, in NVML's place: there is no GPU here."""
    gpu = SimpleNamespace(id="0", gpu=gpu_named("H200"), free_gib=79.5)
    monkeypatch.setattr(step_down, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(step_down, "describe_devices", lambda ids: (gpu,))
    monkeypatch.setattr(
        step_down, "holders_of", lambda id: (Holder(123, "python", 60.0), Holder(5, None, 0.01))
    )


def test_a_lower_engine_is_asked_for_fewer_sequences_too(tmp_path: Path) -> None:
    args = GPU_ARGS | {"max_num_batched_tokens": 2048}
    lower, rung = step_down.step_down(setup(tmp_path, args), problem("oom_start"), taken=[])
    assert rung == Rung("max_num_seqs", {"max_num_seqs": 256}, "why")
    assert (lower.plan.max_num_seqs, lower.plan.engine_args) == (256, args | {"max_num_seqs": 256})


@pytest.mark.usefixtures("held_gpu")
@pytest.mark.parametrize("cause", ["busy", "oom_load", "oom_start"])
def test_another_process_is_named(tmp_path: Path, cause: Cause) -> None:
    seen = problem(cause, available_gib=79.5, total_gib=139.8)
    lower, rung = step_down.step_down(setup(tmp_path, GPU_ARGS), seen, taken=[])
    assert rung.reason == "why; process 123 (python) holds 60.0 GiB"
    assert lower.plan.engine_args == GPU_ARGS | {"gpu_memory_utilization": 0.56}


@pytest.mark.usefixtures("held_gpu")
def test_weights_without_figures_are_put_beside_the_other_process(tmp_path: Path) -> None:
    lower, _ = step_down.step_down(setup(tmp_path, GPU_ARGS), problem("oom_load"), taken=[])
    assert lower.plan.engine_args["gpu_memory_utilization"] == 0.56


@pytest.mark.usefixtures("held_gpu")
def test_the_end_of_the_ladder_says_what_to_do(tmp_path: Path) -> None:
    seen = problem_in([OOM_TEXTS["busy"]])
    assert seen is not None
    with pytest.raises(EngineMemoryError) as caught:
        step_down.step_down(setup(tmp_path, GPU_ARGS, "gpu_memory_utilization"), seen, taken=[])
    assert str(caught.value) == (
        "worker 0: other processes hold memory that the engine counted on (56.60 of 80.00 GiB are "
        "free, 72.00 GiB wanted), and nothing is left to lower. Free the GPU: process 123 (python) "
        "holds 60.0 GiB. Lower model.engine_args.gpu_memory_utilization, which the job sets to "
        "0.92. Give more GPUs or a quantised variant: `batchr1 plan` shows what fits. Committed "
        "rows are safe, and the same command goes on."
    )


def test_a_kv_cache_that_the_user_made_too_small_can_be_raised(tmp_path: Path) -> None:
    args = BOTTOM | {"kv_cache_memory_bytes": GIB}
    with pytest.raises(EngineMemoryError) as caught:
        asked = setup(tmp_path, args, "kv_cache_memory_bytes", devices=())
        step_down.step_down(asked, problem("kv_too_small", max_model_len=900), taken=[])
    assert str(caught.value) == (
        "worker 0: why, and nothing is left to lower. Raise "
        "model.engine_args.kv_cache_memory_bytes, which the job sets to 1073741824. Give more GPUs "
        "or a quantised variant: `batchr1 plan` shows what fits. Prompt and max_tokens together "
        "could have 900 tokens. Committed rows are safe, and the same command goes on."
    )


def test_what_torch_saw_is_named_where_nvml_says_nothing(tmp_path: Path) -> None:
    args = GPU_ARGS | {"enforce_eager": False}
    seen = problem("oom_start", others=((77, 3.0), (1186, 60.52)))
    with pytest.raises(EngineMemoryError) as caught:
        step_down.step_down(setup(tmp_path, args, *args, devices=()), seen, taken=[])
    assert str(caught.value) == (
        "worker 0: why, and nothing is left to lower. Free the GPU: process 1186 holds 60.5 GiB, "
        "process 77 holds 3.0 GiB. Leave out model.engine_args.enforce_eager, which the job sets "
        "to False. Lower model.engine_args.gpu_memory_utilization, which the job sets to 0.92. "
        "Lower model.engine_args.max_num_batched_tokens, which the job sets to 16384. Lower "
        "model.engine_args.max_num_seqs, which the job sets to 512. Give more GPUs or a quantised "
        "variant: `batchr1 plan` shows what fits. Committed rows are safe, and the same command "
        "goes on."
    )


# Whole runs: the replay engine fails as vLLM does, everything else is real.

START = {
    "max_num_batched_tokens": 16384,
    "max_num_seqs": 32,
    "enforce_eager": False,
    "gpu_memory_utilization": 0.9,
    "kv_cache_memory_bytes": None,
    "max_model_len": 4096,
}
LADDER = [
    {"max_num_batched_tokens": 8192},
    {"max_num_batched_tokens": 4096},
    {"max_num_batched_tokens": 2048},
    {"max_num_seqs": 16},
    {"max_num_seqs": 8},
    {"enforce_eager": True},
    {"gpu_memory_utilization": 0.81},
    {"gpu_memory_utilization": 0.72},
]
LOWEST = {
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 8,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.75,
}


def record_of(output: Path) -> dict[str, Any]:
    (path,) = (output / ".batchr1/runs").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def log_of(output: Path) -> str:
    (path,) = (output / ".batchr1/runs").glob("*.log")
    return path.read_text()


def without_run(folder: Path) -> Any:
    return rows_of(folder / "out").drop("run", "finished_at")


@pytest.mark.parametrize("oom_as", ["raised", "printed"])
def test_the_whole_ladder_rung_by_rung(tmp_path: Path, oom_as: str) -> None:
    inputs = questions(20)
    inputs.write_parquet(tmp_path / "in.parquet")
    summary = run_replay(write_job(tmp_path), replay(**START, fits=LOWEST, oom_as=oom_as))
    assert summary.exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(inputs)
    record = record_of(tmp_path / "out")
    why = (
        "memory ran out while the engine started (tried to allocate 2.00 GiB, 0.50 of 80.00 GiB "
        "were free)"
    )
    assert [rung["changes"] for rung in record["rungs"]] == LADDER
    assert {(rung["worker"], rung["reason"]) for rung in record["rungs"]} == {(0, why)}
    assert [rung["rung"] for rung in record["rungs"]] == [next(iter(changes)) for changes in LADDER]
    at = [rung["at_s"] for rung in record["rungs"]]
    assert at == sorted(at)
    shown = [
        line for line in as_text(summary, "").splitlines() if line.startswith("stepped down: ")
    ]
    assert len(shown) == len(LADDER)
    assert (
        shown[0]
        == f"stepped down: worker 0 after {at[0]:.0f} s, max_num_batched_tokens=8192 ({why})"
    )
    log = log_of(tmp_path / "out")
    assert f"WARNING worker 0: {why}: max_num_batched_tokens 16384 → 8192\n" in log
    assert f"WARNING worker 0: {why}: enforce_eager False → True\n" in log
    assert "times in a row" not in log
    assert (OOM_TEXTS["oom"] in log) == (oom_as == "printed")


def test_rows_made_before_memory_ran_out_are_kept(tmp_path: Path) -> None:
    """Eight rows end in every third step.

    Parts are far from full at each fault: what is finished is staged then.
    """
    inputs = questions(200)
    lockstep = {"sigma": 0.0, "mean_len": 16.0, "max_num_seqs": 8}
    for name in ("calm", "squeezed"):
        (tmp_path / name).mkdir()
        inputs.write_parquet(tmp_path / name / "in.parquet")
    sections: dict[str, Any] = {
        "output": {"rows_per_part": 2000},
        "sampling": {"n": 2, "seed": 3, "max_tokens": 100},
    }
    run_replay(write_job(tmp_path / "calm", **sections), replay(**lockstep))
    fault = {
        "fits": {"max_num_batched_tokens": 4096},
        "oom_at_step": 60,
        "step_s": 0.01,
        "oom_as": "printed",
    }
    summary = run_replay(
        write_job(tmp_path / "squeezed", **sections), replay(**{**START, **lockstep}, **fault)
    )
    output = tmp_path / "squeezed/out"
    assert summary.exit_code == 0
    rungs = record_of(output)["rungs"]
    assert [rung["changes"] for rung in rungs] == LADDER[:2]
    assert {rung["reason"].partition(" (")[0] for rung in rungs} == {
        "memory ran out while it generated"
    }
    assert keys_of(rows_of(output)) == wanted_keys(inputs, 2)
    assert without_run(tmp_path / "squeezed").equals(without_run(tmp_path / "calm"))
    rows = [rows_by(output, epoch) for epoch in range(4)]
    assert sum(rows) == 400
    assert rows[3] == 0
    assert all(made > 0 and made % 8 == 0 for made in rows[:3]), rows


def rows_by(output: Path, epoch: int) -> int:
    """Rows that a worker's engine made, the first one 0."""
    return sum(
        pq.read_metadata(part).num_rows
        for part in (output / "data").glob(f"part-*-0-{epoch}-*.parquet")
    )


def test_a_process_that_memory_kills_is_understood_by_its_last_words(tmp_path: Path) -> None:
    inputs = questions(10)
    inputs.write_parquet(tmp_path / "in.parquet")
    fault = {
        "fits": {"max_num_batched_tokens": 8192},
        "oom": "bad_alloc",
        "oom_as": "abort",
        "oom_at_step": 2,
    }
    summary = run_replay(write_job(tmp_path), replay(**START, **fault))
    assert summary.exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(inputs)
    (rung,) = record_of(tmp_path / "out")["rungs"]
    assert (rung["reason"], rung["changes"]) == ("memory ran out while it generated", LADDER[0])
    assert OOM_TEXTS["bad_alloc"] in log_of(tmp_path / "out")


def test_two_replicas_step_down_on_their_own(tmp_path: Path) -> None:
    inputs = questions(100)
    inputs.write_parquet(tmp_path / "in.parquet")
    # Long enough for both to start twice: one that is late is not waited for.
    fault = {"fits": {"max_num_batched_tokens": 8192}, "oom_as": "printed", "step_s": 0.2}
    summary = run_replay(
        write_job(tmp_path, executor={"replicas": 2}), replay(**START | fault | {"max_num_seqs": 8})
    )
    assert summary.exit_code == 0
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(inputs)
    rungs = record_of(tmp_path / "out")["rungs"]
    assert sorted((rung["worker"], rung["rung"]) for rung in rungs) == [
        (0, "max_num_batched_tokens"),
        (1, "max_num_batched_tokens"),
    ]


def test_the_end_of_one_replicas_ladder_leaves_its_work_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One GPU's trouble: it is given up, with what it finished kept, and the healthy one does the
    rest.
    """
    questions(300).write_parquet(tmp_path / "in.parquet")
    setup = WorkerSetups.make

    def only_the_first_fails(self: Any, worker: int, kind: int) -> WorkerSetup:
        made = setup(self, worker, kind)
        return made if worker == 0 else with_script(made, fits=None)

    monkeypatch.setattr(WorkerSetups, "make", only_the_first_fails)
    own = {
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.9,
        "kv_cache_memory_bytes": 2**28,
    }
    job = write_job(
        tmp_path,
        model={"variant": "r1-tiny", "engine_args": own},
        output={"rows_per_part": 2000},
        executor={"replicas": 2},
    )
    fault = {
        "fits": {"max_num_batched_tokens": 4096},
        "oom_at_step": 80,
        "step_s": 0.02,
        "oom_as": "printed",
    }
    summary = run_replay(job, replay(**START | own, **fault))
    assert summary.exit_code == 0
    assert summary.given_up[0].startswith("worker 0: memory ran out while it generated")
    assert summary.given_up.keys() == {0}
    assert keys_of(rows_of(tmp_path / "out")) == wanted_keys(questions(300))
    first = sum(
        pq.read_metadata(f).num_rows for f in (tmp_path / "out/data").glob("part-*-0-0-*.parquet")
    )
    assert first >= 8, "rows that were finished before memory ran out"


def test_beside_another_process_the_share_is_lowered_at_once(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    fault = {"fits": {"gpu_memory_utilization": 0.7}, "oom": "busy"}
    summary = run_replay(write_job(tmp_path), replay(**START, **fault))
    assert (summary.exit_code, summary.counts.done) == (0, 3)
    (rung,) = record_of(tmp_path / "out")["rungs"]
    assert rung["changes"] == {"gpu_memory_utilization": 0.7}


def test_the_end_of_the_ladder_stops_the_run_with_its_cause(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    start = START | {"max_num_batched_tokens": 2048, "max_num_seqs": 8}
    summary = run_replay(
        write_job(tmp_path), replay(**start, fits={"max_num_seqs": 1}, oom="kv_too_small")
    )
    assert summary.exit_code == 75
    assert summary.stopped == (
        "worker 0: the KV cache is too small for one sequence of 4,096 tokens (1.50 GiB left for "
        "it, 2.00 GiB needed), and nothing is left to lower. Give the run more memory, or choose a "
        "smaller variant. Prompt and max_tokens together could have 3,072 tokens. Committed rows "
        "are safe, and the same command goes on."
    )
    assert [rung["rung"] for rung in record_of(tmp_path / "out")["rungs"]] == ["enforce_eager"]


def test_weights_that_do_not_fit_end_the_run_at_once(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    summary = run_replay(
        write_job(tmp_path), replay(**START, fits={"max_num_seqs": 1}, oom="oom_load")
    )
    assert (summary.exit_code, record_of(tmp_path / "out")["rungs"]) == (75, [])
    assert summary.stopped == (
        "worker 0: memory ran out while the weights were loaded (tried to allocate 1.00 GiB, 0.50 "
        "of 80.00 GiB were free), and nothing is left to lower. Give the run more memory, or "
        "choose a smaller variant. Committed rows are safe, and the same command goes on."
    )


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    own = {"max_num_batched_tokens": 8192, "enforce_eager": True}
    job = write_job(tmp_path, model={"variant": "r1-tiny", "engine_args": own})
    args = START | own
    summary = run_replay(job, replay(**args, fits={"max_num_batched_tokens": 4096}))
    assert summary.exit_code == 75
    assert summary.stopped is not None
    assert (
        "Lower model.engine_args.max_num_batched_tokens, which the job sets to 8192. Give the run"
        in summary.stopped
    )
    rungs = record_of(tmp_path / "out")["rungs"]
    assert {rung["rung"] for rung in rungs} == {"max_num_seqs", "gpu_memory_utilization"}


def test_another_failure_is_no_step_down(tmp_path: Path) -> None:
    questions(3).write_parquet(tmp_path / "in.parquet")
    summary = run_replay(write_job(tmp_path), replay(**START, mean_len=-1.0))
    assert summary.exit_code == 75
    assert summary.stopped == (
        "the engine died with each of 3 rows that ran alone in it, one after the other: it is not "
        "the rows. The run's log says more; committed rows are safe, and the same command goes on."
    )
    assert record_of(tmp_path / "out")["rungs"] == []


# Measured memory: what the probe makes of the attributes that each version of vLLM has.


def probed(**worker: Any) -> dict[str, float | None]:
    return MemoryProbe.batchr1_memory(SimpleNamespace(**worker))  # type: ignore[arg-type]


def test_the_probe_reads_both_versions_and_leaves_out_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", raising=False)
    runner = SimpleNamespace(model_memory_usage=4 * GIB)
    common: dict[str, Any] = {"model_runner": runner, "available_kv_cache_memory_bytes": 100 * GIB}
    expected = {"weights": 4.0, "activation": 1.5, "cuda_graph": 0.5, "other": 0.25, "kv": 100.0}
    older = {
        "peak_activation_memory": 1.5 * GIB,
        "non_torch_memory": GIB // 4,
        "cudagraph_memory_estimate": GIB // 2,
    }
    newer = {
        "peak_activation_memory": 2 * GIB,
        "total_consumed": 4.25 * GIB,
        "cudagraph_memory_estimate": GIB // 2,
    }
    assert probed(**common, **older) == expected
    assert probed(**common, **newer) == expected
    assert probed() == dict.fromkeys(expected)
    monkeypatch.setenv("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "0")
    assert probed(**common, **newer)["activation"] == 2.0


def test_the_fullest_gpu_of_an_engine_counts() -> None:
    ranks = [
        {"weights": 4.0, "activation": 1.0, "cuda_graph": None, "other": 0.2, "kv": 60.0},
        {"weights": 3.5, "activation": 1.2, "cuda_graph": None, "other": 0.3, "kv": 61.0},
    ]
    assert measured(ranks) == MeasuredMemory(4.0, 1.2, None, 0.3, 60.0)
    assert measured([]) == MeasuredMemory(None, None, None, None, None)
