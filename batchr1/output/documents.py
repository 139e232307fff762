"""JSON documents of an output that name their fingerprint."""

from __future__ import annotations

import json
from typing import Any

from batchr1.errors import OutputError
from batchr1.storage.base import Storage


def read_fingerprinted(
    storage: Storage, rel: str, what: str, way_out: str
) -> dict[str, Any] | None:
    """Read a JSON document with a fingerprint; None where there is none.

    Raises `OutputError` for what is no such document, with `what` it should be and the `way_out`.
    """
    data = storage.find_bytes(rel)
    if not data:
        return None
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("fingerprint"), dict):
        raise OutputError(
            f"{storage.where(rel)}: not {what} (something else changed it). "
            f"Put it back, or {way_out}."
        )
    return document
