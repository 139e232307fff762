"""Replacing committed parts, whole and by intent.

    stage the new part ─▶ write the intent (old → new) ─▶ publish new
                       ─▶ remove old ─▶ remove the intent

At no instant is a row lost, and no later run sees one twice. A run that finds an intent rolls it
forward before it reads what is committed. Call these functions with the lock held and `_SUCCESS`
removed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batchr1.dataset.pending import Bools
from batchr1.errors import OutputError
from batchr1.faults import fault_point
from batchr1.output.folder import DATA_DIR, Output, stage_part
from batchr1.storage.base import CONTROL_DIR, STAGING_DIR

log = logging.getLogger("batchr1.replace")

INTENT_FILE = f"{CONTROL_DIR}/intent.json"
_MARK = "-c-"  # in the name of a part that replaced another


@dataclass(frozen=True, slots=True)
class Limit:
    """Token limits of a generation; None: no limit of its own."""

    max_tokens: int | None
    max_model_len: int | None


def truncated_rows(
    output: Output, limit: Limit, wanted: Callable[[pa.Table], Bools]
) -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Find parts with truncated rows that may go on.

    Yields the part's name, these rows, and the part without them. `wanted` selects the rows to
    consider; it gets their `COLUMNS`.
    """
    for rel in output.parts():
        columns = output.read_part(rel, COLUMNS)
        mask = may_go_on(columns, limit) & wanted(columns)
        if mask.any():
            table = output.read_part(rel, None)
            yield rel, table.filter(pa.array(mask)), table.filter(pa.array(~mask))


COLUMNS = [
    "id",
    "sample",
    "prompt_hash",
    "truncated",
    "truncated_by",
    "prompt_tokens",
    "completion_tokens",
]


def may_go_on(table: pa.Table, limit: Limit) -> Bools:
    """Which rows were cut by a limit, and before `limit`.

    A budget or a loop would cut them again.
    """
    by_limit = pc.is_in(table.column("truncated_by"), pa.array(["max_tokens", "context"]))
    mask = pc.and_(table.column("truncated"), by_limit)
    if limit.max_tokens is not None:
        mask = pc.and_(mask, pc.less(table.column("completion_tokens"), limit.max_tokens))
    if limit.max_model_len is not None:
        whole = pc.add(table.column("prompt_tokens"), table.column("completion_tokens"))
        mask = pc.and_(mask, pc.less(whole, limit.max_model_len))
    found: Bools = mask.to_numpy()
    return found


def replace_part(output: Output, old: str, table: pa.Table, run: str) -> None:
    """Put `table` in the place of the committed part `old`.

    A table without rows just removes the part.
    """
    stem = old.removeprefix(f"{DATA_DIR}/").removesuffix(".parquet").partition(_MARK)[0]
    new = (
        f"{stem}{_MARK}{run}.parquet" if table.num_rows else None
    )  # keeps its run's name: whose it is stays known
    if new is not None and f"{DATA_DIR}/{new}" == old:  # this run has replaced it once already
        new = f"{stem}{_MARK}{run}-2.parquet"
    if new is not None:
        stage_part(output.storage, table, new)
    output.storage.write_bytes(INTENT_FILE, json.dumps({"old": old, "new": new}).encode())
    fault_point("intent.written")
    _forward(output, old, new)


def roll_forward(output: Output) -> bool:
    """Finish a replacement that a killed run began; whether there was one.

    Call before staging is cleared.
    """
    data = output.storage.find_bytes(INTENT_FILE)
    if data is None:
        return False
    try:
        intent = json.loads(data)
        old, new = str(intent["old"]), intent["new"]
    except (ValueError, KeyError, TypeError) as exc:
        raise OutputError(
            f"{output.storage.where(INTENT_FILE)}: not a record of a replacement (something else "
            f"changed it). "
            "Look whether data/ holds a part and its replacement (-c- in its name), keep the "
            "latter, delete this file."
        ) from exc
    log.warning("%s: a replacement was not finished: going on with it", output.storage.where(old))
    output.begin()
    staged = (
        new is None
        or output.storage.exists(f"{STAGING_DIR}/{new}")
        or output.storage.exists(f"{DATA_DIR}/{new}")
    )
    if staged:
        _forward(output, old, new)
    else:  # staging was emptied by hand: the old part is as good as it was
        output.storage.delete(INTENT_FILE)
    return True


def _forward(output: Output, old: str, new: str | None) -> None:
    if new is not None:
        output.commit_part(new)
    fault_point("intent.published")
    output.storage.delete(old)
    fault_point("intent.removing")
    fault_point("intent.done")
    output.storage.delete(INTENT_FILE)
