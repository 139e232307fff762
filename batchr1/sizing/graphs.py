"""Grid of CUDA graphs: batch sizes that vLLM captures.

vLLM captures 1, 2, 4, multiples of 8 below 256 and of 16 from there, up to twice `max_num_seqs` and
at most 512. Whole decode steps are kept for the sizes up to `max_num_seqs` only; a batch between
two of them is padded to the larger one. A batch above the last one leaves the graphs, and its steps
take up to twice as long. Source: vLLM 0.26 and 0.32, `VllmConfig._set_cudagraph_sizes`; 0.32 adds
`max_num_seqs` itself, 0.26 does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LARGEST = 512  # size that vLLM captures by itself
CAPTURE_KEYS = {"cudagraph_capture_sizes", "max_cudagraph_capture_size"}
"""A user's own sizes, in `compilation_config` or beside it; vLLM refuses both."""
PREFILL_STEP = 32  # between the sizes that are added for prefills
FEWEST = 16  # sequences from which on they are added: below, a start of some seconds less counts


def grid(up_to: int = LARGEST) -> tuple[int, ...]:
    """List the grid's sizes, ascending."""
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, up_to + 1, 16))
    return tuple(size for size in sizes if size <= up_to)


def grid_floor(num_seqs: int) -> int:
    """Find the largest size that is not above `num_seqs`."""
    return grid(max(1, num_seqs))[-1]


def grid_ceil(num_seqs: int) -> int:
    """Find the smallest size that holds `num_seqs`."""
    return next(size for size in grid(num_seqs + 16) if size >= num_seqs)


def captured(num_seqs: int) -> tuple[int, ...]:
    """List what vLLM captures by itself for this `max_num_seqs`."""
    return grid(min(2 * num_seqs, LARGEST))


def is_on_grid(num_seqs: int) -> bool:
    """Tell whether vLLM captures a decode step of so many by itself."""
    return num_seqs in captured(num_seqs)


def prefill_sizes(num_seqs: int) -> tuple[int, ...]:
    """List sizes for steps that prefill a prompt beside a small batch.

    vLLM captures up to twice `max_num_seqs` by itself. A larger step, as a prompt of some hundred
    tokens makes one, is launched kernel by kernel. Few sizes do: padding costs less than that.
    """
    if num_seqs < FEWEST:
        return ()
    last = captured(num_seqs)[-1]
    return tuple(range(last - last % PREFILL_STEP + PREFILL_STEP, LARGEST + 1, PREFILL_STEP))


def all_sizes(num_seqs: int) -> tuple[int, ...]:
    """List all sizes that are captured: vLLM's own and the added ones."""
    below = grid(max(num_seqs, min(2 * num_seqs, LARGEST)))
    return tuple(sorted({*below, num_seqs, *prefill_sizes(num_seqs)}))


def compilation_for(num_seqs: int, config: Any) -> dict[str, Any] | None:
    """Give the `compilation_config` that captures a full batch and prefills beside it.

    None where nothing is to add. `config`: the user's own, whose sizes win. One that is not a
    mapping (a level) is left alone.
    """
    if config is not None and not isinstance(config, Mapping):
        return None
    own = dict(config or {})
    if CAPTURE_KEYS & set(own):
        return None
    if str(own.get("cudagraph_mode", "")).upper() == "NONE" or (
        is_on_grid(num_seqs) and not prefill_sizes(num_seqs)
    ):
        return None
    return own | {"cudagraph_capture_sizes": list(all_sizes(num_seqs))}
