"""Adapters of a model (LoRA), in the layout that PEFT saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from batchr1.errors import JobError
from batchr1.models.resolve import content_hash

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


@dataclass(frozen=True, slots=True)
class Adapter:
    """Adapter in a folder; `rank` is what vLLM makes room for."""

    folder: Path
    rank: int

    @property
    def identity(self) -> str:
        """Hash of its files: it changes whenever the answers could."""
        return f"sha256:{content_hash(self.folder)}"


def read_adapter(path: str) -> Adapter:
    """Find an adapter's files and its rank.

    Raises `JobError` for what is none.
    """
    folder, where = Path(path), f"model.adapter {path}"
    if not folder.is_dir():
        raise JobError(f"{where}: there is no such folder. Give the folder that PEFT saved.")
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise JobError(
            f"{where}: no readable adapter_config.json (got {type(exc).__name__}). Give the folder "
            "that PEFT saved."
        ) from exc
    if not (folder / "adapter_model.safetensors").is_file():
        raise JobError(
            f"{where}: has no adapter_model.safetensors. Save it with safe_serialization."
        )
    rank = config.get("r") if isinstance(config, dict) else None
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        raise JobError(
            f"{where}: adapter_config.json has no rank that vLLM takes (got {rank!r}, need r from "
            f"1 to {RANKS[-1]}). Correct it."
        )
    return Adapter(folder, next(room for room in RANKS if room >= rank))
