"""Outputs by folder or by glob, on disk and S3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from batchr1.errors import InputError, JobError, StorageError, UsageError
from batchr1.output.folder import Output
from batchr1.storage.base import INPUT_RETRY, Storage, StorageOptions, open_storage
from batchr1.storage.uri import split_uri

_LOOKED_INTO = 20
_MAGIC = re.compile(r"[*?\[]")


def find_outputs(uris: Sequence[str]) -> list[Output]:
    """Find the outputs that folders and globs name, each once.

    They keep the order of their names; those of a glob are sorted. A glob takes the outputs of
    batchr1 among the folders that it matches. Raises `UsageError` for a glob without any, and as
    `open_output` does.
    """
    found: dict[str, Output] = {}
    for uri in uris:
        if not is_glob(uri) or _opened(uri).was_tried():
            named = open_output(uri)
            found[named.uri] = named
            continue
        matches = [
            one for one in map(_opened, matching_folders(uri, what="OUTPUT")) if one.was_tried()
        ]
        if not matches:
            raise UsageError(f"{uri}: the glob matches no output of batchr1. Check the pattern.")
        found |= {one.uri: one for one in matches}
    return list(found.values())


def open_output(uri: str, *, asked_by: str = "") -> Output:
    """Open an output. Raises `UsageError` where no run has begun."""
    found = _opened(uri)
    is_file = found.storage.kind == "local" and Path(found.uri).is_file()
    if is_file or not found.was_tried():
        raise no_output(found.uri, asked_by=asked_by)
    return found


def no_output(uri: str, *, asked_by: str = "", otherwise: str = "") -> UsageError:
    """Say that a folder is no output.

    `asked_by`: the option that named it. `otherwise`: what may be given in its place.
    """
    where = f"{asked_by}: {uri}" if asked_by else uri
    if _holds_scores(uri):
        return UsageError(
            f"{where}: a folder of scores, not an output of batchr1. Give the output that was "
            f"scored; the scores are the Parquet files in {uri.rstrip('/')}/data."
        )
    if _holds_outputs(uri):
        advice = f"Its folders are: '{uri}/*' names them all"
    else:
        advice = "Give the folder that a job wrote" + (f", or {otherwise}" if otherwise else "")
    return UsageError(f"{where}: not an output of batchr1. {advice}.")


def _holds_scores(uri: str) -> bool:
    try:
        return _opened(uri).holds_scores()
    except StorageError:
        return False


def _holds_outputs(uri: str) -> bool:
    """Whether one of the first folders in a folder is an output."""
    try:
        names = _opened(uri).storage.list_folders()[:_LOOKED_INTO]
        return any(_opened(f"{uri}/{name}").was_tried() for name in names)
    except StorageError:
        return False


def is_glob(uri: str) -> bool:
    return bool(_MAGIC.search(uri))


def matching_folders(
    pattern: str, options: StorageOptions | None = None, *, what: str
) -> list[str]:
    """List the folders that a glob matches, by URI, sorted.

    `*` stays within a part of the path; hidden folders are left out. Raises `JobError` for `**`, in
    the name of `what`, and `InputError` when storage cannot be listed.
    """
    if "**" in pattern:
        raise JobError(
            f"{what}: ** is not understood here (got {pattern}). Write a * for each folder."
        )
    kind, place = split_uri(pattern)
    top, _, rel = place.partition("/")
    root = open_storage(f"s3://{top}" if kind == "s3" else "/", options, INPUT_RETRY)
    folders = [""]
    for part in rel.split("/"):
        folders = [
            f"{above}/{name}".lstrip("/") for above in folders for name in _names(root, above, part)
        ]
    return sorted(root.where(folder) for folder in folders)


def _names(root: Storage, above: str, part: str) -> list[str]:
    """The folders directly in `above` that one part of a glob matches."""
    if not is_glob(part):
        return [part]
    try:
        names = root.list_folders(above)
    except StorageError as error:
        raise InputError(str(error)) from error.__cause__
    return [
        name
        for name in names
        if fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))
    ]


def _opened(uri: str) -> Output:
    return Output(open_storage(uri))
