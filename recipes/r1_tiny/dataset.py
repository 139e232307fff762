"""Writes the shipped data set: held-out problems with answers, spread over the families, easy to
hard.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from recipes.r1_tiny.generator import TASKS, draw_problem, is_held_out
from recipes.r1_tiny.problems import FAMILIES, Problem


def draw_held_out(rng: Random, task: str, level: int, noisy: bool = False) -> Problem:
    """A held-out problem of a task and level."""
    while True:
        problem = draw_problem(rng, task, level, noisy)
        if is_held_out(problem.question):
            return problem


def spread(rng: Random, count: int) -> Iterator[Problem]:
    """``count`` different held-out problems: families in turn, their tasks in turn, all levels
    alike.
    """
    turns = {
        f: cycle(rng.sample(names, len(names)))
        for f in FAMILIES
        if (names := [t for t in TASKS if TASKS[t].family == f])
    }
    seen: set[str] = set()
    for i in range(count):
        family, level = FAMILIES[i % len(FAMILIES)], i // len(FAMILIES) % 5 + 1
        task = next(turns[family])
        while (
            problem := draw_held_out(rng, task, level, noisy=rng.random() < 0.15)
        ).question in seen:
            pass
        seen.add(problem.question)
        yield problem


def write(path: Path, count: int, seed: int) -> None:
    """Writes columns id, problem, answer, family, task, level; easy problems first."""
    problems = sorted(spread(Random(seed), count), key=lambda p: (p.level, len(p.reasoning)))
    table = pa.table(
        {
            "id": [f"math-{i:04d}" for i in range(1, count + 1)],
            "problem": [p.question for p in problems],
            "answer": [p.answer for p in problems],
            "family": [p.family for p in problems],
            "task": [p.task for p in problems],
            "level": pa.array([p.level for p in problems], pa.int64()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def main() -> None:
    """Writes the data set."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("jobs/data/math.parquet"))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2025)
    arguments = parser.parse_args()
    write(arguments.out, arguments.count, arguments.seed)
    print(f"{arguments.count} problems in {arguments.out}")


if __name__ == "__main__":
    main()
