"""Output folder: its files, its owner, and the two ways into it.

data/part-*.parquet        results; a file appears whole, by `commit_part`, or not at all
.batchr1/job.json          the job as it was resolved, with its fingerprint
.batchr1/inputs.json       the input files that everything in data/ agrees with
.batchr1/runs/<run>.json   one record per run (and <run>.log)
.batchr1/failed/           rows that failed
.batchr1/staging/          parts that are being written, or wait for their commit
_SUCCESS                   everything that was asked is in data/; run, epoch and counts
report.html                the page of `batchr1 report`
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.columns import ADDED_LATER, with_later_columns
from batchr1.errors import OutputError, StorageError
from batchr1.faults import fault_point
from batchr1.output.checkpoints import INFLIGHT_DIR, aside_name
from batchr1.output.documents import read_fingerprinted
from batchr1.output.parts import data_errors, write_parquet
from batchr1.output.run_record import RunRecord, parse_record
from batchr1.storage.base import CONTROL_DIR, STAGING_DIR, Storage
from batchr1.storage.errors import is_fault, is_passing, mapped
from batchr1.storage.inputs import InputFile
from batchr1.storage.names import SUCCESS
from batchr1.storage.uri import is_remote, split_uri

DATA_DIR = "data"
RUNS_DIR = f"{CONTROL_DIR}/runs"
FAILED_DIR = f"{CONTROL_DIR}/failed"
JOB_FILE = f"{CONTROL_DIR}/job.json"
SCORE_FILE = f"{CONTROL_DIR}/score.json"
"""In a folder of scores, which is no output: `batchr1 score` writes it."""
INPUTS_FILE = f"{CONTROL_DIR}/inputs.json"
REPORT_FILE = "report.html"
_PART = re.compile(r"^part-(?P<run>\d{8}T\d{9}Z-[0-9a-f]{4})-.+\.parquet$")


class Output:
    """Output of a job, on disk or in a bucket.

    Whoever changes it must hold its lock.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.uri = storage.uri

    def exists(self) -> bool:
        """Whether a job of ours has been here."""
        found = self.storage.find_file(JOB_FILE)
        return found is not None and found.size > 0  # `--fresh` on S3 leaves an empty one

    def was_tried(self) -> bool:
        """Tell whether the output exists, or a run has at least begun.

        Where no engine came up, there is a run's record and nothing else. Scores have records too.
        """
        if self.exists():
            return True
        return bool(self.storage.list_files(RUNS_DIR, ".json")) and not self.holds_scores()

    def holds_scores(self) -> bool:
        """Tell whether `batchr1 score` wrote this folder."""
        return self.storage.exists(SCORE_FILE)

    def refuse_foreign(self) -> None:
        """Raise `OutputError` when the folder is not an output of batchr1.

        Also when it cannot become one.
        """
        if self.storage.kind == "local":
            refuse_place(Path(self.uri))
        try:
            if self.exists():
                return
            files = self.storage.list_files(recursive=True)
        except StorageError as exc:
            if exc.__cause__ is None or is_passing(exc.__cause__) or is_fault(exc.__cause__):
                raise
            raise OutputError(
                str(exc)
            ) from exc.__cause__  # no such bucket, access denied: it would be so next time
        others = [f.rel for f in files if not f.rel.startswith(f"{CONTROL_DIR}/")]
        # asked again: a run may have begun before the listing, or a report of one that came nowhere
        if others and not self.was_tried():
            raise OutputError(
                f"{self.uri}: the folder is not empty and not an output of batchr1 (it holds "
                f"{others[0]}). "
                "Give output.path a new or empty folder."
            )

    def refuse_overlap(self, patterns: Sequence[str], files: Sequence[InputFile]) -> None:
        """Raise `OutputError` when output and input lie beneath each other."""
        part = f"{self.uri}/{DATA_DIR}/part-0.parquet"
        for pattern in patterns:
            if is_remote(pattern):  # no output lies there
                continue
            kind, place = split_uri(pattern)
            folder = f"s3://{place}" if kind == "s3" else place
            if part.startswith(folder + "/") or _glob_matches(folder, part):
                raise OutputError(
                    f"{self.uri}: output.path lies beneath input.path {pattern}, so that results "
                    f"would become input. "
                    "Give the output a folder of its own."
                )
        for file in files:
            if file.uri.startswith(self.uri + "/"):
                raise OutputError(
                    f"{self.uri}: the input file {file.uri} lies beneath output.path. "
                    "Give the output a folder of its own."
                )

    def job(self) -> dict[str, Any] | None:
        """Read job.json; None where no job has been."""
        return read_fingerprinted(
            self.storage,
            JOB_FILE,
            "the record of a job",
            "start over with --fresh (deletes these results)",
        )

    def write_job(self, document: dict[str, Any]) -> None:
        self.storage.write_bytes(JOB_FILE, _json(document))

    def inputs(self) -> dict[str, str]:
        """Read the versions of input files that agree with the committed rows.

        By URI; their prompts are known to be those of the rows.
        """
        data = self.storage.find_bytes(INPUTS_FILE)
        try:
            document = json.loads(data) if data else {}
        except ValueError:  # then everything is looked at once more
            document = {}
        return document if isinstance(document, dict) else {}

    def write_inputs(self, versions: dict[str, str]) -> None:
        if self.inputs() != versions:
            self.storage.write_bytes(INPUTS_FILE, _json(versions))

    def runs(self) -> list[RunRecord]:
        """Read the records of all runs, oldest first."""
        files = self.storage.list_files(RUNS_DIR, ".json")
        found = (self._run_record(file.rel) for file in files)
        return [record for record in found if record is not None]

    def last_run(self) -> RunRecord | None:
        """Read the newest record of a run; None without any."""
        files = self.storage.list_files(RUNS_DIR, ".json")
        if not files:
            return None
        record = self._run_record(files[-1].rel)
        return self.last_run() if record is None else record  # None: a newer one replaced it

    def _run_record(self, rel: str) -> RunRecord | None:
        """Read a record; None where another run has just taken it away."""
        data = self.storage.find_bytes(rel)
        if data is None:
            return None
        try:
            return parse_record(data)
        except ValueError as exc:
            raise OutputError(
                f"{self.storage.where(rel)}: not the record of a run (got {exc}). Something else "
                "changed it: put it back, or delete it (rows stay, this run's figures go)."
            ) from exc

    def write_run(self, record: RunRecord) -> None:
        self.storage.write_bytes(f"{RUNS_DIR}/{record.run}.json", _json(record.to_dict()))

    def forget_run(self, run: str) -> None:
        """Remove the traces of a run that made nothing."""
        self.storage.delete(f"{RUNS_DIR}/{run}.json")
        self.storage.delete(f"{RUNS_DIR}/{run}.log")

    def parts(self) -> list[str]:
        """The committed parts."""
        return [
            f.rel
            for f in self.storage.list_files(DATA_DIR, ".parquet")
            if f.rel.startswith(f"{DATA_DIR}/part-")
        ]

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Committed parts, these columns only, one part at a time."""
        for rel in self.parts():
            yield self.read_part(rel, columns)

    def read_part(self, rel: str, columns: list[str] | None) -> pa.Table:
        """Read one committed part.

        Columns that its version did not have yet are there, and null.
        """
        if columns is not None and not ADDED_LATER & set(columns):
            return self._read(rel, columns)
        have = self._open(rel, pq.read_schema).names
        wanted = None if columns is None else [name for name in columns if name in have]
        if columns is not None and set(columns) - set(have) - ADDED_LATER:
            wanted = columns  # and the reader says which is missing
        table = with_later_columns(self._read(rel, wanted))
        return table if columns is None else table.select(columns)

    def failed_tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows that failed, oldest part first.

        A row may have been done since, or have failed again.
        """
        for file in self.storage.list_files(FAILED_DIR, ".parquet"):
            yield self._read(file.rel, columns)

    def part_columns(self, rel: str) -> dict[str, pa.DataType]:
        """The columns of a committed part, from its footer."""
        schema = self._open(rel, pq.read_schema)
        schema = with_later_columns(schema.empty_table()).schema
        return dict(zip(schema.names, schema.types, strict=True))

    def stored_columns(self, rel: str) -> list[str]:
        """The columns that a part's file has, from its footer."""
        names: list[str] = self._open(rel, pq.read_schema).names
        return names

    def _read(self, rel: str, columns: list[str] | None) -> pa.Table:
        return self._open(rel, lambda file: pq.read_table(file, columns=columns))

    def _open(self, rel: str, read: Callable[[BinaryIO], Any]) -> Any:
        try:
            with self.storage.open_input(rel) as file:
                return read(file)
        except (pa.ArrowException, OSError) as exc:
            if (
                isinstance(exc, OSError) and exc.errno is not None
            ):  # Arrow gives no number when it cannot decode
                raise
            raise OutputError(
                f"{self.storage.where(rel)}: not a readable part "
                f"({str(exc).partition(chr(10))[0]}). "
                "batchr1 publishes whole files only, so something else changed it: delete it, and "
                "its rows run again."
            ) from exc

    def clear_staging(self) -> None:
        """Remove what earlier runs left half-done.

        Call with the lock just taken, before reading what is committed. A run that lost the lock
        has no way left to commit anything then.
        """
        if self.storage.fence is None:
            self.storage.delete_tree(STAGING_DIR)
        else:
            self.storage.void_others()
        self.storage.abort_uploads()

    def clear_inflight(self, run: str) -> None:
        """Remove checkpoints once all that `run` was asked for is committed.

        Only what it set aside stays.
        """
        aside = aside_name(run)
        left = [file.rel for file in self.storage.list_files(INFLIGHT_DIR)]
        if aside not in left:
            self.storage.delete_tree(INFLIGHT_DIR)
        else:
            for rel in left:
                if rel != aside:
                    self.storage.delete(rel)

    def begin(self) -> None:
        """Take _SUCCESS away: something is about to be added."""
        found = self.storage.find_file(SUCCESS)
        if found is not None:
            self.storage.delete(SUCCESS, found.version)

    def succeed(self, run: str, *, rows: int | None, samples: int) -> None:
        """Write _SUCCESS: all that was asked is there.

        `rows`: of the input; `samples`: done ones.
        """
        fence = self.storage.fence
        document = {
            "run": run,
            "epoch": None if fence is None else fence.epoch,
            "rows": rows,
            "samples": samples,
            **self._part_figures(),
        }
        self.storage.write_bytes(SUCCESS, _json(document))

    def success(self) -> dict[str, Any] | None:
        """Read what _SUCCESS says; empty of older versions, None without one."""
        data = self.storage.find_bytes(SUCCESS)
        if data is None:
            return None
        try:
            document = json.loads(data) if data else {}
        except ValueError:
            document = None
        return document if isinstance(document, dict) else {"parts": None}

    def is_complete(self) -> bool:
        """Tell whether _SUCCESS is there, and agrees with the parts."""
        document = self.success()
        if not document:
            return document is not None
        figures = self._part_figures()
        return {name: document.get(name) for name in figures} == figures

    def _part_figures(self) -> dict[str, int]:
        files = [
            file
            for file in self.storage.list_files(DATA_DIR, ".parquet")
            if file.rel.startswith(f"{DATA_DIR}/part-")
        ]
        return {"parts": len(files), "bytes": sum(file.size for file in files)}

    def commit_part(self, name: str) -> None:
        """Publish a staged part: from here on its rows are done."""
        self.storage.commit(f"{self.storage.staging}/{name}", f"{DATA_DIR}/{name}")

    def commit_failed(self, table: pa.Table, name: str) -> None:
        stage_part(self.storage, table, name)
        self.storage.commit(f"{self.storage.staging}/{name}", f"{FAILED_DIR}/{name}")

    def count_own(self) -> int:
        """Count the committed parts that `remove_own` would delete."""
        return len(self._own_parts())

    def remove_own(self) -> None:
        """`--fresh`: delete what runs recorded here made, and nothing else.

        Records of runs go after their parts, so that it may be repeated.
        """
        self.begin()
        self.storage.delete(REPORT_FILE)
        for rel in self._own_parts():
            self.storage.delete(rel)
        for folder in (FAILED_DIR, INFLIGHT_DIR, RUNS_DIR):
            self.storage.delete_tree(folder)
        for rel in (JOB_FILE, INPUTS_FILE):
            self._forget(rel)

    def refuse_others(self) -> None:
        """Raise `OutputError` for parts that `remove_own` left."""
        left = self.parts()
        if left:
            raise OutputError(
                f"{self.uri}: --fresh deleted its own results, but {left[0]} was not made "
                f"here. "
                f"Move it away first."
            )

    def _forget(self, rel: str) -> None:
        """Delete a file whose name a later owner may use.

        On S3 a request that comes late would delete the later one. So it is emptied there.
        """
        if self.storage.kind == "s3" and self.storage.fence is not None:
            if self.storage.exists(rel):
                self.storage.write_bytes(rel, b"")
        else:
            self.storage.delete(rel)

    def _own_parts(self) -> list[str]:
        runs = {
            f.rel.rpartition("/")[2].removesuffix(".json")
            for f in self.storage.list_files(RUNS_DIR, ".json")
        }
        own = []
        for rel in self.parts():
            match = _PART.match(rel.removeprefix(f"{DATA_DIR}/"))
            if match and match["run"] in runs:
                own.append(rel)
        return own


def refuse_place(folder: Path) -> None:
    """Raise `OutputError` when a local folder cannot be made or written.

    It looks, and writes nothing.
    """
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise OutputError(
            f"{folder}: cannot be a folder (got a file at {place}). Give another path."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder}: cannot be written to (got no permission, or read-only: {place}). Give "
            f"another path."
        )


def stage_part(storage: Storage, table: pa.Table, name: str) -> None:
    """Write a part on local disk and put it, whole, into staging.

    `commit_part` finds it there. Safe to call in a worker.
    """
    local = storage.scratch_dir() / f"{name}.tmp"
    try:
        with mapped(str(local)), data_errors(name, table):  # neither is the engine's fault
            write_parquet(table, local)
        fault_point("stage.written")
        storage.stage_file(local, f"{storage.staging}/{name}")
        fault_point("stage.staged")
    finally:
        local.unlink(missing_ok=True)


def part_name(run: str, worker: int, epoch: int, number: int) -> str:
    """Name a part, unique over runs, workers, restarts and parts."""
    return f"part-{run}-{worker}-{epoch}-{number:05d}.parquet"


def _glob_matches(pattern: str, path: str) -> bool:
    """Tell whether a glob would find a path.

    `*` stays within a folder, `**` spans any number of them.
    """
    if not re.search(r"[*?\[]", pattern):
        return False
    want, have = pattern.split("/"), path.split("/")
    if "**" in want:
        return all(
            fnmatch(h, w) for h, w in zip(have, want[: want.index("**")], strict=False)
        ) and fnmatch(have[-1], want[-1])
    return len(want) == len(have) and all(fnmatch(h, w) for h, w in zip(have, want, strict=True))


def _json(document: dict[str, Any]) -> bytes:
    """Encode a document with a line for each value.

    A whole list of numbers takes one line.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, default=str)
    return (
        re.sub(r"(?<=: \[)\s+[-+\d.e,\s]+(?=\],?\n)", lambda m: " ".join(m[0].split()), text) + "\n"
    ).encode()
