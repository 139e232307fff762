"""Parts that an output holds."""

from __future__ import annotations

import hashlib
from pathlib import Path


def parts_of(output: Path) -> dict[str, str]:
    """Every file under data/, with the hash of its content."""
    folder = output / "data"
    files = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
