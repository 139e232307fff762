"""Publishing an export: a folder that appears whole.

Disk: everything is written to a hidden folder beside DEST and renamed. S3 has no rename: files are
uploaded one by one, the card last. Until then the export's record says that it is unfinished.
A foreign file is never replaced.
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
from batchr1.storage.files import fsync_folder, make_folder

RECORD = f"{CONTROL_DIR}/export.json"
CARD = "README.md"


class Destination:
    """DEST of an export: build it in `staging()`, then `publish` it."""

    def __init__(self, storage: Storage, *, overwrite: bool) -> None:
        self.storage = storage
        self._overwrite = overwrite
        self._replaces: list[str] = []

    def check(self, output_uri: str) -> None:
        """Refuse a place that an export may not take; writes nothing.

        Raises `OutputError` or `UsageError`.
        """
        uri = self.storage.uri
        for suffix in (".parquet", ".jsonl", ".json"):
            if uri.endswith(suffix):
                raise UsageError(
                    f"{uri}: DEST is a folder, of files, a card and splits (got the name of a "
                    f"file). Write {uri.removesuffix(suffix)}, and --format parquet or jsonl."
                )
        if f"{uri}/".startswith(f"{output_uri}/") or f"{output_uri}/".startswith(f"{uri}/"):
            raise UsageError(
                f"{uri}: DEST and the output {output_uri} lie within each other. "
                "Give the export a folder of its own."
            )
        if self.storage.kind == "local":
            refuse_place(Path(uri))
        files = [info.rel for info in self.storage.list_files(recursive=True)]
        if not files:
            return
        record = self._record()
        if record is None:
            raise OutputError(
                f"{uri}: the folder is not empty and not an export of batchr1 "
                f"(it holds {files[0]}). Give a new or empty folder."
            )
        if not self._overwrite:
            what = "an earlier export"
            if record.get("unfinished"):
                what = "an export that was not finished"
            raise OutputError(f"{uri}: {what} is there. Give another folder, or add --overwrite.")
        foreign = [rel for rel in files if rel not in {*record["files"], RECORD}]
        if foreign:
            raise OutputError(
                f"{uri}: --overwrite would delete {foreign[0]}, which is not of the export. "
                "Move it away first."
            )
        card = self.storage.find_bytes(CARD)
        if card is not None and not record.get("unfinished") and _digest(card) != record["card"]:
            raise OutputError(
                f"{uri}: --overwrite would delete {CARD}, which was edited since the export. "
                "Move it away first."
            )
        self._replaces = files

    def _record(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.storage.find_bytes(RECORD) or b"null")
        except ValueError:
            return None
        if isinstance(record, dict) and {"files", "card"} <= record.keys():
            return record
        return None

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Open a local folder to build the export in, for a while."""
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
        """Turn the staged folder into DEST, with the export's `record`."""
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
                f"{place}: cannot be published (got {exc.strerror}). Nothing was changed; "
                "run the same command again."
            ) from exc
        shutil.rmtree(old, ignore_errors=True)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
