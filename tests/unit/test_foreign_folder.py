"""A folder that somebody else fills while we look at it is not taken for a stranger's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchr1.errors import OutputError
from batchr1.output.folder import Output
from batchr1.scoring.folder import ScoreFolder
from batchr1.storage.base import Storage, open_storage
from batchr1.storage.local import LocalStorage


def filled_before_listing(
    monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str]
) -> None:
    """These files come after the first look for one, and before the listing."""
    list_files = LocalStorage.list_files

    def late(self: LocalStorage, *args: Any, **options: Any) -> Any:
        for rel, text in files.items():
            path = folder / rel
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list_files(self, *args, **options)

    monkeypatch.setattr(LocalStorage, "list_files", late)


def test_an_output_that_began_meanwhile_is_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {".batchr1/job.json": "{}", "data/part-1.parquet": ""}
    filled_before_listing(monkeypatch, tmp_path, files)
    Output(open_storage(tmp_path)).refuse_foreign()


def test_scores_that_began_meanwhile_are_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = '{"format": 1, "fingerprint": {"model": "one"}}'
    files = {".batchr1/score.json": score, "data/part-1.parquet": ""}
    filled_before_listing(monkeypatch, tmp_path, files)
    ScoreFolder(open_storage(tmp_path)).refuse_foreign({"model": "one"})


@pytest.mark.parametrize(
    "refuse",
    [
        lambda storage: Output(storage).refuse_foreign(),
        lambda storage: ScoreFolder(storage).refuse_foreign({}),
    ],
)
def test_a_stranger_that_came_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[Storage], None]
) -> None:
    filled_before_listing(monkeypatch, tmp_path, {"thesis.parquet": ""})
    with pytest.raises(OutputError, match=r"it holds thesis\.parquet"):
        refuse(open_storage(tmp_path))


def test_a_report_of_a_run_that_came_nowhere_makes_no_foreign_folder(tmp_path: Path) -> None:
    """Its engine was stopped while it loaded; the page lies in the output."""
    (tmp_path / "report.html").write_text("a page")
    output = Output(open_storage(tmp_path))
    with pytest.raises(OutputError, match=r"it holds report\.html"):
        output.refuse_foreign()
    (tmp_path / ".batchr1/runs").mkdir(parents=True)
    (tmp_path / ".batchr1/runs/20261201T120000000Z-0000.json").write_text("{}")
    output.refuse_foreign()
