"""Target of a score: an output or data files, and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from batchr1.backends.base import Place, backend_of
from batchr1.errors import JobError, ModelError, OutputError, UsageError
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource, resolve_model
from batchr1.output.find import is_glob, no_output
from batchr1.output.folder import Output
from batchr1.storage.base import StorageOptions, open_storage
from batchr1.storage.uri import is_remote

MAX_TOP_K = 128
# Engine arguments that would make other log-probabilities, or none.
_OURS = frozenset(
    {"logprobs_mode", "max_logprobs", "enable_prefix_caching", "speculative_config", "runner"}
)
# Engine arguments of the generating job that also hold where its rows are scored.
_INHERITED = frozenset({"dtype", "hf_overrides", "load_format", "enforce_eager"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of data files; None: what is scored is an output."""

    id: str
    prompt: str
    completion: str
    sample: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """Wish of a user of `batchr1 score`.

    `model` is a variant, a folder or a repository; None: the model that generated. `part_bytes`
    bounds a part before compression.
    """

    source: str
    dest: str
    model: str | None = None
    top_k: int = 20
    columns: Columns | None = None
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    part_bytes: int = 256 * 2**20
    gpus: str | None = None
    storage: StorageOptions | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Rows to be scored and their models, opened.

    `generator` is the job of the model that chose the tokens; with data files it is that of the
    scorer, whose tokens the texts become.
    """

    wish: Wish
    output: Output | None
    spec: JobSpec
    model: ModelSource
    devices: tuple[str, ...]
    generator: JobSpec
    generator_model: ModelSource

    @property
    def uri(self) -> str:
        """The address of what is scored."""
        return self.wish.source if self.output is None else self.output.uri


def open_target(wish: Wish) -> Target:
    """Look at what is to be scored, and find the models.

    Loads nothing. Raises `UsageError` for what cannot work.
    """
    if not 0 <= wish.top_k <= MAX_TOP_K:
        raise UsageError(
            f"--top-k: out of range (got {wish.top_k}, need 0 to {MAX_TOP_K}). Correct it."
        )
    if wish.part_bytes <= 0:
        mib = f"{wish.part_bytes / 2**20:g}"
        raise UsageError(f"--part-mib: not a size (got {mib}, need more than 0). Correct it.")
    for name in sorted(_OURS & set(wish.engine_args)):
        raise UsageError(f"--engine-arg {name}: is for score to set. Leave it out.")
    _refuse_overlap(wish)
    output = None
    generated: dict[str, Any] | None = None
    prompting: dict[str, Any] = {"instruction": "none", "think": "auto"}
    if wish.columns is None:
        output = Output(open_storage(wish.source, wish.storage))
        job = _generating(output)
        generated, prompting = job["spec"]["model"], job["spec"].get("prompting") or {}
    elif wish.model is None:
        raise UsageError(
            "--model: data files name no model that scores them. Give a variant, a folder or a "
            "repository."
        )
    spec = _spec(wish, _model(wish, generated), prompting)
    backend = backend_of(spec)
    backend.require(spec)
    options = wish.storage or StorageOptions()
    model = backend.model(spec, options, resolve_model)
    devices = backend.check(spec, model, Place(wish.gpus, None, False))
    generator, generator_model = spec, model
    if generated is not None and wish.model is not None:
        generator = _spec(wish, generated, prompting)
        try:
            generator_model = backend.model(generator, options, resolve_model)
        except ModelError as exc:
            raise ModelError(f"{wish.source}: its own model is needed for its tokens: {exc}") from (
                exc
            )
    return Target(wish, output, spec, model, devices, generator, generator_model)


def _refuse_overlap(wish: Wish) -> None:
    """Raise `OutputError` where scores would lie in what is scored."""
    if is_glob(wish.source) and wish.dest.startswith(wish.source):
        raise UsageError(
            f"{wish.source}: a glob, beside which no folder is chosen. Name one with --to."
        )
    if is_remote(wish.source):  # no scores lie there
        return
    source, dest = (open_storage(uri, wish.storage).uri for uri in (wish.source, wish.dest))
    if dest == source or dest.startswith(f"{source}/"):
        raise OutputError(
            f"{dest}: lies in what is scored ({source}). Give the scores a folder of their own "
            "with --to."
        )


def _generating(output: Output) -> dict[str, Any]:
    """Read the job of an output whose tokens can be scored."""
    columns = "name the columns of data files with --prompt and --completion"
    if output.storage.kind == "local" and Path(output.uri).is_file():
        raise UsageError(
            f"{output.uri}: a file, not an output of batchr1. Give an output, or {columns}."
        )
    job = output.job()
    if job is None:
        raise no_output(output.uri, otherwise=columns)
    spec = job["spec"]
    if (spec.get("engine") or {}).get("kind", "vllm") != "vllm":
        raise OutputError(
            f"{output.uri}: its tokens are not known (made by engine.kind "
            f"{spec['engine']['kind']}, need vllm). Score its text: give {output.uri}/data with "
            "--prompt and --completion."
        )
    kept = spec["output"].get("token_ids", "truncated")
    if kept != "always":
        raise OutputError(
            f"{output.uri}: it has no token ids of whole rows (got output.token_ids: {kept}, need "
            "always). Generate with that, or score its text with --prompt and --completion."
        )
    return job


def _model(wish: Wish, generated: Mapping[str, Any] | None) -> dict[str, Any]:
    """Make the section `model` of the scorer."""
    if wish.model is None:
        section = dict(generated or {})
        if section.get("adapter") is not None:
            raise OutputError(
                f"{wish.source}: made with a LoRA adapter, which score does not load (got "
                f"{section['adapter']}). Merge it into the model, and give that with --model."
            )
        args = dict(section.get("engine_args") or {})
        section["engine_args"] = {k: v for k, v in args.items() if k in _INHERITED}
    elif wish.model in VARIANTS:
        section = {"variant": wish.model}
    elif wish.model.startswith(("/", ".", "~", "s3://")) or Path(wish.model).is_dir():
        path = wish.model
        if "://" not in path:
            path = str(Path(path).expanduser().resolve())
        section = {"path": path}
    elif wish.model.count("/") == 1:
        section = {"repo": wish.model}
    else:
        raise ModelError(
            f"--model: neither a variant, nor a folder, nor a repository (got {wish.model!r}; "
            "batchr1 variants lists the variants). Correct it."
        )
    given = dict(section.get("engine_args") or {}) | dict(wish.engine_args)
    return section | {"engine_args": given}


def _spec(wish: Wish, model: Mapping[str, Any], prompting: Mapping[str, Any]) -> JobSpec:
    """Make a job of one token a row.

    Sizing, prompts and engine arguments follow from it.
    """
    columns = wish.columns or Columns("id", "prompt", "token_ids")
    try:
        return JobSpec.model_validate(
            {
                "name": "score",
                "model": dict(model),
                "input": {"path": wish.source, "id": columns.id, "prompt": columns.prompt},
                "output": {"path": wish.dest},
                "prompting": dict(prompting),
                "sampling": {"n": 1, "temperature": 0.0, "max_tokens": 1},
                "executor": {"replicas": 1},
            }
        )
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise JobError(f"{wish.source}: {key}: {first['msg'].lower()}. Correct it.") from exc


def columns_of(
    prompt: str | None, completion: str | None, id: str | None, sample: str | None
) -> Columns | None:
    """Name the columns of data files; None where none is named."""
    if prompt is None and completion is None:
        for flag, value in (("--id", id), ("--sample", sample)):
            if value is not None:
                raise UsageError(
                    f"{flag}: names a column of data files (got {value!r} for an output). Leave "
                    "it out, or add --prompt and --completion."
                )
        return None
    if prompt is None or completion is None:
        missing = "--prompt" if prompt is None else "--completion"
        raise UsageError(f"{missing}: data files need both columns (got one). Add it.")
    return Columns(id or "id", prompt, completion, sample)


def engine_argument(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(
            f"--engine-arg: not an argument (got {text!r}, need NAME=VALUE). Correct it."
        )
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise UsageError(f"--engine-arg {name}: not YAML (got {value!r}). Correct it.") from exc
