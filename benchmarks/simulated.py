"""A replica on the replay engine's own clock: the real worker loop, admission and schedule.

Steps take the time that `sizing.timing.step_time` computes for a GPU; the cache preempts and keeps
freed blocks as vLLM's does (`engine.replay.gpu`). Left out: the driver's process, reading and
rendering, splitting and Parquet, which run beside the loop.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import tempfile
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/helpers"))

import replay_job

from batchr1.driver.feed.schedule import RowSamples, Schedule
from batchr1.engine.protocol import Delta
from batchr1.engine.replay.engine import ReplayEngine
from batchr1.executors.messages import (
    Drain,
    FromWorker,
    Lease,
    PartCounts,
    RequestWork,
    SamplesFinished,
    ToWorker,
)
from batchr1.executors.setup import WorkerSetup
from batchr1.models.catalogue import VARIANTS
from batchr1.records import CompletionLengths, Prompt, SampleKey, WorkItem
from batchr1.seeds import derive_seed
from batchr1.sizing.architecture import Architecture
from batchr1.sizing.gpus import GPUS
from batchr1.sizing.timing.step_time import StepTime, step_time_of
from batchr1.storage.base import open_storage
from batchr1.worker.admission import Admission, Sequence
from batchr1.worker.engine_worker import EngineWorker

RECORDED = Path(__file__).with_name("data") / "r1_tiny_lengths.json"  # by problem of jobs/math.yaml
TYPICAL_TOKENS = 4096  # of a sequence, for models whose cache does not grow evenly
VOCABULARY = {
    "open_id": 1,
    "close_id": 2,
    "end_id": 3,
    "first_text_id": 10,
    "num_text_ids": 26,
    "marker": 4,
}
Groups = list[list[int]]


def log_normal(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """sigma 1 in all, four fifths of the variance between prompts."""
    mu, between, within = math.log(mean) - 0.5, math.sqrt(0.8), math.sqrt(0.2)
    centers = [rng.gauss(mu, between) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(math.exp(rng.gauss(c, within))))) for _ in range(n)] for c in centers
    ]


def bimodal(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """One prompt in five is hard, ten times as long as the easy ones."""
    easy = mean / (0.8 + 0.2 * 10)
    centers = [math.log(easy * (10 if rng.random() < 0.2 else 1)) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(math.exp(rng.gauss(c, 0.35))))) for _ in range(n)] for c in centers
    ]


def recorded(rng: random.Random, prompts: int, n: int, mean: float, cap: int) -> Groups:
    """r1-tiny's own lengths, scaled to the mean: `n` samples each of problems drawn from those of
    jobs/math.yaml.
    """
    groups: Groups = json.loads(RECORDED.read_text(encoding="utf-8"))["lengths"]
    scale = mean / statistics.mean(length for group in groups for length in group)
    drawn = [rng.choice(groups) for _ in range(prompts)]
    return [
        [min(cap, max(8, round(rng.choice(group) * scale))) for _ in range(n)] for group in drawn
    ]


SHAPES: dict[str, Callable[[random.Random, int, int, float, int], Groups]] = {
    "log-normal": log_normal,
    "bimodal": bimodal,
    "r1-tiny": recorded,
}


class TimedEngine(ReplayEngine):
    """Keeps when how many tokens came."""

    def step(self) -> list[Delta]:
        deltas = super().step()
        self.timeline = getattr(self, "timeline", [])
        self.timeline.append((self.clock_s, sum(len(delta.token_ids) for delta in deltas)))
        return deltas


class Rows:
    """Stands where the collector does: counts."""

    totals = PartCounts(0, 0, 0, 0, 0, 0)

    def __init__(self) -> None:
        self.done: set[SampleKey] = set()

    def put(self, completion: Any, saved: Any, carried: int = 0) -> None:
        assert completion.item.key not in self.done
        self.done.add(completion.item.key)

    def finish(self, while_waiting: Any) -> None: ...

    def raise_error(self) -> None: ...

    def uncommitted(self) -> list[Any]:
        return []


class Line:
    """The worker's channel, with the schedule at its other end."""

    def __init__(self, trace: Groups, prompt_len: int, cap: int, order: str) -> None:
        self._schedule = Schedule(longest_first=order == "longest_first")
        self._schedule.add(
            RowSamples(i, list(range(len(lengths)))) for i, lengths in enumerate(trace)
        )
        self._prompt_len, self._cap = prompt_len, cap
        self._inbox: deque[ToWorker] = deque()
        self._row: deque[WorkItem] = deque()
        self._probes: dict[SampleKey, RowSamples] = {}
        self._wanted = 0

    def receive(self, timeout_s: float) -> ToWorker | None:
        return self._inbox.popleft() if self._inbox else None

    def send(self, message: FromWorker) -> None:
        match message:
            case RequestWork(count):
                items = [item for _ in range(count) if (item := self._next()) is not None]
                self._inbox.append(Lease(tuple(items)) if items else Drain())
            case SamplesFinished(keys, tokens):
                for key, length in zip(keys, tokens, strict=True):
                    self._schedule.finished(self._probes.pop(key, None), length)

    def _next(self) -> WorkItem | None:
        if not self._row:
            pick = self._schedule.pick()
            if pick is None:
                return None
            id = f"p{pick.group.row}"
            # The replay engine knows a prompt by its tokens.
            ids = (
                *array("i", [100 + pick.group.row] * (self._prompt_len - 1)),
                VOCABULARY["marker"],
            )
            prompt = Prompt(id, "", ids, True, b"")
            expected = None if math.isnan(pick.expected) else pick.expected
            self._row.extend(
                WorkItem(
                    prompt,
                    s,
                    self._cap,
                    "max_tokens",
                    seed=derive_seed(0, id, s, 1),
                    expected_tokens=expected,
                    at_least_tokens=pick.at_least,
                )
                for s in pick.samples
            )
            if pick.group.samples:
                self._probes[SampleKey(id, pick.samples[0])] = pick.group
        return self._row.popleft()


class FixedMargin(Admission):
    """Another rule, to compare with: need and so many deviations fit at all times."""

    deviations = 0.0

    def _pays(self, sequence: Sequence) -> bool:
        if sequence is self._refused:
            return False
        if math.isinf(self._grown):
            self._refresh()
        mean, variance = self._need([sequence])
        need = self._mean + mean[0] + self.deviations * np.sqrt(self._variance + variance[0])
        if need.max() > self._capacity:
            self._refused = sequence
            return False
        return True


@dataclass(frozen=True, slots=True)
class Case:
    """What a run is given. Lengths in tokens.

    `guess`: the expected length over the true one. `rule`: `planned`, `none` (no admission: the
    engine takes what it has slots for), or a fixed margin in deviations.
    """

    step_time: StepTime
    kv_tokens: int
    max_num_seqs: int
    prompt_len: int
    cap: int
    guess: float = 1.0
    tokens_per_step: int = 16
    rule: str | float = "planned"


def step_time(variant: str, gpu: str, *, tensor_parallel: int = 1) -> StepTime:
    """What a step takes: the catalogue's model and GPU."""
    arch = Architecture.of_config(VARIANTS[variant].config)
    cache = arch.kv_cache(kv_dtype_bytes=2, tensor_parallel=tensor_parallel)
    found = step_time_of(
        arch,
        None,
        GPUS[gpu],
        kv_bytes_per_token=cache.per_token(TYPICAL_TOKENS),
        tensor_parallel=tensor_parallel,
    )
    assert found is not None
    return found


def simulate(trace: Groups, order: str, case: Case) -> dict[str, float]:
    """One run through the replay engine."""
    lengths = [length for group in trace for length in group]
    mean, square = statistics.mean(lengths), statistics.mean(length**2 for length in lengths)
    expected = CompletionLengths(mean * case.guess, square * case.guess**2, "the trace")
    script = {
        **VOCABULARY,
        "max_num_seqs": case.max_num_seqs,
        "kv_cache_tokens": case.kv_tokens,
        "groups": trace,
        "max_model_len": case.prompt_len + case.cap + 1,
        "tokens_per_step": case.tokens_per_step,
        "step_time": asdict(case.step_time),
        "time_scale": 0.0,
    }
    engine = TimedEngine.from_args(script)
    assert isinstance(engine, TimedEngine)
    with tempfile.TemporaryDirectory() as folder:
        rows, line = Rows(), Line(trace, case.prompt_len, case.cap, order)
        setup = setup_of(case, folder, expected)
        worker = EngineWorker(setup, engine, rows, line, clock=lambda: engine.clock_s)  # type: ignore[arg-type]
        if case.rule != "planned":
            worker._admission = _other_rule(case, engine, expected)
        worker.run(0.0)
    assert len(rows.done) == len(lengths)
    load = engine.load()
    return {
        **times(engine.timeline),
        "max_num_seqs": case.max_num_seqs,
        "preempted": load.preempted / len(lengths),
        "prefix_hit_rate": load.prefix_hits / max(1, load.prefix_queries),
    }


def setup_of(case: Case, folder: str, expected: CompletionLengths) -> WorkerSetup:
    """A worker's setup with nothing but what the loop looks at."""
    return replay_job.setup_of(
        open_storage(folder),
        plan={
            "device": "cuda",
            "max_num_seqs": case.max_num_seqs,
            "completions": expected,
            "step_time": case.step_time,
        },
        checkpoint={"every_s": 1e9},
        sampling={"seed": 0},
    )


def _other_rule(case: Case, engine: TimedEngine, expected: CompletionLengths) -> Admission:
    rule = Admission if case.rule == "none" else FixedMargin
    other = rule(
        kv_cache_tokens=0 if case.rule == "none" else case.kv_tokens,
        max_num_seqs=case.max_num_seqs,
        max_model_len=engine.info.max_model_len,
        expected=expected,
        mixed_step_cost=case.step_time.mixed_step_cost,
        step_time=case.step_time,
    )
    if isinstance(other, FixedMargin):
        other.deviations = float(case.rule)
    return other


def times(timeline: list[tuple[float, int]]) -> dict[str, float]:
    """Seconds of the whole and of its tail, from (when, how many tokens)."""
    total, seen, at_90 = sum(tokens for _, tokens in timeline), 0, 0.0
    for at, tokens in timeline:
        seen += tokens
        if seen >= 0.9 * total and not at_90:
            at_90 = at
    end = timeline[-1][0]
    return {"seconds": end, "tail": end - at_90, "tokens_per_s": total / end}
