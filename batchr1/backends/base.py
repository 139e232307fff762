"""The interface of an engine kind, and the way to it.

Modules of backends import what is heavy inside their methods: reading a job loads one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from batchr1.job.kinds import KINDS, load_backend

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource
    from batchr1.records import CompletionLengths, PromptLengths
    from batchr1.sizing.machine import Machine
    from batchr1.sizing.plan import Plan
    from batchr1.storage.uri import StorageOptions
    from batchr1.worker.loop import Channel


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the engines on the command line.

    `elsewhere`: they are only planned, for another machine.
    """

    gpus: str | None = None
    devices: tuple[str, ...] | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures by which engines are sized."""

    machine: Machine
    prompts: PromptLengths
    completions: CompletionLengths


class Backend(Protocol):
    """A kind of engine.

    `is_server`: somebody else runs it, answers cost money, and no tokens are seen under way.
    `needs_weights`: a model's weights must come to the engine's machine. `own_keys`: of `engine:`,
    beside `kind`. `title`: its name in messages.
    """

    is_server: bool
    needs_weights: bool
    own_keys: frozenset[str]
    title: str

    def suits(self, spec: JobSpec) -> None:
        """Raise `ValueError` for what this engine cannot do."""
        ...

    def model(
        self, spec: JobSpec, storage: StorageOptions, resolve: Callable[..., ModelSource]
    ) -> ModelSource:
        """Find the model, with `resolve` where its files are needed."""
        ...

    def check(self, spec: JobSpec, model: ModelSource, place: Place) -> tuple[str, ...]:
        """Check what the job asks of this machine.

        Returns ids of the GPUs to use. Raises `JobError`.
        """
        ...

    def require(self, spec: JobSpec) -> None:
        """Raise `UsageError` when a library or a key is missing."""
        ...

    def renderer(
        self, spec: JobSpec, location: str, revision: str | None, *, day: dt.date | None = None
    ) -> Renderer:
        """Make what turns rows into prompts.

        `day`: told to a template that asks for the date; None: today.
        """
        ...

    def plan(
        self,
        spec: JobSpec,
        model: ModelSource,
        measure: Callable[[], Measured],
        *,
        price: float | None = None,
    ) -> Plan:
        """Size the engines. Raises `MisfitError` when the memory does not suffice."""
        ...

    def with_seed(self, spec: JobSpec, plan: Plan) -> Plan:
        """Seed the engines of a run without a seed."""
        ...

    def fingerprint(self, spec: JobSpec) -> dict[str, Any]:
        """Name what of the engine decides answers, by job keys."""
        ...

    def label(self, model: ModelSource) -> str:
        """Name the model in the rows that it makes."""
        ...

    def starts_early(self, spec: JobSpec) -> bool:
        """Whether `import_early` saves time, and the job changes nothing of it."""
        ...

    def import_early(self) -> None:
        """Import the engine, before the worker knows its setup.

        For GPUs alone. What fails now fails again with the engine, and is said then.
        """
        ...

    def worker(self, setup: WorkerSetup, channel: Channel) -> None:
        """Run a worker, in its own process, to the last staged part."""
        ...


def backend_of(spec: JobSpec) -> Backend:
    """Give the backend of a job's engine."""
    backend: Backend = load_backend(spec.engine.kind)
    return backend


def refuse_foreign_keys(spec: JobSpec, own: frozenset[str]) -> None:
    """Raise `ValueError` for keys of another engine kind."""
    for name, field in type(spec.engine).model_fields.items():
        if name == "kind" or name in own or getattr(spec.engine, name) == field.default:
            continue
        for kind in KINDS:
            other: Backend = load_backend(kind)
            if name in other.own_keys:
                raise ValueError(f"engine.{name} is for {other.title} (set engine.kind: {kind})")


def label_of(model: ModelSource) -> str:
    """Give a model's name and the beginning of its identity."""
    return f"{model.name} ({model.identity[:80]})"
