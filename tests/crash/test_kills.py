"""SIGKILL at every change that a run makes to its output; then nothing is lost, doubled or left."""

from __future__ import annotations

from pathlib import Path

import pytest
from paused_runs import KINDS, SAVING, Case

WITH_WORKER = [kind for kind in KINDS if kind != "verify"]
QUICK = [("plain", "tree", 3), ("continue", "driver", 45)]
ALL = [(kind, "driver") for kind in KINDS] + [
    (kind, whose) for kind in WITH_WORKER for whose in ("worker", "tree")
]


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(("kind", "whose", "at"), QUICK)
def test_a_run_killed_at_a_change_is_ended_by_the_next(
    tmp_path: Path, kind: str, whose: str, at: int
) -> None:
    case = Case(tmp_path, kind, str(tmp_path / "out"), script=SAVING)
    assert case.kill(whose, at, case.undisturbed())


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(("kind", "whose"), ALL)
def test_a_run_killed_at_any_change_is_ended_by_the_next(
    tmp_path: Path, kind: str, whose: str
) -> None:
    Case(tmp_path, kind, str(tmp_path / "out"), script=SAVING).kill_everywhere(whose)
