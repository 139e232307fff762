"""The folder that an export becomes: built aside, then there, whole; and never in the place of something else.

Disk: everything is written to a hidden folder beside DEST and renamed. S3 has no rename: files go
up one by one, the card last, and until then the record of the export says that it is unfinished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchr1.errors import OutputError, StorageError, UsageError
from batchr1.faults import fault_point
from batchr1.output.folder import refuse_place
from batchr1.storage.base import CONTROL_DIR, Storage
from batchr1.storage.local import fsync_folder, make_folder

RECORD = f"{CONTROL_DIR}/export.json"
CARD = "README.md"


class Destination:
    """DEST of an export. Use `staging()` to build it, then `publish`."""

    def __init__(self, storage: Storage, *, overwrite: bool) -> None:
        self.storage = storage
        self._overwrite = overwrite
        self._replaces: list[str] = []

    def check(self, output_uri: str) -> None:
        """Raise `OutputError` or `UsageError` for a place that an export may not take.

        Writes nothing.
        """
        uri = self.storage.uri
        for suffix in (".parquet", ".jsonl", ".json"):
            if uri.endswith(suffix):
                raise UsageError(
                    f"{uri}: DEST is a folder, of files, a card and splits (got the name of a "
                    f"file). "
                    f"Write {uri.removesuffix(suffix)}, and --format parquet or jsonl."
                )
        if f"{uri}/".startswith(f"{output_uri}/") or f"{output_uri}/".startswith(f"{uri}/"):
            raise UsageError(
                f"{uri}: DEST and the output {output_uri} lie within each other. Give the "
                f"export "
                f"a folder of its own."
            )
        if self.storage.kind == "local":
            refuse_place(Path(uri))
        files = [info.rel for info in self.storage.list_files(recursive=True)]
        if not files:
            return
        record = self._record()
        if record is None:
            raise OutputError(
                f"{uri}: the folder is not empty and not an export of batchr1 (it holds "
                f"{files[0]}). "
                "Give a new or empty folder."
            )
        if not self._overwrite:
            what = (
                "an export that was not finished"
                if record.get("unfinished")
                else "an earlier export"
            )
            raise OutputError(f"{uri}: {what} is there. Give another folder, or add --overwrite.")
        foreign = [rel for rel in files if rel not in {*record["files"], RECORD}]
        if foreign:
            raise OutputError(
                f"{uri}: --overwrite would delete {foreign[0]}, which is not of the export. "
                f"Move "
                f"it away first."
            )
        card = self.storage.find_bytes(CARD)
        if card is not None and not record.get("unfinished") and _digest(card) != record["card"]:
            raise OutputError(
                f"{uri}: --overwrite would delete {CARD}, which was edited since the export. "
                f"Move "
                f"it away first."
            )
        self._replaces = files

    def _record(self) -> dict[str, Any] | None:
        data = self.storage.find_bytes(RECORD)
        try:
            record = json.loads(data) if data is not None else None
        except ValueError:
            return None
        return record if isinstance(record, dict) and {"files", "card"} <= record.keys() else None

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A local folder to build the export in; gone afterwards."""
        if self.storage.kind == "local":
            place = Path(self.storage.uri)
            try:
                make_folder(place.parent)
                folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}.export")
                folder.mkdir()
            except OSError as exc:
                raise OutputError(
                    f"{place}: cannot be written ({exc.strerror}). Give another path."
                ) from exc
        else:
            folder = Path(tempfile.mkdtemp(prefix="batchr1-export-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, record: dict[str, Any]) -> None:
        """Make the staged folder DEST, with `record` of how it came about."""
        files = sorted(
            str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file()
        )
        card = (staged / CARD).read_bytes()
        (staged / RECORD).parent.mkdir()
        whole = {**record, "files": files, "card": _digest(card)}
        (staged / RECORD).write_text(
            json.dumps(whole, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8"
        )
        if self.storage.kind == "local":
            self._rename(staged)
            return
        before = {
            "files": sorted({*files, *self._replaces} - {RECORD}),
            "card": whole["card"],
            "unfinished": True,
        }
        self.storage.write_bytes(RECORD, json.dumps(before).encode())
        for rel in self._replaces:
            if rel != RECORD:
                self.storage.delete(rel)
        for rel in [*sorted(files, key=lambda rel: (rel == CARD, rel)), RECORD]:
            self.storage.stage_file(staged / rel, rel)

    def _rename(self, staged: Path) -> None:
        place = Path(self.storage.uri)
        try:
            for path in staged.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                else:
                    fsync_folder(path)
            fsync_folder(staged)
            fault_point("export.staged")
            old = staged.with_suffix(".old")
            if self._replaces:
                place.rename(old)
                fault_point("export.moved")
            try:
                staged.rename(place)  # an empty folder may be there
            except OSError:
                if self._replaces:
                    old.rename(place)
                raise
            fsync_folder(place.parent)
        except OSError as exc:
            raise StorageError(
                f"{place}: cannot be published (got {exc.strerror}). Nothing was changed; run "
                f"the "
                f"same command again."
            ) from exc
        shutil.rmtree(old, ignore_errors=True)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
