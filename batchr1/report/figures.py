"""Charts of the report, as SVG.

altair turns numbers into Vega-Lite, and vl-convert renders it by itself. Colours are CSS variables
of the page, so one drawing serves light, dark and print. A static drawing cannot change its
proportions, so each chart is drawn twice: for a desktop and for a telephone. No text of a row ever
enters a chart.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl
import vl_convert
from markupsafe import Markup

Drawable = alt.Chart | alt.LayerChart | alt.FacetChart

WIDE, NARROW = 560, 290  # of the plotting area, in CSS pixels
HEIGHT = 190

_CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 6,
    },
    "legend": {
        "labelColor": "var(--fg)",
        "labelFontSize": 12,
        "orient": "top",
        "symbolType": "square",
        "offset": 8,
        "padding": 0,
        "symbolOpacity": 1,
    },
}


def draw(chart: Drawable, description: str, *, wide: int = WIDE, height: int = HEIGHT) -> Markup:
    """Draw a chart as inline SVG, in both widths."""
    drawings = []
    for kind, width in (("wide", wide), ("narrow", NARROW)):
        sized = chart.properties(
            width=width, height=height, background="transparent", config=_CONFIG
        )
        svg = vl_convert.vegalite_to_svg(sized.to_json())
        drawings.append(Markup('<div class="{}">{}</div>').format(kind, Markup(svg)))
    return Markup('<div class="drawing" role="img" aria-label="{}">{}</div>').format(
        description, Markup("").join(drawings)
    )


def histogram(bins: Sequence[dict[str, Any]], limits: dict[str, int], *, what: str) -> Markup:
    """Draw rows by tokens, on a logarithmic axis.

    `bins`: from (inclusive), to (exclusive), whole, truncated.
    """
    rows = [
        {"from": b["from"], "to": b["to"], "low": low, "high": high, "kind": kind}
        for b in bins
        for kind, low, high in (
            ("complete", 0, b["whole"]),
            ("truncated", b["whole"], b["whole"] + b["truncated"]),
        )
        if high > low
    ]
    x = _log_axis(
        f"{what} tokens",
        [b["from"] for b in bins] + [b["to"] for b in bins] + list(limits.values()),
    )
    bars = (
        alt.Chart(pl.DataFrame(rows))
        .mark_rect(stroke="var(--card)", strokeWidth=0.5)
        .encode(
            x=x,
            x2="to:Q",
            y=alt.Y("low:Q", title="rows", axis=_count_axis()),
            y2="high:Q",
            color=_colours(complete="var(--blue)", truncated="var(--orange)"),
        )
    )
    return draw(_with_limits(bars, limits), f"histogram of {what} tokens", wide=440)


def longer_than(points: Sequence[dict[str, Any]], limits: dict[str, int]) -> Markup:
    """Draw the share of rows longer than x tokens.

    `points`: tokens, share.
    """
    x = _log_axis(
        "completion tokens", [p["tokens"] for p in points] + list(limits.values()), field="tokens"
    )
    line = (
        alt.Chart(pl.DataFrame(points))
        .mark_area(
            interpolate="step-after",
            line={"color": "var(--blue)"},
            color="var(--blue)",
            fillOpacity=0.15,
            clip=True,
        )
        .encode(
            x=x,
            y=alt.Y(
                "share:Q",
                title="share of rows longer",
                axis=_share_axis(),
                scale=alt.Scale(domain=[0, 1]),
            ),
        )
    )
    return draw(
        _with_limits(line, limits), "share of rows longer than a number of tokens", wide=440
    )


def right_by_length(bins: Sequence[dict[str, Any]]) -> Markup:
    """Draw the share of judged rows that are right, by completion tokens.

    `bins`: from, to, judged, right.
    """
    rows = [
        {"from": b["from"], "to": b["to"], "share": b["right"] / b["judged"]}
        for b in bins
        if b["judged"]
    ]
    x = _log_axis("completion tokens", [b["from"] for b in rows] + [b["to"] for b in rows])
    bars = (
        alt.Chart(pl.DataFrame(rows))
        .mark_rect(stroke="var(--card)", strokeWidth=1, color="var(--green)")
        .encode(
            x=x,
            x2="to:Q",
            y=alt.Y("zero:Q", title="right", axis=_share_axis(), scale=alt.Scale(domain=[0, 1])),
            y2="share:Q",
        )
        .transform_calculate(zero="0")
    )
    return draw(bars, "share of right answers by completion tokens", wide=440)


def measures_by_k(lines: Sequence[dict[str, Any]]) -> Markup:
    """Draw pass@k and cons@k with their intervals.

    `lines`: measure, k, value, low, high.
    """
    colours = _colours(**{"pass@k": "var(--blue)", "cons@k": "var(--green)"})
    ks = sorted({row["k"] for row in lines})
    x = alt.X(
        "k:Q",
        title="k samples",
        scale=alt.Scale(type="log", base=2, nice=False),
        axis=alt.Axis(values=ks),
    )
    low, high = min(row["low"] for row in lines), max(row["high"] for row in lines)
    y_scale = alt.Scale(domain=[max(0.0, low - 0.02), min(1.0, high + 0.02)], nice=True, zero=False)
    frame = pl.DataFrame(lines)
    band = (
        alt.Chart(frame)
        .mark_area(opacity=0.18)
        .encode(x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=colours)
    )
    line = (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y("value:Q", title="share of prompts", axis=_share_axis(), scale=y_scale),
            color=colours,
        )
    )
    return draw(alt.layer(band, line), "pass@k and cons@k by k", wide=440)


def by_run(
    labels: Sequence[str],
    series: Mapping[str, tuple[str, Sequence[float | None]]],
    title: str,
    *,
    of: str,
    is_share: bool = False,
) -> Markup:
    """Draw a bar for each run in turn, stacked for several series.

    `series`: name → colour, values. `of`: night or run, for the chart's name.
    """
    rows = [
        {"run": run, "measure": name, "value": float(value)}
        for name, (_, values) in series.items()
        for run, value in enumerate(values)
        if value is not None
    ]
    x = alt.X(
        "run:O",
        title=None,
        scale=alt.Scale(domain=list(range(len(labels))), paddingInner=0.25),
        axis=alt.Axis(
            labelExpr=f"{json.dumps(list(labels))}[datum.value]",
            labelAngle=0,
            labelOverlap="greedy",
            labelSeparation=8,
            grid=False,
        ),
    )
    axis = alt.Axis(format=_number_format(is_share=is_share), tickCount=4)
    y = alt.Y("value:Q", title=title, stack="zero", axis=axis)
    colours = {name: colour for name, (colour, _) in series.items()}
    colour: Any = alt.value(next(iter(colours.values())))
    if sum(1 for _, values in series.values() if any(values)) > 1:
        colour = _colours(**colours)
    return draw(
        alt.Chart(pl.DataFrame(rows)).mark_bar(aria=False).encode(x=x, y=y, color=colour),
        f"{title} by {of}",
        wide=440,
    )


def over_time(
    points: Sequence[dict[str, Any]],
    name: str,
    title: str,
    *,
    colour: str,
    starts: Sequence[float],
    tail: float | None = None,
    is_share: bool = False,
    height: int = 150,
) -> Markup:
    """Draw a series over the time of all runs.

    `points`: seconds and the column `name`. `starts`: beginnings of runs, in seconds.
    """
    unit, per = time_unit(points[-1]["seconds"])
    frame = pl.DataFrame(
        {"at": [p["seconds"] / per for p in points], "value": [p[name] for p in points]}
    )
    end = points[-1]["seconds"] / per
    # The same width of the axis everywhere: these charts stand beneath each other.
    axis = alt.Axis(format=_number_format(is_share=is_share), tickCount=4, minExtent=32)
    x = alt.X(
        "at:Q",
        title=unit,
        scale=alt.Scale(domain=[0, end], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )
    y = alt.Y("value:Q", title=title, axis=axis, scale=alt.Scale(domainMin=0))
    layers: list[Any] = []
    if tail is not None:
        shade = pl.DataFrame({"at": [tail / per], "end": [end]})
        layers.append(
            alt.Chart(shade)
            .mark_rect(color="var(--orange)", opacity=0.16)
            .encode(x=x, x2="end:Q", y=alt.value(0), y2=alt.value(height))
        )
    mark = alt.Chart(frame).mark_area(
        interpolate="step-before",
        line={"color": colour, "strokeWidth": 1.3},
        color=colour,
        fillOpacity=0.15,
    )
    layers.append(mark.encode(x=x, y=y))
    if len(starts) > 1:
        rules = pl.DataFrame({"at": [s / per for s in starts[1:]]})
        layers.append(
            alt.Chart(rules).mark_rule(color="var(--muted)", strokeDash=[2, 3]).encode(x=x)
        )
    return draw(alt.layer(*layers), f"{title} over time", wide=940, height=height)


def time_unit(seconds: float) -> tuple[str, float]:
    """Choose the unit that reads best; returns its seconds too."""
    if seconds < 300:
        return "seconds", 1.0
    if seconds < 3 * 3600:
        return "minutes", 60.0
    return "hours", 3600.0


def _log_axis(title: str, values: Sequence[float], *, field: str = "from") -> alt.X:
    low, high = max(1.0, min(values)), max(values)
    wanted = [10.0**e * m for e in range(8) for m in (1, 2, 5) if low <= 10.0**e * m <= high]
    if len(wanted) > 7:
        wanted = [v for v in wanted if math.log10(v).is_integer() or len(wanted) < 12]
    return alt.X(
        f"{field}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, max(high, low * 2)], nice=False),
        axis=alt.Axis(values=wanted, grid=False, format="~s"),
    )


def _count_axis() -> alt.Axis:
    return alt.Axis(format="~s", tickCount=4)


def _share_axis() -> alt.Axis:
    return alt.Axis(format="~%", tickCount=4)


def _number_format(*, is_share: bool) -> str:
    """Return d3's format of an axis: percents or SI prefixes."""
    if is_share:
        return "~%"
    return "~s"


def day(date: str) -> str:
    """Return month and day of an ISO date."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        return date[5:]
    return "?"


def _colours(**by_name: str) -> alt.Color:
    field = "measure:N"
    if "complete" in by_name:
        field = "kind:N"
    return alt.Color(
        field,
        scale=alt.Scale(domain=list(by_name), range=list(by_name.values())),
        legend=alt.Legend(title=None),
    )


def _with_limits(chart: alt.Chart, limits: dict[str, int]) -> Drawable:
    """Add a named line to the chart at each limit of tokens."""
    if not limits:
        return chart
    frame = pl.DataFrame({"at": [float(v) for v in limits.values()], "name": list(limits)})
    rule = alt.Chart(frame).mark_rule(color="var(--red)", strokeDash=[4, 3]).encode(x="at:Q")
    text = (
        alt.Chart(frame)
        .mark_text(color="var(--red)", align="right", baseline="top", dx=-4, dy=2, fontSize=11)
        .encode(x="at:Q", y=alt.value(0), text="name:N")
    )
    return alt.layer(chart, rule, text)
