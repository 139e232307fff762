"""On S3 too, an owner that is paused at any request and wakes late has no effect.

One request remains on stores that ignore conditions on deletions: `_SUCCESS` may go that another
run wrote. Then the output counts as not complete, and the next run puts it back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from paused_runs import KINDS, Case
from pauses import Pause, chosen, pause_requests, without_beats
from s3_fakes import S3

from batchr1.storage.s3 import S3Storage

QUICK = ("continue", "fresh")


@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(
    ("kind", "calls"),
    [(kind, "some") for kind in QUICK]
    + [pytest.param(kind, "all", marks=pytest.mark.slow) for kind in KINDS],
)
def test_an_owner_paused_at_a_request_changes_nothing_when_it_wakes(
    s3: S3, tmp_path: Path, kind: str, calls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    pause_requests(monkeypatch, S3Storage)
    case = Case(tmp_path, kind, f"s3://{s3.bucket}/out", s3.options)
    case.reset()
    with Pause(case.uri, 0, lambda: None).armed() as count:
        assert case.run() == 0
    numbers = chosen(count.count)
    if calls == "some":
        numbers = [count.count // 2 + KINDS.index(kind)]
    for number in numbers:
        pause = case.pause(number, changes_only=False)
        print(f"PAUSED {kind}: {number} of {count.count}: {pause.place}", flush=True)
    case.leaves_nothing()
