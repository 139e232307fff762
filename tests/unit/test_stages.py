"""What a run prepares is said in a line, where it takes a while."""

from __future__ import annotations

import io
import time

import pytest
from process_tree import until

from batchr1.driver.monitor import progress, stages
from batchr1.driver.monitor.progress import ProgressDisplay
from batchr1.driver.monitor.stages import Stages
from batchr1.driver.tally import Tally
from batchr1.engine.protocol import EngineLoad
from batchr1.executors.messages import Heartbeat


def test_only_a_stage_that_takes_a_while_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LOGGED_AFTER_S", 1.0)
    said = io.StringIO()
    with Stages(is_shown=True, stream=said) as shown:
        shown.begin("looking")
        shown.begin("reading the input's ids")
        until(lambda: said.getvalue().endswith("\n"))
        shown.begin("planning")
    [line] = said.getvalue().splitlines()
    assert line.endswith(" s  reading the input's ids")


def test_nothing_is_said_where_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LOGGED_AFTER_S", 0.0)
    said = io.StringIO()
    with Stages(is_shown=False, stream=said) as shown:
        shown.begin("reading")
        time.sleep(0.1)
    assert not said.getvalue()


def test_without_a_terminal_a_run_begins_with_a_line() -> None:
    said = io.StringIO()
    display = ProgressDisplay(pending=400, stream=said)
    display.update(Tally(), [])
    display.close()
    assert said.getvalue() == "0/400 rows, loading the model\n"


def test_a_run_that_goes_on_says_so_before_anything_else() -> None:
    said = io.StringIO()
    ProgressDisplay(
        pending=240, unit="sample", loading="reaching the server", saved="going on", stream=said
    )
    assert said.getvalue() == "going on\n0/240 samples, reaching the server\n"


def test_a_model_that_loads_for_long_is_told_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    said = io.StringIO()
    ProgressDisplay(pending=4, stream=said).update(Tally(), [])
    assert said.getvalue().splitlines()[1:] == ["0/4 rows, loading the model for 0:00"]


def test_loading_slows_no_rate_and_few_rows_give_no_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 240 rows at once the first to finish say little about the others."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    said = io.StringIO()
    display = ProgressDisplay(pending=240, stream=said)

    def told(at: float, generated: int, finished: int) -> str:
        nonlocal now
        now = at
        beat = Heartbeat(finished, 0, generated, 0, 240 - finished, EngineLoad(0, 0, 0.0, 0, 0, 0))
        display.update(Tally(), [beat])
        return said.getvalue().splitlines()[-1]

    for second in range(20):
        told(float(second), 0, 0)
    told(20.0, 1_000, 0)
    assert told(31.0, 12_000, 10) == "10/240 rows, 1,000 tok/s, 0.0% truncated"
    assert told(61.0, 42_000, 120).endswith("1,000 tok/s, 0.0% truncated, ETA 0:42")
