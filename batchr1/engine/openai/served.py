"""Models of a server, and parameters that its program knows."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

SHOWN_MODELS = 10
_NO_PENALTY = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
# Values of parameters that draw by nothing, as programs name them; by `owned_by` of their models.
NEUTRAL: dict[str, dict[str, Any]] = {
    "vllm": _NO_PENALTY | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": _NO_PENALTY | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": _NO_PENALTY | {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}


@dataclass(frozen=True, slots=True)
class Served:
    """Models that a server lists, the context of ours, its program.

    The context is in tokens. None: the server says nothing of it.
    """

    names: tuple[str, ...] | None
    max_model_len: int | None = None
    software: str | None = None

    def oddity(self, wanted: str) -> str | None:
        """Describe a server that answers to an unlisted name."""
        if not self.names or wanted in self.names:
            return None
        shown = ", ".join(self.names[:SHOWN_MODELS])
        return (
            f"the server answers to the name {wanted!r}, which its list does not have (it lists "
            f"{shown}): it may answer to any. Rows are recorded as {wanted!r}; correct "
            f"model.served if that is another model"
        )

    def hint(self, wanted: str) -> str:
        """Suggest a name in place of one that is not there."""
        if not self.names:
            return (
                "Correct model.served or engine.base_url; the server gives no list of its models."
            )
        near = difflib.get_close_matches(wanted, self.names, n=3, cutoff=0.4)
        shown = near or list(self.names[:SHOWN_MODELS])
        more = f" and {len(self.names) - len(shown)} more" if len(self.names) > len(shown) else ""
        return f"It serves {', '.join(shown)}{more}. Correct model.served."


def served_by(document: Any, wanted: str) -> Served:
    """Read a list of models. Raises `KeyError`, `TypeError` for what is none."""
    found = [one for one in document["data"] if isinstance(one["id"], str)]
    own: dict[str, Any] = next((one for one in found if one["id"] == wanted), {})
    longest = own.get("max_model_len")
    if not isinstance(longest, int):
        longest = None
    software = own.get("owned_by") or next((one.get("owned_by") for one in found), None)
    return Served(tuple(one["id"] for one in found), longest, str(software or "") or None)
