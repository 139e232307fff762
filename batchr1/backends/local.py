"""The common part of kinds whose engines batchr1 starts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchr1.backends.base import Measured, Place, label_of, refuse_foreign_keys
from batchr1.errors import JobError

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.engine.protocol import Engine, ModelFiles
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource
    from batchr1.sizing.plan import Plan
    from batchr1.storage.uri import StorageOptions
    from batchr1.worker.loop import Channel


class LocalBackend:
    """Engines in worker processes: a subclass says how one is made."""

    is_server = False
    needs_weights = True
    own_keys: frozenset[str] = frozenset()
    title = "an engine"
    takes_adapters = False

    def engine(self, setup: WorkerSetup, files: ModelFiles) -> Engine:
        """Load the engine of a worker."""
        raise NotImplementedError

    def suits(self, spec: JobSpec) -> None:
        refuse_foreign_keys(spec, self.own_keys)
        if spec.model.served is not None:
            raise ValueError(
                "model.served names a model of a server (set engine.kind: openai, or give "
                "variant, path or repo)"
            )
        if spec.model.adapter is not None and not self.takes_adapters:
            raise ValueError("model.adapter is for vLLM's engines (set engine.kind: vllm)")

    def model(
        self, spec: JobSpec, storage: StorageOptions, resolve: Callable[..., ModelSource]
    ) -> ModelSource:
        from batchr1.models.overrides import overridden

        model = resolve(spec.model, storage=storage)
        return overridden(model, spec.model.engine_args.get("hf_overrides"))

    def check(self, spec: JobSpec, model: ModelSource, place: Place) -> tuple[str, ...]:
        from batchr1.engine.vllm.arguments import refuse_another_model, refuse_secret
        from batchr1.executors.base import check_executor
        from batchr1.sizing.devices import choose_devices
        from batchr1.sizing.planning.arguments import check_arguments

        for name in spec.model.engine_args:
            refuse_secret(name)
            refuse_another_model(name)
        if not place.elsewhere:
            is_local = not spec.output.path.startswith("s3://")
            check_executor(spec, gpus=place.gpus, devices=place.devices, is_local_output=is_local)
        devices: tuple[str, ...] = ()
        if spec.executor.kind == "local" and not place.elsewhere:
            devices = choose_devices(place.gpus, place.devices)
        check_arguments(spec, model, num_gpus=len(devices))
        check_token_ids(spec, model)
        return devices

    def require(self, spec: JobSpec) -> None:
        """Nothing beside what batchr1 is installed with."""

    def renderer(
        self, spec: JobSpec, location: str, revision: str | None, *, day: dt.date | None = None
    ) -> Renderer:
        from batchr1.backends.renderers import local_renderer

        return local_renderer(spec, location, revision, day=day)

    def plan(
        self,
        spec: JobSpec,
        model: ModelSource,
        measure: Callable[[], Measured],
        *,
        price: float | None = None,
    ) -> Plan:
        from batchr1.sizing.planning.make import make_plan

        known = measure()
        plan = make_plan(spec, model, known.machine, known.prompts, known.completions, price=price)
        return replace(plan, completions=known.completions)

    def with_seed(self, spec: JobSpec, plan: Plan) -> Plan:
        return plan

    def fingerprint(self, spec: JobSpec) -> dict[str, Any]:
        return {}

    def label(self, model: ModelSource) -> str:
        return label_of(model)

    def starts_early(self, spec: JobSpec) -> bool:
        return False

    def import_early(self) -> None:
        """Nothing of it is heavy."""

    def worker(self, setup: WorkerSetup, channel: Channel) -> None:
        from batchr1.worker.engine_life import serve

        serve(setup, channel, self.engine)


def check_token_ids(spec: JobSpec, model: ModelSource) -> None:
    """Raise `JobError` for a token id that the model does not have."""
    from batchr1.sizing.architecture import Architecture

    vocab = Architecture.of_config(model.config).vocab
    highest = max(spec.sampling.logit_bias or {}, default=0)
    if highest >= vocab:
        raise JobError(
            f"sampling.logit_bias: the model has no such token (got id {highest}, need less than "
            f"{vocab:,}). Correct it."
        )
