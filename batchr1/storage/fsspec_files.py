"""Files of other file systems that fsspec knows, read only.

gs://, az://, memory:// and more.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any, BinaryIO

from batchr1.errors import InputError, JobError
from batchr1.storage.base import FileInfo, ReadStorage
from batchr1.storage.errors import Retry, is_missing, mapped
from batchr1.storage.s3_client import RangeReader, ReadCache
from batchr1.storage.uri import Kind, StorageOptions

READ_BUFFER_BYTES = 2**20
# The packages of schemes whose own name is another.
_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "oss": "ossfs",
    "oci": "ocifs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "dbfs": "requests",
}
# Addresses that wrap another, make files up, or would be written to.
_REFUSED = frozenset(
    {"simplecache", "filecache", "blockcache", "cached", "dir", "reference", "generic", "data"}
    | {"zip", "tar", "libarchive", "async_wrapper", "asyncwrapper", "git", "jupyter", "jlab"}
)
# What changes with a file's content, under the names that file systems give it.
_VERSIONS = (
    "etag",
    "ETag",
    "md5Hash",
    "generation",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


class FsspecStorage(ReadStorage):
    """A bucket, container or server behind fsspec; its `uri` is scheme://place."""

    kind: Kind = "fsspec"

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        super().__init__(uri, options, retry)
        self._cache = ReadCache()
        check_scheme(uri.partition("://")[0])

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        with mapped(self.uri):
            try:
                fs, root = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
            except (TypeError, ValueError) as exc:  # no account, or none that is valid
                scheme = self.uri.partition("://")[0]
                raise InputError(
                    f"{self.uri}: {_PACKAGES.get(scheme, 'fsspec')} does not open it (got "
                    f"{type(exc).__name__}). Set the account and credentials that it reads from "
                    "the environment."
                ) from exc
        return fs, str(root)

    def _path(self, rel: str) -> str:
        return "/".join(part for part in (self._opened[1].rstrip("/"), rel) if part)

    def _call(self, rel: str, method: str, *args: Any, **kwargs: Any) -> Any:
        fs, where = self._opened[0], self.where(rel)
        return self.retry.call(lambda: getattr(fs, method)(*args, **kwargs), where)

    def find_file(self, rel: str) -> FileInfo | None:
        with mapped(self.where(rel)):
            try:
                info = self._call(rel, "info", self._path(rel))
            except Exception as exc:
                if is_missing(exc):
                    return None
                raise
        return self._info(info) if info["type"] == "file" else None

    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        depth = None if recursive else 1
        with mapped(self.where(rel_dir)):
            found: Mapping[str, Any] = self._call(
                rel_dir, "find", self._path(rel_dir), maxdepth=depth, detail=True
            )
        infos = (self._info(info) for info in found.values() if info["type"] == "file")
        below = f"{rel_dir}/" if rel_dir else ""
        return sorted(
            (i for i in infos if i.rel.startswith(below) and i.rel.endswith(suffix)),
            key=lambda info: info.rel,
        )

    def list_folders(self, rel_dir: str = "") -> list[str]:
        with mapped(self.where(rel_dir)):
            try:
                found = self._call(rel_dir, "ls", self._path(rel_dir), detail=True)
            except Exception as exc:
                if is_missing(exc):
                    return []
                raise
        names = (info["name"] for info in found if info["type"] == "directory")
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def open_known(self, info: FileInfo) -> BinaryIO:
        path = self._path(info.rel)

        def fetch(start: int, stop: int) -> bytes:
            with mapped(self.where(info.rel)):
                data: bytes = self._call(info.rel, "cat_file", path, start=start, end=stop)
                if len(data) != stop - start:
                    raise ConnectionError("another range than asked for")
                return data

        def read(start: int, stop: int) -> bytes:
            return self._cache.read((info.rel, info.version), info.size, start, stop, fetch)

        return io.BufferedReader(RangeReader(info.size, read), READ_BUFFER_BYTES)

    def _info(self, info: Mapping[str, Any]) -> FileInfo:
        root = self._opened[1].rstrip("/")
        rel = str(info["name"]).removeprefix(root).lstrip("/")
        known = next((info[name] for name in _VERSIONS if info.get(name)), "")
        if isinstance(known, dt.datetime):  # listings give some as text or as seconds
            known = known.timestamp()
        return FileInfo(rel, int(info["size"] or 0), str(known).strip('"'))


def check_scheme(scheme: str) -> None:
    """Raise `JobError` for a scheme that nothing here reads."""
    import fsspec
    from fsspec.registry import known_implementations

    if scheme in _REFUSED or scheme not in fsspec.available_protocols():
        raise JobError(
            f"{scheme}://…: no such kind of address (got {scheme!r}, need a path, s3://, hf://, "
            "https://, or another scheme that fsspec knows). Correct it."
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as exc:
        package = _PACKAGES.get(scheme)
        need = package or known_implementations[scheme]["err"].rstrip(".")
        install = f"Install it: pip install {package}" if package else "Install it"
        raise JobError(
            f"{scheme}://…: a package for such addresses is missing (need {need}). {install}."
        ) from exc
