"""Servers with OpenAI's chat completions, which somebody else runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batchr1.backends.base import Backend, Measured, Place, label_of, refuse_foreign_keys
from batchr1.errors import JobError
from batchr1.job.sampling import NEED_TOKENS

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.executors.setup import WorkerSetup
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource
    from batchr1.sizing.plan import Plan
    from batchr1.storage.uri import StorageOptions
    from batchr1.worker.loop import Channel

_ALWAYS_OURS = ("n", "temperature", "top_p", "max_tokens", "seed")


class OpenAIBackend:
    """Jobs whose work a server does."""

    is_server = True
    needs_weights = False
    own_keys = frozenset(
        {
            "base_url",
            "api_key_env",
            "concurrency",
            "timeout_s",
            "patience_s",
            "stream",
            "extra_body",
            "price",
            "max_cost",
        }
    )
    title = "a server"

    def suits(self, spec: JobSpec) -> None:
        refuse_foreign_keys(spec, self.own_keys)
        _check_engine(spec)
        _check_model(spec)
        _check_prompting(spec)
        for name in NEED_TOKENS:
            if getattr(spec.sampling, name):
                raise ValueError(
                    f"sampling.{name} needs a model's tokens under way, and engine.kind openai "
                    "gives none"
                )
        if spec.sampling.answer_regex is not None:
            raise ValueError(
                "sampling.answer_regex: servers have no common key for it (give answer_schema, or "
                "the server's own key in engine.extra_body)"
            )
        if spec.output.token_ids == "always":
            raise ValueError("output.token_ids always: engine.kind openai gives no token ids")
        if spec.executor.kind != "local" or (spec.executor.replicas or 1) > 1:
            raise ValueError(
                "executor places engines, and engine.kind openai has one client (raise "
                "engine.concurrency)"
            )

    def model(
        self, spec: JobSpec, storage: StorageOptions, resolve: Callable[..., ModelSource]
    ) -> ModelSource:
        """Name the model as a server knows it.

        Its context is the server's secret.
        """
        from batchr1.models.catalogue import variant
        from batchr1.models.resolve import ModelSource
        from batchr1.sizing.plan import UNKNOWN_CONTEXT

        model = spec.model
        name = model.served or model.repo
        if model.variant is not None:
            name = variant(model.variant).repo
            if name is None:
                raise JobError(
                    f"model.variant: {model.variant} has no repository to be called by. Give "
                    "model.served, the name under which the server serves it."
                )
        return ModelSource(str(name), str(name), None, f"openai:{name}", UNKNOWN_CONTEXT, {})

    def check(self, spec: JobSpec, model: ModelSource, place: Place) -> tuple[str, ...]:
        for name, value in (("gpus", place.gpus), ("devices", place.devices)):
            if value is not None:
                raise JobError(
                    f"--{name}: chooses among this machine's GPUs, and engine.kind is openai. "
                    "Leave it out."
                )
        return ()

    def require(self, spec: JobSpec) -> None:
        """Raise `UsageError` when the job's key is not set.

        A job that names none may need none.
        """
        from batchr1.engine.openai.server import key_of

        if key_of(spec.engine.key_env) is None and spec.engine.api_key_env is not None:
            raise JobError(
                f"engine.api_key_env: the environment variable {spec.engine.api_key_env} is not "
                "set. Set it to the key, or leave api_key_env out for a server that wants none."
            )

    def renderer(
        self, spec: JobSpec, location: str, revision: str | None, *, day: dt.date | None = None
    ) -> Renderer:
        from batchr1.backends.renderers import server_renderer

        return server_renderer(spec)

    def plan(
        self,
        spec: JobSpec,
        model: ModelSource,
        measure: Callable[[], Measured],
        *,
        price: float | None = None,
    ) -> Plan:
        from batchr1.sizing.plan import server_plan

        return server_plan(spec)

    def with_seed(self, spec: JobSpec, plan: Plan) -> Plan:
        return plan

    def fingerprint(self, spec: JobSpec) -> dict[str, Any]:
        body = sorted(spec.engine.extra_body.items())
        return {
            "engine.kind": spec.engine.kind,
            **{f"engine.extra_body.{name}": value for name, value in body},
        }

    def label(self, model: ModelSource) -> str:
        return label_of(model)

    def starts_early(self, spec: JobSpec) -> bool:
        return False

    def import_early(self) -> None:
        """Nothing of it is heavy."""

    def worker(self, setup: WorkerSetup, channel: Channel) -> None:
        from batchr1.worker.server_worker import serve

        serve(setup, channel)


def _check_engine(spec: JobSpec) -> None:
    engine = spec.engine
    if engine.base_url is None:
        raise ValueError(
            "engine.base_url is required with engine.kind openai (such as http://localhost:8000/v1)"
        )
    for name in engine.extra_body:
        field = type(spec.sampling).model_fields.get(name)
        if field is None or (
            name not in _ALWAYS_OURS and getattr(spec.sampling, name) == field.default
        ):
            continue  # left unset, it is the server's: each program has its own value for none
        raise ValueError(f"engine.extra_body: {name} has a place of its own (sampling.{name})")
    if engine.max_cost is not None and engine.price is None:
        raise ValueError(
            "engine.max_cost needs engine.price, USD per million tokens (got no price)"
        )


def _check_model(spec: JobSpec) -> None:
    if spec.model.path is not None:
        raise ValueError(
            "model.path is a folder, and a server knows its model by name (give model.served)"
        )
    for name in ("revision", "quantization", "adapter", "engine_args", "trust_remote_code"):
        if getattr(spec.model, name):
            raise ValueError(
                f"model.{name} is how vLLM loads a model here; with engine.kind openai its server "
                "decides"
            )


def _check_prompting(spec: JobSpec) -> None:
    if spec.sampling.preset is not None:
        raise ValueError(
            "sampling.preset reads a model's files, and engine.kind openai has none here (set "
            "temperature and top_p)"
        )
    for name in ("template", "template_args"):
        if getattr(spec.prompting, name):
            raise ValueError(
                f"prompting.{name} is for a chat template rendered here; engine.kind openai "
                "renders its own (give switches in engine.extra_body, as chat_template_kwargs or "
                "as the server names them)"
            )


BACKEND: Backend = OpenAIBackend()
