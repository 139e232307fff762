"""Faults of storage, in one line each, and which to try again.

Every exception of the operating system, fsspec, s3fs, botocore and aiohttp passes through
`storage_error`. No third party's message is repeated, because it may hold a signed URL or a key:
only errno names, S3 error codes and HTTP statuses are. Classes are recognised by name, so that a
local run need not import botocore.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import tenacity

from batchr1.errors import MACHINE_FAULTS, BatchError, StorageError
from batchr1.events import event

log = logging.getLogger(__name__)
T = TypeVar("T")

CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile"
AGAIN = "Run the same command again: it goes on from here"
LEAVE_S = 5.0  # how long a process that is about to end still tries a request again

MOST_SKEW_S = 14 * 60.0  # S3 takes requests whose time is off by 15 minutes at most

_leaves_at: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of a request that failed in passing, in seconds.

    No try starts later than `for_s` after the first; `for_s=0` is a single try.
    """

    for_s: float = 30.0
    first_wait_s: float = 0.2
    max_wait_s: float = 5.0

    def call(self, request: Callable[[], T], where: str) -> T:
        """Call `request()`, and again while `is_passing` says so.

        Its last exception is raised as it is.
        """

        def say(state: tenacity.RetryCallState) -> None:
            cause = state.outcome.exception() if state.outcome else None
            got = _describe(cause).what if cause else "?"
            said = event("storage_retry", where=where, attempt=state.attempt_number)
            log.warning(
                "%s: %s; try %d failed, trying again", where, got, state.attempt_number, extra=said
            )

        over = tenacity.stop_before_delay(self.for_s)
        retrying = tenacity.Retrying(
            stop=lambda state: over(state) or _is_leaving(state),
            wait=tenacity.wait_random_exponential(self.first_wait_s, self.max_wait_s),
            retry=tenacity.retry_if_exception(is_passing),
            before_sleep=say,
            reraise=True,
        )
        return retrying(request)


def set_leaving(leaving: bool) -> None:
    """Declare whether this process is about to end.

    Then no request, not even one under way, is tried again for long.
    """
    global _leaves_at
    _leaves_at = time.monotonic() + LEAVE_S if leaving else None


def _is_leaving(state: tenacity.RetryCallState) -> bool:
    return _leaves_at is not None and time.monotonic() + state.upcoming_sleep > _leaves_at


class _Case(NamedTuple):
    what: str
    advice: str
    lasting: bool = (
        True  # whether the same request would fail again for as long as nobody changes anything
    )


_DENIED = _Case("access is denied", "Give these credentials the permission, or use others")
_REFUSED = _Case(
    "the credentials are refused",
    "Renew AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.profile",
)
_REGION = _Case(
    "the bucket is in another region or at another endpoint",
    "Set storage.region or storage.endpoint",
)
_MISSING = _Case("no such file", "Check the path")
_FULL = _Case("the disk is full", "Free some space, then run the same command again")
_BUSY = _Case("the object store fails or asks to slow down", AGAIN, lasting=False)
_UNREACHABLE = _Case(
    "the object store does not answer",
    "Check storage.endpoint and the network, and run again",
    False,
)

_CLOCK = _Case(
    "the clock of this machine is wrong", "Set the clock, then run the same command again"
)
_KEY = _Case("the object's KMS key cannot be used", "Enable the key, or name a copy without it")
_HOST = _Case(
    "the store wants the bucket in the host's name",
    "Set storage.addressing to virtual",
)

_S3_CODES = {
    "NoSuchBucket": _Case(
        "no such bucket", "Check the bucket's name, storage.endpoint and storage.region"
    ),
    "InvalidBucketName": _Case("not a valid bucket name", "Check the bucket's name"),
    "NoSuchKey": _MISSING,
    "404": _MISSING,
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "AllAccessDisabled": _DENIED,
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "ExpiredToken": _REFUSED,
    "InvalidToken": _REFUSED,
    "QuotaExceeded": _Case(
        "the quota of the bucket or user is used up", "Free some space, then run again"
    ),
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "InvalidObjectState": _Case(
        "the object is archived", "Restore it first, or name a copy that is not"
    ),
    "KMS.DisabledException": _KEY,
    "KMS.KMSInvalidStateException": _KEY,
    "KMS.NotFoundException": _KEY,
    "SecondLevelDomainForbidden": _HOST,
    "PathStyleDomainForbidden": _HOST,
    "NoSuchUpload": _Case("an upload was aborted while it ran", AGAIN, lasting=False),
}
_SERVER = _Case(
    "the server does not answer", "Check the address and the network, and run again", False
)
# HTTP statuses of stores that speak no S3: web servers, the hub, Google's and Microsoft's clouds.
_STATUSES = {
    401: _Case("access needs credentials", "Set HF_TOKEN for hf://, or what the store asks for"),
    403: _DENIED,
    404: _MISSING,
    408: _BUSY,
    410: _MISSING,
    416: _Case("the file is shorter than it said", AGAIN, lasting=False),
    429: _BUSY,
}
_PASSING_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "ConditionalRequestConflict",
    "OperationAborted",
    "XAmzContentSHA256Mismatch",
}

_CLASSES = {
    "NoCredentialsError": _Case("no S3 credentials were found", CREDENTIALS),
    "PartialCredentialsError": _Case("the S3 credentials are incomplete", CREDENTIALS),
    "CredentialRetrievalError": _Case("the S3 credentials could not be fetched", CREDENTIALS),
    "ProfileNotFound": _Case("no such AWS profile", "Check storage.profile and AWS_PROFILE"),
    "ParamValidationError": _Case("not a valid bucket or key", "Check the path"),
    "InvalidRegionError": _Case("not a valid region", "Check storage.region"),
    "SSLError": _Case(
        "the TLS connection is refused", "Check storage.endpoint and its certificate"
    ),
    "ProxyConnectionError": _Case(
        "the HTTP proxy does not answer", "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    ),
    "HTTPClientError": _UNREACHABLE,  # botocore: refused, reset, closed, timed out
    "ConnectionError": _UNREACHABLE,  # botocore's and Python's own
    "IncompleteReadError": _UNREACHABLE,
    "ResponseStreamingError": _UNREACHABLE,
    "ResponseParserError": _BUSY,
    "ClientPayloadError": _UNREACHABLE,  # aiohttp: the answer was cut
    "ClientConnectionError": _UNREACHABLE,
    "GatedRepoError": _Case(
        "a gated data set", "Ask for access on its page, and set HF_TOKEN to a token of yours"
    ),
    "RepositoryNotFoundError": _Case(
        "no such data set, or none for this token",
        "Check the name, and set HF_TOKEN where it is private",
    ),
    "RevisionNotFoundError": _Case("no such revision", "Check what stands behind @"),
    "OfflineModeIsEnabled": _Case("HF_HUB_OFFLINE is set", "Unset it, or name a local copy"),
    "TransportError": _SERVER,  # httpx: refused, reset, cut, timed out
    "TooManyRedirects": _Case("the server sends from address to address", "Check the address"),
    "TimeoutError": _UNREACHABLE,
    "FSTimeoutError": _UNREACHABLE,
}  # looked up along the class's bases, nearest first

_ERRNOS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _Case(
        "the disk quota is used up", "Free some space, then run the same command again"
    ),
    errno.EACCES: _Case(
        "permission is denied", "Check the owner and mode of the file and its folders"
    ),
    errno.EPERM: _Case(
        "permission is denied", "Check the owner and mode of the file and its folders"
    ),
    errno.EROFS: _Case(
        "the file system is read-only", "Choose another path, or mount it for writing"
    ),
    errno.EIO: _Case(
        "the disk reports an error", "Check the disk, then run the same command again"
    ),
    errno.ESTALE: _Case("the network file system lost the file", AGAIN),
    errno.ENOENT: _MISSING,
    errno.EISDIR: _Case("a folder, not a file", "Check the path"),
    errno.ENOTDIR: _Case("a part of the path is a file, not a folder", "Check the path"),
    errno.EEXIST: _Case("a part of the path is a file, not a folder", "Check the path"),  # by mkdir
    errno.ENAMETOOLONG: _Case("the path is too long", "Choose a shorter path"),
    errno.ENOTSUP: _Case(
        "not a regular file", "Put a file in its place: a FIFO, socket or device is not read"
    ),
    errno.EMFILE: _Case("too many open files", "Raise `ulimit -n`"),
}


def is_fault(exc: BaseException | None) -> bool:
    """Tell whether `exc` is a fault of machine, clock or storage."""
    if exc is not None and _has_wrong_clock(exc):
        return True
    return isinstance(exc, OSError) and not _s3_answer(exc)[0] and exc.errno in MACHINE_FAULTS


def storage_error(
    exc: BaseException,
    where: str,
    *,
    lasting: type[BatchError] = StorageError,
    passing: type[BatchError] = StorageError,
) -> BatchError:
    """Make the error to raise for `exc`, met at `where`.

    `where` is a path or URI without secrets. `lasting` is the error's class if the same request
    would fail again until somebody changes something (a missing bucket, denied access). `passing`
    is its class if the request may succeed later by itself (throttling, resets, time-outs). A
    fault of the machine is a `StorageError` everywhere. Use `raise … from exc`.
    """
    case = _describe(exc)
    got = _code(exc)
    if is_fault(exc):
        return StorageError(f"{where}: {case.what} (got {got}). {case.advice}.")
    return (lasting if case.lasting else passing)(
        f"{where}: {case.what} (got {got}). {case.advice}."
    )


@contextmanager
def mapped(
    where: str,
    *,
    lasting: type[BatchError] = StorageError,
    passing: type[BatchError] = StorageError,
) -> Iterator[None]:
    """Turn third-party exceptions of the block into `storage_error`'s.

    Our own, and programming errors, pass through.
    """
    try:
        yield
    except BatchError:
        raise
    except Exception as exc:
        if not is_storage_exception(exc):
            raise
        raise storage_error(exc, where, lasting=lasting, passing=passing) from exc


def is_storage_exception(exc: BaseException) -> bool:
    """Tell whether `exc` is of storage: OSError, botocore's or aiohttp's."""
    module = type(exc).__module__.partition(".")[0]
    return isinstance(exc, (OSError, asyncio.TimeoutError)) or module in (
        "botocore",
        "aiobotocore",
        "aiohttp",
        "s3fs",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "gcsfs",
        "google",
        "adlfs",
        "azure",
    )


def is_passing(exc: BaseException) -> bool:
    """Tell whether a second try of the same request may succeed.

    It may after throttling, 5xx, resets and time-outs.
    """
    return is_storage_exception(exc) and not _describe(exc).lasting


def is_missing(exc: BaseException) -> bool:
    """Whether `exc` says that a file, key or bucket is not there."""
    if isinstance(exc, FileNotFoundError) or _http_status(exc) in (404, 410):
        return not any(type(exc).__name__ in _LASTING_404 for exc in _chain(exc))
    return _s3_answer(exc)[0] in ("NoSuchKey", "404", "NoSuchBucket")


# Answers of 404 that are of a whole data set: none of its files can be read.
_LASTING_404 = {"RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"}


def is_missing_upload(exc: BaseException) -> bool:
    """Tell whether `exc` says that a multipart upload is not there.

    It was aborted, or is complete already.
    """
    return _s3_answer(exc)[0] == "NoSuchUpload"


def is_refused_access(exc: BaseException) -> bool:
    """Tell whether `exc` is a 403 without a body, hence without reason."""
    return _s3_answer(exc) == ("403", 403)


def wants_other_addressing(exc: BaseException) -> bool:
    """Whether a store refuses the bucket where it stands in the request."""
    return _S3_CODES.get(_s3_answer(exc)[0]) is _HOST


def is_refused_condition(exc: BaseException) -> bool:
    """Whether `exc` says that an If-Match or If-None-Match condition did not hold.

    s3fs turns it into OSError(EINVAL) or FileExistsError; what it was is only in the cause.
    """
    code, status = _s3_answer(exc)
    return status == 412 or code == "PreconditionFailed"


def _chain(exc: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = exc
    while link is not None:
        yield link
        link = link.__cause__


def _s3_response(exc: BaseException) -> dict[str, Any]:
    """Find what botocore kept of S3's answer; empty without any."""
    for link in _chain(exc):
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return response
    return {}


def _s3_answer(exc: BaseException) -> tuple[str, int]:
    """Find S3 error code and HTTP status in `exc` or its causes.

    ("", 0) without any.
    """
    response = _s3_response(exc)
    code = str(response.get("Error", {}).get("Code", ""))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _has_wrong_clock(exc: BaseException) -> bool:
    """Tell whether S3 refused a request for its time.

    The answer to a HEAD has no body to say so, but the server's date.
    """
    if _s3_answer(exc)[0] == "RequestTimeTooSkewed":
        return True
    if not is_refused_access(exc):
        return False
    headers = _s3_response(exc)["ResponseMetadata"].get("HTTPHeaders", {})
    try:
        server = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return False
    return abs(time.time() - server) > MOST_SKEW_S


def _http_status(exc: BaseException) -> int:
    """Find an answer's HTTP status; 0 without one, as of S3."""
    for link in _chain(exc):
        answer = getattr(link, "response", link)
        for name in ("status_code", "status", "code"):
            status = getattr(answer, name, None)
            if isinstance(status, int) and 100 <= status < 600:
                return status
    return 0


def _describe(exc: BaseException) -> _Case:
    code, status = _s3_answer(exc)
    if _has_wrong_clock(exc):
        return _CLOCK
    if code in _S3_CODES:
        return _S3_CODES[code]
    if code in _PASSING_CODES or status == 429 or (status >= 500 and status != 501):
        return _BUSY
    if code or status:
        return _Case("the object store refused the request", "Check that it speaks the S3 protocol")
    for link in _chain(exc):
        for base in type(link).__mro__:
            if base.__name__ in _CLASSES:
                return _CLASSES[base.__name__]
    status = _http_status(exc)
    if status >= 400:
        refused = _Case("the server refuses the request", "Check the address")
        return _STATUSES.get(status, _BUSY if status >= 500 else refused)
    if isinstance(exc, OSError) and exc.errno in _ERRNOS:
        return _ERRNOS[exc.errno]
    if isinstance(exc, PermissionError):
        return _DENIED
    if isinstance(exc, FileNotFoundError):
        return _MISSING
    return _Case("reading or writing failed", AGAIN)


def _code(exc: BaseException) -> str:
    code, status = _s3_answer(exc)
    if code or status:
        return f"{code} {status}".strip() if code != str(status) else f"HTTP {status}"
    if web := _http_status(exc):
        return f"HTTP {web}"
    number = exc.errno if isinstance(exc, OSError) else None
    return errno.errorcode.get(number or 0, type(exc).__name__)
