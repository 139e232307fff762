"""Verdicts of a judge's output, beside the rows that it judged.

The judge's job reads this output's parts with `input.id: [id, sample]`, so that its ids say which
row each verdict is of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from batchr1.dataset.values import joined_ids
from batchr1.errors import UsageError
from batchr1.output.find import no_output, open_output

KEY = ["id", "sample"]
MOST_COUNTED = 20
"""Different verdicts that a summary counts, at most."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts of a judge.

    Columns of `table`: `key` (of the row that it judged) and `verdict`.
    """

    output: str
    model: str
    table: pl.DataFrame

    def join(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the column `verdict` to rows; null where none is.

        Raises `UsageError` where the judge saw none of the rows.
        """
        ids, samples = (rows[name].to_arrow().cast(pa.string()) for name in KEY)
        keys = pl.Series("key", joined_ids([ids, samples])).cast(pl.String)
        if not keys.is_in(self.table["key"].implode()).any():
            raise UsageError(
                f"--verdicts: {self.output}: judges rows of another output (got none of these "
                f"{rows.height:,} rows). Name the output of a job that read this one."
            )
        joined = rows.with_columns(keys).join(
            self.table, on="key", how="left", maintain_order="left"
        )
        return joined.drop("key")

    def count(self, rows: pl.DataFrame) -> dict[str, Any]:
        """Count what was joined."""
        found = rows["verdict"].drop_nulls().value_counts(sort=True).head(MOST_COUNTED)
        return {
            "output": self.output,
            "model": self.model,
            "rows": int(rows["verdict"].count()),
            "without": int(rows["verdict"].null_count()),
            "counts": dict(found.iter_rows()),
        }


def read_verdicts(uri: str) -> Verdicts:
    """Read the verdicts of a judge's output: each row's final answer.

    Raises `UsageError` for what is no such output.
    """
    output = open_output(uri, asked_by="--verdicts")
    job = output.job()
    if job is None:
        raise no_output(output.uri, asked_by="--verdicts")
    spec = job["spec"]
    id, n = spec["input"].get("id"), spec["sampling"].get("n", 1)
    if id != KEY:
        raise UsageError(
            f"--verdicts: {output.uri}: its ids do not name rows of an output (got input.id: "
            f"{id}, need [id, sample]). Judge as jobs/judge.yaml does."
        )
    if n != 1:
        raise UsageError(
            f"--verdicts: {output.uri}: has several verdicts of a row (got sampling.n: {n}, need "
            "1). Judge with one sample."
        )
    tables = [pl.DataFrame(table) for table in output.tables(["id", "final_answer"])]
    if not tables:
        raise UsageError(
            f"--verdicts: {output.uri}: no row is judged yet (got no part). Run the judge first."
        )
    table = pl.concat(tables).rename({"id": "key", "final_answer": "verdict"})
    return Verdicts(output.uri, str(job["model"].get("name")), table.unique("key", keep="any"))
