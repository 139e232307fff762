"""Bounds on the cost of prompts, templates and batches.

A dictionary page of Parquet holds a value once that a million rows name. Decoded, a file of a
megabyte is larger than memory. So the length of such values bounds the rows of a batch.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchr1.storage.inputs import InputFile

MAX_PROMPT_CHARS = 2**21
"""Characters of a prompt, at most: half a million tokens. A longer one fails as a row, unread."""
ENCODE_CHARS = 2**20
"""Characters that a tokenizer is given at a time: no signal is answered meanwhile."""
TEMPLATE_S = 10.0
"""Seconds of CPU time that a chat template may take for a short message."""
TEMPLATE_BYTES = 2**30
"""Memory that it may take, beside what the process has."""


BATCH_BYTES = 2**28
"""Bytes of a column's values in a batch, at most, unless one value is larger."""


class TooMuchError(Exception):
    """The block took longer, or more memory, than it may."""


@contextlib.contextmanager
def bounded(seconds: float = TEMPLATE_S, memory: int = TEMPLATE_BYTES) -> Iterator[None]:
    """Raise `TooMuchError` where the block takes longer or more memory.

    Time is the thread's own CPU time: a machine with much else to do breaks nothing off. Only on
    the main thread, whose Python a signal can break off; elsewhere nothing is bounded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    began = time.thread_time()

    def stop(number: int, frame: FrameType | None) -> None:
        # The timer counts all threads of the process: it may well fire too early.
        if time.thread_time() - began >= seconds:
            raise TooMuchError(f"it took longer than {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + memory
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    before = signal.signal(signal.SIGPROF, stop)
    try:
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        signal.setitimer(signal.ITIMER_PROF, seconds, max(seconds / 10, 0.01))
        yield
    except MemoryError as exc:
        raise TooMuchError(f"it took more than {memory // 2**20:,} MiB") from exc
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _address_space() -> int:
    """Bytes of address space that this process has."""
    try:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: then only time is bounded
        return 2**50


def rows_at_a_time(
    file: InputFile, parquet: pq.ParquetFile, group: int, columns: Sequence[str], at_most: int
) -> int:
    """Count rows to decode at a time: `at_most`, or fewer."""
    names = _in_dictionaries(parquet, group, columns, at_most)
    if not names:
        return at_most
    longest = _longest_value(file, group, names)
    return max(1, min(at_most, BATCH_BYTES // max(1, longest)))


def _in_dictionaries(
    parquet: pq.ParquetFile, group: int, columns: Sequence[str], rows: int
) -> list[str]:
    """Those columns whose dictionaries could make a batch too large."""
    chunks = parquet.metadata.row_group(group)
    found, wanted = [], set(columns)
    for place in range(chunks.num_columns):
        chunk = chunks.column(place)
        if (
            chunk.path_in_schema in wanted
            and chunk.physical_type == "BYTE_ARRAY"
            and rows * chunk.total_uncompressed_size > BATCH_BYTES
            and any("DICTIONARY" in encoding for encoding in chunk.encodings)
        ):
            found.append(str(chunk.path_in_schema))
    return found


def _longest_value(file: InputFile, group: int, names: list[str]) -> int:
    """Bytes of the longest value in these columns' dictionaries."""
    with file.open() as handle, pq.ParquetFile(handle, read_dictionary=names) as parquet:
        for batch in parquet.iter_batches(1, row_groups=[group], columns=names):
            lengths = [pc.max(pc.binary_length(column.dictionary)) for column in batch.columns]
            return max((length.as_py() or 0 for length in lengths), default=0)
    return 0
