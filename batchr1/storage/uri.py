"""URIs of storages, and the S3 server behind them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from batchr1.errors import JobError

Kind = Literal["local", "s3"]
Addressing = Literal["auto", "path", "virtual"]
"""Where the bucket stands in a request: in its path or in the host's name. auto: in the path where
an endpoint is given, else as Amazon wants it."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """S3 server of a job, without keys and secrets.

    Those come from the environment, a profile or the machine. Without a value, `endpoint` comes
    from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, `region` from AWS_REGION or AWS_DEFAULT_REGION,
    `profile` from AWS_PROFILE, and all of them from the profile itself.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Addressing = "auto"

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            _check_endpoint("storage.endpoint", self.endpoint)


def endpoint_of(options: StorageOptions) -> str | None:
    """Find the S3 server: the job's, or the environment's.

    Raises `JobError` for one that cannot be.
    """
    if options.endpoint:
        return options.endpoint
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if value := os.environ.get(name):
            _check_endpoint(name, value)
            return value
    return None


def _check_endpoint(where: str, url: str) -> None:
    """Refuse an endpoint with a secret: logs and records repeat it."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise JobError(
            f"{where}: not a URL (need http://host:port or https://host). Correct it."
        ) from exc
    if parts.username is not None or parts.password is not None or parts.query:
        raise JobError(
            f"{where}: the URL holds credentials. Set AWS_ACCESS_KEY_ID and its secret instead."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JobError(f"{where}: not a URL (need http://host:port or https://host). Correct it.")


def split_uri(uri: str | os.PathLike[str]) -> tuple[Kind, str]:
    """Split a URI into its kind and its absolute path or bucket/key.

    Neither has a slash at the end.
    """
    text = os.fspath(uri)
    scheme, mark, rest = text.partition("://")
    if not mark or "/" in scheme:
        return "local", _absolute(text)
    if scheme == "file":
        return "local", _absolute(unquote(rest))
    if scheme not in ("s3", "s3a"):
        raise JobError(
            f"{scheme}://…: storage of this kind is not supported (got {scheme!r}, need a path, "
            f"file:// or s3://). "
            "Copy the data, or use the store's S3 interface with storage.endpoint."
        )
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise JobError(
            "s3://…: the URI holds credentials. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY "
            "instead."
        )
    if not bucket:
        raise JobError(
            f"{text}: no bucket (got {text!r}, need s3://bucket/prefix). Name the bucket."
        )
    key = key.rstrip("/")
    if any(part in ("", ".", "..") for part in key.split("/")) and key:
        raise JobError(
            f"{text}: not a usable key (got an empty part, `.` or `..`). Write the prefix "
            f"without "
            f"it."
        )
    return "s3", f"{bucket}/{key}".rstrip("/")


def checked(rel: str) -> str:
    """Return `rel` itself, if it stays below the root.

    Raises ValueError otherwise: a programming error, not a user's.
    """
    if (
        rel.startswith("/")
        or rel.endswith("/")
        or any(part in ("", ".", "..") for part in rel.split("/") if rel)
    ):
        raise ValueError(f"not a path below the storage: {rel!r}")
    return rel


def _absolute(path: str) -> str:
    """Make a path absolute, links kept.

    A file `part.parquet` may well be a link to a blob whose name says nothing.
    """
    return os.path.normpath(Path(path).expanduser().absolute())
