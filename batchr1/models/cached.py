"""Models in the hub's cache: found and checked, without asking the hub.

A run looks before any engine starts, and so does a worker on its own machine.
"""

from __future__ import annotations

from pathlib import Path

from batchr1.errors import ModelError
from batchr1.models.files import CONFIG, INDEX, shards_of
from batchr1.models.hub import Repository, where_of
from batchr1.models.places import RECORD, cache_root, read_record, record_path, recorded, size_of

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a whole cached repository at `revision`, else None.

    `revision` is what it was when it was fetched. Files that `batchr1 fetch` brought are compared
    with its record; those of another program, with the weights' own index.
    """
    commit = cached_commit(repo, revision)
    if commit is None:
        return None
    folder = cache_root(repo) / "snapshots" / commit
    record = read_record(record_path(repo, f"{commit}.json"))
    if record is not None:
        whole = all(size_of(folder / file.rel) == file.size for file in recorded(record).files)
    else:
        whole = is_whole(folder)
    return folder if whole else None


def cached_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit that the cache knows as `revision`.

    None where it knows none.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache_root(repo)  # refuses what is no name of a repository
    try:
        # config.json alone: which files a model needs is ours to say, in `cached_snapshot`.
        folder = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=[CONFIG]
        )
    except LocalEntryNotFoundError:
        return None
    return Path(folder).name


def recorded_repository(repo: str, revision: str | None, to: Path | None = None) -> Repository:
    """Return the repository of an earlier fetch, without asking the hub.

    `to`: a folder that may hold its own record. Raises `ModelError` where there was no fetch.
    """
    commit = cached_commit(repo, revision)
    record = read_record(record_path(repo, f"{commit}.json")) if commit else None
    if record is None and to is not None:
        record = read_record(to / RECORD)
    if record is None or record["repo"] != repo or not record["files"]:
        raise ModelError(
            f"{where_of(repo, revision)}: not in the cache, and HF_HUB_OFFLINE is set. Unset it, "
            "and run the same command again."
        )
    return recorded(record)


def is_whole(folder: Path) -> bool:
    """Return True for a folder with config, tokenizer and all weights.

    The index tells which weights; without one, some are enough.
    """
    if not (folder / CONFIG).is_file() or not any(
        (folder / name).is_file() for name in _TOKENIZERS
    ):
        return False
    try:
        shards = shards_of(folder / INDEX)
    except FileNotFoundError:
        return any(path.is_file() for path in folder.glob("*.safetensors"))
    except (OSError, ValueError):
        return False
    return bool(shards) and all((folder / shard).is_file() for shard in shards)
