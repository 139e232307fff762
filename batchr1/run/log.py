"""The run's log: what driver and workers have to say, beside the run's record. Prompts are never part of it."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchr1.data.output import RUNS_DIR, Output
from batchr1.errors import BatchError


@contextlib.contextmanager
def log_file(output: Output, run: str) -> Iterator[Path]:
    """The run's log, beside its record; for S3 it is kept locally and uploaded at the end. Yields its local path."""
    local = output.storage.kind == "local"
    folder = Path(output.storage.path(RUNS_DIR)) if local else Path(tempfile.mkdtemp(prefix="batchr1-"))
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
