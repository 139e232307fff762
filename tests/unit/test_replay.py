"""The replay engine: its memory, its time, its samples; and that a resumed generation is the one it
was.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchr1.engine.protocol import Request
from batchr1.engine.replay.engine import ReplayEngine
from batchr1.errors import EngineError

IDS = {
    "open_id": 1,
    "close_id": 2,
    "end_id": 3,
    "first_text_id": 10,
    "num_text_ids": 26,
    "marker": 4,
}
STEP = {
    "weight_bytes": 3e9,
    "kv_bytes_per_token": 1e5,
    "bandwidth": 1e12,
    "operations_per_token": 3e9,
    "peak": 1e15,
    "efficiency": 1.0,
    "step_s": 0.002,
    "step_s_per_seq": 1e-4,
}


def engine_of(**script: Any) -> ReplayEngine:
    return ReplayEngine.from_args({**IDS, "groups": [[40, 60, 50, 70]], **script})


def request(
    number: int, *, seed: int = 0, done: list[int] | None = None, prompt_len: int = 15
) -> Request:
    return Request(str(number), [100 + number] * prompt_len + [4] + (done or []), 1000, seed)


def run(engine: ReplayEngine) -> dict[str, list[int]]:
    """All tokens by request."""
    tokens: dict[str, list[int]] = {}
    while engine.load().running or engine.load().waiting:
        for delta in engine.step():
            tokens.setdefault(delta.id, []).extend(delta.token_ids)
    return tokens


def test_seeds_choose_among_a_prompts_lengths() -> None:
    engine = engine_of()
    for seed in range(4):
        engine.submit(Request(str(seed), [100, 4], 1000, seed))
    assert [len(tokens) for _, tokens in sorted(run(engine).items())] == [40, 60, 50, 70]


@pytest.mark.parametrize("at", [1, 7, 49])
def test_a_sample_goes_on_as_it_would_have_whatever_the_seed_of_its_second_half(at: int) -> None:
    engine = engine_of()
    engine.submit(request(0, seed=2))
    [whole] = run(engine).values()
    engine.submit(request(0, seed=999, done=whole[:at]))
    assert whole[:at] + run(engine)["0"] == whole


def test_a_full_cache_preempts_the_newest_which_still_comes_out_whole() -> None:
    engine = engine_of(kv_cache_tokens=160, max_num_seqs=8)
    for number in range(4):
        engine.submit(request(number))
    tokens, most = {}, 0.0
    order: list[str] = []
    while engine.load().running or engine.load().waiting:
        for delta in engine.step():
            tokens[delta.id] = tokens.get(delta.id, 0) + len(delta.token_ids)
            if delta.finish_reason:
                order.append(delta.id)
        most = max(most, engine.load().kv_cache_usage)
    assert tokens == dict.fromkeys("0123", 40)
    assert engine.load().preempted > 0
    assert most <= 1.0
    assert order == ["0", "1", "2", "3"], "the oldest is never preempted for a newer one"
    assert engine.load().kv_cache_usage == 0.0


def test_a_cache_that_cannot_hold_one_sequence_ends_the_engine() -> None:
    engine = engine_of(kv_cache_tokens=32)
    engine.submit(request(0))
    with pytest.raises(EngineError, match="the KV cache does not hold one sequence"):
        run(engine)


def test_samples_of_a_prompt_that_is_in_the_cache_hit_it() -> None:
    engine = engine_of()
    for seed in range(4):
        engine.submit(Request(str(seed), [*[100] * 31, 4], 1000, seed))
    run(engine)
    assert (engine.load().prefix_queries, engine.load().prefix_hits) == (4 * 32, 3 * 32)


def test_a_step_takes_the_time_of_what_is_in_it_on_the_engines_own_clock() -> None:
    engine = engine_of(step_time=STEP, time_scale=0.0, kv_cache_tokens=10_000)
    engine.submit(request(0))
    engine.submit(request(1))
    engine.step()
    assert engine.clock_s == pytest.approx((3e9 + 32 * 1e5) / 1e12 + 0.002 + 2e-4)
    before = engine.clock_s
    engine.step()
    assert engine.clock_s - before == pytest.approx((3e9 + 34 * 1e5) / 1e12 + 0.002 + 2e-4)


@pytest.mark.parametrize(
    ("quarantined", "seconds"), [(True, 5 * 0.2 + 0.4), (False, 6 * 0.2 + 6 * 0.1 + 0.4)]
)
def test_an_engine_that_runs_apart_goes_on_while_its_worker_is_busy(
    quarantined: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(
        "batchr1.engine.replay.engine.time",
        SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep),
    )
    engine = engine_of(step_s=0.2, runs_apart=quarantined)
    engine.submit(request(0))
    for busy_s in (0.1, 0.1, 0.1, 0.1, 0.6, 0.0):  # one step ahead at most: of 0.6 s, 0.4 are lost
        engine.step()
        clock[0] += busy_s
    assert clock[0] - 100.0 == pytest.approx(seconds)
