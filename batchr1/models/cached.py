"""Is a model on this machine, whole? What a run asks before any engine starts, and a worker on its
own machine.
"""

from __future__ import annotations

from pathlib import Path

from batchr1.errors import ModelError
from batchr1.models.files import CONFIG, INDEX, shards_of
from batchr1.models.hub import Repository, where_of
from batchr1.models.places import RECORD, cache_root, read_record, record_path, recorded, size_of

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The folder of a repository that the hub's cache has whole, at `revision` as it was when it was fetched; or None.

    Asks nobody. What `batchr1 fetch` brought is compared with its record; what another program
    brought, with the weights' own index.
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
    """The commit that the cache knows as `revision`; None where it does not."""
    root = cache_root(repo)
    name = revision or "main"
    if (root / "snapshots" / name).is_dir():
        return name
    try:
        return (root / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def recorded_repository(repo: str, revision: str | None, to: Path | None = None) -> Repository:
    """What an earlier fetch brought, told without the hub. Raises `ModelError` where there was none.

    `to`: a folder that may know itself what it holds.
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
    """Whether a folder has config, tokenizer, and all weights that its index names (or some,
    without an index).
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
