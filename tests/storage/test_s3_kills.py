"""On S3 too, a run that is killed right before any request that changes something is ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from paused_runs import KINDS, SAVING, Case
from pauses import pause_requests
from s3_fakes import S3

from batchr1.storage.s3 import S3Storage

ALL = [(kind, "driver") for kind in KINDS] + [(kind, "tree") for kind in KINDS if kind != "verify"]


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize(("kind", "whose"), ALL)
def test_a_run_killed_at_any_request_is_ended_by_the_next(
    s3: S3, tmp_path: Path, kind: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_requests(monkeypatch, S3Storage)
    case = Case(tmp_path, kind, f"s3://{s3.bucket}/out", s3.options, script=SAVING)
    case.kill_everywhere(whose)
