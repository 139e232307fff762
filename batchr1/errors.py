"""Errors that batchr1 raises on purpose, with their exit codes.

    BatchError                        exit code
    ├── UsageError                        2      what was asked cannot be done; nothing was changed
    │   ├── JobError                      2      the job file, or an option that overrides it
    │   ├── InputError                    2      the dataset: missing, unreadable, wrong shape
    │   ├── OutputError                   2      the output folder belongs to something else
    │   ├── FingerprintError              2      the output was made by a job with other answers
    │   └── ModelError                    2      the model or its tokenizer cannot be used
    ├── LockHeldError                     4      another run holds the output
    ├── FailedError                       1      stopped for good: running it again would fail again
    └── StoppedError                     75      stopped; running it again goes on
        ├── StorageError                 75      disk or object store: full, refused, gone
        │   └── LockLostError            75      this run no longer holds the output
        ├── HubError                     75      the model hub: gone, stalled, asks to slow down
        ├── EngineError                  75      an engine died, hung or could not start
        │   └── EngineMemoryError        75      it ran out of memory, and nothing was left to lower
        └── InterruptedRun               75      a signal, the end of a time window, a lost server

    RequestError                          –      one refused request: a failed row, never an exit

A message is one line: `where: what is wrong (got X, need Y). Do Z.` It never holds prompt text or
a secret.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Literal

# Faults of a disk, a mount or this machine: nobody asked for anything wrong, and later it may work.
MACHINE_FAULTS = {
    errno.EIO,
    errno.ESTALE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EBUSY,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOLCK,
    errno.EBADMSG,
    errno.EUCLEAN,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
}


class BatchError(Exception):
    """Base of all errors that end a command with a message."""

    exit_code: ClassVar[int] = 1


class UsageError(BatchError):
    """Request that cannot be done as it stands; nothing was changed."""

    exit_code = 2


class JobError(UsageError):
    """Fault in the job file, or in an option that overrides it."""


class InputError(UsageError):
    """Dataset that is missing, unreadable or of another shape."""


class OutputError(UsageError):
    """The output folder is not ours to write into."""


class FingerprintError(UsageError):
    """Output of a job that would have given other answers."""


class ModelError(UsageError):
    """The model or its tokenizer is missing or cannot be used."""


class LockHeldError(BatchError):
    """Another run holds the output."""

    exit_code = 4


class FailedError(BatchError):
    """Stopped for good: the same command would fail in the same way."""


class StoppedError(BatchError):
    """Stopped before the end; the same command goes on from here."""

    exit_code = 75


class StorageError(StoppedError):
    """Disk or object store: full, refused, unreachable."""


class LockLostError(StorageError):
    """Lock that another run took: nothing more may be committed."""


class HubError(StoppedError):
    """Model hub that cannot be reached, fails or stalls.

    `retry_after_s`: seconds for which it asks to be left alone.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineError(StoppedError):
    """An inference engine died, hung or could not be started."""


class EngineMemoryError(EngineError):
    """Engine without memory, and no argument left to lower.

    What is left is the user's to decide.
    """


class InterruptedRun(StoppedError):
    """A signal, the end of a time window, or a lost server.

    `cause` says which.
    """

    def __init__(
        self, message: str, *, cause: Literal["signal", "window", "server"] = "signal"
    ) -> None:
        super().__init__(message)
        self.cause = cause


class RequestError(Exception):
    """Refused request: its row fails and the rest goes on."""
