"""Rows of a Parquet file that are decoded at a time.

A dictionary page holds a value once that a million rows name. Decoded, a file of a megabyte is
larger than memory. So the length of the values of a dictionary bounds the rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchr1.storage.base import InputFile

BATCH_BYTES = 2**28
"""Bytes of a column's values in a batch, at most, unless one value is larger."""


def rows_at_a_time(
    file: InputFile, parquet: pq.ParquetFile, group: int, columns: Sequence[str], at_most: int
) -> int:
    """Count rows to decode at a time: `at_most`, or fewer."""
    names = _in_dictionaries(parquet, group, columns, at_most)
    if not names:
        return at_most
    longest = _longest_value(file, group, names)
    return max(1, min(at_most, BATCH_BYTES // max(1, longest)))


def _in_dictionaries(
    parquet: pq.ParquetFile, group: int, columns: Sequence[str], rows: int
) -> list[str]:
    """Those columns whose dictionaries could make a batch too large."""
    chunks = parquet.metadata.row_group(group)
    found, wanted = [], set(columns)
    for place in range(chunks.num_columns):
        chunk = chunks.column(place)
        if (
            chunk.path_in_schema in wanted
            and chunk.physical_type == "BYTE_ARRAY"
            and rows * chunk.total_uncompressed_size > BATCH_BYTES
            and any("DICTIONARY" in encoding for encoding in chunk.encodings)
        ):
            found.append(str(chunk.path_in_schema))
    return found


def _longest_value(file: InputFile, group: int, names: list[str]) -> int:
    """Bytes of the longest value in these columns' dictionaries."""
    with file.open() as handle, pq.ParquetFile(handle, read_dictionary=names) as parquet:
        for batch in parquet.iter_batches(1, row_groups=[group], columns=names):
            lengths = [pc.max(pc.binary_length(column.dictionary)) for column in batch.columns]
            return max((length.as_py() or 0 for length in lengths), default=0)
    return 0
