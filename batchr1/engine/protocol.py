"""What a run needs from an inference engine: a handful of calls that vLLM, and a scripted stand-in,
provide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from batchr1.records import FinishReason


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where an engine loads its model from: a folder, or a repository at a revision."""

    location: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One generation.

    `token_ids` is everything to be fed: the prompt and what was generated of it before.
    """

    id: str
    token_ids: Sequence[int]
    max_tokens: int
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens of one request; the last one carries the reason for its end."""

    id: str
    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class MeasuredMemory:
    """Where the memory went, in GiB of the GPU that holds most (on a CPU machine, of the process); None: not known.

    `kv_gib` is of the GPU that has least of it. The names are those of the plan's memory, to be
    read side by side.
    """

    weights_gib: float | None
    activation_gib: float | None
    cuda_graph_gib: float | None
    other_gib: float | None
    kv_gib: float | None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine turned out to be once it was loaded. Lengths and capacities in tokens."""

    engine: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    memory: MeasuredMemory | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy the engine is: requests running and waiting, share of the KV cache in use, preemptions so far.

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
        """What two engines counted together; the rest is `other`'s."""
        return replace(
            other,
            preempted=self.preempted + other.preempted,
            prefix_queries=self.prefix_queries + other.prefix_queries,
            prefix_hits=self.prefix_hits + other.prefix_hits,
        )

    def counts(self) -> dict[str, float | None]:
        """What is worth keeping when the engine is gone, for the run's record."""
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
