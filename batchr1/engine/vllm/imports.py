"""The import of vLLM, and what it means where that fails."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

from batchr1.errors import MACHINE_FAULTS, EngineError, FailedError


def import_vllm() -> None:
    """Import vLLM's engine.

    Raises `FailedError` where its packages do not fit together: later they would not either. A
    fault of the machine is an `EngineError`.
    """
    try:
        for module in ("vllm.v1.engine.llm_engine", "vllm.engine.arg_utils"):
            importlib.import_module(module)
    except Exception as exc:  # packages that do not fit raise whatever they like
        text = " ".join(str(exc).split())[:300]
        got = f"{type(exc).__name__}: {text}"
        if any(_is_passing(cause) for cause in _causes(exc)):
            raise EngineError(f"vllm: not imported (got {got}). Run it again later.") from exc
        raise FailedError(
            f"vllm: it cannot be imported here (got {got}, need packages that fit together). "
            f"Install those that requirements/cpu.txt or cuda.txt of batchr1 pins."
        ) from exc


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """List an exception and those behind it."""
    found: BaseException | None = exc
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _is_passing(exc: BaseException) -> bool:
    """Tell a fault of disk or memory from one of the packages.

    The loader of shared libraries says the fault in words alone.
    """
    if isinstance(exc, ImportError):
        return any(os.strerror(code) in str(exc) for code in MACHINE_FAULTS)
    if isinstance(exc, OSError):
        return exc.errno in MACHINE_FAULTS
    return isinstance(exc, MemoryError)
