"""Transfer of one file: resumed where an earlier try ended, retried, verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import tenacity

from batchr1.errors import FailedError, HubError, InterruptedRun
from batchr1.models.files import ModelFile, feed, size_text
from batchr1.models.hub import wait_s
from batchr1.storage.errors import mapped

WHOLE_TRIES = 2  # of a file that comes, and is not what it has to be

ReadFrom = Callable[[int], AbstractContextManager[tuple[int, Iterator[bytes]]]]
"""Offset → (where the bytes really begin: there or at 0, blocks of bytes)"""


class Listener(Protocol):
    """Receiver of progress. Called from several threads."""

    def kept(self, count: int) -> None:
        """Count bytes that were there before.

        Negative where they have to come again.
        """

    def received(self, count: int) -> None:
        """Count bytes that came."""

    def say(self, line: str) -> None:
        """Show a line that a person may want to read."""


class Transfer:
    """Transfer of `file` into `partial`.

    `partial` survives any death of this process, and a later one resumes from it.
    """

    def __init__(
        self,
        file: ModelFile,
        partial: Path,
        read_from: ReadFrom,
        listener: Listener,
        stopping: threading.Event,
        where: str,
        *,
        tries: int,
    ) -> None:
        self._file, self._partial, self._read_from = file, partial, read_from
        self._listener, self._stopping, self._where = listener, stopping, where
        self._tries = tries
        self._hasher = file.hasher()
        self._have = self._furthest = self._idle_tries = 0

    def run(self) -> None:
        """Return when `partial` holds the file, verified.

        Raises `HubError` when that has to wait, `FailedError` when what comes is wrong each time.
        """
        with mapped(str(self._partial)):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(WHOLE_TRIES):
                self._take_up()
                self._retrying(self._try)
                got = self._hasher.hexdigest()
                if self._file.checksum in (None, got):
                    return
                self._listener.kept(-self._have)
                self._partial.unlink()
                self._listener.say(
                    f"{self._where}: damaged on its way (got {got[:12]}…), fetched again"
                )
        raise FailedError(
            f"{self._where}: what comes is not what is listed, {WHOLE_TRIES} times (got checksum "
            f"{got[:12]}…, need {str(self._file.checksum)[:12]}…). Check what it comes from, or a "
            "proxy in between."
        )

    def _take_up(self) -> None:
        """Hash what an earlier process left, as far as it goes."""
        self._hasher, self._have = self._file.hasher(), 0
        if self._partial.exists():
            if self._partial.stat().st_size > self._file.size:
                self._partial.unlink()
            else:
                self._have = feed(self._hasher, self._partial)
                self._listener.kept(self._have)
        self._furthest = self._have

    def _try(self) -> None:
        try:
            self._receive()
        finally:
            self._idle_tries = 0 if self._have > self._furthest else self._idle_tries + 1
            self._furthest = max(self._furthest, self._have)

    def _receive(self) -> None:
        """Receive from the end of the partial file on, to the end."""
        if self._have == self._file.size and self._partial.exists():
            return
        self._partial.touch()
        # Not appended: where a file system ignores locks, another fetch writes the same bytes to
        # the same places.
        with (
            self._read_from(self._have) as (start, blocks),
            self._partial.open("r+b", buffering=0) as out,
        ):
            if start != self._have:  # the server begins at the beginning, whatever it was asked for
                self._listener.kept(-self._have)
                self._hasher, self._have = self._file.hasher(), 0
            out.seek(self._have)
            for block in blocks:
                if self._stopping.is_set():
                    raise InterruptedRun(f"{self._where}: stopped.")
                block = block[: self._file.size - self._have]
                out.write(block)
                self._hasher.update(block)
                self._have += len(block)
                self._listener.received(len(block))
                if self._have == self._file.size:  # whatever else comes, it is none of it
                    break
        if self._have < self._file.size:
            raise HubError(
                f"{self._where}: it ended early (got {self._have} of {self._file.size} bytes)."
            )

    @property
    def _retrying(self) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(HubError),
            stop=lambda state: self._stopping.is_set() or self._idle_tries >= self._tries,
            wait=lambda state: wait_s(state, self._idle_tries),
            sleep=self._pause,
            before_sleep=self._report,
            reraise=True,
        )

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _report(self, state: tenacity.RetryCallState) -> None:
        exc = state.outcome.exception() if state.outcome else None
        what = str(exc).partition(". ")[0]
        self._listener.say(
            f"{what}; going on from {size_text(self._have)} of {size_text(self._file.size)}"
        )
