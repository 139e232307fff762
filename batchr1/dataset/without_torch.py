"""Whether this process goes without torch.

transformers loads it where it is installed. Asked for before anything else is imported, so that
`--help` comes at once.
"""

from __future__ import annotations

_is_left_out = False


def leave_torch_out() -> None:
    """Keep transformers from loading torch.

    For a process that never runs a model: one second instead of three.
    """
    global _is_left_out
    _is_left_out = True


def keep_torch() -> None:
    """Take `leave_torch_out` back, for a process that runs a model after all."""
    global _is_left_out
    _is_left_out = False


def torch_is_left_out() -> bool:
    """Whether `leave_torch_out` holds."""
    return _is_left_out
