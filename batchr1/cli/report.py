"""`batchr1 report OUTPUT`"""

from __future__ import annotations

import json

import click

from batchr1.cli.options import JSON


@click.command()
@click.argument("output")
@click.option("--to", metavar="FILE", help="Write the page there; without it, to OUTPUT/report.html.")
@click.option("--by", metavar="COLUMN", help="Group by this column; without it, by kept columns with few values.")
@JSON
def command(output: str, to: str | None, by: str | None, as_json: bool) -> None:
    """Write one HTML page about an output, that needs neither network nor scripts.

    It shows what became of the rows, their lengths, truncation, right answers, speed and KV cache over time, plan
    against measured, rows worth a look with their text, and settings. The output need not be complete. With --json its
    numbers are printed instead, and a page is written only where --to says so.
    """
    from batchr1.data.output import Output
    from batchr1.data.storage import open_storage
    from batchr1.report.numbers import read

    opened = Output(open_storage(output))
    numbers, found = read(opened, by=by)
    if to is not None or not as_json:
        from batchr1.report.page import render
        from batchr1.report.write import write_report

        page = render(numbers, found)
        written = write_report(opened, page, to)
        click.echo(f"{written}: {len(page) / 1e6:.1f} MB about {found.rows.height:,} rows", err=as_json)
    if as_json:
        click.echo(json.dumps(numbers, ensure_ascii=False, default=str))
