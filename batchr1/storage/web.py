"""Files of web servers and of the hub, read by ranges.

    WebStorage  https://host/…, one file an address: a server has no list of its files
    HubStorage  hf://datasets/ORG/NAME[@REVISION]/…, at the commit that the revision means now

Both read through httpx. Each answer says which version it is of. Where it is another than at first,
reading ends: no two versions are mixed. A server that knows no ranges sends a file whole, once.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote

from batchr1.errors import InputError, StorageError
from batchr1.storage.base import FileInfo, ReadStorage
from batchr1.storage.errors import Retry, is_missing, mapped
from batchr1.storage.s3_client import RangeReader, ReadCache
from batchr1.storage.uri import Kind, StorageOptions, is_loopback

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MAX_WHOLE_BYTES = 2**30
"""Bytes of a file, at most, that a server without ranges may send."""
READ_BUFFER_BYTES = 2**20
TIMEOUT_S = 30.0
_BLOCK = 2**20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _HttpStorage(ReadStorage):
    """Files that one GET with a range reads a part of."""

    pins_versions = True

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        super().__init__(uri, options, retry)
        self._cache = ReadCache()
        self._whole: dict[FileInfo, BinaryIO] = {}
        self._lock = threading.Lock()

    def url(self, rel: str) -> str:
        """The address that a request for `rel` goes to."""
        raise NotImplementedError

    def _session(self) -> Any:
        raise NotImplementedError

    def _headers(self) -> Mapping[str, str]:
        return {}

    def open_known(self, info: FileInfo) -> BinaryIO:
        def fetch(start: int, stop: int) -> bytes:
            with mapped(self.where(info.rel)):
                return self.retry.call(lambda: self._fetch(info, start, stop), self.where(info.rel))

        def read(start: int, stop: int) -> bytes:
            return self._cache.read((info.rel, info.version), info.size, start, stop, fetch)

        return io.BufferedReader(RangeReader(info.size, read), READ_BUFFER_BYTES)

    def _fetch(self, info: FileInfo, start: int, stop: int) -> bytes:
        """Read bytes [start, stop) by one request, or from the whole file."""
        whole = self._whole.get(info)
        if whole is None:
            with self._get(info.rel, start, stop) as answer:
                found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if answer.status_code == 206 and found is not None:
                    self._refuse_other(info, int(found[3]), answer)
                    data: bytes = answer.read()
                    if int(found[1]) != start or len(data) != stop - start:
                        raise ConnectionError("another range than asked for")
                    return data
                whole = self._keep_whole(info, answer)
        with self._lock:
            whole.seek(start)
            return bytes(whole.read(stop - start))

    def _keep_whole(self, info: FileInfo, answer: Any) -> BinaryIO:
        """Keep the file that came instead of a part of it."""
        if info.size > MAX_WHOLE_BYTES:
            raise InputError(
                f"{self.where(info.rel)}: the server knows no ranges, and the file is too large to "
                f"be read whole (got {info.size:,} bytes, need at most {MAX_WHOLE_BYTES:,}). Copy "
                "it to a disk or a bucket."
            )
        file = cast("BinaryIO", tempfile.TemporaryFile(prefix="batchr1-"))  # noqa: SIM115
        weakref.finalize(self, file.close)
        size = 0
        for block in answer.iter_raw(_BLOCK):
            size += len(block)
            if size > info.size:
                break
            file.write(block)
        self._refuse_other(info, size, answer)
        with self._lock:
            return self._whole.setdefault(info, file)

    def _refuse_other(self, info: FileInfo, size: int, answer: Any) -> None:
        if size != info.size or _version(answer.headers) not in ("", info.version):
            raise StorageError(
                f"{self.where(info.rel)}: the file was replaced while it was read (got another "
                "size or version). Run the same command again."
            )

    @contextmanager
    def _get(self, rel: str, start: int, stop: int) -> Iterator[Any]:
        headers = {**self._headers(), "Range": f"bytes={start}-{stop - 1}"}
        headers["Accept-Encoding"] = "identity"
        with self._session().stream("GET", self.url(rel), headers=headers) as answer:
            self._check(answer)
            yield answer

    def _check(self, answer: Any) -> None:
        """Raise an exception for an answer that is none."""
        answer.raise_for_status()


class WebStorage(_HttpStorage):
    """A web server; its `uri` is https://host, or http:// on this machine."""

    kind: Kind = "web"

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [functools.partial(_refuse_plain, self.uri)]
        }
        client = httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, event_hooks=hooks)
        weakref.finalize(self, client.close)
        return client

    def _session(self) -> Any:
        return self._client

    def url(self, rel: str) -> str:
        return self.where(rel)

    def find_file(self, rel: str) -> FileInfo | None:
        with mapped(self.where(rel)):
            try:
                return self.retry.call(lambda: self._look(rel), self.where(rel))
            except Exception as exc:
                if is_missing(exc):
                    return None
                raise

    def _look(self, rel: str) -> FileInfo:
        """Ask for the first byte.

        Some servers refuse HEAD, and few tell of ranges.
        """
        with self._get(rel, 0, 1) as answer:
            version = _version(answer.headers)
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status_code == 206 and found is not None:
                return FileInfo(rel, int(found[3]), version)
            if "Content-Length" in answer.headers:
                return FileInfo(rel, int(answer.headers["Content-Length"]), version)
            return self._measured(rel, version, answer)

    def _measured(self, rel: str, version: str, answer: Any) -> FileInfo:
        """Find a file's size by reading it: its server says none."""
        size = 0
        for block in answer.iter_raw(_BLOCK):
            size += len(block)
            if size > MAX_WHOLE_BYTES:
                break
        return FileInfo(rel, size, version)

    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        return []  # a server of files has no list of them

    def list_folders(self, rel_dir: str = "") -> list[str]:
        return []


class HubStorage(_HttpStorage):
    """A repository of the hub; its `uri` is hf://datasets/ORG/NAME[@REVISION]."""

    kind: Kind = "hub"

    def __init__(self, uri: str, options: StorageOptions, retry: Retry) -> None:
        super().__init__(uri, options, retry)
        kind, _, name = uri.removeprefix("hf://").partition("/")
        self._type = kind.removesuffix("s")
        self._repo, _, revision = name.partition("@")
        self._revision = revision.replace("%2F", "/") or "main"
        self._commit: str | None = None
        self._looking = threading.Lock()

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(library_name="batchr1")

    @property
    def commit(self) -> str:
        """The commit that the revision means: all is read at it."""
        with self._looking:  # two threads might see two commits
            if self._commit is None:
                found = self._call(
                    lambda: self._api.repo_info(
                        self._repo, revision=self._revision, repo_type=self._type, timeout=TIMEOUT_S
                    )
                )
                log.info("%s: read at commit %s", self.uri, found.sha)
                self._commit = str(found.sha)
            return self._commit

    def _call(self, request: Any, rel: str = "") -> Any:
        with mapped(self.where(rel)):
            return self.retry.call(request, self.where(rel))

    def _session(self) -> Any:
        from huggingface_hub import get_session

        return get_session()

    def _headers(self) -> Mapping[str, str]:
        from huggingface_hub.utils._headers import build_hf_headers

        return build_hf_headers(library_name="batchr1")

    def url(self, rel: str) -> str:
        return f"{self._api.endpoint}/{self._type}s/{self._repo}/resolve/{self.commit}/{quote(rel)}"

    def _check(self, answer: Any) -> None:
        from huggingface_hub.utils._http import hf_raise_for_status

        hf_raise_for_status(answer)

    def _refuse_other(self, info: FileInfo, size: int, answer: Any) -> None:
        if size != info.size:  # a commit's files never change; stores have ETags of their own
            super()._refuse_other(info, size, answer)

    def find_file(self, rel: str) -> FileInfo | None:
        commit = self.commit
        found = self._call(
            lambda: self._api.get_paths_info(
                self._repo, [rel], revision=commit, repo_type=self._type
            ),
            rel,
        )
        return next((_hub_file(entry) for entry in found if _is_file(entry)), None)

    def _tree(self, rel_dir: str, *, recursive: bool) -> list[Any]:
        from huggingface_hub.errors import EntryNotFoundError

        commit = self.commit

        def request() -> list[Any]:
            tree = self._api.list_repo_tree(
                self._repo,
                rel_dir or None,
                recursive=recursive,
                revision=commit,
                repo_type=self._type,
            )
            try:
                return list(tree)
            except EntryNotFoundError:
                return []

        return cast("list[Any]", self._call(request, rel_dir))

    def list_files(
        self, rel_dir: str = "", suffix: str = "", *, recursive: bool = False
    ) -> list[FileInfo]:
        tree = self._tree(rel_dir, recursive=recursive)
        found = [_hub_file(entry) for entry in tree if _is_file(entry)]
        return sorted(
            (info for info in found if info.rel.endswith(suffix)), key=lambda info: info.rel
        )

    def list_folders(self, rel_dir: str = "") -> list[str]:
        tree = self._tree(rel_dir, recursive=False)
        return sorted(entry.path.rpartition("/")[2] for entry in tree if not _is_file(entry))


def _refuse_plain(uri: str, request: httpx.Request) -> None:
    """Refuse a redirect to where anybody on the way could answer."""
    if request.url.scheme != "https" and not is_loopback(request.url.host):
        raise InputError(
            f"{uri}: the server sends on to an address without encryption (got "
            f"{request.url.scheme}://{request.url.host}, need https). Name the file where it is."
        )


def _is_file(entry: Any) -> bool:
    return hasattr(entry, "blob_id")


def _hub_file(entry: Any) -> FileInfo:
    version = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    return FileInfo(entry.path, entry.size, version)


def _version(headers: Mapping[str, str]) -> str:
    """Find what changes with a file's content, as its server says."""
    return (headers.get("ETag") or headers.get("Last-Modified") or "").replace('"', "")
