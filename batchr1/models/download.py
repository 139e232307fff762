"""Downloads of a model's files, side by side, from hub or bucket."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from batchr1.errors import ModelError, StorageError
from batchr1.models.files import INDEX, ModelFile, shards_of, size_text
from batchr1.models.places import Place
from batchr1.models.progress import Meter
from batchr1.models.transfer import ReadFrom, Transfer
from batchr1.storage.errors import mapped

AT_ONCE = 4
TICK_S = 0.2
LEAVE_S = 1.0


def download(
    files: Sequence[ModelFile],
    place: Place,
    read_from: Callable[[ModelFile], ReadFrom],
    meter: Meter,
    where: str,
    *,
    tries: int,
    copy_of: Callable[[ModelFile], Path | None] = lambda file: None,
) -> None:
    """Download `files`; what came stays if an error ends it.

    The first error does, and KeyboardInterrupt. The disk's free space is checked before. `copy_of`:
    a file that is on this machine already, elsewhere.
    """
    _refuse_full_disk(place, files)
    stopping = threading.Event()

    def one(file: ModelFile) -> None:
        copy, partial = copy_of(file), place.partial(file)
        if copy is not None:
            with mapped(str(partial)):
                partial.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(copy, partial)  # and verified below, like any other
        Transfer(
            file, partial, read_from(file), meter, stopping, f"{where}: {file.rel}", tries=tries
        ).run()
        place.keep(file)

    alike = {
        place.partial(file): file for file in files
    }  # files with the same content are one blob of the hub's cache
    side_by_side(list(alike.values()), one, meter, stopping)


def check_index(files: Sequence[ModelFile], place: Place, where: str) -> None:
    """Raise `ModelError` when the index names a file that is missing."""
    index = next((file for file in files if file.rel == INDEX), None)
    path = place.find(index) if index is not None else None
    if path is None:
        return
    try:
        shards = shards_of(path)
    except (OSError, ValueError) as exc:
        raise ModelError(
            f"{where}: {INDEX}: not an index of weights. Choose another repository."
        ) from exc
    gone = sorted(shards - {file.rel for file in files})
    if gone:
        raise ModelError(
            f"{where}: {INDEX} names files that are not there (got none of {len(gone)}, the first "
            f"is {gone[0][:80]!r}). Choose another repository."
        )


def side_by_side(
    files: Sequence[ModelFile],
    one: Callable[[ModelFile], None],
    meter: Meter,
    stopping: threading.Event,
) -> None:
    """Call `one` for each file, four at a time.

    The first error ends it.
    """
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    waiting: set[Future[None]] = {pool.submit(one, file) for file in files}
    try:
        while waiting:
            done, waiting = wait(waiting, TICK_S, FIRST_EXCEPTION)
            meter.tick()
            for future in done:
                future.result()
    finally:
        # Not waited for longer: a thread may wait for a hub that stalls. It ends at its next byte,
        # or with us.
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(waiting, LEAVE_S)


def _refuse_full_disk(place: Place, files: Sequence[ModelFile]) -> None:
    with mapped(str(place.folder)):
        partials = ((file, place.partial(file)) for file in files)
        here = sum(min(path.stat().st_size, file.size) for file, path in partials if path.exists())
        need, have = sum(file.size for file in files) - here, place.free_bytes()
    if need > have:
        raise StorageError(
            f"{place.folder}: not enough space (got {size_text(have)} free, need {size_text(need)} "
            f"more). Free some, or {place.elsewhere}."
        )
