"""Pending rows → work items, a little ahead of the workers: reading, rendering, tokenising on a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from batchr1.data.journal import Saved
from batchr1.data.pending import Pending
from batchr1.data.prompts import PromptRenderer, PromptRow, RowError
from batchr1.data.source import Source
from batchr1.records import Failure, Partial, Prompt, SampleKey, TruncatedBy, WorkItem
from batchr1.run.seeds import derive_seed

RENDER_ROWS = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a completion, in tokens: the job's max_tokens (None: no bound) and the engine's context."""

    max_tokens: int | None
    max_model_len: int


class Feeder:
    """Hands out work items in input order. `take` returns what is ready; `ended`: nothing more will come."""

    def __init__(
        self,
        source: Source,
        pending: Pending,
        renderer: PromptRenderer,
        limits: Limits,
        *,
        seed: int | None,
        ahead: int,
        saved: dict[SampleKey, Saved] | None = None,
    ) -> None:
        self._source = source
        self._pending = pending
        self._renderer = renderer
        self._limits = limits
        self._seed = seed
        self._saved = saved if saved is not None else {}  # taken out as their rows come
        self.changed = 0  # saved generations whose prompt is another one by now
        self._queue: queue.Queue[WorkItem | Failure] = queue.Queue(maxsize=ahead)
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="feeder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, count: int) -> list[WorkItem | Failure]:
        """Up to `count` items, without waiting. Raises what went wrong while reading."""
        items: list[WorkItem | Failure] = []
        while len(items) < count:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if self._error is not None and not items:
            raise self._error
        return items

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and self._queue.empty() and self._error is None

    def close(self) -> None:
        self._stop.set()

    def _work(self) -> None:
        try:
            for item in self._items():
                while not self._stop.is_set():
                    try:
                        self._queue.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except BaseException as exc:
            self._error = exc

    def _items(self) -> Iterator[WorkItem | Failure]:
        for batch, samples in self._pending.rows(self._source):
            for start in range(0, batch.num_rows, RENDER_ROWS):
                part = batch.slice(start, RENDER_ROWS)
                wanted = samples[start : start + RENDER_ROWS]
                for prompt, numbers in zip(render_batch(self._source, self._renderer, part), wanted, strict=True):
                    for sample in numbers:
                        yield self._item(prompt, sample)

    def _item(self, prompt: Prompt | RowError, sample: int) -> WorkItem | Failure:
        if isinstance(prompt, RowError):
            return Failure(prompt.id, sample, prompt.reason, str(prompt), 0)
        room = self._limits.max_model_len - len(prompt.token_ids)
        if room < 1:
            message = (
                f"the prompt is longer than the context (got {len(prompt.token_ids)} tokens, "
                f"need at most {self._limits.max_model_len - 1})"
            )
            return Failure(prompt.id, sample, "prompt_too_long", message, 0, prompt.digest)
        if prompt.max_tokens is not None and prompt.max_tokens < 1:
            message = f"the row's own cap allows no token (got {prompt.max_tokens}, need at least 1)"
            return Failure(prompt.id, sample, "bad_max_tokens", message, 0, prompt.digest)
        asked = min((m for m in (self._limits.max_tokens, prompt.max_tokens) if m is not None), default=room + 1)
        limited_by: TruncatedBy = "max_tokens" if asked <= room else "context"
        partial, attempt = self._partial(prompt, sample)
        seed = derive_seed(self._seed, prompt.id, sample, attempt)
        return WorkItem(prompt, sample, min(asked, room), limited_by, seed=seed, attempt=attempt, partial=partial)

    def _partial(self, prompt: Prompt, sample: int) -> tuple[Partial | None, int]:
        """What was saved of a sample, and in which attempt; nothing if it answers another prompt."""
        saved = self._saved.pop(SampleKey(prompt.id, sample), None)
        if saved is None:
            return None, 1
        if saved.prompt_hash != prompt.digest:
            self.changed += 1
            return None, 1
        return saved.partial(), saved.attempt


def render_batch(source: Source, renderer: PromptRenderer, batch: pa.RecordBatch) -> list[Prompt | RowError]:
    """The rows of an input batch as prompts, kept columns cut out one by one."""
    kept = source.kept(batch) if len(source.kept_schema) else None
    columns = zip(source.ids(batch), source.contents(batch), source.golds(batch), source.caps(batch), strict=True)
    rows = [
        PromptRow(str(id), content, gold, cap, kept.take(pa.array([i])) if kept is not None else None)
        for i, (id, content, gold, cap) in enumerate(columns)
    ]
    return renderer.render_many(rows)
