"""What a job may say of a server (`engine.kind: openai`), and what it may not ask of one.

Messages here never show a value that might be a key: a wrong job file ends up in logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from batchr1.job.spec import JobSpec

_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET = re.compile(
    r"api[-_]?key|authorization|bearer|passw|secret|access[-_]?token|auth[-_]?token", re.IGNORECASE
)
_OWN_KEYS = {  # of the request's body: where the job says it
    "messages": "input",
    "model": "model.served",
    "n": "sampling.n",
    "seed": "sampling.seed",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "max_tokens": "sampling.max_tokens",
    "stream": "engine.stream",
    "stream_options": "engine.stream",
}
_NEED_TOKENS = ("thinking_budget", "answer_budget", "closing_sentence", "stop_loops", "ignore_eos")


def check_base_url(value: str) -> str:
    """The address without a slash at its end.

    Raises `ValueError` for what is none, or holds credentials.
    """
    try:
        url = urlsplit(value)
        has_host, _ = bool(url.hostname), url.port
    except ValueError:
        raise ValueError("this is no address (need http://HOST:PORT/v1 or the like)") from None
    if url.username is not None or url.password is not None:
        raise ValueError(
            "credentials in an address are refused (the job is copied into its output); put the "
            "key into "
            "the environment variable that engine.api_key_env names"
        )
    if url.scheme not in ("http", "https") or not has_host or url.query or url.fragment:
        raise ValueError(
            "this is no address (need http://HOST:PORT/v1 or the like, without ? and #)"
        )
    if url.path.rstrip("/").endswith("/completions"):
        raise ValueError(
            f"the end is one path too many (got …{url.path}, need what stands before "
            f"/chat/completions)"
        )
    return value.rstrip("/")


def check_api_key_env(value: str) -> str:
    """The name of a variable.

    Raises `ValueError`, without showing it, for what may be the key itself.
    """
    if not _ENV_NAME.fullmatch(value):
        raise ValueError(
            "this is the name of an environment variable, in capitals, and never the key itself"
        )
    return value


def check_extra_body(value: dict[str, Any]) -> dict[str, Any]:
    """Raises `ValueError` for keys that the job has a place for, and for what looks like a secret."""
    for name, place in _OWN_KEYS.items():
        if name in value:
            raise ValueError(f"{name} has a place of its own ({place})")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"this cannot be said in JSON ({exc})") from exc
    for name in _names_in(value):
        if _SECRET.search(name):
            raise ValueError(
                f"{name} looks like a secret, and a job is copied into its output (the key comes "
                f"from the "
                "environment variable that engine.api_key_env names)"
            )
    return value


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names_in(inner)


def suits_engine(spec: JobSpec) -> None:
    """Raises `ValueError` where the job asks of its engine what that cannot do."""
    engine, model = spec.engine, spec.model
    if not engine.is_server:
        for name, field in type(engine).model_fields.items():
            if getattr(engine, name) != field.default:
                raise ValueError(f"engine.{name} is for a server (set engine.kind: openai)")
        if model.served is not None:
            raise ValueError(
                "model.served names a model of a server (set engine.kind: openai, or give "
                "variant, path "
                "or repo)"
            )
        return
    if engine.base_url is None:
        raise ValueError(
            "engine.base_url is required with engine.kind openai (such as http://localhost:8000/v1)"
        )
    if engine.max_cost is not None and engine.price is None:
        raise ValueError(
            "engine.max_cost needs engine.price, USD per million tokens (got no price)"
        )
    if model.path is not None:
        raise ValueError(
            "model.path is a folder, and a server knows its model by name (give model.served)"
        )
    for name in ("revision", "quantization", "engine_args", "trust_remote_code"):
        if getattr(model, name):
            raise ValueError(
                f"model.{name} is how vLLM loads a model here; with engine.kind openai its "
                f"server "
                f"decides"
            )
    for name in _NEED_TOKENS:
        if getattr(spec.sampling, name):
            raise ValueError(
                f"sampling.{name} needs a model's tokens under way, and engine.kind openai "
                f"gives "
                f"none"
            )
    if spec.output.token_ids == "always":
        raise ValueError("output.token_ids always: engine.kind openai gives no token ids")
    if spec.executor.kind != "local" or (spec.executor.replicas or 1) > 1:
        raise ValueError(
            "executor places engines, and engine.kind openai has one client (raise "
            "engine.concurrency)"
        )
