"""The import and the start of vLLM, and failures of either."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator

from pydantic import ValidationError

from batchr1.errors import MACHINE_FAULTS, BatchError, EngineError, FailedError

_failed: list[BatchError] = []  # in this process


def import_vllm() -> None:
    """Import vLLM's engine.

    Raises `FailedError` where its packages do not fit together: later they would not either. A
    fault of the machine is an `EngineError`. Called again after either it raises the same: what
    was imported in part has registered operators, and a second time would trip over those.
    """
    if _failed:
        raise _failed[0]
    try:
        for module in ("vllm.v1.engine.llm_engine", "vllm.engine.arg_utils"):
            importlib.import_module(module)
    except Exception as exc:  # packages that do not fit raise whatever they like
        _failed.append(_import_error(exc))
        raise _failed[0] from exc


def _import_error(exc: Exception) -> BatchError:
    got = reason_of(exc)
    if any(_is_passing(cause) for cause in _causes(exc)):
        return EngineError(f"vllm: not imported (got {got}). Run it again later.")
    return FailedError(
        f"vllm: it cannot be imported here (got {got}, need packages that fit together). "
        f"Install those that requirements/cpu.txt or cuda.txt of batchr1 pins."
    )


def start_error(name: str, exc: Exception) -> BatchError:
    """Make the error of an engine that did not start.

    A value that vLLM's classes of configuration refuse would be refused again: `FailedError`.
    """
    if not isinstance(exc, ValidationError):
        return EngineError(f"{name}: the engine did not start ({reason_of(exc)}).")
    errors = exc.errors()
    for found in errors:
        inner = found.get("ctx", {}).get("error")
        if isinstance(inner, Exception) and any(map(_is_passing, _causes(inner))):
            return EngineError(f"{name}: the engine did not start ({reason_of(inner)}).")
    said = "; ".join(
        f"{'.'.join([exc.title, *map(str, found['loc'])])}: {found['msg']}" for found in errors
    )
    return FailedError(
        f"{name} refuses its configuration ({_short(said)}). Correct model.engine_args, or take "
        "another model."
    )


def reason_of(exc: BaseException) -> str:
    """Name an exception and the beginning of its text."""
    text = _short(str(exc))
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


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
