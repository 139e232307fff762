"""Models on S3: downloaded once by content, uploaded by `batchr1 fetch --to`.

A model in a bucket is identified by its files: names, sizes, and the checksums that a fetch
recorded beside them, else their ETags. A run passes this digest to its workers, so that all load
the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from batchr1.errors import ModelError, StorageError, UsageError
from batchr1.models.download import check_index, download, side_by_side
from batchr1.models.files import CONFIG, ModelFile, needed
from batchr1.models.hub import Repository
from batchr1.models.places import (
    RECORD,
    Place,
    as_record,
    move,
    own_cache,
    parse_record,
    recorded,
    refuse_another,
    size_of,
)
from batchr1.models.progress import Meter
from batchr1.models.transfer import ReadFrom
from batchr1.storage.base import FileInfo, Storage, StorageOptions, open_storage
from batchr1.storage.errors import mapped
from batchr1.storage.files import fsync_folder, make_folder
from batchr1.storage.s3 import S3Storage

READ_BYTES = 8 * 2**20


def is_bucket(path: str) -> bool:
    """Return True for a `model.path` in a bucket."""
    return path.startswith(("s3://", "s3a://"))


@dataclass(frozen=True, slots=True)
class BucketModel:
    """Model on S3 as it is now.

    `digest` (40 hexadecimal digits) changes when it does.
    """

    storage: Storage
    files: tuple[ModelFile, ...]
    digest: str


def look_up(uri: str, options: StorageOptions | None = None) -> BucketModel:
    """List a model on S3.

    Raises `ModelError` where there is none that can be loaded, or it cannot be read.
    """
    storage = open_storage(uri, options)
    try:
        listed = storage.list_files()
        record = parse_record(storage.find_bytes(RECORD) or b"")
    except StorageError as exc:
        raise ModelError(f"model.path: {exc}") from exc.__cause__
    if not listed:
        raise ModelError(
            f"model.path: {storage.uri}: no such folder, or nothing in it. Correct it."
        )
    known = {file.rel: file for file in recorded(record).files} if record else {}
    files = needed([_as_listed(info, known) for info in listed], f"model.path: {storage.uri}")
    versions = {info.rel: info.version for info in listed}
    identity = sorted((file.rel, file.size, file.checksum or versions[file.rel]) for file in files)
    return BucketModel(
        storage, tuple(files), hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]
    )


def _as_listed(info: FileInfo, known: dict[str, ModelFile]) -> ModelFile:
    file = known.get(info.rel)
    return file if file is not None and file.size == info.size else ModelFile(info.rel, info.size)


def download_to_cache(
    uri: str,
    options: StorageOptions | None = None,
    *,
    digest: str | None = None,
    weights: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Download a model on S3, unless this machine has it cached.

    Returns its folder. `digest`: the model's when the run began. Without `weights`, config and
    tokenizer alone. `say` takes progress lines; without it, stderr does. Raises `ModelError` when
    the model has changed, `StorageError` for disk and bucket.
    """
    for ready in (_folder(digest, True), _folder(digest, weights)) if digest is not None else ():
        if ready.is_dir():
            return ready
    model = look_up(uri, options)
    if digest is not None and model.digest != digest:
        raise ModelError(
            f"model.path: {uri}: the files were replaced since the run began. Run the same command "
            "again."
        )
    files = [file for file in model.files if weights or not file.rel.endswith(".safetensors")]
    place = _Own(_folder(model.digest, weights))
    if place.folder.is_dir():
        return place.folder
    meter = Meter(sum(file.size for file in files), say)
    with place.locked(meter.say):
        missing = [file for file in files if place.find(file) is None]
        meter.kept(sum(file.size for file in files) - sum(file.size for file in missing))
        try:
            download(
                missing, place, lambda file: _reader(model.storage, file.rel), meter, uri, tries=1
            )
            check_index(model.files, place, f"model.path: {uri}")
        finally:
            meter.close()
        if look_up(uri, options).digest != model.digest:
            raise StorageError(
                f"{uri}: the files were replaced while they were read. Run the same command again."
            )
        place.publish(files, None)
    return place.folder


def is_cached(digest: str) -> bool:
    """Return True where the whole model of this digest is cached."""
    return _folder(digest, True).is_dir()


def _folder(digest: str, weights: bool) -> Path:
    return own_cache() / "models" / (digest if weights else f"{digest}-config")


def _reader(storage: Storage, rel: str) -> ReadFrom:
    @contextlib.contextmanager
    def read_from(offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        with storage.open_input(rel) as file:
            file.seek(offset)
            yield offset, iter(lambda: file.read(READ_BYTES), b"")

    return read_from


class _Own(Place):
    """Folder of batchr1's own cache.

    It is built under another name, and renamed when it is whole.
    """

    elsewhere = "set HF_HOME to another disk"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._building = folder.with_name(f"{folder.name}.unfinished")

    @property
    def lock_path(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    def find(self, file: ModelFile) -> Path | None:
        folders = (self.folder, self._building)
        return next(
            (folder / file.rel for folder in folders if size_of(folder / file.rel) == file.size),
            None,
        )

    def partial(self, file: ModelFile) -> Path:
        return self._building / ".partial" / file.rel

    def keep(self, file: ModelFile) -> None:
        move(self.partial(file), self._building / file.rel)

    def drop(self, file: ModelFile) -> None:
        (self._building / file.rel).unlink(missing_ok=True)

    def publish(self, files: Sequence[ModelFile], revision: str | None) -> None:
        with mapped(str(self.folder)):
            shutil.rmtree(self._building / ".partial", ignore_errors=True)
            if not self.folder.exists():
                make_folder(self.folder.parent)
                self._building.rename(self.folder)
                fsync_folder(self.folder.parent)


def open_bucket(uri: str) -> S3Storage:
    """Open a prefix on S3. Raises `UsageError` for anything else."""
    storage = open_storage(uri)
    if storage.kind != "s3":
        raise UsageError(f"--to: neither a folder nor s3:// (got {uri!r}). Correct it.")
    return cast("S3Storage", storage)


class Bucket:
    """Prefix on S3 for a fetched model.

    config.json goes last, so that it is a model only then.
    """

    def __init__(self, uri: str, repository: Repository) -> None:
        self._storage, self._repository = open_bucket(uri), repository
        self.uri = self._storage.uri

    def check(self) -> None:
        """Raise `OutputError` for a prefix that holds something else, or is read-only."""
        self._storage.check_writable()
        record = parse_record(self._storage.find_bytes(RECORD) or b"")
        others = [] if record else [info.rel for info in self._storage.list_files(recursive=True)]
        refuse_another(self.uri, record, self._repository, others)
        self._storage.write_bytes(RECORD, as_record(self._repository, ()))

    def copy(self, files: Sequence[ModelFile], folder: Path) -> int:
        """Upload the model from `folder`, but for what is there already.

        Returns the number of bytes uploaded.
        """
        *most, config = sorted(files, key=lambda file: file.rel == CONFIG)
        meter, copied = Meter(sum(file.size for file in files)), 0
        counting = threading.Lock()

        def one(file: ModelFile) -> None:
            nonlocal copied
            there = self._storage.find_file(file.rel)
            if there is None or there.size != file.size:
                self._storage.upload_file(folder / file.rel, file.rel)
                with counting:
                    copied += file.size
            meter.kept(file.size)

        try:
            side_by_side(most, one, meter, threading.Event())
            self._storage.write_bytes(RECORD, as_record(self._repository, files))
            one(config)
        finally:
            meter.close()
        return copied
