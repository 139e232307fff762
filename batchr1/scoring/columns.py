"""Columns of scores, in order, and their tables."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batchr1.columns import Column

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ids = np.ndarray[Any, np.dtype[np.int32]]

_ids, _texts = pa.list_(pa.int32()), pa.string()

COLUMNS: tuple[Column, ...] = (
    Column("id", _texts, False, "the row's id in what was scored"),
    Column("sample", pa.int32(), False, "its sample there; 0 where it has none"),
    Column("prompt_ids", _ids, False, "the prompt's token ids, as the model was given them"),
    Column("token_ids", _ids, False, "the completion's token ids, of the same vocabulary"),
    Column(
        "logprob",
        pa.list_(pa.float32()),
        False,
        "of each completion token, behind all before it; raw: before temperature and top_p",
        "nats",
    ),
    Column(
        "topk_ids",
        pa.list_(_ids),
        False,
        "the k likeliest tokens at each place, the likeliest first",
    ),
    Column(
        "topk_logprobs",
        pa.list_(pa.list_(pa.float16())),
        False,
        "their log-probabilities, raw as well",
        "nats",
    ),
    Column("reasoning_tokens", pa.int32(), False, "completion tokens of the reasoning", "tokens"),
    Column("answer_tokens", pa.int32(), False, "completion tokens of the answer", "tokens"),
    Column(
        "reasoning_perplexity",
        pa.float64(),
        True,
        "e to the mean of -logprob over the reasoning; null without a token",
    ),
    Column("answer_perplexity", pa.float64(), True, "the same of the answer"),
    Column(
        "reasoning_entropy",
        pa.float64(),
        True,
        "mean entropy at the reasoning's tokens, a lower bound: all beyond the top k counts as "
        "one token; null without a token, or with k = 0",
        "nats a token",
    ),
    Column("answer_entropy", pa.float64(), True, "the same of the answer", "nats a token"),
    Column("row_hash", _texts, False, "64-bit hash of what was read of the row"),
    Column("run", _texts, False, "the run that scored the row"),
    Column("scored_at", pa.timestamp("us", tz="UTC"), False, "when"),
)
SCHEMA = pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in COLUMNS])


@dataclass(frozen=True, slots=True)
class Row:
    """Row to be scored: prompt and completion in the model's tokens.

    `opened`: the prompt ends inside a think block. `digest` is the hash of what was read.
    """

    id: str
    sample: int
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    opened: bool
    digest: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities of a row's completion, token by token.

    `top_ids` and `top_logprobs` have a line a token and k columns.
    """

    logprob: Floats
    top_ids: Ids
    top_logprobs: Floats

    @property
    def nbytes(self) -> int:
        """Bytes that these add to a part, before compression."""
        return 4 * self.logprob.size + 6 * self.top_ids.size


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """Row with its scores; `places` are those of reasoning and answer."""

    row: Row
    scores: Scores
    places: tuple[Sequence[int], Sequence[int]]
    scored_at: dt.datetime

    @property
    def nbytes(self) -> int:
        """Bytes of the row in its part, before compression."""
        return self.scores.nbytes + 4 * (len(self.row.prompt_ids) + len(self.row.token_ids)) + 200


def entropies(top_logprobs: Floats) -> Floats | None:
    """Bound the entropy at each place from below.

    None without a top k.
    """
    if not top_logprobs.shape[1]:
        return None
    logs: np.ndarray[Any, np.dtype[np.float64]] = top_logprobs.astype(np.float64)
    shares = np.exp(logs)
    rest = np.clip(1.0 - shares.sum(axis=1), 0.0, 1.0)
    # A token without any share has -inf, which adds nothing.
    inside = -np.sum(shares * np.where(shares > 0, logs, 0.0), axis=1)
    beyond = -rest * np.log(np.where(rest > 0, rest, 1.0))
    found: Floats = (inside + beyond).astype(np.float32)
    return found


def scores_table(rows: Sequence[ScoredRow], run: str) -> pa.Table:
    """Make the table of a part."""
    tops = [row.scores for row in rows]
    values: dict[str, Any] = {
        "id": [row.row.id for row in rows],
        "sample": [row.row.sample for row in rows],
        "prompt_ids": [list(row.row.prompt_ids) for row in rows],
        "token_ids": [list(row.row.token_ids) for row in rows],
        "logprob": [scores.logprob for scores in tops],
        "topk_ids": _nested([scores.top_ids for scores in tops], pa.int32()),
        "topk_logprobs": _nested(
            [scores.top_logprobs.astype(np.float16) for scores in tops], pa.float16()
        ),
        "row_hash": [row.row.digest for row in rows],
        "run": [run] * len(rows),
        "scored_at": [row.scored_at for row in rows],
    }
    values |= _of_parts(rows)
    arrays = [
        values[field.name]
        if isinstance(values[field.name], pa.Array)
        else pa.array(values[field.name], field.type)
        for field in SCHEMA
    ]
    return pa.table(arrays, schema=SCHEMA)


def _nested(blocks: Sequence[np.ndarray[Any, Any]], kind: pa.DataType) -> pa.Array:
    """Make a list of lists of numbers, without an object for each."""
    width = blocks[0].shape[1]
    lengths = np.array([0, *(len(block) for block in blocks)])
    flat = pa.array(np.concatenate(blocks).ravel(), kind)
    inner = pa.ListArray.from_arrays(_offsets(np.arange(lengths.sum() + 1) * width), flat)
    return pa.ListArray.from_arrays(_offsets(np.cumsum(lengths)), inner)


def _offsets(places: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(places.astype(np.int32), pa.int32())


def _of_parts(rows: Sequence[ScoredRow]) -> dict[str, list[Any]]:
    """Sum up reasoning and answer of each row."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        entropy = entropies(row.scores.top_logprobs)
        for name, places in zip(("reasoning", "answer"), row.places, strict=True):
            at = np.asarray(places, dtype=np.int64)
            perplexity = mean = None
            if len(at):
                perplexity = _exp(-float(np.mean(row.scores.logprob[at], dtype=np.float64)))
            if len(at) and entropy is not None:
                mean = float(np.mean(entropy[at], dtype=np.float64))
            found.setdefault(f"{name}_tokens", []).append(len(at))
            found.setdefault(f"{name}_perplexity", []).append(perplexity)
            found.setdefault(f"{name}_entropy", []).append(mean)
    return found


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
