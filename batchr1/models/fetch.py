"""Fetching a repository's weights before a run needs them: `batchr1 fetch`.

ask the hub once (which commit, which files) ─▶ what is cached? ─▶ enough disk? ─▶ the rest, four
files at a time, each verified ─▶ published, as a whole

huggingface_hub resolves names, lists files and speaks to the hub. It does not move the bytes,
because `snapshot_download` (2.4.0) breaks promises of this command.
tests/system/test_fetch_library.py shows each:

- A download that is killed begins again, and its bytes stay on the disk for ever.
- A line that is cut costs what came since the last 10 MiB.
- A damaged file of the right size is taken: sizes are checked, checksums are not.
- A store that answers 500 once ends it, and the message shows a signed address.
- A plain folder has its config.json before its weights, so a killed one looks like a model.
- A snapshot without README.md counts as incomplete offline.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchr1.errors import InterruptedRun, ModelError
from batchr1.models import hub
from batchr1.models.bucket import Bucket, download_to_cache, is_cached, look_up, open_bucket
from batchr1.models.cached import recorded_repository
from batchr1.models.download import check_index, download
from batchr1.models.files import INDEX, ModelFile, needed
from batchr1.models.places import Folder, HubCache, Place
from batchr1.models.progress import Meter
from batchr1.models.transfer import ReadFrom
from batchr1.storage.errors import AGAIN, mapped


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of waiting for a hub.

    A try ends when no byte came for `stall_s`. The fetch ends after `tries` in a row without a
    byte.
    """

    stall_s: float = 30.0
    tries: int = hub.TRIES


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of a fetch.

    Sizes in bytes. `fetched` came over the network; the rest was cached before.
    """

    repo: str
    commit: str
    folder: str
    num_files: int
    size: int
    fetched: int
    seconds: float
    verified: bool  # every file's checksum was computed in this call, not only those that came
    offline: bool
    copied: int | None = None  # to S3, where that was asked for

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "repo": self.repo,
            "commit": self.commit,
            "folder": self.folder,
            "files": self.num_files,
            "bytes": self.size,
            "fetched_bytes": self.fetched,
            "seconds": round(self.seconds, 1),
            "verified": self.verified,
            "offline": self.offline,
            "copied_bytes": self.copied,
        }


def fetch(
    repo: str,
    revision: str | None = None,
    *,
    to: str | None = None,
    verify: bool = False,
    patience: Patience = PATIENCE,
) -> Fetched:
    """Fetch the files that a run needs of a repository.

    They go into the hub's cache, or into the folder `to`, or through the cache to s3://….

    `revision`: a branch, tag or commit; None is the main branch. `verify`: read cached files again,
    too, and fetch damaged ones anew.

    Raises `ModelError` (nothing to be had), `HubError` and `InterruptedRun` (run it again),
    `FailedError` (what comes is damaged each time), `StorageError` (the disk).
    """
    began = time.monotonic()
    with _stoppable(hub.where_of(repo, revision)):
        if to is not None and "://" in to:
            open_bucket(to)  # before gigabytes come that cannot go there
            fetched = _fetch(repo, revision, None, verify, patience)
            fetched = _copy_to_bucket(fetched, to)
        else:
            folder = Path(to).expanduser().absolute() if to is not None else None
            fetched = _fetch(repo, revision, folder, verify, patience)
    return replace(fetched, seconds=time.monotonic() - began)


def _fetch(
    repo: str, revision: str | None, to: Path | None, verify: bool, patience: Patience
) -> Fetched:
    offline = hub.is_offline()
    if offline:
        repository = recorded_repository(repo, revision, to)
    else:
        repository = hub.open_repository(repo, revision, tries=patience.tries)
    where = hub.where_of(repo, repository.commit[:12])
    files = needed(repository.files, where)
    place: Place = HubCache(repository)
    if to is not None:
        place = Folder(repository, to)
        place.check()
        place.claim()
    size = sum(file.size for file in files)
    meter = Meter(size)
    with place.locked(meter.say):
        missing = _missing(files, place, where, meter, verify=verify, offline=offline)
        if offline and missing and to is None:
            raise ModelError(
                f"{where}: not all of it is in the cache, and HF_HUB_OFFLINE is set (got "
                f"{len(files) - len(missing)} of {len(files)} files). Unset it, and run the same "
                "command again."
            )

        def read_from(file: ModelFile) -> ReadFrom:
            return functools.partial(
                hub.body, repo, repository.commit, file.rel, stall_s=patience.stall_s
            )

        copy_of = HubCache(repository).find if to is not None else lambda file: None
        try:
            index = [
                file for file in missing if file.rel == INDEX
            ]  # first: it may tell that the rest is for nothing
            for some in (index, [file for file in missing if file.rel != INDEX]):
                download(
                    some, place, read_from, meter, where, tries=patience.tries, copy_of=copy_of
                )
                check_index(files, place, where)
            place.publish(files, revision)
        finally:
            meter.close()
    return Fetched(
        repo,
        repository.commit,
        str(place.folder),
        len(files),
        size,
        meter.fetched,
        0.0,
        verify,
        offline,
    )


def _copy_to_bucket(fetched: Fetched, to: str) -> Fetched:
    bucket = Bucket(to, repository := recorded_repository(fetched.repo, fetched.commit))
    bucket.check()
    return replace(
        fetched, folder=bucket.uri, copied=bucket.copy(repository.files, Path(fetched.folder))
    )


def fetch_bucket(uri: str) -> Fetched:
    """Download a model on S3 to this machine, as a run would.

    Raises as `download_to_cache` does, and `InterruptedRun`.
    """
    began = time.monotonic()
    with _stoppable(f"model {uri}"):
        model = look_up(uri)
        before = is_cached(model.digest)
        folder = download_to_cache(uri, digest=model.digest)
    size = sum(file.size for file in model.files)
    seconds = time.monotonic() - began
    return Fetched(
        uri,
        model.digest,
        str(folder),
        len(model.files),
        size,
        0 if before else size,
        seconds,
        verified=False,
        offline=False,
    )


def _missing(
    files: Sequence[ModelFile],
    place: Place,
    where: str,
    meter: Meter,
    *,
    verify: bool,
    offline: bool,
) -> list[ModelFile]:
    """List the files that have to come.

    With `verify`, damaged ones are among them.
    """
    missing = []
    for file in files:
        path = place.find(file)
        if path is not None and verify and file.checksum:
            with mapped(str(path)):
                got = file.checksum_of(path, lambda count: meter.tick())
                if got != file.checksum:
                    checksums = f"got checksum {got[:12]}…, need {file.checksum[:12]}…"
                    what = f"{where}: {file.rel}: damaged on disk ({checksums})"
                    if offline:
                        raise ModelError(
                            f"{what}. Unset HF_HUB_OFFLINE, and run the same command again."
                        )
                    meter.say(f"{what}, fetched again")
                    place.drop(file)
                    path = None
        if path is None:
            missing.append(file)
        else:
            meter.kept(file.size)
    return missing


@contextlib.contextmanager
def _stoppable(where: str) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `InterruptedRun`."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        yield
    except KeyboardInterrupt as exc:
        raise InterruptedRun(f"{where}: stopped by a signal. {AGAIN}.") from exc
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
