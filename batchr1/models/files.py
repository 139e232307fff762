"""Files of a model: those that a run needs, and their checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchr1.errors import ModelError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_BLOCK_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
# Config, tokenizer in all its forms, chat templates, code for trust_remote_code, and the terms that
# go with weights.
_SMALL = re.compile(
    r"[^/\0]+\.(json|jinja|model|txt|tiktoken|py)"
    r"|additional_chat_templates/[^/\0]+\.jinja"
    r"|(LICENSE|NOTICE)[^/\0]*",
    re.IGNORECASE,
)
_OTHER_WEIGHTS = (".gguf", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """File of a model: its path below the root, and its size.

    `size` is in bytes. The hub gives SHA-256 for large files, and git's SHA-1 of the blob for
    others. Where a server gives neither, the size alone is checked.
    """

    rel: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def checksum(self) -> str | None:
        """Checksum that the content must have, in hexadecimal."""
        return self.sha256 or self.git_sha1

    def hasher(self) -> Any:
        """Return an object of hashlib whose digest is `checksum`."""
        if self.sha256 or not self.git_sha1:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def checksum_of(self, path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
        """Compute the checksum of a file on disk, read once."""
        hasher = self.hasher()
        feed(hasher, path, on_bytes)
        return str(hasher.hexdigest())

    def to_dict(self) -> dict[str, str | int]:
        """Return the entry of a record."""
        document: dict[str, str | int] = {"rel": self.rel, "size": self.size}
        if self.checksum:
            document["sha256" if self.sha256 else "git_sha1"] = self.checksum
        return document


def feed(hasher: Any, path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> int:
    """Hash the content of a file; returns its number of bytes."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
            total += len(block)
            on_bytes(len(block))
    return total


def needed(files: Sequence[ModelFile], where: str) -> list[ModelFile]:
    """Choose the files that a run needs.

    The largest is first, and config.json last. Weights are safetensors in the root. The same
    weights in another format, or once more as Mistral's `consolidated*`, are left out. Raises
    `ModelError` for a model that batchr1 does not load.
    """
    weights = [file for file in files if re.fullmatch(r"[^/\0]+\.safetensors", file.rel)]
    if any(not _is_consolidated(file) for file in weights):
        files = [file for file in files if not _is_consolidated(file)]
        weights = [file for file in weights if not _is_consolidated(file)]
    if not weights:
        got = next(
            (suffix for suffix in _OTHER_WEIGHTS if any(f.rel.endswith(suffix) for f in files)),
            "none",
        )
        raise ModelError(
            f"{where}: no weights that batchr1 loads (got {got}, need *.safetensors). Choose the "
            "repository of the model's original safetensors."
        )
    if all(file.rel != CONFIG for file in files):
        raise ModelError(
            f"{where}: has no {CONFIG} (need Hugging Face layout). Choose another repository."
        )
    small = [file for file in files if _SMALL.fullmatch(file.rel)]
    return sorted([*weights, *small], key=lambda file: (file.rel == CONFIG, -file.size, file.rel))


def _is_consolidated(file: ModelFile) -> bool:
    return file.rel.startswith("consolidated")


def shards_of(index: Path) -> set[str]:
    """Return the files that an index of weights names.

    Raises `OSError`, and `ValueError` for what is no index.
    """
    try:
        return {
            str(shard)
            for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not an index of weights") from exc


def size_text(size: float) -> str:
    """15231233024 → 15.2 GB"""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:,.1f} {unit}"
    return f"{size:.0f} bytes"


def check_header(path: Path) -> None:
    """Raise `ModelError` for a safetensors file whose header cannot be one.

    The file begins with the header's length in 8 bytes, then the header in JSON.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            most = min(MAX_HEADER_BYTES, path.stat().st_size - 8)
            if not 2 <= length <= most:
                raise ValueError(f"a header of {length} bytes, need 2 to {max(most, 2)}")
            if not isinstance(json.loads(file.read(length)), dict):
                raise ValueError("a header that is no JSON object")
    except OSError:  # whoever loads it says so
        return
    except (ValueError, RecursionError) as exc:
        got = str(exc)
        if isinstance(exc, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
            got = "a header that is no JSON object"
        raise ModelError(
            f"{path}: not a safetensors file (got {got}). Fetch it again: it is damaged, or "
            "something else."
        ) from exc
