"""Options that several commands share, and their values."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchr1.errors import BatchError, JobError, UsageError

if TYPE_CHECKING:
    from batchr1.job.spec import JobSpec

JOB = click.argument("job", type=click.Path(path_type=Path))
PRICE = click.option(
    "--price", type=float, metavar="USD", help="Price of a GPU-hour, for the cost."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options of all commands that take a job.

    They change the job, and choose devices to run it on.
    """

    variant: str | None = None
    settings: tuple[str, ...] = ()
    output: str | None = None
    limit: int | None = None
    date: str | None = None
    gpus: str | None = None
    devices: str | None = None
    executor: str | None = None
    replicas: int | None = None

    def __bool__(self) -> bool:
        """Whether one was given."""
        return self != JobOptions()

    @property
    def flags(self) -> str:
        """Name the flags that were given."""
        given = [name for name in _NAMES if getattr(self, name) not in (None, ())]
        return ", ".join(SIMPLE_FLAGS.get(name, "--set") for name in given)

    @property
    def device_ids(self) -> tuple[str, ...] | None:
        """The GPUs that --devices names."""
        if self.devices is None:
            return None
        return tuple(one.strip() for one in self.devices.split(",") if one.strip())

    def read(self, job: Path) -> JobSpec:
        """Read the job file with these changes."""
        from batchr1.job import Overrides, load_job

        settings = self.settings
        if self.executor is not None:
            settings = (*settings, f"executor.kind={self.executor}")
        if self.replicas is not None:
            settings = (*settings, f"executor.replicas={self.replicas}")
        day = None
        if self.date is not None:
            day = _day(self.date)
        return load_job(job, Overrides(self.variant, self.output, self.limit, settings), date=day)


_JOB_OPTIONS = (
    click.option("--variant", metavar="NAME", help="Use this model variant instead of the job's."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Override a key of the job file; repeatable.",
    ),
    click.option("--output", metavar="URI", help="Write there instead of output.path."),
    click.option("--limit", type=int, metavar="N", help="Only the first N rows of the input."),
)
_DATE = click.option(
    "--date", metavar="YYYY-MM-DD", help="The date that {{ ds }} stands for; today without it."
)
_DATES = click.option(
    "--date",
    metavar="A[..B]",
    help="The date that {{ ds }} stands for, as YYYY-MM-DD, or a run for each from A to B; today "
    "without it.",
)
_DEVICE_OPTIONS = (
    click.option("--gpus", metavar="N|all|none", help="How many GPUs to use; all without it."),
    click.option("--devices", metavar="0,1,…", help="Which GPUs to use."),
    click.option(
        "--executor", type=click.Choice(["local", "ray"]), help="Engines here or on a Ray cluster."
    ),
    click.option(
        "--replicas",
        type=click.IntRange(1),
        metavar="N",
        help="At most N engines; CPU engines share cores.",
    ),
)
_NAMES = [field.name for field in fields(JobOptions)]
# Fields with a flag of their own name, that is all but --set.
SIMPLE_FLAGS = {name: f"--{name.replace('_', '-')}" for name in _NAMES if name != "settings"}


def job_options(
    *, devices: bool, dates: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a job, as its argument `options`.

    `devices`: --gpus, --devices, --executor and --replicas too. `dates`: --date may be a range.
    """
    wanted = [*_JOB_OPTIONS, _DATES if dates else _DATE]
    if devices:
        wanted.extend(_DEVICE_OPTIONS)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **params: Any) -> Any:
            given = {name: params.pop(name) for name in _NAMES if name in params}
            return command(*args, options=JobOptions(**given), **params)

        for option in reversed(wanted):
            call = option(call)
        return call

    return decorate


def days(date: str | None) -> list[str | None]:
    """List the days of --date: one, or each from A to B.

    None stands for today.
    """
    if date is None or ".." not in date:
        return [date]
    first, last = (
        _day(part, "YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD") for part in date.split("..", 1)
    )
    if last < first:
        raise JobError(
            f"--date: the range ends before it begins (got {date}). Put the earlier day first."
        )
    return [(first + dt.timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]


def refuse_same_days(job: Path, specs: Mapping[str | None, JobSpec]) -> None:
    """Raise `JobError` where each day would run the same job."""
    if len(specs) > 1 and len({spec.model_dump_json() for spec in specs.values()}) == 1:
        raise JobError(
            f"{job}: --date: the job is the same on each day of the range (got no {{{{ ds }}}} in "
            f"its paths). "
            "Give one day, or use {{ ds }} in input.path or output.path."
        )


def _day(text: str, need: str = "YYYY-MM-DD") -> dt.date:
    try:
        if not re.fullmatch(
            r"\d{4}-\d\d-\d\d", text, re.ASCII
        ):  # 20261101 and 2026-W45 are ISO 8601 too
            raise ValueError(text)
        return dt.date.fromisoformat(text)
    except ValueError as exc:
        raise JobError(f"--date: not a date (got {text!r}, need {need}). Correct it.") from exc


@contextlib.contextmanager
def named(job: Path) -> Iterator[None]:
    """Put the job file in front of errors about its keys.

    After `JobOptions.read` only the key is known.
    """
    try:
        yield
    except UsageError as exc:
        from batchr1.job.spec import JobSpec

        if not re.match(rf"({'|'.join(JobSpec.model_fields)})[.: ]|\w+://…", str(exc)):
            raise
        exc.args = (f"{job}: {exc}",)
        raise


@contextlib.contextmanager
def logging_as(log_format: str) -> Iterator[None]:
    """Log to stderr as text or as JSON.

    json: all of stderr is the log, one object a line, with the error that ends the command.
    """
    if log_format != "json":
        yield
        return
    from batchr1.driver.monitor.logs import json_on_stderr
    from batchr1.events import event

    with json_on_stderr():
        try:
            yield
        except BatchError as exc:
            said = event("failed", exit_code=exc.exit_code)
            logging.getLogger("batchr1.cli").error("%s", exc, extra=said)
            raise click.exceptions.Exit(exc.exit_code) from exc


def next_time(text: str | None, now: dt.datetime, option: str = "--stop-at") -> dt.datetime | None:
    """Find the next moment at a time of day: '06:00' or '06:00:30'.

    `now`: local, without a zone; the result has its zone. A time that is skipped when clocks are
    put forward is over an hour early.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", text.strip(), re.ASCII)
    if not match:
        raise JobError(
            f"{option}: not a time of day (got {text!r}, need HH:MM, such as 06:00 or 22:30). "
            f"Correct it."
        )
    hour, minute, second = (int(number or 0) for number in match.groups())
    then = dt.datetime.combine(now.date(), dt.time(hour, minute, second))
    if then <= now:
        then += dt.timedelta(days=1)
    return then.astimezone()


def checked_price(price: float | None) -> None:
    """Raise `UsageError` for what is no price of a GPU-hour."""
    if price is not None and not 0 <= price < math.inf:
        raise UsageError(
            f"--price: not a price (got {price:g}, need USD per GPU-hour). Correct it."
        )


def address(text: str | None, option: str = "--metrics-port") -> tuple[str, int] | None:
    """Parse '9400' (this machine only) or '0.0.0.0:9400' (that address of it)."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:([\w.-]+):)?(\d{1,5})", text.strip(), re.ASCII)
    if not match or int(match[2]) > 65535:
        raise JobError(
            f"{option}: not a port (got {text!r}, need 9400, or HOST:PORT such as "
            f"0.0.0.0:9400). "
            f"Correct it."
        )
    return match[1] or "127.0.0.1", int(match[2])


def duration(text: str | None, option: str = "--stop-after") -> float | None:
    """'6h', '90m', '45s' or '1h30m' → seconds"""
    if text is None:
        return None
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    total = 0.0
    if match:
        with contextlib.suppress(ValueError):  # 1.2.3h
            hours, minutes, seconds = (float(number or 0) for number in match.groups())
            total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise JobError(
            f"{option}: not a duration (got {text!r}, need 6h, 90m, 1h30m or the like). Correct it."
        )
    return total
