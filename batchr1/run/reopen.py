"""`--continue-truncated`: rows that a limit cut become pending again, with all their tokens saved.

For each part: the cut rows go into a snapshot, then a part without them replaces it. From there on they are what any
interrupted generation is, so that a kill at any moment costs nothing but the time.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable

import pyarrow as pa

from batchr1.data.journal import Saved, reopened_name, write_snapshot
from batchr1.data.output import Output
from batchr1.data.replace import Limit, replace_part, truncated_rows

log = logging.getLogger("batchr1.reopen")


def reopen_truncated(output: Output, limit: Limit, *, run: str, job: str, check_lock: Callable[[], None]) -> int:
    """Make truncated rows that may go on under `limit` pending; how many. Call before reading what is committed."""
    count = 0
    for number, (rel, cut, rest) in enumerate(truncated_rows(output, limit)):
        check_lock()
        if not count:
            output.begin()
        write_snapshot(output.storage, reopened_name(run, number), _saved(cut), job=job)
        replace_part(output, rel, rest, run)
        count += cut.num_rows
    if count:
        log.info("%d truncated rows go on", count)
    return count


def _saved(rows: pa.Table) -> list[Saved]:
    names = ["id", "sample", "attempts", "prompt_hash", "token_ids", "resumed_at"]
    return [
        Saved(
            id=row["id"],
            sample=row["sample"],
            attempt=row["attempts"],
            prompt_hash=bytes.fromhex(row["prompt_hash"]),
            tokens=array("i", row["token_ids"]),
            resumed_at=tuple(row["resumed_at"]),
        )
        for row in rows.select(names).to_pylist()
        if row["token_ids"]
    ]
