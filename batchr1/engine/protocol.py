"""Protocol of an inference engine, as a run needs it.

vLLM provides its handful of calls, and so does the scripted engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from batchr1.records import FinishReason


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Source of an engine's model: a folder, or a repository's revision."""

    location: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One generation.

    `token_ids` is everything to be fed: the prompt and what was generated of it before.
    `is_answer`: an answer begins here, and the job's form binds it. `drawing`: keys of sampling
    that are this row's own.
    """

    id: str
    token_ids: Sequence[int]
    max_tokens: int
    seed: int | None = None
    is_answer: bool = False
    drawing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of one request.

    The last one carries the reason for its end.
    """

    id: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """Use of memory, in GiB; None: not known.

    It is that of the GPU that holds most, or on a CPU machine of the process. `kv_gib` is of the
    GPU that has least of it. The names are those of the plan's memory, to be read side by side.
    """

    weights_gib: float | None
    activation_gib: float | None
    cuda_graph_gib: float | None
    other_gib: float | None
    kv_gib: float | None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts of a loaded engine. Lengths and capacities in tokens."""

    engine: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    memory: MeasuredMemory | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Load of an engine.

    It has requests running and waiting, the share of the KV cache in use, and preemptions so far.
    `prefix_queries` of the tokens that were to be prefilled were looked for in the prefix cache,
    `prefix_hits` found.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    preempted: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def plus(self, other: EngineLoad) -> EngineLoad:
        """Add two engines' counts; the rest is `other`'s."""
        return replace(
            other,
            preempted=self.preempted + other.preempted,
            prefix_queries=self.prefix_queries + other.prefix_queries,
            prefix_hits=self.prefix_hits + other.prefix_hits,
        )

    def counts(self) -> dict[str, float | None]:
        """Give the counts that a run's record keeps."""
        rate = round(self.prefix_hits / self.prefix_queries, 4) if self.prefix_queries else None
        return {
            "preempted": self.preempted,
            "prefix_queries": self.prefix_queries,
            "prefix_hits": self.prefix_hits,
            "prefix_hit_rate": rate,
        }


class Engine(Protocol):
    """A continuously fed engine. Not thread-safe: one thread submits, steps and aborts.

    `submit` raises `RequestError` when this request cannot be run and others can; `step` and
    `submit` raise `EngineError` when the engine is gone. `step` blocks until tokens came, or
    returns nothing when idle.
    """

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, request: Request) -> None: ...

    def step(self) -> list[Delta]: ...

    def abort(self, ids: Sequence[str]) -> None: ...

    def load(self) -> EngineLoad: ...

    def close(self) -> None: ...
