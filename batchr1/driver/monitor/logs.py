"""The run's log: a file beside the record, and JSON on stderr.

Both have what driver and workers say. Prompts are never part of it.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchr1.errors import BatchError
from batchr1.events import JsonLines, TextLines
from batchr1.output.folder import RUNS_DIR, Output
from batchr1.storage.errors import mapped


@contextlib.contextmanager
def log_file(output: Output, run: str) -> Iterator[Path]:
    """Write the run's log, and yield its local path.

    It lies beside the record; for S3 it is kept locally and uploaded at the end.
    """
    local = output.storage.kind == "local"
    if local:
        folder = Path(output.storage.path(RUNS_DIR))
    else:
        folder = Path(tempfile.mkdtemp(prefix="batchr1-"))
    path = folder / f"{run}.log"
    with mapped(str(path)):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(TextLines("%(asctime)s %(name)s %(levelname)s %(message)s"))
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
    """Log to stderr, one JSON object a line: see `batchr1.events`."""
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
