"""Trains r1-tiny on problems drawn on the fly, for a given wall-clock time."""

from __future__ import annotations

import argparse
import json
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.r1_tiny import R1_TINY
from recipes.r1_tiny.attention import WAYS
from recipes.r1_tiny.evaluate import evaluate, read_problems
from recipes.r1_tiny.model import Qwen2, Shape, load_model, save_model
from recipes.r1_tiny.packing import Batch, Feed
from recipes.r1_tiny.tokenizer import Encoder

Loss = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
GpuBatch = tuple[Tensor, Tensor, Tensor, Tensor]  # ids, positions, labels, (example, starts) by way
_IGNORED = -100


def to_device(batch: Batch, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, positions (restarting in each example), labels, example numbers and starts."""

    def move(array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor

    ids, example, trained = move(batch.ids).long(), move(batch.example).int(), move(batch.trained)
    at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    first = torch.ones_like(trained)
    first[:, 1:] = example[:, 1:] != example[:, :-1]
    positions = at - torch.where(first, at, 0).cummax(1).values
    labels = torch.full_like(ids, _IGNORED)
    labels[:, :-1] = torch.where(trained[:, 1:], ids[:, 1:], _IGNORED)
    return ids, positions, labels, example, move(batch.starts)


def make_loss(model: Qwen2, way: str, compiled: bool) -> Loss:
    """Mean loss over the response tokens, in bf16 autocast, compiled or not."""
    use = WAYS[way][1]

    def loss(ids: Tensor, positions: Tensor, labels: Tensor, prepared: Any) -> Tensor:
        with torch.autocast(ids.device.type, dtype=torch.bfloat16):
            attend = use(prepared)
            hidden = model.hidden(ids, positions, lambda _: attend, torch.bfloat16)
            scores = model.logits(hidden)
        return F.cross_entropy(
            scores.float().flatten(0, 1), labels.flatten(), ignore_index=_IGNORED
        )

    return torch.compile(loss, dynamic=False) if compiled else loss


def choose_way(
    model: Qwen2, batch: Batch, device: str
) -> tuple[str, Callable[[Tensor, Tensor], Any], Loss]:
    """The first way of attention that runs compiled and gives the loss and gradient of the plain
    one.
    """
    ids, positions, labels, example, starts = to_device(batch, device)

    def measure(
        prepare: Callable[[Tensor, Tensor], Any], loss: Loss, rows: int
    ) -> tuple[float, float]:
        model.zero_grad(set_to_none=True)
        value = loss(ids[:rows], positions[:rows], labels[:rows], prepare(example[:rows], starts))
        value.backward()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in model.parameters() if p.grad is not None]
        )
        model.zero_grad(set_to_none=True)
        return value.item(), norm.item()

    if device == "cpu":
        return "dense", WAYS["dense"][0], make_loss(model, "dense", False)
    want = measure(WAYS["dense"][0], make_loss(model, "dense", False), len(ids))
    for way in WAYS:
        prepare = torch.compile(WAYS[way][0], dynamic=False) if way == "flex" else WAYS[way][0]
        loss = make_loss(model, way, True)
        begin = time.monotonic()
        try:
            got = measure(prepare, loss, len(ids))
        except Exception as error:
            print(f"{way}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            torch._dynamo.reset()
            continue
        print(
            (
                f"{way}: loss, gradient {got}, plain {want}, {time.monotonic() - begin:.1f} s to "
                f"compile"
            ),
            flush=True,
        )
        if abs(got[0] - want[0]) < 0.02 and abs(got[1] / want[1] - 1) < 0.05:
            return way, prepare, loss
    raise RuntimeError("train: no way of attention works on this machine. See the lines above.")


def learning_rate(step: int, share: float, peak: float, warmup: int) -> float:
    """Linear warm-up by steps, then a cosine over the share of the time that is used."""
    return (
        peak
        * min(1.0, (step + 1) / warmup)
        * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
    )


def optimizer_of(model: Qwen2, device: str) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices only."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    plain = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=device == "cuda")


def train(arguments: argparse.Namespace) -> Qwen2:
    """Trains until the time is up and returns the model."""
    begin = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer = arguments.tokenizer / "tokenizer.json"
    feed = Feed(tokenizer, arguments.workers, arguments.rows, arguments.length, arguments.seed)
    model = Qwen2(Shape())
    model.to(device)
    _, prepare, loss_of = choose_way(model, feed.next(), device)
    optimizer = optimizer_of(model, device)
    ready: queue.Queue[tuple[Tensor, ...]] = queue.Queue(8)
    threading.Thread(target=lambda: _fill(ready, feed, device), daemon=True).start()
    count = sum(p.numel() for p in model.parameters())
    print(
        f"ready to train after {time.monotonic() - begin:.1f} s, {count:,} parameters", flush=True
    )
    train_from = time.monotonic()
    seconds = arguments.minutes * 60 - (train_from - begin)
    step, losses, starved, last = 0, [], 0, train_from
    while (used := time.monotonic() - train_from) < seconds and step < arguments.max_steps:
        starved += ready.empty()
        ids, positions, labels, example, starts = ready.get()
        loss = loss_of(ids, positions, labels, prepare(example, starts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, used / seconds, arguments.lr, arguments.warmup)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        step += 1
        if step % arguments.log_every == 0:
            mean = torch.stack(losses).mean().item()
            now = time.monotonic()
            rate = arguments.log_every * arguments.rows * arguments.length / (now - last)
            print(
                (
                    f"step {step} {now - begin:.0f} s loss {mean:.4f} {rate / 1e6:.2f} M tok/s "
                    f"starved {starved}"
                ),
                flush=True,
            )
            losses, starved, last = [], 0, now
            if step % (10 * arguments.log_every) == 0:
                save_model(model, arguments.out)
    feed.close()
    print(
        f"{step} steps, {step * arguments.rows * arguments.length / 1e6:.0f} M tokens, "
        f"{time.monotonic() - begin:.0f} s"
    )
    save_model(model, arguments.out)
    return model


def _fill(ready: queue.Queue[tuple[Tensor, ...]], feed: Feed, device: str) -> None:
    while True:
        ready.put(to_device(feed.next(), device))


def main() -> None:
    """Trains, saves and evaluates."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=R1_TINY)
    parser.add_argument(
        "--minutes",
        type=float,
        default=7.0,
        help="wall-clock time of training, compilation included",
    )
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--evaluate", type=Path, nargs="*", default=[])
    parser.add_argument(
        "--evaluate-s", type=float, default=12.0, help="most seconds for one evaluation"
    )
    arguments = parser.parse_args()
    train(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shipped = load_model(arguments.out).to(device)  # rounded to bf16, as it ships
    encoder = Encoder(arguments.tokenizer / "tokenizer.json")
    for path in arguments.evaluate:
        for temperature in (0.0, 0.6):
            begin = time.monotonic()
            result = evaluate(
                shipped, encoder, read_problems(path), temperature, limit_s=arguments.evaluate_s
            )
            (arguments.out / f"{path.stem}-{temperature}.json").write_text(
                json.dumps(result, ensure_ascii=False, indent=1)
            )
            print(
                f"{path.name} at {temperature}: {result['tokens']} in "
                f"{time.monotonic() - begin:.1f} s"
            )
            print("  ", {k: v for k, v in result["accuracy"].items() if "/" not in k}, flush=True)


if __name__ == "__main__":
    main()
