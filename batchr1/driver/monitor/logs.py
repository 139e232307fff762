"""Log of a run: messages of driver and workers, beside its record.

For programs they are JSON on stderr. Prompts are never part of it.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchr1.errors import BatchError
from batchr1.events import JsonLines
from batchr1.output.folder import RUNS_DIR, Output


@contextlib.contextmanager
def log_file(output: Output, run: str) -> Iterator[Path]:
    """Open the run's log beside its record; yields its local path.

    For S3 it is kept locally and uploaded at the end.
    """
    local = output.storage.kind == "local"
    folder = (
        Path(output.storage.path(RUNS_DIR)) if local else Path(tempfile.mkdtemp(prefix="batchr1-"))
    )
    path = folder / f"{run}.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger("batchr1")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield path
    finally:
        root.removeHandler(handler)
        handler.close()
        if not local:
            with contextlib.suppress(BatchError):
                output.storage.write_bytes(f"{RUNS_DIR}/{run}.log", path.read_bytes())
            path.unlink()
            folder.rmdir()


@contextlib.contextmanager
def json_on_stderr() -> Iterator[None]:
    """Turn all that this process logs into JSON on stderr.

    Each line is one object: see `batchr1.events`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(
        lambda record: (
            record.name.partition(".")[0] == "batchr1" or record.levelno >= logging.WARNING
        )
    )
    root, ours = logging.getLogger(), logging.getLogger("batchr1")
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
