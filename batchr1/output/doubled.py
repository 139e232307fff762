"""Keys that an output holds twice: found, and repaired by a rule.

Fenced runs leave none. An output may still have them: an older version wrote it, somebody copied
parts into it, or its file system lacks what fences need. Of a key's rows that of the run which
began last stays, and of that run's parts the row whose part's name sorts first. Parts are replaced
through intents, like all others.
"""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pyarrow as pa

from batchr1.output.folder import DATA_DIR, Output
from batchr1.output.replace import MARK, replace_part

log = logging.getLogger("batchr1.replace")


def doubled_rows(output: Output) -> dict[str, list[int]]:
    """Find the rows that have to go, by part: their numbers there."""
    frames = []
    for rel in output.parts():
        rows = pl.DataFrame(output.read_part(rel, ["id", "sample"])).with_row_index("row")
        frames.append(rows.with_columns(part=pl.lit(rel), made=pl.lit(_made_by(rel))))
    if not frames:
        return {}
    every = pl.concat(frames)
    doubled = every.filter(pl.struct("id", "sample").is_duplicated())
    ordered = doubled.sort("made", "part", "row", descending=[True, False, False])
    gone = ordered.filter(~pl.struct("id", "sample").is_first_distinct())
    grouped = gone.group_by("part").agg("row").sort("part")
    return {part: sorted(rows) for part, rows in grouped.iter_rows()}


def drop_doubled(output: Output, run: str) -> int:
    """Keep one row of each key; needs the lock.

    Returns how many went.
    """
    count = 0
    for rel, numbers in doubled_rows(output).items():
        if not count:
            output.begin()
        table = output.read_part(rel, None)
        stays = np.ones(table.num_rows, dtype=bool)
        stays[numbers] = False
        replace_part(output, rel, table.filter(pa.array(stays)), run)
        count += len(numbers)
    if count:
        log.warning("%s: %d rows were there twice: the later run's stay", output.uri, count)
    return count


def _made_by(rel: str) -> str:
    """Name the run that wrote a part."""
    name = rel.removeprefix(f"{DATA_DIR}/part-")
    name = name.rpartition(MARK)[2]  # who replaced it, if anybody did
    return "-".join(name.removesuffix(".parquet").split("-")[:2])
