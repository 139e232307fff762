"""Report as one HTML file, without scripts or requests.

The template engine escapes every text of a row or a job. The page's Content-Security-Policy allows
inline style and nothing else, so even a mistake in the template could not run a script. Characters
that cannot be seen, or that turn the direction of text, are shown by name.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

from batchr1.report import figures
from batchr1.report.labels import INTERVALS
from batchr1.report.scan import Scan

MAX_BYTES = 4_500_000  # of the file: then texts are quoted shorter
_QUOTE_CHARS = (6000, 3000, 1500, 600, 200, 60)

# C0 and C1 controls but tab and line feed, soft hyphen, zero-width, bidirectional controls, line
# separators, BOM, tags.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def render(numbers: dict[str, Any], found: Scan) -> bytes:
    """Render the page in UTF-8.

    It has at most MAX_BYTES, unless the job or years of nights are larger.
    """
    charts = _charts(numbers)
    page = b""
    for chars in _QUOTE_CHARS:
        text = _template().render(
            n=numbers,
            charts=charts,
            quoted=found.quoted,
            intervals=INTERVALS,
            is_nightly=_is_nightly(numbers),
            quote=functools.partial(quote, chars=chars),
            place=functools.partial(_place, [one["output"] for one in numbers["outputs"]]),
            rows_note=functools.partial(_rows_note, numbers["rows"]),
            settings=yaml.safe_dump(
                numbers["settings"], sort_keys=False, allow_unicode=True, width=100
            ),
        )
        page = text.encode()
        if len(page) <= MAX_BYTES:
            break
    return page


def visible(text: object) -> Markup:
    """Escape a text for the page, and name unseen characters."""
    return Markup(_UNSEEN.sub(_name, str(escape(str(text)))))


def quote(text: str | None, *, chars: int, share: float = 1.0) -> Markup:
    """Quote a row's text, shortened in its middle to `share` of `chars`."""
    if text is None:
        return Markup('<span class="none">null</span>')
    most = max(30, int(chars * share))
    if len(text) <= most + 80:
        return visible(text)
    head, tail = text[: most * 2 // 3], text[-(most // 3) :]
    left_out = len(text) - len(head) - len(tail)
    return Markup('{}<span class="cut">… {} characters left out …</span>{}').format(
        visible(head), f"{left_out:,}", visible(tail)
    )


def _name(match: re.Match[str]) -> str:
    char = match[0]
    name = unicodedata.name(char, "").lower() or "control character"
    shown = f"U+{ord(char):04X}"
    if ord(char) < 0x20:
        shown = chr(0x2400 + ord(char))
    return f'<span class="unseen" title="{name}">{shown}</span>'


def _charts(n: dict[str, Any]) -> dict[str, Markup]:
    """Draw the charts that have data."""
    charts = _charts_by_night(n)
    for what, budget in (("reasoning", "thinking_budget"), ("answer", "answer_budget")):
        bins = (n["histograms"].get(f"{what}_tokens") or {}).get("bins")
        if bins:
            drawn = (budget, "max_tokens", "context")
            limits = {k: v for k, v in n["limits"].items() if k in drawn}
            charts[what] = figures.histogram(bins, limits, what=what)
    if len(n["longer_than"]) > 1:
        charts["longer_than"] = figures.longer_than(n["longer_than"], n["limits"])
    if sum(1 for b in n["by_completion_length"] if b["judged"]):
        charts["right_by_length"] = figures.right_by_length(n["by_completion_length"])
    measured = n["measures"]["all"]
    if measured and len(measured["pass_at"]) > 1:
        charts["measures"] = figures.measures_by_k(
            [
                {
                    "measure": name,
                    "k": int(k),
                    "value": e["value"],
                    "low": e["low"],
                    "high": e["high"],
                }
                for name, key in (("pass@k", "pass_at"), ("cons@k", "cons_at"))
                for k, e in measured[key].items()
            ]
        )
    points, starts = n["time"]["points"], n["time"]["starts"]
    if len(points) > 2:
        shown = points[:: max(1, len(points) // 600)]
        tail = (n["time"]["tail"] or {}).get("since")
        for name, title, colour, is_share in (
            ("tokens_per_s", "output tokens/s", "var(--blue)", False),
            ("running", "sequences running", "var(--violet)", False),
            ("kv_cache_usage", "KV cache in use", "var(--green)", True),
        ):
            charts[name] = figures.over_time(
                shown, name, title, colour=colour, starts=starts, tail=tail, is_share=is_share
            )
    return charts


def _charts_by_night(n: dict[str, Any]) -> dict[str, Markup]:
    """Draw yield and cost of runs, one after the other.

    There are none where a single run had work.
    """
    found = n["nights"]
    if sum(1 for night in found if night["engines"]) < 2:
        return {}
    of = "night" if _is_nightly(n) else "run"
    labels = [figures.day(night["date"]) for night in found]
    if of == "run":
        labels = [_started(night)[5:] for night in found]
    hours = "engine_hours"
    if n["all_nights"]["gpu_hours"]:
        hours = "gpu_hours"
    wanted: dict[str, tuple[str, dict[str, tuple[str, str]], bool]] = {
        "night_rows": (
            "rows",
            {"done": ("rows", "var(--blue)"), "failed": ("failed", "var(--red)")},
            False,
        ),
        "night_speed": ("output tokens/s", {"speed": ("tokens_per_s", "var(--blue)")}, False),
        "night_hours": (
            hours.replace("_", "-").replace("gpu", "GPU"),
            {"hours": (hours, "var(--violet)")},
            False,
        ),
        "night_cost": ("USD", {"cost": ("cost_usd", "var(--violet)")}, False),
        "night_truncated": ("truncated", {"truncated": ("truncated_share", "var(--orange)")}, True),
        "night_right": ("right", {"right": ("pass_rate", "var(--green)")}, True),
    }
    if n["price_usd"] is not None:
        del wanted["night_hours"]  # the cost has the same shape
    charts = {}
    for name, (title, series, is_share) in wanted.items():
        values = {
            what: (colour, [night[key] for night in found])
            for what, (key, colour) in series.items()
        }
        if any(value for _, column in values.values() for value in column):
            charts[name] = figures.by_run(labels, values, title, of=of, is_share=is_share)
    return charts


def _is_nightly(n: dict[str, Any]) -> bool:
    """Whether the runs are of one job, on more than one day."""
    dates = {night["date"] for night in n["nights"] if night["engines"]}
    return len(dates) > 1 and ", " not in (n["name"] or "")


def _started(night: dict[str, Any]) -> str:
    """Format when a run began: 2026-11-20 10:15, in UTC."""
    return str(night["started"] or night["date"])[:16].replace("T", " ")


def _rows_note(rows: dict[str, Any], failed: int) -> list[str]:
    """Note what the number of done rows leaves out."""
    counts = {"failed": failed, "pending": rows["pending"], "spared": rows["spared"]}
    note = [f"{count:,} {name}" for name, count in counts.items() if count]
    if rows["prompts"] != rows["done"]:
        note.insert(0, f"{rows['prompts']:,} prompts")
    if not failed and not rows["pending"]:
        note.append("nothing failed")
    return note


def _difference(share: float) -> str:
    """Format a difference: +6.2 %, and 0.0 % without a sign."""
    if abs(share) < 0.0005:
        return "0.0\N{NO-BREAK SPACE}%"
    return f"{share:+.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def _percent(part: float, whole: float = 1.0) -> str:
    """Format a share: 97.5 %, and < 0.01 % rather than 0."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "< 0.01\N{NO-BREAK SPACE}%"
    if 0 < share < 0.1:
        return f"{share:.2f}\N{NO-BREAK SPACE}%"
    return f"{share:.1f}\N{NO-BREAK SPACE}%"


def _number(value: float | int | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}"


def _place(outputs: list[str], uri: str) -> str:
    """Cut from an output's name the folders that all outputs share."""
    levels = zip(*(one.split("/")[:-1] for one in outputs), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    return "/".join(uri.split("/")[same:])


def _hours(night: dict[str, Any], key: str = "gpu_hours") -> str:
    """Format hours: 0.42, small ones with more digits.

    A ≥ marks runs that were longer than is known.
    """
    value = night[key]
    if value is None:
        return "–"
    digits = 2
    if 0 < value < 0.1:
        digits = 4
    at_least = ""
    if night["is_least"] and value:
        at_least = "≥ "
    return f"{at_least}{value:,.{digits}f}"


def _short(value: float | None) -> str:
    """Format a count: 1,234 or 56.7k or 89.0M."""
    if value is None:
        return "–"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 10 * size or (value >= size and unit != "k"):
            return f"{value / size:,.1f}{unit}"
    return f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m:02} min"
    return f"{m} min {s:02} s"


def _estimate(e: dict[str, Any] | None) -> str:
    if e is None:
        return "–"
    return f"{100 * e['value']:.1f}\N{NO-BREAK SPACE}%"


def _interval(e: dict[str, Any] | None) -> str:
    if e is None:
        return ""
    return f"{100 * e['low']:.1f} – {100 * e['high']:.1f}"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    environment.filters |= {
        "visible": visible,
        "percent": _percent,
        "number": _number,
        "short": _short,
        "duration": _duration,
        "hours": _hours,
        "started": _started,
        "difference": _difference,
        "estimate": _estimate,
        "interval": _interval,
    }
    return environment.get_template("page.html.jinja")


def _finalize(value: Any) -> Any:
    """Pass printed texts through `visible`, unless they are markup already."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value
