"""An output and checkpoints made by the code before the rebuild are read, and gone on with.

tests/data/before_rebuild was left by real vLLM and a run that was killed; the README beside it says
which. Here the command line resumes a copy of it, on real vLLM too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from replay_job import keys_of

from batchr1.columns import ADDED_LATER, NAMES
from batchr1.output.checkpoints import INFLIGHT_DIR, GenerationCheckpoint, read_checkpoints
from batchr1.records import SampleKey
from batchr1.storage.base import open_storage
from batchr1.storage.lock_record import this_machine

KEPT = Path(__file__).parents[1] / "data/before_rebuild"
ROWS, N = 24, 2


@dataclass(frozen=True)
class Resumed:
    """The copy that was resumed, and what was in it before."""

    folder: Path
    parts: Mapping[str, bytes]
    done: frozenset[tuple[str, int]]
    saved: Mapping[SampleKey, GenerationCheckpoint]
    said: str

    @property
    def output(self) -> Path:
        return self.folder / "output"


def batchr1(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batchr1", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )


def rows_of(folder: Path) -> pl.DataFrame:
    """All rows beneath a folder; null where an old part lacks the column."""
    parts = [pl.read_parquet(path) for path in sorted(folder.rglob("*.parquet"))]
    return pl.concat(parts, how="diagonal").sort("id", "sample")


def copy_of(folder: Path) -> Path:
    """The kept output in a folder of its own, its lock held by a dead process of this machine.

    The owner's machine is another one almost everywhere. There nobody can see that it is dead, and
    a run would wait for the minute after which a lock is stale.
    """
    shutil.copytree(KEPT, folder)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    [lock] = (folder / "output/.batchr1/lock").glob("*.json")
    record = json.loads(lock.read_text(encoding="utf-8"))
    lock.write_text(
        json.dumps(
            record | {"machine": this_machine(), "host": os.uname().nodename, "pid": dead.pid}
        ),
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def unresumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(tmp_path_factory.mktemp("kept") / "unresumed")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = copy_of(tmp_path_factory.mktemp("kept") / "resumed")
    output = folder / "output"
    parts = {path.name: path.read_bytes() for path in (output / "data").glob("*.parquet")}
    done = frozenset(keys_of(rows_of(output / "data")))
    saved = read_checkpoints(open_storage(output)).saved
    ended = batchr1("run", "job.yaml", "--gpus", "none", cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Resumed(folder, parts, done, saved, ended.stderr)


def test_every_sample_is_there_once(resumed: Resumed) -> None:
    ids = pl.read_parquet(resumed.folder / "in.parquet")["id"]
    rows = rows_of(resumed.output / "data")
    assert keys_of(rows) == sorted((id, sample) for id in ids for sample in range(N))
    assert rows.height == ROWS * N > len(resumed.done) > 0
    assert (resumed.output / "_SUCCESS").exists()
    assert not list((resumed.output / INFLIGHT_DIR).glob("*.bin"))


def test_the_old_parts_are_what_they_were(resumed: Resumed) -> None:
    assert len(resumed.parts) == 4
    for name, before in resumed.parts.items():
        assert (resumed.output / "data" / name).read_bytes() == before


def test_new_parts_have_every_column_of_the_old_ones(resumed: Resumed) -> None:
    schemas = {
        path.name: pl.read_parquet_schema(path) for path in resumed.output.rglob("*.parquet")
    }
    old = [schemas.pop(name) for name in resumed.parts]
    assert schemas and all(set(NAMES) <= set(schema) for schema in schemas.values())
    for schema in schemas.values():
        for before in old:
            assert before.items() <= schema.items()
            assert set(schema) - set(before) <= ADDED_LATER


def test_every_saved_generation_went_on_where_it_was(resumed: Resumed) -> None:
    rows = {(row["id"], row["sample"]): row for row in rows_of(resumed.output / "data").to_dicts()}
    pending = [one for one in resumed.saved.values() if (one.id, one.sample) not in resumed.done]
    under_way = [one for one in pending if one.finish_reason is None]
    finished = [one for one in pending if one.finish_reason is not None]
    assert len(resumed.saved) == 15, "12 of them are in committed parts, which win"
    assert (len(under_way), len(finished)) == (3, 0)
    for one in under_way:
        row, tokens = rows[one.id, one.sample], list(one.tokens)
        assert row["token_ids"][: len(tokens)] == tokens
        assert len(tokens) in row["resumed_at"]
        assert len(row["token_ids"]) > len(tokens)


def test_the_new_rows_are_of_the_same_model(resumed: Resumed) -> None:
    rows = rows_of(resumed.output / "data")
    assert rows["model"].n_unique() == 1
    assert rows["run"].n_unique() == 3


@pytest.mark.parametrize("which", ["unresumed", "resumed"])
def test_it_can_be_looked_at_and_exported(which: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(which)
    folder = made.folder if isinstance(made, Resumed) else made
    done = rows_of(folder / "output/data").height
    status = batchr1("status", "job.yaml", "--json", cwd=folder)
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["done"] == done
    report = batchr1("report", "output", "--to", folder / "page.html", cwd=folder)
    assert report.returncode == 0, report.stderr
    assert "before-rebuild" in (folder / "page.html").read_text(encoding="utf-8")
    export = batchr1("export", "output", folder / "raw", "--to", "raw", cwd=folder)
    assert export.returncode == 0, export.stderr
    assert rows_of(folder / "raw").height == done
