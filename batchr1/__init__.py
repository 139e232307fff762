"""Run reasoning models over datasets, offline, and keep every token.

What flows:       records, errors, events, faults, columns, seeds
What is asked:    job
What is stored:   storage, dataset, output
What is computed: reasoning, models, sizing
What generates:   engine, verifier, backends
Who does it:      driver (the process that was started), worker (one process a replica),
                  executors (the wire between them)
Who looks on:     report, export, rejudge, scoring
Who is called:    cli, api (the same as functions), version

docs/design.md says which process each of them runs in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchr1.version import __version__

if TYPE_CHECKING:
    from batchr1.api import check, load, plan, run, status

__all__ = ["__version__", "check", "load", "plan", "run", "status"]


def __getattr__(name: str) -> Any:
    """Load the Python API when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'batchr1' has no attribute {name!r}")
    from batchr1 import api

    return getattr(api, name)
