"""vLLM's engines, which batchr1 starts."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchr1.backends.base import Backend, Place
from batchr1.backends.local import LocalBackend
from batchr1.errors import BatchError, JobError
from batchr1.models.adapter import read_adapter
from batchr1.seeds import derive_seed

if TYPE_CHECKING:
    from batchr1.engine.protocol import Engine, ModelFiles
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource
    from batchr1.sizing.plan import Plan
    from batchr1.storage.uri import StorageOptions


class VllmBackend(LocalBackend):
    """Jobs on vLLM: nothing of the engine itself decides an answer."""

    title = "vLLM"
    takes_adapters = True

    def model(
        self, spec: JobSpec, storage: StorageOptions, resolve: Callable[..., ModelSource]
    ) -> ModelSource:
        """Resolve the model; with an adapter it has another name."""
        model = super().model(spec, storage, resolve)
        if spec.model.adapter is None:
            return model
        return replace(model, name=f"{model.name} + {Path(spec.model.adapter).name}")

    def check(self, spec: JobSpec, model: ModelSource, place: Place) -> tuple[str, ...]:
        from batchr1.engine.vllm.arguments import check_engine_args

        devices = super().check(spec, model, place)
        check_engine_args(spec.model.engine_args)
        if spec.model.adapter is not None:
            read_adapter(spec.model.adapter)
        elif spec.model.engine_args.get("enable_lora"):
            raise JobError(
                "model.engine_args.enable_lora: no adapter is named, and none would be applied. "
                "Give its folder in model.adapter, or leave it out."
            )
        return devices

    def fingerprint(self, spec: JobSpec) -> dict[str, Any]:
        """Name the adapter, by its files; without one nothing decides answers."""
        if spec.model.adapter is None:
            return {}
        return {"model.adapter": read_adapter(spec.model.adapter).identity}

    def require(self, spec: JobSpec) -> None:
        from batchr1.engine.vllm.arguments import require_vllm

        require_vllm()

    def with_seed(self, spec: JobSpec, plan: Plan) -> Plan:
        """Draw a seed.

        vLLM's own is always 0, and a second output would repeat the first.
        """
        if spec.sampling.seed is not None or "seed" in spec.model.engine_args:
            return plan
        seed = secrets.randbelow(2**31)
        kinds = tuple(with_args(kind, seed=seed) for kind in plan.kinds)
        return replace(with_args(plan, seed=seed), kinds=kinds)

    def starts_early(self, spec: JobSpec) -> bool:
        return _forks(spec.model.engine_args)

    def import_early(self) -> None:
        from batchr1.engine.vllm.engine import prepare_environment
        from batchr1.engine.vllm.imports import import_vllm

        prepare_environment("cuda")
        with contextlib.suppress(BatchError):
            import_vllm()

    def engine(self, setup: WorkerSetup, files: ModelFiles) -> Engine:
        from batchr1.dataset.tokenizer import end_ids_of
        from batchr1.engine.vllm.engine import VllmEngine, prepare_environment
        from batchr1.engine.vllm.imports import import_vllm

        args, adapter = self._own_args(setup), None
        prepare_environment(setup.device, forks=_forks(args))
        import_vllm()
        if setup.spec.model.adapter is not None:
            adapter = read_adapter(setup.spec.model.adapter)
            args = {"max_lora_rank": adapter.rank} | args | {"enable_lora": True}
        return VllmEngine(
            files.location,
            revision=files.revision,
            trust_remote_code=setup.spec.model.trust_remote_code,
            args=args,
            sampling=setup.spec.sampling,
            end_ids=end_ids_of(files.location, revision=files.revision),
            adapter=None if adapter is None else str(adapter.folder),
            seeds_by_row=setup.spec.input.sampling.seed is not None,
        )

    def _own_args(self, setup: WorkerSetup) -> dict[str, Any]:
        """Give the engine arguments of one worker.

        From a drawn seed each engine derives its own: replicas, and a restarted worker, must not
        repeat one another.
        """
        args = setup.plan.engine_args
        if "seed" not in args or "seed" in setup.spec.model.engine_args:
            return args
        one = setup.assignment
        own = derive_seed(args["seed"], "engine", one.worker, one.epoch)
        return args | {"seed": (own or 0) % 2**31}


def _forks(args: dict[str, Any]) -> bool:
    """Whether vLLM's processes are forked.

    It binds them to NUMA nodes by another executable: a forked one stays unbound.
    """
    return not args.get("numa_bind")


def with_args(plan: Plan, **more: Any) -> Plan:
    """Add engine arguments to a plan."""
    return replace(plan, engine_args=plan.engine_args | more)


BACKEND: Backend = VllmBackend()
