"""Many files, opened a few at a time ahead of their readers where each request has to travel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from batchr1.dataset.readers import DataFile, lasting_as_input_error, open_file
from batchr1.errors import StorageError
from batchr1.job.spec import InputSpec
from batchr1.storage.base import InputFile

AT_A_TIME = 16
"""Requests under way: a store answers each in tens of milliseconds, whatever else it does."""
AHEAD = 32
"""Files whose ends are fetched ahead of the reader."""


def open_files(
    files: Sequence[InputFile], names: Sequence[str] | None, spec: InputSpec
) -> list[DataFile]:
    """Look at the columns of every file, many at a time where they are remote.

    Raises `InputError` for what cannot be read as it stands.
    """
    as_text = [spec.gold] if spec.gold else []
    as_json = [spec.messages] if spec.messages else []

    def look(file: InputFile) -> DataFile:
        return open_file(file, names, as_text=as_text, as_json=as_json)

    try:
        if not any(_is_remote(file) for file in files):
            return [look(file) for file in files]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                return list(pool.map(look, files))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except StorageError as exc:
        raise lasting_as_input_error(exc) from exc.__cause__


def prefetched(files: Sequence[DataFile], *, at_most: int | None = None) -> Iterator[DataFile]:
    """The files in order, the ends of the next ones on their way where they are remote.

    `at_most`: rows that are wanted of them, so that no file is fetched for nothing.
    """
    ahead = AHEAD if at_most is None else max(1, min(AHEAD, at_most))
    if not any(_is_remote(file.file) for file in files[:1]):
        yield from files
        return
    pool = ThreadPoolExecutor(AT_A_TIME)
    waiting: deque[tuple[DataFile, Future[None]]] = deque()
    try:
        for file in files:
            waiting.append((file, pool.submit(_warm, file.file)))
            if len(waiting) >= ahead:
                yield waiting.popleft()[0]
        while waiting:
            yield waiting.popleft()[0]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _warm(file: InputFile) -> None:
    """Have the end of a file in the cache; its reader meets whatever goes wrong."""
    try:
        with file.open() as handle:
            handle.seek(max(0, file.size - 1))
            handle.read(1)
    except StorageError:
        return


def _is_remote(file: InputFile) -> bool:
    return file.storage.kind == "s3"
