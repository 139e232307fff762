"""Destinations of a fetched model: the hub's cache, or a folder.

Both take files one by one, each of them whole and verified. They become a model with the last step
alone. A fetch that was killed leaves nothing that a run would take for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from batchr1.errors import ModelError, OutputError
from batchr1.models.files import CONFIG, ModelFile
from batchr1.models.hub import Repository
from batchr1.storage.errors import mapped
from batchr1.storage.files import fsync_folder, make_folder, write_file

RECORD = ".batchr1/fetch.json"


class Place(ABC):
    """Destination of one repository at one commit.

    Errors of the disk are `StorageError`s.
    """

    folder: Path
    """Where the model is when it is published."""
    elsewhere: str
    """What to do when this disk is too small."""

    @abstractmethod
    def find(self, file: ModelFile) -> Path | None:
        """Return the path of a file that has its right size."""

    @abstractmethod
    def partial(self, file: ModelFile) -> Path:
        """Return the path to build a file at, on its destination's disk."""

    @abstractmethod
    def keep(self, file: ModelFile) -> None:
        """Give a verified partial its final name, durably."""

    @abstractmethod
    def drop(self, file: ModelFile) -> None:
        """Remove a damaged file."""

    @abstractmethod
    def publish(self, files: Sequence[ModelFile], revision: str | None) -> None:
        """Make a model of the files, all of which are there."""

    @property
    @abstractmethod
    def lock_path(self) -> Path:
        """Path of the lock that a fetch holds."""

    def free_bytes(self) -> int:
        """Return the free bytes of the disk below it."""
        path = self.folder
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    @contextlib.contextmanager
    def locked(self, say: Any) -> Iterator[None]:
        """Hold the lock; wait for another fetch.

        That fetch may well do the work. The lock goes with its process.
        """
        with mapped(str(self.lock_path)):
            make_folder(self.lock_path.parent)
            file = self.lock_path.open("ab")
        with file:
            with mapped(str(self.lock_path)):
                self._lock(file, say)
            yield

    def _lock(self, file: BinaryIO, say: Any) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{self.folder}: another fetch is under way there, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except (
            OSError
        ) as exc:  # without locks, two at once would write the same bytes to the same places
            if exc.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise


class HubCache(Place):
    """Cache of huggingface_hub (HF_HOME, HF_HUB_CACHE), in its documented layout.

    blobs, snapshots, refs.
    """

    elsewhere = "set HF_HOME to another disk"

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._root = cache_root(repository.repo)
        self.folder = self._root / "snapshots" / repository.commit

    @property
    def lock_path(self) -> Path:
        return (
            self._root.parent / ".locks" / self._root.name / "batchr1-fetch.lock"
        )  # where its own locks are

    def _blob(self, file: ModelFile) -> Path:
        return (
            self._root
            / "blobs"
            / (file.checksum or f"{self._repository.commit[:12]}-{file.rel.replace('/', '--')}")
        )

    def find(self, file: ModelFile) -> Path | None:
        return next(
            (
                path
                for path in (self.folder / file.rel, self._blob(file))
                if size_of(path) == file.size
            ),
            None,
        )

    def partial(self, file: ModelFile) -> Path:
        blob = self._blob(file)
        return blob.with_name(
            f"{blob.name}.batchr1.incomplete"
        )  # no name that huggingface_hub writes to

    def keep(self, file: ModelFile) -> None:
        move(self.partial(file), self._blob(file))

    def drop(self, file: ModelFile) -> None:
        for path in (self.folder / file.rel, self._blob(file)):
            path.unlink(missing_ok=True)

    def publish(self, files: Sequence[ModelFile], revision: str | None) -> None:
        with mapped(str(self.folder)):
            for file in sorted(files, key=lambda file: file.rel == CONFIG):
                self._point(self.folder / file.rel, self._blob(file), file.size)
            fsync_folder(self.folder)
            name = revision or "main"
            if name != self._repository.commit:
                write_file(self._root / "refs" / name, self._repository.commit.encode())
            write_file(
                record_path(self._repository.repo, f"{self._repository.commit}.json"),
                as_record(self._repository, files),
            )

    def _point(self, pointer: Path, blob: Path, size: int) -> None:
        if size_of(pointer) == size:
            return
        pointer.unlink(missing_ok=True)  # a link into nothing
        make_folder(pointer.parent)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links: huggingface_hub moves the blob there, too
            blob.replace(pointer)


class Folder(Place):
    """Plain folder, for `model.path` of a job.

    `.batchr1/` in it holds what is unfinished and the record of what was fetched.
    """

    elsewhere = "give another folder"

    def __init__(self, repository: Repository, folder: Path) -> None:
        self._repository, self.folder = repository, folder

    @property
    def lock_path(self) -> Path:
        return self.folder / ".batchr1/lock"

    def check(self) -> None:
        """Raise `OutputError` for a folder that holds something else. Writes nothing."""
        from batchr1.output.folder import refuse_place

        refuse_place(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder}: a file, not a folder. Give a new or empty folder.")
        record = read_record(self.folder / RECORD)
        others = (
            []
            if record or not self.folder.is_dir()
            else sorted(p.name for p in self.folder.iterdir())
        )
        refuse_another(
            str(self.folder), record, self._repository, [] if others == [".batchr1"] else others
        )

    def claim(self) -> None:
        """Write down whose folder this is to be."""
        with mapped(str(self.folder)):
            if read_record(self.folder / RECORD) is None:
                write_file(self.folder / RECORD, as_record(self._repository, ()))

    def find(self, file: ModelFile) -> Path | None:
        path = self.folder / file.rel
        return path if size_of(path) == file.size else None

    def partial(self, file: ModelFile) -> Path:
        return self.folder / ".batchr1/partial" / file.rel

    def keep(self, file: ModelFile) -> None:
        if file.rel != CONFIG:  # with it, the folder would be a model
            move(self.partial(file), self.folder / file.rel)

    def drop(self, file: ModelFile) -> None:
        (self.folder / file.rel).unlink(missing_ok=True)

    def publish(self, files: Sequence[ModelFile], revision: str | None) -> None:
        with mapped(str(self.folder)):
            write_file(self.folder / RECORD, as_record(self._repository, files))
            for file in files:
                if file.rel == CONFIG and self.find(file) is None:
                    move(self.partial(file), self.folder / CONFIG)
            shutil.rmtree(self.folder / ".batchr1/partial", ignore_errors=True)


def cache_root(repo: str) -> Path:
    """Return a repository's folder in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    except HFValidationError as exc:
        raise ModelError(
            f"model {repo}: not the name of a repository (need owner/name). Correct it."
        ) from exc


def own_cache() -> Path:
    """Return batchr1's own cache beside the hub's, below HF_HOME.

    It holds records of fetches, and models from S3.
    """
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "batchr1"


def record_path(repo: str, name: str) -> Path:
    """Return the path of a record about a repository.

    Not in the hub's cache, whose own tools know what belongs there.
    """
    return own_cache() / "fetched" / repo.replace("/", "--") / name


def read_record(path: Path) -> dict[str, Any] | None:
    """Read the record of an earlier fetch; None without one.

    It holds repo, commit and files. No files: that fetch is not finished.
    """
    try:
        return parse_record(path.read_bytes())
    except OSError:
        return None


def parse_record(data: bytes) -> dict[str, Any] | None:
    """Parse a record; None where this version cannot read it."""
    try:
        record: dict[str, Any] = json.loads(data)
        recorded(record)
    except (ValueError, TypeError, KeyError):
        return None
    return record


def recorded(record: dict[str, Any]) -> Repository:
    """Return the repository of a record, as far as it was fetched."""
    return Repository(
        record["repo"], record["commit"], tuple(ModelFile(**file) for file in record["files"])
    )


def refuse_another(
    where: str, record: dict[str, Any] | None, wanted: Repository, others: Sequence[str]
) -> None:
    """Raise `OutputError` for a place that holds another model.

    `others`: files there that no fetch brought; they are refused as well.
    """
    if record is not None and (record["repo"], record["commit"]) != (wanted.repo, wanted.commit):
        raise OutputError(
            f"{where}: another model is there (got {record['repo']} at {record['commit'][:12]}, "
            f"need {wanted.repo} at {wanted.commit[:12]}). Give a folder of its own."
        )
    if others:
        raise OutputError(
            f"{where}: the folder is not empty and was not fetched (it holds {others[0]}). Give a "
            "new or empty folder."
        )


def as_record(repository: Repository, files: Sequence[ModelFile]) -> bytes:
    """Serialise a record; `files` stays empty until all of them are there."""
    document = {
        "repo": repository.repo,
        "commit": repository.commit,
        "files": [file.to_dict() for file in files],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def size_of(path: Path) -> int | None:
    """Return a file's size in bytes; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def move(partial: Path, final: Path) -> None:
    """Give a partial its final name, durably."""
    with mapped(str(final)):
        make_folder(final.parent)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(final)
        fsync_folder(final.parent)
