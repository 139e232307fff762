"""An owner that is paused at any storage call and wakes late has no effect.

Another run takes over meanwhile and finishes, and a third one reads. Then the first goes on.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from paused_runs import KINDS, Case
from pauses import Pause, chosen, without_beats


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "calls",
    [
        "some",
        pytest.param("changes", marks=pytest.mark.slow),
        pytest.param("all", marks=pytest.mark.slow),
    ],
)
def test_an_owner_paused_at_a_storage_call_changes_nothing_when_it_wakes(
    tmp_path: Path, kind: str, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    case = Case(tmp_path, kind, str(tmp_path / "out"))
    case.reset()
    changes_only = calls != "all"
    with Pause(case.uri, 0, lambda: None, changes_only=changes_only).armed() as count:
        assert case.run() == 0
    numbers = chosen(count.count)
    if calls == "some":  # one in the middle, another one for each kind
        numbers = [count.count // 2 + KINDS.index(kind)]
    for number in numbers:
        pause = case.pause(number, changes_only=changes_only)
        print(f"PAUSED {kind}: {number} of {count.count}: {pause.place}", flush=True)
    case.leaves_nothing()
