"""Traces: requests with fixed lengths like a reasoning job's.

Lengths are output tokens, and `mean` is that of the distribution before the cap. `seed` decides
everything, so each process with the same spec sees the same trace. There are four kinds:

lognormal   a long tail: log-normal with this mean and sigma
bimodal     easy and hard ones: 80 % around a quarter of the mean, 20 % around four times it
            (log-normal, sigma 0.25)
grouped     `n` samples of each prompt in a row, of similar lengths: log-normal, with `correlation`
            of the variance of log-lengths between prompts and the rest within a group
recorded    lengths of a real run of r1-tiny, `n` samples of each prompt, prompts shuffled;
            data/r1_tiny_lengths.json names the run; `mean` and `sigma` are not used; beyond the
            recorded ones they begin again
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

KINDS = ("lognormal", "bimodal", "grouped", "recorded")
RECORDED = Path(__file__).parent / "data/r1_tiny_lengths.json"

_BIMODAL = (
    (0.8, 0.25),
    (0.2, 4.0),
)  # (share of requests, centre as a multiple of the mean): the mean stays the mean
_BIMODAL_SIGMA = 0.25


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """Trace to make; `mean` and `cap` are in output tokens.

    A prompt is a sum of `prompt_words` numbers, or `prompt_tokens` long. The latter counts the
    rendered prompt exactly, chat template included. It needs the model, and wins.
    """

    requests: int
    mean: float
    sigma: float
    cap: int
    prompt_words: int
    seed: int = 0
    kind: str = "lognormal"
    n: int = 8
    correlation: float = 0.75
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """Request for `output_len` tokens.

    `group` counts prompts, `sample` the requests of one prompt.
    """

    id: str
    group: int
    sample: int
    prompt: str
    output_len: int


def requests(spec: TraceSpec, model: str | None = None) -> list[TracedRequest]:
    """Make the trace in its order of submission, a prompt's samples together."""
    wanted = lengths(spec)
    members = groups(spec)
    texts = prompts(spec, model)
    first = {group: i for i, group in reversed(list(enumerate(members)))}
    return [
        TracedRequest(f"r{i:05d}", group, i - first[group], texts[group], length)
        for i, (group, length) in enumerate(zip(members, wanted, strict=True))
    ]


def lengths(spec: TraceSpec) -> list[int]:
    """Draw the output tokens of each request, between 1 and the cap."""
    rng = random.Random(spec.seed)
    match spec.kind:
        case "lognormal":
            drawn: Iterable[float] = (
                _lognormal(rng, spec.mean, spec.sigma) for _ in range(spec.requests)
            )
        case "bimodal":
            centres = rng.choices(
                [c for _, c in _BIMODAL], [share for share, _ in _BIMODAL], k=spec.requests
            )
            drawn = [_lognormal(rng, spec.mean * centre, _BIMODAL_SIGMA) for centre in centres]
        case "grouped":
            drawn = _grouped(rng, spec)
        case "recorded":
            drawn = _recorded(rng, spec)
        case kind:
            raise ValueError(f"trace: there is no kind {kind!r} (need one of {', '.join(KINDS)})")
    return [min(spec.cap, max(1, round(length))) for length in drawn]


def groups(spec: TraceSpec) -> list[int]:
    """Number the prompt of each request; samples of one share a number."""
    n = spec.n if spec.kind in ("grouped", "recorded") else 1
    return [i // n for i in range(spec.requests)]


def _lognormal(rng: random.Random, mean: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def _grouped(rng: random.Random, spec: TraceSpec) -> list[float]:
    between = spec.sigma * math.sqrt(spec.correlation)
    within = spec.sigma * math.sqrt(1 - spec.correlation)
    drawn: list[float] = []
    while len(drawn) < spec.requests:
        centre = _lognormal(rng, spec.mean, between)
        drawn += [_lognormal(rng, centre, within) for _ in range(spec.n)]
    return drawn[: spec.requests]


def _recorded(rng: random.Random, spec: TraceSpec) -> list[float]:
    known: list[list[int]] = json.loads(RECORDED.read_text(encoding="utf-8"))["lengths"]
    if spec.n > len(known[0]):
        raise ValueError(
            f"trace: {len(known[0])} samples of each prompt were recorded (got n = {spec.n})"
        )
    drawn: list[float] = []
    while len(drawn) < spec.requests:
        rng.shuffle(known)  # they lie in order of difficulty
        for group in known:
            drawn += group[: spec.n]
    return drawn[: spec.requests]


def prompts(spec: TraceSpec, model: str | None = None) -> list[str]:
    """Make user turns that share no prefix, one for each group.

    They are sums of many numbers, or exactly so many tokens.
    """
    count = max(groups(spec), default=-1) + 1
    rng = random.Random(spec.seed + 1)
    if spec.prompt_tokens is None:
        return [
            " + ".join(str(rng.randrange(10)) for _ in range(spec.prompt_words)) + " = ?"
            for _ in range(count)
        ]
    if model is None:
        raise ValueError("trace: prompt_tokens needs the model, to count them")
    return exact_prompts(model, count, spec.prompt_tokens, rng)


def exact_prompts(model: str, count: int, prompt_tokens: int, rng: random.Random) -> list[str]:
    """Make user turns that render to exactly `prompt_tokens` token ids.

    The template's tokens count. Words are added or taken away until the count is right; a text that
    keeps jumping over it is drawn anew.
    """
    from batchr1.dataset.prompts import PromptRenderer, PromptRow, load_tokenizer

    tokenizer = load_tokenizer(model)
    renderer = PromptRenderer(tokenizer, instruction="none")
    row = partial(PromptRow, "")
    pieces = single_tokens(tokenizer)
    start = max(1, prompt_tokens - len(_ids(renderer.render_many([row(pieces[0])])[0])))
    drafts = [rng.choices(pieces, k=start) for _ in range(count)]
    done: list[str | None] = [None] * count
    for attempt in range(200):
        left = [i for i in range(count) if done[i] is None]
        if not left:
            return [text for text in done if text is not None]
        texts = ["".join(drafts[i]).strip() for i in left]
        for i, text, prompt in zip(left, texts, renderer.render_many(map(row, texts)), strict=True):
            over = len(_ids(prompt)) - prompt_tokens
            if over == 0:
                done[i] = text
            elif attempt % 20 == 19:
                drafts[i] = rng.choices(pieces, k=start)
            elif over > 0:
                drafts[i] = drafts[i][: max(1, len(drafts[i]) - over)]
            else:
                drafts[i] += rng.choices(pieces, k=-over)
    raise ValueError(
        f"trace: no prompt of {prompt_tokens} tokens was found; its template alone may be longer"
    )


def single_tokens(tokenizer: Any) -> list[str]:
    """Find pieces of text that mostly are one token each.

    They are words after a space, or digits if the vocabulary has few words.
    """
    texts = {tokenizer.decode([i]) for i in range(min(len(tokenizer), 60_000))}
    words = sorted(
        t
        for t in texts
        if t.startswith(" ") and t.isascii() and t[1:].isalpha() and t[1:].islower()
    )
    encoded = tokenizer(words, add_special_tokens=False).input_ids if words else []
    words = [text for text, ids in zip(words, encoded, strict=True) if len(ids) == 1]
    return words if len(words) >= 50 else list("0123456789")


def _ids(prompt: Any) -> tuple[int, ...]:
    if isinstance(prompt, Exception):
        raise prompt
    ids: tuple[int, ...] = prompt.token_ids
    return ids


def write_dataset(spec: TraceSpec, path: Path, model: str) -> int:
    """Write the trace as a dataset; returns its output tokens.

    Columns: id, group, sample, prompt, max_tokens. Of the rendered prompt: prompt_tokens, and
    prompt_hash as in batchr1's output.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from batchr1.dataset.prompts import PromptRenderer, PromptRow, digest, load_tokenizer

    rows = requests(spec, model)
    renderer = PromptRenderer(load_tokenizer(model), instruction="none")
    rendered = renderer.render_many(PromptRow(row.id, row.prompt) for row in rows)
    columns = {
        "id": [row.id for row in rows],
        "group": [row.group for row in rows],
        "sample": [row.sample for row in rows],
        "prompt": [row.prompt for row in rows],
        "max_tokens": [row.output_len for row in rows],
        "prompt_tokens": [len(_ids(prompt)) for prompt in rendered],
        "prompt_hash": [digest(_ids(prompt)).hex() for prompt in rendered],
    }
    pq.write_table(pa.table(columns), path)
    return sum(row.output_len for row in rows)
