"""Client of S3 through s3fs, and files read by ranges."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from batchr1.errors import OutputError
from batchr1.storage.errors import mapped
from batchr1.storage.uri import StorageOptions, endpoint_of

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
WHOLE_BYTES = 2**20
"""An object up to this size is read in one request."""
END_BYTES = 2**18
"""Of a larger one, so much of its end is: a Parquet file's footer is there."""
CACHE_BYTES = 128 * 2**20
SHA256 = "batchr1-sha256"
"""Name of the metadata that a staged file carries."""

Fetch = Callable[[int, int], bytes]


def open_s3fs(where: str, options: StorageOptions, retries: int) -> Any:
    """Open an s3fs file system of its own, without cached listings.

    It tries each request `retries` times. Endpoint and region come from `options`, else from the
    environment, else from the profile (botocore finds those).
    """
    import s3fs

    endpoint = endpoint_of(options)
    style: str = options.addressing
    if style == "auto" and endpoint:
        style = "path"
    region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with mapped(where, lasting=OutputError):
        fs = s3fs.S3FileSystem(
            profile=options.profile,
            endpoint_url=endpoint,
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
                # Servers other than AWS need the bucket in the path, and know none of the newer
                # checksums.
                "s3": {"addressing_style": style},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            skip_instance_cache=True,
            use_listings_cache=False,
        )
    fs.retries = retries
    return fs


class ReadCache:
    """Cache of small objects and of the ends of larger ones.

    Footers are read often. Keys name a version, so that nothing in it grows old. Safe to use from
    several threads.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._found: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: tuple[str, str], size: int, start: int, stop: int, fetch: Fetch) -> bytes:
        """Read bytes [start, stop) of an object of `size` bytes.

        They come from memory or by `fetch(start, stop)`.
        """
        begin = 0 if size <= WHOLE_BYTES else size - END_BYTES
        if start < begin:
            return fetch(start, stop)
        with self._lock:
            end = self._found.get((*key, begin))
            if end is not None:
                self._found.move_to_end((*key, begin))
        if end is None:
            end = fetch(begin, size)
            self._add((*key, begin), end)
        return end[start - begin : stop - begin]

    def _add(self, key: tuple[str, str, int], data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._found.pop(key, b""))
            self._found[key] = data
            while self._bytes > self._max_bytes:
                _, dropped = self._found.popitem(last=False)
                self._bytes -= len(dropped)


class RangeReader(io.RawIOBase):
    """A file of known size whose bytes [start, stop) come from `read`."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._at = size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        )
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        data = self._read(self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def same_content(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare two objects by what their heads say."""
    digests = [head.get("Metadata", {}).get(SHA256) for head in (one, other)]
    if None in digests:  # not staged by us
        return bool(one["ETag"] == other["ETag"])
    return bool(digests[0] == digests[1])
