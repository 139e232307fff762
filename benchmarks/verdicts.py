"""How graders do on the labelled pairs of the tests, side by side.

    python benchmarks/verdicts.py [--pairs tests/data/verdict_pairs.jsonl]
    python benchmarks/verdicts.py --random 1000000

The second draws pairs from pieces of the labelled ones, cut, doubled, nested and repeated, and
times the stages that need no library: what a worker does in its own process.

For each: wrongly right, wrongly wrong, no verdict, and milliseconds a pair. `qwen` and `prm800k`
follow the published rules of two public graders, written here from their description: text, floats
and simple structures, with SymPy for the rest. Math-Verify is called as its README says.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batchr1.reasoning.answers import boxed_answer
from batchr1.reasoning.verify import Verify, full_verdict, quick_verdict

PAIRS = Path(__file__).parent.parent / "tests" / "data" / "verdict_pairs.jsonl"
LIMIT_S = 10

Grader = Callable[[str, str], bool | None]


def batchr1(answer: str, gold: str) -> bool | None:
    """The kind auto, as a run calls it."""
    verify = Verify()
    found = quick_verdict(verify, answer, gold) or full_verdict(verify, None, answer, gold, {})
    return found.correct


def math_verify(answer: str, gold: str) -> bool | None:
    """Math-Verify alone."""
    from math_verify import parse, verify

    return bool(
        verify(
            parse(f"${gold}$", parsing_timeout=None),
            parse(answer, parsing_timeout=None),
            timeout_seconds=None,
        )
    )


def qwen(answer: str, gold: str) -> bool | None:
    """Compare text without case, choices, floats to 1e-4 or a hundred times, structures."""
    return _qwen_equal(boxed_answer(answer) or "", gold)


def _qwen_equal(mine: str, right: str) -> bool:
    a, b = mine.strip().lower(), right.strip().lower()
    if a == b:
        return True
    letters = re.findall(r"\b[A-E]\b", mine.upper())
    if right in list("ABCDE") and letters and letters[-1] == right:
        return True
    x, y = _float(a), _float(b)
    if x is not None and y is not None:
        return any(math.isclose(x, one, rel_tol=1e-4) for one in (y / 100, y, y * 100))
    bare = str.maketrans("", "", "{}()")
    if a.strip("[]").translate(bare) == b.strip("[]").translate(bare):
        return True
    if re.fullmatch(r"[(\[].+[)\]]", a) and re.fullmatch(r"[(\[].+[)\]]", b):
        parts, others = mine.strip()[1:-1].split(","), right.strip()[1:-1].split(",")
        return len(parts) == len(others) and all(map(_qwen_equal, parts, others))
    for one, other in ((mine, right), (right, mine)):
        if one.count("=") == 1 and "=" not in other and len(one.partition("=")[0].strip()) <= 2:
            return _qwen_equal(one.partition("=")[2], other)
    return _symbolic(mine, right)


def _float(text: str) -> float | None:
    text = text.replace(",", "")
    percent = text.endswith("%")
    try:
        value = float(text.rstrip("%").rstrip("\\"))
    except ValueError:
        return None
    return value / 100 if percent else value


def prm800k(answer: str, gold: str) -> bool | None:
    """Compare normalised text, tuples by brackets, numbers strictly, the rest by SymPy."""
    mine, right = _prm_normal(boxed_answer(answer) or ""), _prm_normal(gold)
    if mine == right:
        return True
    if not mine or not right:
        return False
    parts, others = _elements(mine), _elements(right)
    if len(others) > 1 and (mine[0], mine[-1]) != (right[0], right[-1]):
        return False
    if len(parts) != len(others):
        return False
    return all(map(_prm_element, parts, others))


def _prm_normal(text: str) -> str:
    text = re.sub(r"^\\text\{(.+?)\}$", r"\1", text)
    text = re.sub(r"\\?[%$]", "", text).replace(" or ", " , ").replace(" and ", " , ")
    for word, power in (("million", 6), ("billion", 9), ("trillion", 12)):
        text = text.replace(word, f"*10^{power}")
    text = re.sub(
        r"(degree|cm|meter|mile|second|minute|hour|day|inch|foot|feet)(es)?s? *(\^\d+)?", "", text
    )
    text = re.sub(r",\\! *|\^ *\\circ", "", text).strip()
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", text)
    text = re.sub(r"(\d) +(\d)", r"\1+\2", re.sub("- *", "-", text))
    text = re.sub(r"[ {}\\]|left|right", "", text).lower()
    return re.sub(r"(\d),(?=\d{3}(\D|$))", r"\1", text)


def _elements(text: str) -> list[str]:
    if (
        len(text) > 2
        and text[0] in "(["
        and text[-1] in ")]"
        and not re.search(r"[()\[\]]", text[1:-1])
    ):
        return [one.strip() for one in text[1:-1].split(",")]
    return [text]


def _prm_element(mine: str, right: str) -> bool:
    if re.fullmatch(r"-?\d+/\d+", mine) and re.fullmatch(r"-?\d+/\d+", right):
        return mine == right
    whole = [re.fullmatch(r"-?\d+(\.0*)?", one) is not None for one in (mine, right)]
    if whole[0] != whole[1]:
        return False
    letters = set(re.sub("sqrt|frac", "", mine + right)) & set("abcdefghijklmnopqrstuvwxyz")
    if len(letters) > 2 or re.search(r"\^[({]|\^\d+\^|\^\d\d+", mine + right):
        return False
    from sympy import simplify
    from sympy.parsing.sympy_parser import (
        implicit_multiplication_application,
        parse_expr,
        standard_transformations,
    )

    rules = (*standard_transformations, implicit_multiplication_application)
    try:
        text = f"({right})-({mine})".replace("^", "**")
        return bool(simplify(parse_expr(text, transformations=rules)) == 0)
    except TimeoutError:
        raise
    except Exception:  # whatever a parser says of a text that it does not know
        return False


def _symbolic(mine: str, right: str) -> bool:
    from latex2sympy2_extended import latex2sympy
    from sympy import simplify

    try:
        a, b = latex2sympy(mine), latex2sympy(right)
        return bool(a == b or simplify(a - b) == 0)
    except TimeoutError:
        raise
    except Exception:
        return False


GRADERS: dict[str, Grader] = {
    "batchr1 auto": batchr1,
    "Math-Verify": math_verify,
    "qwen": qwen,
    "prm800k": prm800k,
}


def _limited(grader: Grader, answer: str, gold: str) -> bool | None:
    """A grader's word, or None where it takes too long or raises."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        return grader(answer, gold)
    except Exception:
        return None
    finally:
        signal.alarm(0)


def _drawn(rng: random.Random, pieces: list[str]) -> str:
    """Put pieces together: cut, doubled, in brackets, or repeated for long."""
    text = "".join(rng.choice(pieces) for _ in range(rng.choice([1, 1, 2, 3, 5, 9])))
    match rng.randrange(6):
        case 0:
            text = text[rng.randrange(len(text) + 1) :]
        case 1:
            text = (
                rng.choice(["\\frac{", "\\sqrt{", "(", "\\text{", "{"]) * rng.choice([1, 3, 70])
                + text
            )
        case 2:
            text *= rng.choice([2, 3, 200])
        case 3:
            text = f"{text}^{{{rng.choice(pieces)}}}"
    return text


def time_random(number: int) -> None:
    """Judge drawn pairs one by one, and print the median and the longest time."""
    rng = random.Random(18)
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    texts = [pair["gold"] for pair in pairs] + [
        boxed_answer(pair["answer"]) or "" for pair in pairs
    ]
    cut = [part for text in texts for part in re.findall(r"\\?\w+|\s+|[^\w\s]", text)]
    pieces = [*texts, *rng.sample(cut, min(len(cut), 3 * len(texts)))]
    times, slow = [], Counter[float]()
    longest = (0.0, "", "")
    for _ in range(number):
        answer, gold = f"\\boxed{{{_drawn(rng, pieces)}}}", _drawn(rng, pieces)
        started = time.process_time()
        quick_verdict(Verify(), answer, gold)
        took = 1000 * (time.process_time() - started)
        times.append(took)
        longest = max(longest, (took, answer[:200], gold[:200]))
        for limit in (10, 100, 1000):
            slow[limit] += took > limit
    print(
        f"{number:,} pairs, median {statistics.median(times):.3f} ms, longest {longest[0]:.0f} ms"
    )
    print("; ".join(f"{slow[limit]} above {limit} ms" for limit in (10, 100, 1000)))
    print(f"longest: {longest[1]!r} against {longest[2]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--random", type=int, default=0, metavar="PAIRS")
    args = parser.parse_args()
    if args.random:
        time_random(args.random)
        return
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    pairs = [json.loads(line) for line in args.pairs.read_text(encoding="utf-8").splitlines()]
    print(f"{len(pairs)} pairs, {sum(pair['right'] for pair in pairs)} of them right")
    print(f"{'':<14} wrongly right  wrongly wrong  no verdict  median ms  longest ms")
    for name, grader in GRADERS.items():
        outcomes: Counter[str] = Counter()
        times = []
        for pair in pairs:
            started = time.perf_counter()
            found = _limited(grader, pair["answer"], pair["gold"])
            times.append(1000 * (time.perf_counter() - started))
            if found is None:
                outcomes["none"] += 1
            elif found != pair["right"]:
                outcomes["right" if found else "wrong"] += 1
        shares = [outcomes[key] / len(pairs) for key in ("right", "wrong", "none")]
        print(
            f"{name:<14} {shares[0]:13.1%}  {shares[1]:13.1%}  {shares[2]:10.1%}"
            f"  {statistics.median(times):9.2f}  {max(times):10.0f}"
        )


if __name__ == "__main__":
    main()
