"""URIs of storages, and the S3 server behind them."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from batchr1.errors import JobError

Kind = Literal["local", "s3", "web", "hub", "fsspec"]
_WRITTEN = ("file", "s3", "s3a")
_WEB = ("http", "https")
_HUB = re.compile(
    r"datasets/([\w.-]+/[\w.-]+)"
    r"(?:@(refs/(?:convert|pr)/[^/]+|[^/@]+))?"
    r"(?:/((?:(?!\.\.?(?:/|$))[^/]+/?)+))?"
)
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


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Tell whether an address is read only: no disk, no S3."""
    scheme, mark, _ = os.fspath(uri).partition("://")
    return bool(mark) and "/" not in scheme and scheme not in _WRITTEN


def is_loopback(host: str) -> bool:
    """Tell whether a host's name is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_remote(uri: str) -> tuple[str, str]:
    """Split an address to read from: its place, the path there.

    The place is a server, a repository of the hub with its revision, or a bucket. Raises `JobError`
    for one that holds a secret or could not be read safely.
    """
    scheme, _, rest = uri.partition("://")
    place, _, rel = rest.partition("/")
    if "@" in place and (":" in place.partition("@")[0] or scheme in _WEB):
        raise JobError(
            f"{scheme}://…: the address holds credentials, and records repeat it. Take them out: "
            "they come from the environment."
        )
    if scheme in _WEB:
        _check_web(scheme, place, rel)
    if scheme == "hf":
        return _split_hub(uri, rest)
    rel = rel.rstrip("/")
    if not place or any(part in ("", ".", "..") for part in rel.split("/") if rel):
        raise JobError(
            f"{uri}: not a usable address (got an empty part, `.` or `..`). Write it without."
        )
    return f"{scheme}://{place}", rel


def _check_web(scheme: str, place: str, rel: str) -> None:
    """Refuse signed addresses, and servers that anybody on the way could play."""
    if "?" in rel or "#" in rel:
        raise JobError(
            f"{scheme}://{place}/…: the address has a query, which may hold a signature, and "
            "records repeat it (got ? or #). Name the file without, or copy it."
        )
    host = urlsplit(f"{scheme}://{place}").hostname or ""
    if scheme == "http" and not is_loopback(host):
        raise JobError(
            f"http://{place}/…: not encrypted, so that anybody on the way may change it (got "
            f"http:// to {host}, need https://, or http:// on this machine). Use https://."
        )


def _split_hub(uri: str, rest: str) -> tuple[str, str]:
    found = _HUB.fullmatch(rest.rstrip("/"))
    if found is None:
        raise JobError(
            f"{uri}: not a data set of the hub (need hf://datasets/ORG/NAME[@REVISION]/PATH). "
            "Correct the address."
        )
    name, revision, rel = found[1], found[2], found[3] or ""
    pinned = f"@{revision.replace('/', '%2F')}" if revision else ""
    return f"hf://datasets/{name}{pinned}", rel


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
