"""Oracle: the rows that a scripted job must come to, computed apart from batchr1.

Prompts are rendered here, and encoded by the library `tokenizers`. Generations are drawn as the
script of the replay engine promises: by the prompt's hash, and with `groups` by the sample's seed.
Of batchr1 only r1-tiny's tokenizer.json is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer

MODEL = Path(__file__).parents[2] / "batchr1/models/r1_tiny"
LETTERS = 26
ANSWER = 5  # tokens
Key = tuple[str, int]


@functools.cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@functools.cache
def encoded(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer().encode(text, add_special_tokens=False).ids)


END = "<｜end▁of▁sentence｜>"


@functools.cache
def prompt_ids(problem: str) -> tuple[int, ...]:
    """Token ids of a prompt of one user turn, as DeepSeek's template writes it."""
    return encoded(f"<｜begin▁of▁sentence｜><｜User｜>{problem}<｜Assistant｜><think>\n")


def decoded(token_ids: list[int]) -> str:
    return _tokenizer().decode(token_ids, skip_special_tokens=True).strip()


@dataclass(frozen=True)
class Script:
    """Lengths of the scripted generations: log-normal, or one of a group."""

    mean_len: float = 60.0
    sigma: float = 0.8
    group: tuple[int, ...] = ()

    def tokens(self, problem: str, seed: int | None) -> list[int]:
        """All tokens of a prompt's completion, without a limit."""
        first, close, end = encoded("a")[0], encoded("</think>"), encoded(END)
        key = hashlib.blake2b(repr(list(prompt_ids(problem))).encode(), digest_size=8).digest()
        rng = random.Random(key)
        letters = range(first, first + LETTERS)
        if not self.group:
            mu = math.log(self.mean_len) - self.sigma**2 / 2
            length = max(1, round(rng.lognormvariate(mu, self.sigma)))
            thought = rng.choices(letters, k=length)
            return [*thought, *close, *rng.choices(letters, k=ANSWER), *end]
        variant = (seed or 0) % LETTERS
        length = max(1, self.group[variant % len(self.group)] - ANSWER - 2)
        text = rng.choices(list(letters), k=length - 1 + ANSWER)
        return [letters[variant], *text[: length - 1], *close, *text[length - 1 :], *end]


@dataclass(frozen=True)
class Rules:
    """What a job says of its generations."""

    max_tokens: int
    n: int = 1
    seed: int | None = None
    thinking: int | None = None
    closing: str | None = None
    attempts: int = 1  # of what is unclosed


@dataclass(frozen=True)
class Expected:
    """A row: its tokens, of which `injected` were put in, and how often it was tried."""

    token_ids: list[int]
    injected: int
    attempts: int
    seed: int | None
    discarded: int = 0

    @property
    def is_closed(self) -> bool:
        return encoded("</think>")[0] in self.token_ids

    @property
    def is_cut(self) -> bool:
        return self.token_ids[-1] != encoded(END)[0]

    @property
    def reasoning(self) -> str | None:
        return decoded(self.token_ids[: self._close_at()]) or None

    @property
    def answer(self) -> str | None:
        """Null without a close, and perhaps empty behind it."""
        return decoded(self.token_ids[self._close_at() + 1 :]) if self.is_closed else None

    def _close_at(self) -> int:
        close = encoded("</think>")[0]
        return self.token_ids.index(close) if self.is_closed else len(self.token_ids)


def own_seed(seed: int | None, id: str, sample: int, attempt: int) -> int | None:
    """Seed of a sample's attempt: 63 bits of a hash of all four."""
    if seed is None:
        return None
    text = f"{seed}\0{id}\0{sample}\0{attempt}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") // 2


def expected_rows(problems: Mapping[str, str], script: Script, rules: Rules) -> dict[Key, Expected]:
    """Every (id, sample) of a job, with the row that it must come to."""
    return {
        (id, sample): _expected(id, problem, sample, script, rules)
        for id, problem in problems.items()
        for sample in range(rules.n)
    }


def _expected(id: str, problem: str, sample: int, script: Script, rules: Rules) -> Expected:
    discarded = 0
    for attempt in range(1, rules.attempts + 1):
        seed = own_seed(rules.seed, id, sample, attempt)
        tokens, injected = _within_limits(script.tokens(problem, seed), rules)
        row = Expected(tokens, injected, attempt, seed, discarded)
        if row.is_closed or attempt == rules.attempts:
            return row
        discarded += len(tokens)
    raise AssertionError("a job without attempts")


def _within_limits(tokens: list[int], rules: Rules) -> tuple[list[int], int]:
    """Close at the thinking budget, go on from there, and cut at `max_tokens`."""
    injected = 0
    if rules.thinking is not None:
        thought = tokens.index(encoded("</think>")[0])
        if thought > rules.thinking:
            said = encoded(f"\n\n{rules.closing}\n") if rules.closing else ()
            closing = [*said, *encoded("</think>"), *encoded("\n\n")]
            injected = len(closing)
            # The script goes on by position: what was put in stands for as many of its tokens.
            tokens = [*tokens[: rules.thinking], *closing, *tokens[rules.thinking + injected :]]
    return tokens[: rules.max_tokens], injected


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Every row of an output, in no order, by pyarrow alone."""
    parts = sorted((output / "data").glob("*.parquet"))
    return [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def check_rows(
    rows: list[dict[str, Any]],
    needed: Mapping[Key, Expected],
    allowed: Mapping[Key, Expected] | None = None,
) -> None:
    """Every needed key once, no other but the allowed ones, and each row right."""
    allowed = allowed or needed
    counts = Counter((row["id"], row["sample"]) for row in rows)
    doubled = [key for key, count in counts.items() if count > 1]
    lost, strange = needed.keys() - counts.keys(), counts.keys() - allowed.keys()
    assert (doubled, lost, strange) == ([], set(), set()), "doubled, lost, strange keys"
    for row in rows:
        _check_row(row, allowed[row["id"], row["sample"]])


def _check_row(row: dict[str, Any], wanted: Expected) -> None:
    got = {
        "token_ids": row["token_ids"],
        "completion_tokens": row["completion_tokens"],
        "injected_tokens": row["injected_tokens"],
        "attempts": row["attempts"],
        "seed": row["seed"],
        "truncated": row["truncated"],
        "closed": row["reasoning_status"] == "closed",
        "reasoning": row["reasoning"],
    }
    need = {
        "token_ids": wanted.token_ids,
        "completion_tokens": len(wanted.token_ids),
        "injected_tokens": wanted.injected,
        "attempts": wanted.attempts,
        "seed": wanted.seed,
        "truncated": wanted.is_cut,
        "closed": wanted.is_closed,
        "reasoning": wanted.reasoning,
    }
    if not wanted.injected:  # else the answer may hold a tag that the script goes on with
        got["answer"], need["answer"] = row["answer"], wanted.answer
    wrong = {name: (value, need[name]) for name, value in got.items() if value != need[name]}
    assert wrong == {}, f"{row['id']}, sample {row['sample']}: (got, need)"
    parts = [row[f"{name}_tokens"] for name in ("reasoning", "answer", "control")]
    assert sum(parts) == row["completion_tokens"], "tokens are conserved"
    offsets = row["resumed_at"]
    assert offsets == sorted({*offsets}), "each resumption is further on"
    assert all(0 < offset < row["completion_tokens"] for offset in offsets)


def check_success(output: Path, rows: list[dict[str, Any]], num_inputs: int) -> None:
    """`_SUCCESS` counts what lies there."""
    said = json.loads((output / "_SUCCESS").read_text())
    parts = list((output / "data").iterdir())
    size = sum(part.stat().st_size for part in parts)
    got = (said["rows"], said["parts"], said["bytes"])
    assert got == (num_inputs, len(parts), size), got
    assert said["samples"] <= len(rows)


def check_swept(output: Path, *, keeps_aside: bool = False) -> None:
    """No temporary file is left, nothing staged, nothing in flight.

    `keeps_aside`: saved tokens may stay, of samples that a narrower job does not ask for.
    """
    files = [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]
    left = [
        name
        for name in files
        if name.endswith(".tmp")
        or "/staging/" in name
        or ("/inflight/" in name and not (keeps_aside and name.endswith("-aside.bin")))
    ]
    assert left == [], f"left: {left}"


def generated_in(journal: Path) -> int:
    """Tokens that the engine made, by its own journal."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    count = 0
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # the last one, cut by a kill
            continue
        if "first" in entry:
            count += entry["last"] - entry["first"] + 1
    return count
