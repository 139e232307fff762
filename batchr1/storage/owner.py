"""Owner of an output: its lock and its fence, taken together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from batchr1.errors import BatchError, FailedError, LockLostError, StorageError, UsageError
from batchr1.storage.base import STAGING_DIR, Storage
from batchr1.storage.fence import Fence
from batchr1.storage.lock import Lock

log = logging.getLogger(__name__)


@contextlib.contextmanager
def owned(storage: Storage, *, run: str) -> Iterator[Lock]:
    """Take the lock of an output, and fence its storage.

    `run` names the run. Within, every change of `storage` passes the fence. The lock is looked at
    once more when the folder is there: whoever takes it later finds the folder, and voids it.
    """
    with Lock.acquire(storage, run=run) as lock:
        folder = f"{STAGING_DIR}/{lock.info.epoch:08d}-{lock.info.token[:8]}"
        storage.fence = Fence(
            folder, lock.info.epoch, lock.check, lock.intend, lambda: lock.info.intent
        )
        try:
            storage.open_fence()
            lock.check()
            yield lock
        except (UsageError, FailedError) as error:
            _doubt(lock, error)
            raise
        finally:
            try:
                storage.close_fence()
            except StorageError as failure:  # the next owner sweeps it
                log.warning("the folder of this run was not removed: %s", failure)
            storage.fence = None


def _doubt(lock: Lock, error: BatchError) -> None:
    """Raise `LockLostError` for what an owner concluded from another owner's files."""
    try:
        lock.check()
    except LockLostError as lost:
        raise lost from error
    except StorageError as failure:
        log.warning("the lock could not be looked at: %s", failure)
