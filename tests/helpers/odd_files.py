"""Names that are no regular file: a device of the test's own, and a FIFO that is read."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def null_device(path: Path) -> Path:
    """Make a device that takes everything, as /dev/null does."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("needs the right to make a device")
    return path


@contextmanager
def read_fifo(path: Path) -> Iterator[list[bytes]]:
    """Make a FIFO and read it until its writers are gone; the list has all that came."""
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    yield found
    reader.join(60)
    assert not reader.is_alive(), "nobody wrote"
