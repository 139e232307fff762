"""Replacing committed parts, whole and by intent.

    stage the new part ─▶ record the intent (old → new) ─▶ publish new
                       ─▶ remove old ─▶ clear the intent

At no instant is a row lost, and no later run sees one twice. The intent stands in the lock's
record, which only its owner can write. A run takes it over with the lock, and rolls it forward
before it reads what is committed. So nothing is left for an owner that wakes late: its part is
published, the old one is gone, and no part gets either name again. Call these functions with the
lock held and `_SUCCESS` removed.
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
from batchr1.storage.fence import Fence, Intent

log = logging.getLogger("batchr1.replace")

INTENT_FILE = f"{CONTROL_DIR}/intent.json"  # of older versions
MARK = "-c-"  # in the name of a part that replaced another


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
    stem = old.removeprefix(f"{DATA_DIR}/").removesuffix(".parquet").partition(MARK)[0]
    new = (
        f"{stem}{MARK}{run}.parquet" if table.num_rows else None
    )  # keeps its run's name: whose it is stays known
    if new is not None and f"{DATA_DIR}/{new}" == old:  # this run has replaced it once already
        new = f"{stem}{MARK}{run}-2.parquet"
    if new is not None:
        stage_part(output.storage, table, new)
    fence = _fence_of(output)
    _intend(output, {"do": "replace", "old": old, "new": new, "staged": fence.folder})
    fault_point("intent.written")
    _forward(output, old, new, fence.folder)


def start_over(output: Output) -> None:
    """Delete all that runs recorded here made: `--fresh`.

    Half of it is never left: who takes the lock next goes on with it.
    """
    _intend(output, {"do": "remove all"})
    output.remove_own()
    _intend(output, None)
    output.refuse_others()


def roll_forward(output: Output) -> bool:
    """Finish what a killed or paused run began; whether there was anything.

    Call with the lock just taken, before staging is cleared.
    """
    read = _fence_of(output).intent
    intent = None if read is None else read()
    if intent is not None:
        _finish(output, intent)
        _intend(output, None)
    return _finish_older(output) or intent is not None


def _finish(output: Output, intent: Intent) -> None:
    if intent.get("do") == "remove all":
        log.warning("%s: --fresh was not finished: going on with it", output.uri)
        output.remove_own()
        return
    try:
        old, new, staged = str(intent["old"]), intent["new"], str(intent["staged"])
        output.storage.checked(f"{staged}/{new}")
    except (ValueError, KeyError, TypeError) as exc:
        raise OutputError(
            f"{output.uri}: its lock records no replacement that is known here (something else "
            "changed it, or a newer batchr1 wrote it). Use that one."
        ) from exc
    log.warning("%s: a replacement was not finished: going on with it", output.storage.where(old))
    output.begin()
    if _is_there(output, new, staged):  # else staging was emptied by hand
        _forward_parts(output, old, new, staged)


def _finish_older(output: Output) -> bool:
    """Finish a replacement that an older version recorded in a file."""
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
    if _is_there(output, new, STAGING_DIR):
        _forward_parts(output, old, new, STAGING_DIR)
    output.storage.delete(INTENT_FILE)
    return True


def _is_there(output: Output, new: str | None, staged: str) -> bool:
    exists = output.storage.exists
    return new is None or exists(f"{staged}/{new}") or exists(f"{DATA_DIR}/{new}")


def _forward(output: Output, old: str, new: str | None, staged: str) -> None:
    _forward_parts(output, old, new, staged)
    fault_point("intent.done")
    _intend(output, None)


def _forward_parts(output: Output, old: str, new: str | None, staged: str) -> None:
    if new is not None:
        output.storage.commit(f"{staged}/{new}", f"{DATA_DIR}/{new}")
    fault_point("intent.published")
    output.storage.delete(old)
    fault_point("intent.removing")


def _fence_of(output: Output) -> Fence:
    fence = output.storage.fence
    if fence is None:
        raise ValueError(f"{output.uri}: changed without its lock")
    return fence


def _intend(output: Output, intent: Intent | None) -> None:
    record = _fence_of(output).intend
    if record is None:
        raise ValueError(f"{output.uri}: changed by a worker")
    record(intent)
