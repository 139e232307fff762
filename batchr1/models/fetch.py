"""`batchr1 fetch`, without the command line: a repository's weights, brought here before a run wants them.

ask the hub once (which commit, which files) ─▶ what is here? ─▶ enough disk? ─▶ the rest, four files at a time, each
of them verified ─▶ published, as a whole
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchr1.data.storage_errors import AGAIN, mapped
from batchr1.errors import InterruptedRun, ModelError, StorageError
from batchr1.models import hub
from batchr1.models.files import ModelFile, needed, size_text
from batchr1.models.here import recorded_repository
from batchr1.models.places import Folder, HubCache, Place
from batchr1.models.progress import Meter
from batchr1.models.transfer import Transfer

AT_ONCE = 4
TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """With a hub: a try ends when no byte came for `stall_s`, and all of it after `tries` in a row without a byte."""

    stall_s: float = 30.0
    tries: int = hub.TRIES


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is here now. Sizes in bytes; `fetched` came over the network, the rest was here before."""

    repo: str
    commit: str
    folder: Path
    num_files: int
    size: int
    fetched: int
    seconds: float
    verified: bool  # every file's checksum was computed in this call, not only those that came
    offline: bool

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "repo": self.repo, "commit": self.commit, "folder": str(self.folder), "files": self.num_files,
            "bytes": self.size, "fetched_bytes": self.fetched, "seconds": round(self.seconds, 1),
            "verified": self.verified, "offline": self.offline,
        }  # fmt: skip


def fetch(
    repo: str,
    revision: str | None = None,
    *,
    to: Path | None = None,
    verify: bool = False,
    patience: Patience = PATIENCE,
) -> Fetched:
    """Bring what a run needs of a repository into the hub's cache, or into the folder `to`.

    `revision`: a branch, tag or commit; None is the main branch. `verify`: read again what is here already, too, and
    fetch anew what is damaged.

    Raises `ModelError` (nothing to be had), `HubError` and `InterruptedRun` (run it again), `FailedError` (what comes
    is damaged, again and again), `StorageError` (the disk).
    """
    began = time.monotonic()
    with _stoppable(hub.where_of(repo, revision)):
        fetched = _fetch(repo, revision, to, verify, patience)
    return replace(fetched, seconds=time.monotonic() - began)


def _fetch(repo: str, revision: str | None, to: Path | None, verify: bool, patience: Patience) -> Fetched:
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
                f"{len(files) - len(missing)} of {len(files)} files). Unset it, and run the same command again."
            )
        _refuse_full_disk(place, missing)
        try:
            _bring(repository, place, missing, meter, where, patience)
            place.publish(files, revision)
        finally:
            meter.close()
    return Fetched(repo, repository.commit, place.folder, len(files), size, meter.fetched, 0.0, verify, offline)


def _missing(
    files: Sequence[ModelFile], place: Place, where: str, meter: Meter, *, verify: bool, offline: bool
) -> list[ModelFile]:
    """The files that have to come. With `verify`, damaged ones are among them."""
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
                        raise ModelError(f"{what}. Unset HF_HUB_OFFLINE, and run the same command again.")
                    meter.say(f"{what}, fetched again")
                    place.drop(file)
                    path = None
        if path is None:
            missing.append(file)
        else:
            meter.kept(file.size)
    return missing


def _refuse_full_disk(place: Place, missing: Sequence[ModelFile]) -> None:
    with mapped(str(place.folder)):
        here = sum(min(path.stat().st_size, file.size) for file in missing if (path := place.partial(file)).exists())
        need, have = sum(file.size for file in missing) - here, place.free_bytes()
    if need > have:
        elsewhere = "give another folder" if isinstance(place, Folder) else "set HF_HOME to another disk"
        raise StorageError(
            f"{place.folder}: not enough space (got {size_text(have)} free, need {size_text(need)} more). "
            f"Free some, or {elsewhere}."
        )


def _bring(
    repository: hub.Repository, place: Place, missing: Sequence[ModelFile], meter: Meter, where: str, patience: Patience
) -> None:
    """All of `missing`, or the first error; what came stays."""
    stopping = threading.Event()
    cached = HubCache(repository) if isinstance(place, Folder) else None

    def bring(file: ModelFile) -> None:
        here = cached.find(file) if cached else None
        if here is not None:
            place.partial(file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(here, place.partial(file))  # and verified below, like any other
        read_from = functools.partial(hub.body, repository.repo, repository.commit, file.rel, stall_s=patience.stall_s)
        name = f"{where}: {file.rel}"
        Transfer(file, place.partial(file), read_from, meter, stopping, name, tries=patience.tries).run()
        place.keep(file)

    # Not as a context, which would wait for threads that wait for a hub: they end at their next byte, or with us.
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    try:
        _watch([pool.submit(bring, file) for file in missing], meter)
    finally:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _watch(files: Sequence[Future[None]], meter: Meter) -> None:
    waiting: set[Future[None]] = set(files)
    while waiting:
        done, waiting = wait(waiting, TICK_S, FIRST_EXCEPTION)
        meter.tick()
        for future in done:
            future.result()


@contextlib.contextmanager
def _stoppable(where: str) -> Iterator[None]:
    """SIGINT and SIGTERM as `InterruptedRun`."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        yield
    except KeyboardInterrupt as exc:
        raise InterruptedRun(f"{where}: stopped by a signal. {AGAIN}.") from exc
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
