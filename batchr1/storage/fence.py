"""Fence of an owner: the folder that its writes pass.

    .batchr1/staging/<epoch>-<token>/    one owner's, made when it takes the lock, once

On disk a file enters the output by a link or rename out of this folder, and leaves it by a rename
into it. The next owner renames the folder away. From then on the kernel refuses every such step of
the earlier owner, however long it slept. On S3 a file enters by a server-side copy from below this
prefix. Between staging and copy the owner looks at the lock. The next owner deletes what is staged
there, so that a copy which was asked for before finds no source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchr1.errors import LockLostError, StorageError

Intent = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fence:
    """Right of one owner to write.

    `check` raises `LockLostError` when another has the lock. A worker's fence has the folder alone.
    `intend` records what the next owner must finish first, and `intent` reads it.
    """

    folder: str
    epoch: int = 0
    check: Callable[[], None] | None = None
    intend: Callable[[Intent | None], None] | None = None
    intent: Callable[[], Intent | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Fence, (self.folder, self.epoch)


def fence_lost(where: str) -> LockLostError:
    """Make the error of a write whose fence is void."""
    return LockLostError(
        f"{where}: another run took the output (got no such folder, need the one of this run). "
        "Run the same command again when no other run writes there."
    )


def different_final(staged: str, final: str) -> StorageError:
    """Make the error of a `commit` that would replace another file."""
    return StorageError(
        f"{final}: a different file has this name (got other bytes than {staged}, need the same "
        "or no file). Move it away, then run the same command again."
    )


def staged_gone(staged: str, final: str) -> StorageError:
    """Make the error of a `commit` without a staged file.

    Another run took the lock and emptied staging.
    """
    return StorageError(
        f"{staged}: the staged file is gone (got neither it nor {final}, need one of them). "
        "Run the same command again."
    )
