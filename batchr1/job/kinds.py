"""Engine kinds by name, each with its module. Imports nothing early."""

from __future__ import annotations

import importlib
from typing import Any

# Each module has a `BACKEND`.
KINDS = {
    "vllm": "batchr1.backends.vllm",
    "openai": "batchr1.backends.openai",
    "replay": "batchr1.backends.replay",
}


def load_backend(kind: str) -> Any:
    """Import a kind's backend.

    It is not typed: the job's own models use it, and a backend uses those.
    """
    return importlib.import_module(KINDS[kind]).BACKEND
