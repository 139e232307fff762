"""Self time of a process's functions by thread, from py-spy's stacks.

    # writes DIR/driver-PID.txt, DIR/worker-PID.txt
    python benchmarks/throughput.py --systems batchr1 --rounds 1 --profile DIR …
    python benchmarks/self_time.py DIR/worker-*.txt --under Worker.run

A line of such a file is one stack, outermost frame first, and how many samples had it. py-spy
leaves out threads that sleep, so a share is one of the samples in which a thread was running or
wanted to. Self time is the innermost frame's; with `--inclusive` a function also has what it
called. Compiled code counts for the Python function that called it.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

_THREAD = re.compile(r"thread \((?P<id>\w+)\)(?:: (?P<name>.*))?")
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?::\d+)?\)")


def stacks(lines: Iterable[str]) -> Iterator[tuple[str, list[str], int]]:
    """Read (thread, frames as "function (file)", samples) of each line.

    Frames of the process in front are passed over.
    """
    for line in lines:
        text, _, count = line.rstrip("\n").rpartition(" ")
        if not text or not count.isdigit():
            continue
        thread, frames = "MainThread", []
        for part in text.split(";"):
            if (found := _THREAD.fullmatch(part)) is not None:
                thread, frames = found["name"] or "MainThread", []
            elif (frame := _FRAME.fullmatch(part)) is not None:
                frames.append(f"{frame['function']} ({frame['file']})")
        yield thread, frames, int(count)


def by_thread(
    found: Iterable[tuple[str, list[str], int]],
    *,
    key: str = "function",
    under: str = "",
    inclusive: bool = False,
) -> dict[str, Counter[str]]:
    """Count samples of each thread by function or module (`key`).

    `under`: only stacks with a frame that holds this text.
    """
    threads: dict[str, Counter[str]] = {}
    for thread, frames, count in found:
        if not frames or (under and not any(under in frame for frame in frames)):
            continue
        counter = threads.setdefault(thread, Counter())
        names = [frame if key == "function" else module_of(frame) for frame in frames]
        counter.update(dict.fromkeys(names if inclusive else names[-1:], count))
        counter[""] += count
    return threads


def module_of(frame: str) -> str:
    """Name a frame's module: its folder, or else its file.

    `step (vllm/v1/engine/core.py)` belongs to vllm/v1/engine.
    """
    file = Path(frame.rpartition(" (")[2].removesuffix(")"))
    return str(file.parent) if len(file.parts) > 1 else str(file)


def table(threads: dict[str, Counter[str]], top: int) -> str:
    """Lay out a Markdown table for each thread, the busiest first."""
    everything = sum(counter[""] for counter in threads.values())
    blocks = []
    for thread, counter in sorted(threads.items(), key=lambda entry: -entry[1][""]):
        total = counter[""]
        lines = [
            f"{thread}: {total:,} samples, {total / everything:.1%} of all",
            "",
            "| share | where |",
            "|---|---|",
        ]
        leading = [(name, count) for name, count in counter.most_common(top + 1) if name][:top]
        lines += [f"| {count / total:.1%} | {name} |" for name, count in leading]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--by", choices=["function", "module"], default="function")
    parser.add_argument(
        "--under", default="", metavar="TEXT", help="only stacks with this in a frame: Worker.run"
    )
    parser.add_argument(
        "--inclusive", action="store_true", help="with the time of what a function called"
    )
    parser.add_argument("--top", type=int, default=15)
    options = parser.parse_args()
    for path in options.files:
        with path.open(encoding="utf-8") as lines:
            threads = by_thread(
                stacks(lines), key=options.by, under=options.under, inclusive=options.inclusive
            )
        print(f"{path.name}\n\n{table(threads, options.top) or 'no samples'}\n")


if __name__ == "__main__":
    main()
