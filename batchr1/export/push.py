"""Push of an export to the hub, in one commit.

A repository that is made for it is private, unless it is to be public. The token is the one that
huggingface_hub finds (HF_TOKEN, or a login). Messages repeat nothing that the hub says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchr1.errors import BatchError, HubError, OutputError, UsageError
from batchr1.export.publish import CARD
from batchr1.models.hub import hub_errors
from batchr1.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

TIMEOUT_S = 20.0
_OURS = re.compile(r"README\.md|\.gitattributes|data/(train|test)-[0-9a-f]{12}-\d{5}\.\w+")
_TAG = re.compile(r"[\w][\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class PushOptions:
    """Repository to push to.

    `name` is owner/name. Raises `UsageError` for what is none.
    """

    name: str
    public: bool = False
    tag: str | None = None

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(self.name)
            is_valid = self.name.count("/") == 1
        except HFValidationError:
            is_valid = False
        if not is_valid:
            raise UsageError(
                f"--push: not the name of a repository (got {self.name!r}, need owner/name). "
                "Correct it."
            )
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise UsageError(
                f"--tag: not a tag (got {self.tag!r}, need letters, digits, -, _ and .). Correct "
                "it."
            )


def push_options(name: str | None, *, public: bool, tag: str | None) -> PushOptions | None:
    """Read the options of the command line.

    Raises `UsageError` for those without --push.
    """
    if name is not None:
        return PushOptions(name, public, tag)
    for option, is_given in (("--public", public), ("--tag", tag is not None)):
        if is_given:
            raise UsageError(f"{option}: belongs to --push. Give it, or leave {option} out.")
    return None


class Push:
    """Repository on the hub.

    `check` it before any work, then `send` an export.
    """

    def __init__(self, options: PushOptions, *, overwrite: bool) -> None:
        self._options = options
        self._overwrite = overwrite
        self._where = f"--push {options.name}"
        self._info: DatasetInfo | None = None

    def check(self) -> None:
        """Refuse what cannot be pushed to; changes nothing.

        Raises `UsageError`, `OutputError`, or `HubError` where the hub does not answer.
        """
        from huggingface_hub import get_token
        from huggingface_hub.errors import RepositoryNotFoundError

        if not get_token():
            raise UsageError(
                f"{self._where}: there is no token (HF_TOKEN is not set). Set it to one that may "
                "write."
            )
        with self._errors():
            api = self._api()
            api.whoami()  # a token that the hub does not know sees public repositories too
            with contextlib.suppress(RepositoryNotFoundError):
                self._info = api.dataset_info(self._options.name, timeout=TIMEOUT_S)
            if self._info is not None and self._options.tag is not None:
                refs = api.list_repo_refs(self._options.name, repo_type="dataset")
                if self._options.tag in [tag.name for tag in refs.tags]:
                    raise OutputError(
                        f"{self._where}: the tag {self._options.tag} is there. Give another --tag."
                    )
        if self._info is not None:
            self._check_content(self._info)

    def _check_content(self, info: DatasetInfo) -> None:
        if bool(info.private) == self._options.public:
            got, do = "private", "Leave --public out, or change it on the hub"
            if not info.private:
                got, do = "public", "Add --public, or give another name"
            raise OutputError(f"{self._where}: the repository is there, and {got}. {do}.")
        files = sorted(set(_files(info)) - {".gitattributes"})
        if not files:
            return
        if not self._overwrite:
            raise OutputError(
                f"{self._where}: the repository holds {files[0]}. Give another name, or add "
                "--overwrite to replace an earlier export."
            )
        foreign = next((rel for rel in files if not _OURS.fullmatch(rel)), None)
        if foreign is None and "batchr1" not in (info.tags or []):
            foreign = CARD
        if foreign is not None:
            raise OutputError(
                f"{self._where}: --overwrite would replace {foreign}, which is not of an export. "
                "Give another name."
            )

    def send(self, folder: Path) -> dict[str, Any]:
        """Push card and data of an export.

        Returns what `export --json` says of it. What is of an earlier export goes in the same
        commit.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()
        name, api = self._options.name, self._api()
        rels = [CARD, *sorted(f"data/{path.name}" for path in (folder / "data").iterdir())]
        old = [rel for rel in _files(self._info) if rel.startswith("data/") and rel not in rels]
        operations: list[Any] = [CommitOperationAdd(rel, folder / rel) for rel in rels]
        operations += [CommitOperationDelete(rel) for rel in old]
        with self._errors():
            if self._info is None:
                api.create_repo(name, repo_type="dataset", private=not self._options.public)
            commit = api.create_commit(
                name,
                operations,
                commit_message=f"Export of batchr1 {__version__}",
                repo_type="dataset",
                parent_commit=self._info.sha if self._info is not None else None,
            )
            if self._options.tag is not None:
                api.create_tag(
                    name, tag=self._options.tag, revision=commit.oid, repo_type="dataset"
                )
        return {
            "repo": name,
            "url": f"{api.endpoint}/datasets/{name}",
            "commit": commit.oid,
            "private": not self._options.public,
            "tag": self._options.tag,
        }

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        return HfApi(endpoint=constants.ENDPOINT, library_name="batchr1")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn exceptions of huggingface_hub into ours."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        with hub_errors(self._where, self._options.name, None):
            try:
                with _causes():
                    yield
            except HfHubHTTPError as exc:
                problem = self._refusal(exc.response.status_code)
                if problem is None:
                    raise
                raise problem from exc
            except (HFValidationError, UnicodeError):
                raise
            except ValueError as exc:  # an answer that is none, or files that it does not take
                raise UsageError(
                    f"{self._where}: what answers does not take the files as the hub does. Check "
                    "HF_ENDPOINT, and the card's metadata."
                ) from exc

    def _refusal(self, status: int) -> BatchError | None:
        """Name what a status means for who writes."""
        got = f"got HTTP {status}"
        if status == 401:
            return UsageError(f"{self._where}: the hub refuses the token ({got}). Renew HF_TOKEN.")
        if status in (403, 404):
            return UsageError(
                f"{self._where}: the token may not write there ({got}). Give HF_TOKEN the right, "
                "or another name."
            )
        if status in (409, 412):
            return HubError(
                f"{self._where}: the repository changed meanwhile ({got}). Run the same command "
                "again."
            )
        return None


@contextlib.contextmanager
def _causes() -> Iterator[None]:
    """Raise what went wrong with an upload.

    huggingface_hub hides it in a RuntimeError.
    """
    try:
        yield
    except RuntimeError as exc:
        if exc.__cause__ is None:
            raise
        raise exc.__cause__ from None


def _files(info: DatasetInfo | None) -> list[str]:
    if info is None:
        return []
    return [sibling.rfilename for sibling in info.siblings or []]
