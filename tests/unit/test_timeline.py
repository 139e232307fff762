"""The series in a run's record: rates come out right, whatever the length of the run and whoever is
restarted.
"""

from __future__ import annotations

import itertools

import pytest

from batchr1.driver.monitor.timeline import MAX_POINTS, Timeline
from batchr1.driver.tally import Tally
from batchr1.engine.protocol import EngineLoad
from batchr1.executors.messages import Heartbeat


def heard(tokens: int, *, running: int = 8, kv: float = 0.5, finished: int = 0) -> Heartbeat:
    return Heartbeat(finished, 0, tokens, 0, running, EngineLoad(running, 2, kv, 3))


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rates(document: dict[str, list[float]]) -> list[float]:
    points = itertools.pairwise(zip(document["seconds"], document["tokens"], strict=True))
    return [round((tokens - before) / (at - since), 6) for (since, before), (at, tokens) in points]


def test_a_run_before_its_first_word_has_an_empty_series() -> None:
    timeline = Timeline(100.0, Clock())
    timeline.update(Tally(), [])
    document = timeline.to_dict()
    assert list(document) == [
        "seconds",
        "tokens",
        "finished",
        "preempted",
        "running",
        "waiting",
        "kv_cache_usage",
    ]
    assert not any(document.values())


@pytest.mark.parametrize("seconds", [3, 700, 5000, 20_000])
def test_a_steady_rate_is_a_steady_rate_however_long_the_run(seconds: int) -> None:
    clock = Clock()
    timeline = Timeline(60.0, clock)
    for half in range(2 * seconds + 1):
        clock.now = 100.0 + half / 2
        timeline.update(
            Tally(), [heard(25 * half, finished=half // 2), heard(25 * half, running=4, kv=0.1)]
        )
    document = timeline.to_dict()
    assert len(document["seconds"]) <= MAX_POINTS
    assert len(document["seconds"]) >= min(seconds, MAX_POINTS / 2)
    assert (document["seconds"][0], document["seconds"][-1]) == (40.0, 40.0 + seconds)
    assert set(rates(document)) == {100.0}
    assert document["finished"][-1] == seconds
    assert (set(document["running"][1:]), set(document["waiting"][1:])) == ({12.0}, {4.0})
    assert set(document["kv_cache_usage"][1:]) == {0.3}


def test_a_worker_that_counts_from_zero_again_takes_nothing_back() -> None:
    clock = Clock()
    timeline = Timeline(100.0, clock)
    for second, tokens in enumerate([0, 100, 200, 0, 50, 150]):
        clock.now = 100.0 + second
        timeline.update(Tally(), [heard(tokens)])
    assert rates(timeline.to_dict()) == [100.0, 100.0, 0.0, 50.0, 100.0]


def test_updates_as_often_as_the_driver_polls_give_a_point_a_second() -> None:
    clock = Clock()
    timeline = Timeline(100.0, clock)
    for tick in range(1001):
        clock.now = 100.0 + tick / 100
        timeline.update(Tally(), [heard(tick)])
    assert timeline.to_dict()["seconds"] == pytest.approx(list(range(11)), abs=0.1)
