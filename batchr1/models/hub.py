"""The hub's API for a fetch: a commit, its files, their bytes.

Plain HTTP through huggingface_hub's own session. HF_ENDPOINT, HF_TOKEN, proxies and offline mode
mean what they mean everywhere. Files are requested by their address at a commit. Where the hub
redirects to a store, the token stays behind: httpx drops it when the host changes. `fetch` says why
the library does not move the bytes itself. hf_xet is not used: it keeps no file that another
process could resume.

Messages repeat nothing of a third party's text, because it may hold a token or a signed address.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tenacity

from batchr1.errors import BatchError, HubError, ModelError
from batchr1.models.files import ModelFile
from batchr1.storage.errors import AGAIN

API_TIMEOUT_S = 20.0
# in a row that bring nothing: with the pauses in between, half a minute of a hub that answers at
# once
TRIES = 8
MAX_RETRY_AFTER_S = 120.0
_PASSING = (408, 429, 500, 502, 503, 504)
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a commit, with all its files."""

    repo: str
    commit: str
    files: tuple[ModelFile, ...]


def where_of(repo: str, revision: str | None) -> str:
    """Return the name that messages give a repository."""
    return f"model {repo}" + (f" at {revision}" if revision else "")


def is_offline() -> bool:
    """Return True where HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def open_repository(repo: str, revision: str | None, *, tries: int = TRIES) -> Repository:
    """Ask the hub for the commit and the files of `revision`.

    None is its main branch. Raises `ModelError` for what is not there or not for us, `HubError`
    where the hub does not answer.
    """
    from huggingface_hub import HfApi

    where = where_of(repo, revision)

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(tries),
        wait=lambda state: wait_s(state, state.attempt_number),
        retry=tenacity.retry_if_exception_type(HubError),
        reraise=True,
    )
    def ask() -> Repository:
        with hub_errors(where, repo, revision):
            info = HfApi(library_name="batchr1").model_info(
                repo, revision=revision or "main", files_metadata=True, timeout=API_TIMEOUT_S
            )
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha or "") or not info.siblings:
            raise ModelError(
                f"{where}: what answers is not the hub (got no commit or no files). Check "
                "HF_ENDPOINT."
            )
        files = []
        for sibling in info.siblings:
            if sibling.size is None:
                raise ModelError(
                    f"{where}: the hub does not say how large its files are. Check HF_ENDPOINT."
                )
            sha256 = sibling.lfs.sha256 if sibling.lfs else None
            file = ModelFile(
                sibling.rfilename, sibling.size, sha256, None if sha256 else sibling.blob_id
            )
            if file.checksum and not _CHECKSUM.fullmatch(
                file.checksum
            ):  # it becomes the name of a file here
                raise ModelError(
                    f"{where}: what answers is not the hub (got a checksum that is none). Check "
                    "HF_ENDPOINT."
                )
            files.append(file)
        return Repository(repo, str(info.sha), tuple(files))

    return ask()


@contextlib.contextmanager
def body(
    repo: str, commit: str, rel: str, offset: int, stall_s: float
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open a file from `offset` on.

    Yields (the offset where it really begins, blocks of bytes). A server that knows no ranges
    begins at 0. Raises `HubError` for what may pass, also in the middle: cut, or no byte for
    `stall_s`.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
    )

    with hub_errors(f"{where_of(repo, commit[:12])}: {rel}", repo, commit, stall_s=stall_s):
        headers = build_hf_headers(library_name="batchr1") | {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        url = hf_hub_url(repo, rel, revision=commit)
        with get_session().stream(
            "GET", url, headers=headers, timeout=stall_s, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            yield int(span[1]) if response.status_code == 206 and span else 0, response.iter_bytes()


def wait_s(state: tenacity.RetryCallState, tries: int) -> float:
    """Return the seconds before the next try.

    As long as the hub asked for; else random, up to twice as long each time.
    """
    exc = state.outcome.exception() if state.outcome else None
    asked = exc.retry_after_s if isinstance(exc, HubError) else None
    return (
        random.uniform(0, min(20.0, 0.25 * 2**tries))
        if asked is None
        else min(asked, MAX_RETRY_AFTER_S)
    )


@contextlib.contextmanager
def hub_errors(
    where: str, repo: str, revision: str | None, *, stall_s: float = API_TIMEOUT_S
) -> Iterator[None]:
    """Turn exceptions of huggingface_hub and its HTTP client into ours."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    http_error: Any = HfHubHTTPError.__mro__[
        1
    ]  # HTTPError of httpx or of httpx2, whichever this version builds on
    try:
        yield
    except HFValidationError as exc:
        raise ModelError(
            f"{where}: not the name of a repository (need owner/name). Correct it."
        ) from exc
    except OfflineModeIsEnabled as exc:
        raise ModelError(
            f"{where}: the hub is not asked, because HF_HUB_OFFLINE is set. Unset it."
        ) from exc
    except UnicodeError as exc:
        raise ModelError(
            f"{where}: HF_TOKEN is not a token (got letters that no token has). Correct it."
        ) from exc
    except http_error as exc:
        raise _problem(exc, where, repo, revision, stall_s) from exc


def _problem(
    exc: BaseException, where: str, repo: str, revision: str | None, stall_s: float
) -> BatchError:
    from huggingface_hub import errors, get_token
    from huggingface_hub.constants import ENDPOINT

    response = getattr(exc, "response", None)
    if response is None:
        return _no_answer(type(exc).__name__, where, stall_s)
    got = f"HTTP {response.status_code}"
    token = "a token that may not" if get_token() else "no token"
    match exc:
        case errors.GatedRepoError():
            return ModelError(
                f"{where}: the repository is gated (got {token}, need one whose owner has accepted "
                f"its terms). Accept them at {ENDPOINT}/{repo}, and set HF_TOKEN."
            )
        case errors.RevisionNotFoundError():
            return ModelError(
                f"{where}: no such revision (got {revision}, need a branch, tag or commit). "
                "Correct it."
            )
        case errors.RemoteEntryNotFoundError():
            return ModelError(f"{where}: the hub has no such file (got {got}). {AGAIN}.")
        case errors.RepositoryNotFoundError():
            return ModelError(
                f"{where}: no such repository, or a private one (got {got} with {token}). Correct "
                "the name, or set HF_TOKEN."
            )
    if response.status_code == 401:
        return ModelError(f"{where}: the hub refuses the token (got {got}). Renew HF_TOKEN.")
    if response.status_code in _PASSING:
        asked = response.headers.get("Retry-After", "")
        return HubError(
            f"{where}: the hub fails or asks to slow down (got {got}). {AGAIN}.",
            retry_after_s=float(asked) if asked.isdigit() else None,
        )
    return ModelError(
        f"{where}: the hub refuses it (got {got}). Check HF_ENDPOINT and the rights of HF_TOKEN."
    )


def _no_answer(name: str, where: str, stall_s: float) -> BatchError:
    if name in ("LocalProtocolError", "InvalidURL", "UnsupportedProtocol"):
        return ModelError(
            f"{where}: the hub cannot be asked (got {name}). Check HF_ENDPOINT and HF_TOKEN."
        )
    if name == "ReadTimeout":
        return HubError(f"{where}: the hub stalls (got no byte for {stall_s:g} s). {AGAIN}.")
    if name == "RemoteProtocolError":
        return HubError(f"{where}: the hub cut the line (got {name}). {AGAIN}.")
    return HubError(
        f"{where}: the hub cannot be reached (got {name}). Check HF_ENDPOINT and the network, and "
        "run again."
    )
