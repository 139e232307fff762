"""Answers problems in batches with the plain PyTorch model and counts what is right, by family."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.r1_tiny import R1_TINY
from recipes.r1_tiny.generator import INSTRUCTION
from recipes.r1_tiny.model import Attend, Qwen2, load_model
from recipes.r1_tiny.tokenizer import Encoder

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem to evaluate on."""

    problem: str
    answer: str
    family: str
    task: str


def read_problems(path: Path) -> list[Asked]:
    """Problems of a .jsonl or .parquet file with columns problem, answer, family, task."""
    rows: list[dict[str, Any]]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
    else:
        rows = [
            json.loads(line)
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
    return [
        Asked(str(r["problem"]), str(r["answer"]), str(r["family"]), str(r["task"])) for r in rows
    ]


def boxed(text: str) -> str | None:
    """What the last box after the think block holds."""
    found = _BOX.findall(text.split("</think>")[-1])
    return found[-1].strip() if found else None


def is_right(given: str | None, gold: str) -> bool:
    """Whether both are the same number."""
    if given is None:
        return False
    try:
        return abs(float(given) - float(gold)) < 1e-9
    except ValueError:
        return given == gold


class _Cache:
    """Keys and values of all layers, with left-padded prompts."""

    def __init__(self, model: Qwen2, batch: int, length: int, like: Tensor) -> None:
        s = model.shape
        size = (s.num_hidden_layers, 2, batch, s.num_key_value_heads, length, s.head_dim)
        self.store = torch.zeros(size, dtype=like.dtype, device=like.device)
        self.end = 0
        self.mask = torch.zeros(0)

    def attend(self, layer: int) -> Attend:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            new = slice(self.end - k.shape[2], self.end)
            self.store[layer, 0, :, :, new] = k
            self.store[layer, 1, :, :, new] = v
            keys, values = (
                self.store[layer, 0, :, :, : self.end],
                self.store[layer, 1, :, :, : self.end],
            )
            return F.scaled_dot_product_attention(
                q, keys, values, attn_mask=self.mask, enable_gqa=True
            )

        return attention


def sample(scores: Tensor, temperature: float, top_p: float) -> Tensor:
    """Next ids from scores (batch × vocabulary); temperature 0 takes the best."""
    if temperature == 0:
        return scores.argmax(-1)
    p, order = torch.softmax(scores.float() / temperature, -1).sort(-1, descending=True)
    p = torch.where(p.cumsum(-1) - p < top_p, p, 0.0)
    return order.gather(-1, torch.multinomial(p, 1))[:, 0]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def generate(
    model: Qwen2,
    prompts: Sequence[Sequence[int]],
    stop: int,
    max_new: int,
    temperature: float,
    top_p: float,
    limit_s: float,
) -> list[list[int]]:
    """Completions of a batch of prompts; gives what there is when ``limit_s`` seconds are over."""
    begin = time.monotonic()
    weight = model.model.embed_tokens.weight
    device, widest = weight.device, max(map(len, prompts))
    ids = torch.zeros((len(prompts), widest), dtype=torch.long, device=device)
    real = torch.zeros((len(prompts), widest + max_new), dtype=torch.bool, device=device)
    for i, prompt in enumerate(prompts):
        ids[i, widest - len(prompt) :] = torch.tensor(prompt, device=device)
        real[i, widest - len(prompt) : widest] = True
    cache = _Cache(model, len(prompts), widest + max_new, weight)
    positions = (real[:, :widest].cumsum(-1) - 1).clamp(min=0)
    causal = torch.ones((widest, widest), dtype=torch.bool, device=device).tril()
    own = torch.eye(widest, dtype=torch.bool, device=device)
    cache.end, cache.mask = widest, ((causal & real[:, None, :widest]) | own)[:, None]
    rows = torch.arange(len(prompts), device=device)
    done: list[list[int]] = [[] for _ in prompts]
    pieces: list[Tensor] = []
    hidden = model.hidden(ids, positions, cache.attend)[:, -1]
    place = positions[:, -1:]
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for step in range(max_new):
        token = sample(model.logits(hidden), temperature, top_p)
        token = torch.where(ended, stop, token)
        ended |= token == stop
        pieces.append(token)
        if step == max_new - 1 or time.monotonic() - begin > limit_s:
            break
        if step % 32 == 31:
            if bool(ended.all()):
                break
            keep = ~ended
            if int(keep.sum()) < 0.7 * len(keep):  # drop the rows that have ended
                for row, completion in zip(
                    rows.tolist(), torch.stack(pieces, 1).tolist(), strict=True
                ):
                    done[row] += completion
                pieces = []
                cache.store = cache.store[:, :, keep].contiguous()
                rows, real, place, token, ended = (
                    rows[keep],
                    real[keep],
                    place[keep],
                    token[keep],
                    ended[keep],
                )
        real[:, cache.end] = True
        cache.end += 1
        cache.mask = real[:, None, None, : cache.end]
        place = place + 1
        hidden = model.hidden(token[:, None], place, cache.attend)[:, -1]
    if pieces:
        for row, completion in zip(rows.tolist(), torch.stack(pieces, 1).tolist(), strict=True):
            done[row] += completion
    return [c[: c.index(stop)] if stop in c else c for c in done]


def evaluate(
    model: Qwen2,
    encoder: Encoder,
    asked: Sequence[Asked],
    temperature: float,
    top_p: float = 0.95,
    max_new: int = 2400,
    limit_s: float = 30.0,
) -> dict[str, Any]:
    """Share of right answers, overall and by family and task, lengths of the completions, and the
    failures.
    """
    prompts = [encoder.prompt(f"{a.problem.strip()}\n\n{INSTRUCTION}") for a in asked]
    completions = generate(model, prompts, encoder.eos, max_new, temperature, top_p, limit_s)
    texts = [encoder.tokenizer.decode(c, skip_special_tokens=False) for c in completions]
    return score(asked, texts, [len(c) for c in completions])


def score(asked: Sequence[Asked], texts: Sequence[str], lengths: Sequence[int]) -> dict[str, Any]:
    """The figures for given completions."""
    groups: dict[str, list[bool]] = defaultdict(list)
    failures = []
    for a, text in zip(asked, texts, strict=True):
        right = is_right(boxed(text), a.answer)
        for group in ("all", a.family, f"{a.family}/{a.task}"):
            groups[group].append(right)
        if not right:
            failures.append(
                {
                    "task": a.task,
                    "problem": a.problem,
                    "gold": a.answer,
                    "given": boxed(text),
                    "text": text[:1500],
                }
            )
    ordered = sorted(lengths)
    return {
        "accuracy": {g: [round(sum(r) / len(r), 4), len(r)] for g, r in sorted(groups.items())},
        "tokens": {
            "mean": sum(ordered) / len(ordered),
            "p95": ordered[int(len(ordered) * 0.95)],
            "max": ordered[-1],
        },
        "failures": failures,
    }


def main() -> None:
    """Evaluates a model folder on a file of problems (CPU, or the GPU where there is one)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--model", type=Path, default=R1_TINY)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--show", type=int, default=10, help="failures to print")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(arguments.model).to(device)
    encoder = Encoder(arguments.model / "tokenizer.json")
    asked = read_problems(arguments.problems)[: arguments.limit]
    result = evaluate(model, encoder, asked, arguments.temperature, limit_s=3600)
    failures = result.pop("failures")
    print(json.dumps(result, indent=1))
    for failure in failures[: arguments.show]:
        print(json.dumps(failure, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
