"""Cost of flags: microseconds for a row, and share of a run.

    python benchmarks/flags.py [--tokens-per-s 4000] [--repeat 20]

Rows of 1,000 tokens are put together from the labelled set of the tests. 4 characters of English
count for a token, and 1.6 of Chinese. One thread flags them, as a run's collector does. The share
is of one core's time while an engine generates `--tokens-per-s`; the collector's thread runs beside
the engine's loop.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from array import array
from pathlib import Path

from batchr1.reasoning.flags import flags_of
from batchr1.reasoning.loops import LoopDetector
from batchr1.reasoning.split import Split

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
import flag_cases

TOKENS = 1000


def texts() -> dict[str, tuple[str, str]]:
    """A prompt and a reasoning of 1,000 tokens each, by kind."""
    cases = flag_cases.cases()

    def of(family: str, chars: int) -> tuple[str, str]:
        chosen = [c for c in cases if c["family"] == family]
        return chosen[0]["prompt"], "\n\n".join(
            f"({i}) {c['reasoning']}" for i, c in enumerate(chosen * 9)
        )[:chars]

    return {
        "English": of("clean", 4 * TOKENS),
        "Chinese": of("clean chinese", 8 * TOKENS // 5),
        "with code": of("code", 4 * TOKENS),
        "a loop": of("loop sentence", 4 * TOKENS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens-per-s", type=float, default=4000.0)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    for name, (prompt, reasoning) in texts().items():
        split = Split(reasoning, "The answer is \\boxed{5}.", "closed", None, TOKENS, 9, 2, 0)
        times = []
        for _ in range(args.repeat):
            started = time.thread_time()
            flags_of(split, prompt=prompt, expects_box=True)
            times.append(time.thread_time() - started)
        cost = statistics.median(times)
        share = cost * args.tokens_per_s / TOKENS
        print(
            f"{name:<10} {cost * 1e6:7.0f} µs per {TOKENS:,} tokens = {share:.2%} of a run at "
            f"{args.tokens_per_s:,.0f}"
        )
    detector, tokens = LoopDetector(), array("i", range(20_000))
    growing: array[int] = array("i")
    started = time.thread_time()
    for token in tokens:
        growing.append(token)
        detector.update(growing)
    print(
        f"LoopDetector {(time.thread_time() - started) / len(tokens) * 1e6:.2f} µs per token, "
        f"over {len(tokens):,}"
    )


if __name__ == "__main__":
    main()
