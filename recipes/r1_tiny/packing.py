"""Worker processes that draw examples, encode them and pack them into rows."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from recipes.r1_tiny.generator import draw_turn
from recipes.r1_tiny.tokenizer import Encoder


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows × length: token ids, each token's example (by row), and what is trained on.

    ``starts`` are the places at which examples begin in the flattened rows, filled up with the
    total.
    """

    ids: NDArray[np.int16]
    example: NDArray[np.int16]
    trained: NDArray[np.bool_]
    starts: NDArray[np.int32]


MAX_EXAMPLES_PER_ROW = 15  # the mean is 6


class Packer:
    """Fills rows from a buffer of examples, always with the longest one that still fits."""

    def __init__(self, encoder: Encoder, seed: int, length: int, buffer: int = 256) -> None:
        self.encoder, self.rng, self.length, self.buffer = encoder, Random(seed), length, buffer
        self._waiting: list[tuple[list[int], int]] = []

    def _refill(self) -> None:
        while len(self._waiting) < self.buffer:
            ids, prompt = self.encoder.example(draw_turn(self.rng))
            if len(ids) <= self.length:
                self._waiting.append((ids, prompt))

    def row(self) -> list[tuple[list[int], int]]:
        """Examples for one row: random ones first, then the longest that fits."""
        chosen: list[tuple[list[int], int]] = []
        left = self.length
        while len(chosen) < MAX_EXAMPLES_PER_ROW:
            self._refill()
            if left > 900:
                pick = self.rng.randrange(len(self._waiting))
                if len(self._waiting[pick][0]) > left:
                    pick = -1
            else:
                pick = -1
            if pick < 0:
                fitting = [(len(w[0]), i) for i, w in enumerate(self._waiting) if len(w[0]) <= left]
                if not fitting:
                    break
                pick = max(fitting)[1]
            self._waiting[pick], self._waiting[-1] = self._waiting[-1], self._waiting[pick]
            example = self._waiting.pop()
            chosen.append(example)
            left -= len(example[0])
        return chosen

    def batch(self, rows: int) -> Batch:
        """A packed batch."""
        shape = (rows, self.length)
        ids: NDArray[np.int16] = np.full(shape, self.encoder.pad, dtype=np.int16)
        number: NDArray[np.int16] = np.zeros(shape, dtype=np.int16)
        trained: NDArray[np.bool_] = np.zeros(shape, dtype=np.bool_)
        starts: list[int] = []
        for r in range(rows):
            at = 0
            for n, (tokens, prompt) in enumerate(self.row(), start=1):
                end = at + len(tokens)
                ids[r, at:end] = tokens
                number[r, at:end] = n
                trained[r, at + prompt : end] = True
                starts.append(r * self.length + at)
                at = end
            if at < self.length:
                starts.append(r * self.length + at)
        filled: NDArray[np.int32] = np.full(
            rows * (MAX_EXAMPLES_PER_ROW + 1), rows * self.length, dtype=np.int32
        )
        filled[: len(starts)] = starts
        return Batch(ids, number, trained, filled)


def _work(tokenizer: Path, seed: int, length: int, rows: int, out: object) -> None:
    packer = Packer(Encoder(tokenizer), seed, length)
    while True:
        batch = packer.batch(rows)
        out.put((batch.ids, batch.example, batch.trained, batch.starts))  # type: ignore[attr-defined]


class Feed:
    """Batches from worker processes."""

    def __init__(
        self, tokenizer: Path, workers: int, rows: int, length: int, seed: int, ahead: int = 64
    ) -> None:
        context = get_context("spawn")
        self._queue = context.Queue(ahead)
        self._processes = [
            context.Process(
                target=_work,
                args=(tokenizer, seed * 1000 + i, length, rows, self._queue),
                daemon=True,
            )
            for i in range(workers)
        ]
        for p in self._processes:
            p.start()

    def next(self) -> Batch:
        """The next batch; waits for it."""
        while True:
            try:
                return Batch(*self._queue.get(timeout=20))
            except queue.Empty:
                if not any(p.is_alive() for p in self._processes):
                    raise RuntimeError(
                        "packing: all worker processes have ended. Their errors are above."
                    ) from None

    def close(self) -> None:
        """Ends the workers."""
        for p in self._processes:
            p.terminate()
