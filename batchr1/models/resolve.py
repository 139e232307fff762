"""Resolution of a job's `model:`: folder or repository, revision, config, identity."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchr1.errors import HubError, JobError, ModelError
from batchr1.job.spec import ModelSpec
from batchr1.models.bucket import download_to_cache, is_bucket, look_up
from batchr1.models.cached import cached_snapshot
from batchr1.models.catalogue import Variant, refuse_unsupported, variant
from batchr1.models.files import check_header
from batchr1.models.hub import hub_errors, where_of
from batchr1.sizing.shape.weights import stored_quantization
from batchr1.storage.uri import StorageOptions

log = logging.getLogger("batchr1.models")

# the identity of a source that only the catalogue knows: enough for a plan, not to run
CATALOGUE = "catalogue"

WHOLE_FILE_LIMIT = 64 * 2**20
_BLOCK = 2**20
_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model whose files can be found.

    `location` is what the job names: a folder, a repository together with `revision` (a commit), or
    a URI of S3 with what its files were. `folder` is where config and tokenizer are on this
    machine, and the weights, unless they are on S3; None for a repository of which not all is here
    yet: vLLM would download it. `identity` changes whenever the answers could: repository@commit,
    or a hash over the files. `context_len` is in tokens.
    """

    name: str
    location: str
    revision: str | None
    identity: str
    context_len: int
    config: dict[str, Any]
    folder: str | None = None

    @property
    def loads_from(self) -> tuple[str, str | None]:
        """Location and revision from which transformers loads a tokenizer.

        A folder wherever there is one, so that the hub is not asked.
        """
        return (self.folder, None) if self.folder else (self.location, self.revision)


class _UnreachableError(ModelError):
    """Repository that is not cached, while the hub cannot be reached."""


def resolve_model(
    spec: ModelSpec, *, cached_only: bool = False, storage: StorageOptions | None = None
) -> ModelSource:
    """Find the model that a job names; reads `config.json` only.

    A variant with a `quantization` is the repository that holds it so; `revision` is then that
    repository's. vLLM reads from its config how it is quantised. `cached_only`: do not ask the hub.
    `storage`: for a path on S3. Raises `ModelError` where there is no such model, and `JobError`
    for what is not supported, before anything is looked up.
    """
    weightless = spec.engine_args.get("load_format") == "dummy"
    if spec.variant is not None:
        entry = variant(spec.variant)
        if entry.path is None:
            source = _hub(
                repository(spec, entry), spec.revision, entry.name, cached_only=cached_only
            )
        else:
            source = _local(entry.path, entry.name, weightless)
    elif spec.path is not None:
        refuse_unsupported("model.path", spec.path)
        if is_bucket(spec.path):
            source = _bucket(spec.path, storage)
        else:
            source = _local(Path(spec.path), Path(spec.path).name, weightless)
    else:
        refuse_unsupported("model.repo", str(spec.repo))
        source = _hub(str(spec.repo), spec.revision, str(spec.repo), cached_only=cached_only)
    _check_quantization(spec, source)
    return source


def resolve_or_catalogue(spec: ModelSpec, *, storage: StorageOptions | None = None) -> ModelSource:
    """Resolve a model, by the catalogue alone if it is not cached.

    A plan needs no more.
    """
    try:
        return resolve_model(spec, cached_only=spec.variant is not None, storage=storage)
    except _UnreachableError:
        source = catalogue_source(spec)
        if source is None:
            raise
        return source


def catalogue_source(spec: ModelSpec) -> ModelSource | None:
    """Return a variant as the catalogue alone knows it.

    That is enough for a plan. None for any other model.
    """
    entry = variant(spec.variant) if spec.variant is not None else None
    if entry is None or entry.repo is None:
        return None
    repo = repository(spec, entry)
    config = entry.config
    if repo != entry.repo and spec.quantization is not None:
        config = config | {"quantization_config": _STORED[spec.quantization]}
    return ModelSource(entry.name, repo, spec.revision, CATALOGUE, entry.context_len, config)


def repository(spec: ModelSpec, entry: Variant) -> str:
    """The repository of a variant in the quantisation that is asked for.

    Raises `JobError` where there is none.
    """
    if spec.quantization is None:
        return str(entry.repo)
    if spec.quantization in entry.quantized:
        return entry.quantized[spec.quantization]
    if spec.quantization == "fp8":  # vLLM converts 16-bit weights as it loads them
        return str(entry.repo)
    raise JobError(
        f"model.quantization: no repository of {entry.name} is known for it (got "
        f"{spec.quantization!r}, need {' or '.join(entry.quantized)}). Take one of these, or give "
        "model.repo."
    )


# What a quantised repository's config says of itself, as far as sizes follow from it.
_STORED: dict[str, dict[str, Any]] = {
    "fp8": {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
        },
    },
    "w4a16": {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}
        },
    },
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
}


def _check_quantization(spec: ModelSpec, source: ModelSource) -> None:
    """Raise `JobError` when the weights cannot have the quantisation of the job.

    vLLM converts 16-bit weights to FP8 as it loads them; nothing else. Methods that are unknown
    here are left to it.
    """
    asked, stored = spec.quantization, stored_quantization(source.config)
    if (
        asked is None
        or asked == stored
        or (stored is None and source.config.get("quantization_config"))
    ):
        return
    if asked == "fp8" and stored is None:
        return
    raise JobError(
        f"model.quantization: the weights of {spec.variant or source.location} are not stored so "
        f"(got {asked!r}, its config.json says {stored or '16 bits'}). Leave it null, or give a "
        f"repository that holds {asked}."
    )


def _local(folder: Path, name: str, weightless: bool) -> ModelSource:
    if not folder.is_dir():
        raise ModelError(
            f"model {folder}: there is no such folder. Give a folder with config.json and "
            "*.safetensors."
        )
    if not weightless and not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.gguf")):
            refuse_unsupported("model.path", str(next(folder.glob("*.gguf"))))
        got = next(
            (suffix for suffix in (".bin", ".pt", ".pth") if any(folder.glob(f"*{suffix}"))), "none"
        )
        raise ModelError(
            f"model {folder}: no weights that batchr1 loads (got {got}, need *.safetensors). Give "
            "the folder of the model's original safetensors."
        )
    if not weightless:
        for weights in sorted(folder.glob("*.safetensors")):
            check_header(weights)
    config = _read_config(folder / "config.json", str(folder))
    context_len = _context_len(config, str(folder))
    identity = "sha256:" + content_hash(folder)
    return ModelSource(name, str(folder), None, identity, context_len, config, str(folder))


def _bucket(uri: str, storage: StorageOptions | None) -> ModelSource:
    """Resolve a model on S3; downloads its small files alone.

    The weights come only when there is something to run.
    """
    model = look_up(uri, storage)
    folder = download_to_cache(uri, storage, digest=model.digest, weights=False, say=log.info)
    config = _read_config(folder / "config.json", uri)
    context_len, name = _context_len(config, uri), Path(uri).name
    return ModelSource(
        name, uri, model.digest, f"s3:{model.digest}", context_len, config, str(folder)
    )


def _hub(repo: str, revision: str | None, name: str, *, cached_only: bool) -> ModelSource:
    """Resolve a repository: from the cache, else from the hub.

    The cache counts where it is whole. A job without `model.revision` thereby keeps its model from
    night to night, until `batchr1 fetch` brings a newer one.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    where = where_of(repo, revision)
    folder = cached_snapshot(repo, revision)
    if folder is not None:
        path = folder / "config.json"
    else:
        try:
            with hub_errors(where, repo, revision):
                if not cached_only and not constants.HF_HUB_OFFLINE:
                    # Asks once; the download would try for half a minute, and print each try.
                    get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision))
                path = Path(
                    hf_hub_download(
                        repo, "config.json", revision=revision, local_files_only=cached_only
                    )
                )
        except (HubError, LocalEntryNotFoundError) as exc:
            raise _UnreachableError(
                f"{where}: not in the local cache, and the hub cannot be reached. Run `batchr1 "
                f"fetch {repo}{f' --revision {revision}' if revision else ''}` with network, or "
                "set model.path."
            ) from exc
        except (ValueError, OSError) as exc:
            raise ModelError(
                f"{where}: no config.json from the hub (got {type(exc).__name__}). Check "
                "HF_ENDPOINT and HF_HOME."
            ) from exc
    commit = path.parent.name  # …/snapshots/<commit>/config.json
    config = _read_config(path, where)
    context_len = _context_len(config, repo)
    return ModelSource(
        name, repo, commit, f"{repo}@{commit}", context_len, config, str(folder) if folder else None
    )


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ModelError(
            f"model {where}: has no config.json. Give a folder in Hugging Face layout."
        ) from exc
    except (OSError, ValueError) as exc:
        raise ModelError(
            f"model {where}: config.json is not readable JSON ({exc}). Download it again."
        ) from exc
    if not isinstance(config, dict):
        raise ModelError(f"model {where}: config.json is not an object. Download it again.")
    if "quantization_config" not in config:
        config |= _modelopt_config(path.with_name("hf_quant_config.json"))
    return config


def _modelopt_config(path: Path) -> dict[str, Any]:
    """Read ModelOpt's own file about the weights, where it lies apart."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {"quantization_config": {"quant_method": "modelopt"} | found}


def _context_len(config: dict[str, Any], where: str) -> int:
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(text.get(key), int) and text[key] > 0:
            return int(text[key])
    raise ModelError(
        f"model {where}: config.json does not say how long the context is (need "
        "max_position_embeddings). Add it there."
    )


def content_hash(folder: Path) -> str:
    """Hash the files that decide a model's answers, with SHA-256.

    Names and contents are hashed. Files above 64 MiB are read in 64 blocks of 1 MiB spread evenly
    over them, with their size. Reading 140 GB at each start would cost minutes, and weights that
    differ differ everywhere.
    """
    total = hashlib.sha256()
    for path in sorted(_model_files(folder)):
        total.update(path.name.encode() + b"\0" + str(path.stat().st_size).encode() + b"\0")
        with path.open("rb") as file:
            size = path.stat().st_size
            if size <= WHOLE_FILE_LIMIT:
                total.update(file.read())
                continue
            for i in range(_BLOCKS):
                file.seek((size - _BLOCK) * i // (_BLOCKS - 1))
                total.update(file.read(_BLOCK))
    return total.hexdigest()


def _model_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix in {".safetensors", ".json", ".jinja", ".model", ".txt"} and path.is_file():
            yield path
