"""Numbers of a `config.json`, read by the names that models give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchr1.errors import ModelError

MAX_LAYERS = 10_000  # formulas go over them one by one
MAX_SIZE = 10**9


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the language model's part, which models that see nest."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """Read a size by the first of its names that is there.

    Raises `ModelError` where it is no size, or is missing and has no default.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        least = 0 if default == 0 else 1
        most = MAX_LAYERS if "layer" in name else MAX_SIZE
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ModelError(
                f"model: config.json's {name} is not a size (got {value!r}, need a whole number). "
                f"Correct it."
            )
        return value
    if default is None:
        raise ModelError(
            f"model: config.json does not say {names[0]} (need it to size the engine). Add it "
            f"there."
        )
    return default
