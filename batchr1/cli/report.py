"""`batchr1 report OUTPUT…`"""

from __future__ import annotations

import click

from batchr1.cli.options import JSON, PRICE, checked_price
from batchr1.cli.printing import echo, echo_json


@click.command()
@click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
@click.option(
    "--to", metavar="FILE", help="Write the page there; without it, to OUTPUT/report.html."
)
@click.option(
    "--by",
    metavar="COLUMN",
    help="Group by this column; without it, by kept columns with few values.",
)
@PRICE
@JSON
def command(
    outputs: tuple[str, ...], to: str | None, by: str | None, price: float | None, as_json: bool
) -> None:
    """Write one HTML page about an output, or several, that needs neither network nor scripts.

    It shows what became of the rows, their lengths, truncation, right answers, night by night,
    speed and KV cache over time, plan against measured, rows worth a look with their text, and
    settings. The output need not be complete. Several outputs, such as those of a job that writes
    one a date, are taken together: name them, or a glob of their folders, and a FILE. With --json
    the numbers are printed instead, and a page is written only where --to says so.
    """
    checked_price(price)
    from batchr1.output.find import find_outputs
    from batchr1.report.numbers import read_all
    from batchr1.report.write import refuse_no_place

    found = find_outputs(outputs)
    if not as_json:
        refuse_no_place(found, to)
    numbers, scanned = read_all(found, by=by, price=price)
    if to is not None or not as_json:
        from batchr1.report.page import render
        from batchr1.report.write import write_report

        page = render(numbers, scanned)
        written = write_report(found, page, to)
        echo(f"{written}: {len(page) / 1e6:.1f} MB about {scanned.rows.height:,} rows", err=as_json)
    if as_json:
        echo_json(numbers)
