"""Options that several commands share, and how a job file becomes a spec with them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from batchr1.job.spec import JobSpec

F = TypeVar("F", bound=Callable[..., Any])

JOB = click.argument("job", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_JOB_OPTIONS = (
    click.option("--variant", metavar="NAME", help="Use this model variant instead of the job's."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY.PATH=VALUE", help="Override a key of the job file; repeatable."
    ),
    click.option("--output", metavar="URI", help="Write there instead of output.path."),
    click.option("--limit", type=int, metavar="N", help="Only the first N rows of the input."),
    click.option("--date", metavar="YYYY-MM-DD", help="The date that {{ ds }} stands for; today without it."),
)
_DEVICE_OPTIONS = (
    click.option("--gpus", metavar="N|all|none", help="How many GPUs to use; all without it."),
    click.option("--devices", metavar="0,1,…", help="Which GPUs to use."),
)


def job_options(command: F) -> F:
    """--variant, --set, --output, --limit, --date"""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


def device_options(command: F) -> F:
    """--gpus, --devices"""
    for option in reversed(_DEVICE_OPTIONS):
        command = option(command)
    return command


def read_job(
    job: Path,
    *,
    variant: str | None,
    settings: tuple[str, ...],
    output: str | None,
    limit: int | None,
    date: str | None,
) -> JobSpec:
    """The job file with the command line's overrides."""
    from batchr1.job import Overrides, load_job

    day: dt.date | None = None
    if date is not None:
        try:
            day = dt.date.fromisoformat(date)
        except ValueError as exc:
            raise click.BadParameter(f"not a date (got {date!r}, need YYYY-MM-DD)", param_hint="--date") from exc
    return load_job(job, Overrides(variant, output, limit, settings), date=day)


def split_devices(devices: str | None) -> tuple[str, ...] | None:
    return tuple(d.strip() for d in devices.split(",") if d.strip()) if devices is not None else None


def duration(text: str | None) -> float | None:
    """'6h', '90m', '45s' or '1h30m' → seconds"""
    if text is None:
        return None
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    total, number = 0.0, ""
    for char in text.strip().lower():
        if char in units and number:
            total, number = total + float(number) * units[char], ""
        elif char.isdigit() or char == ".":
            number += char
        else:
            number = "x"
            break
    if number or total <= 0:
        raise click.BadParameter(
            f"not a duration (got {text!r}, need one such as 6h, 90m or 1h30m)", param_hint="--stop-after"
        )
    return total
