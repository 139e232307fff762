"""vLLM's engines, which batchr1 starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchr1.backends.base import Backend, Place
from batchr1.backends.local import LocalBackend

if TYPE_CHECKING:
    from batchr1.engine.protocol import Engine, ModelFiles
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource


class VllmBackend(LocalBackend):
    """Jobs on vLLM: nothing of the engine itself decides an answer."""

    title = "vLLM"

    def check(self, spec: JobSpec, model: ModelSource, place: Place) -> tuple[str, ...]:
        from batchr1.engine.vllm.arguments import check_engine_args

        devices = super().check(spec, model, place)
        check_engine_args(spec.model.engine_args)
        return devices

    def require(self, spec: JobSpec) -> None:
        from batchr1.engine.vllm.arguments import require_vllm

        require_vllm()

    def engine(self, setup: WorkerSetup, files: ModelFiles) -> Engine:
        from batchr1.engine.vllm.engine import VllmEngine, prepare_environment

        prepare_environment(setup.device)
        return VllmEngine(
            files.location,
            revision=files.revision,
            trust_remote_code=setup.spec.model.trust_remote_code,
            args=setup.plan.engine_args,
            sampling=setup.spec.sampling,
        )


BACKEND: Backend = VllmBackend()
