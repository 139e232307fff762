"""Parts of an older version lack a column: every command reads them beside parts that have it."""

from __future__ import annotations

from pathlib import Path

import click.testing
import polars as pl
import pyarrow.parquet as pq
import pytest
from made_output import good_row, table_of, write_output

from batchr1.cli.main import main
from batchr1.columns import ADDED_LATER, COLUMNS
from batchr1.output.folder import Output
from batchr1.output.replace import replace_part
from batchr1.storage.base import open_storage
from batchr1.storage.owner import owned

BEFORE = Path(__file__).parents[1] / "data/before_rebuild/output"
NAMES = [c.name for c in COLUMNS]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """An output of an old part and a new one."""
    output = tmp_path / "out"
    old = table_of([good_row(n) for n in range(4)]).drop_columns(sorted(ADDED_LATER))
    new = table_of([good_row(n, verdict_by="text") for n in range(4, 8)])
    write_output(output, [old, new])
    return output


def test_an_output_of_the_code_before_the_rebuild_has_the_column_as_null() -> None:
    output = Output(open_storage(BEFORE))
    for rel in output.parts():
        assert not ADDED_LATER & set(output.stored_columns(rel))
        assert set(output.part_columns(rel)) >= ADDED_LATER
        table = output.read_part(rel, None)
        assert [n for n in table.schema.names if n in NAMES] == NAMES
        assert table.column("verdict_by").null_count == table.num_rows > 0
    [first, *_] = output.tables(["verdict_by", "id"])
    assert first.schema.names == ["verdict_by", "id"]


@pytest.mark.parametrize(
    "args", [["status"], ["status", "--by", "verdict_by"], ["report", "--json"], ["export"]]
)
def test_commands_read_old_and_new_parts(args: list[str], mixed: Path, tmp_path: Path) -> None:
    more = [str(tmp_path / "set"), "--to", "raw"] if args == ["export"] else []
    command, *options = args
    result = click.testing.CliRunner().invoke(
        main, [command, str(mixed), *more, *options], catch_exceptions=False
    )
    assert result.exit_code == 0, result.stderr


def test_a_part_that_is_replaced_is_of_this_version(mixed: Path) -> None:
    output = Output(open_storage(mixed))
    rel = output.parts()[0]
    with owned(output.storage, run="next"):
        replace_part(output, rel, output.read_part(rel, None), "20261121T000000000Z-0000")
    parts = sorted((mixed / "data").glob("*.parquet"))
    assert all("verdict_by" in pq.read_schema(part).names for part in parts)
    frame = pl.concat([pl.read_parquet(part) for part in parts])
    assert frame.height == 8 == frame["id"].n_unique()


def test_readers_of_a_mixed_folder_are_told_to_insert(mixed: Path) -> None:
    """As docs/traces.md says."""
    newest_first = sorted((mixed / "data").glob("*.parquet"), reverse=True)
    frame = pl.scan_parquet(newest_first, missing_columns="insert").collect()
    assert frame.height == 8
    assert frame["verdict_by"].null_count() == 4
