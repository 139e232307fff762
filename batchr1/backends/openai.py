"""A job whose work a server does: what of the job is its model, its plan, and what its one worker
is told.
"""

from __future__ import annotations

from batchr1.engine.openai.server import Price, Server, key_of
from batchr1.errors import JobError
from batchr1.executors.messages import ServerSetup
from batchr1.job.spec import EngineKind, JobSpec
from batchr1.models.catalogue import variant
from batchr1.models.resolve import ModelSource
from batchr1.sizing.plan import UNKNOWN_CONTEXT


def served_model(spec: JobSpec) -> ModelSource:
    """The model by the name that the server is asked for. Its context is the server's secret."""
    model = spec.model
    name = model.served or model.repo
    if model.variant is not None:
        name = variant(model.variant).repo
        if name is None:
            raise JobError(
                f"model.variant: {model.variant} has no repository to be called by. Give "
                f"model.served, the name under "
                "which the server serves it."
            )
    return ModelSource(str(name), str(name), None, f"openai:{name}", UNKNOWN_CONTEXT, {})


def check_server_job(spec: JobSpec, *, gpus: str | None, devices: tuple[str, ...] | None) -> None:
    """Raises `JobError` for what cannot be meant where a server does the work."""
    for name, value in (("gpus", gpus), ("devices", devices)):
        if value is not None:
            raise JobError(
                f"--{name}: chooses among this machine's GPUs, and engine.kind is openai. "
                f"Leave "
                f"it out."
            )


def require_key(spec: JobSpec) -> None:
    """Raises `UsageError` when the key that a job asks for is not there.

    A job that names none may need none.
    """
    if key_of(spec.engine.key_env) is None and spec.engine.api_key_env is not None:
        raise JobError(
            f"engine.api_key_env: the environment variable {spec.engine.api_key_env} is not set. "
            f"Set it to the key, or "
            "leave api_key_env out for a server that wants none."
        )


def price_of(engine: EngineKind) -> Price | None:
    return None if engine.price is None else Price(engine.price.input, engine.price.output)


def server_of(spec: JobSpec) -> Server:
    """What each request to it has in common."""
    s, engine = spec.sampling, spec.engine
    body = {"temperature": s.temperature, "top_p": s.top_p}
    body |= {
        name: value for name, value in (("top_k", s.top_k), ("min_p", s.min_p)) if value is not None
    }
    return Server(
        str(engine.base_url),
        served_model(spec).location,
        engine.key_env,
        engine.timeout_s,
        engine.concurrency,
        engine.stream,
        body | engine.extra_body,
    )


def server_setup(spec: JobSpec, *, before_usd: float, grace_s: float) -> ServerSetup:
    """What a worker is told; `before_usd` was spent by earlier runs."""
    return ServerSetup(
        server=server_of(spec),
        forced=spec.prompting.think == "force",
        patience_s=spec.engine.patience_s,
        grace_s=grace_s,
        price=price_of(spec.engine),
        max_cost=spec.engine.max_cost,
        before=before_usd,
    )
