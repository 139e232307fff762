"""Folder of scores: its record, what is done there, and its parts.

data/part-*.parquet        scores; a file appears whole or not at all
.batchr1/score.json        what was scored, by which model, in which vocabulary
.batchr1/failed/           rows that could not be scored
.batchr1/runs/<run>.json   one record per run
_SUCCESS                   every row is in data/

It has no job.json: no job runs into it, and no score runs into a job's output.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from batchr1.errors import FingerprintError, OutputError
from batchr1.output.documents import read_fingerprinted
from batchr1.output.folder import SCORE_FILE, Output, part_name, stage_part
from batchr1.output.parts import failures_table
from batchr1.records import Failure
from batchr1.storage.base import CONTROL_DIR, Storage
from batchr1.version import __version__

Key = tuple[str, int]


class ScoreFolder:
    """Folder of scores.

    Whoever changes it must hold its lock.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.uri = storage.uri
        self.output = Output(storage)
        self._number = 0

    def document(self) -> dict[str, Any] | None:
        """Read score.json; None in a new folder."""
        return read_fingerprinted(
            self.storage, SCORE_FILE, "the record of scores", "give another folder"
        )

    def refuse_foreign(self, fingerprint: dict[str, Any]) -> None:
        """Raise where the folder is something else's, or has other scores."""
        if self.output.exists():
            raise OutputError(
                f"{self.uri}: the output of a job (got .batchr1/job.json, need a folder of its "
                "own for scores). Give another folder."
            )
        document = self.document()
        if document is None:
            try:
                self.output.refuse_foreign()
                return
            except OutputError as exc:
                document = self.document()  # asked again: a score may have begun before the listing
                if document is None:
                    told = str(exc).replace("Give output.path a new", "Give a new")
                    told = told.replace("an output of batchr1", "scores of batchr1")
                    raise OutputError(told) from exc.__cause__
        before = document["fingerprint"]
        for name in sorted({*before, *fingerprint}):
            if before.get(name) != fingerprint.get(name):
                raise FingerprintError(
                    f"{self.uri}: holds other scores: {name} is {_shown(before.get(name))} there "
                    f"(got {_shown(fingerprint.get(name))}). Give another folder."
                )

    def write(self, fingerprint: dict[str, Any], more: dict[str, Any]) -> None:
        """Name what is scored here."""
        document = {"batchr1": __version__, "fingerprint": fingerprint, **more}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        self.storage.write_bytes(SCORE_FILE, f"{text}\n".encode())

    def done(self) -> dict[Key, str]:
        """Read the keys of committed rows.

        Each comes with the hash of what was read.
        """
        found: dict[Key, str] = {}
        for rel in self.output.parts():
            table = self.output.read_part(rel, ["id", "sample", "row_hash"])
            columns = (table.column(name).to_pylist() for name in table.column_names)
            for id, sample, digest in zip(*columns, strict=True):
                if (id, sample) in found:
                    raise OutputError(
                        f"{self.storage.where(rel)}: row {id!r} (sample {sample}) is in another "
                        "part, too (need each once). Something else put it there: take it away."
                    )
                found[id, sample] = digest
        return found

    def commit(self, table: pa.Table, run: str) -> str:
        """Write a part, and publish it."""
        name = part_name(run, 0, 0, self._number)
        self._number += 1
        stage_part(self.storage, table, name)
        self.output.commit_part(name)
        return name

    def commit_failed(self, failures: list[Failure], run: str, now: object) -> None:
        """Replace what earlier runs said of rows that fail."""
        for file in self.storage.list_files(f"{CONTROL_DIR}/failed", ".parquet"):
            self.storage.delete(file.rel)
        if failures:
            table = failures_table(failures, run=run, failed_at=now)
            self.output.commit_failed(table, part_name(run, 0, 0, self._number))


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
