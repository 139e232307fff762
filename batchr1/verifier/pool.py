"""Verification of rows that need more than a comparison.

    Collector ─▶ queue ─▶ a thread for each process ─▶ the process (one row at a time) ─▶ Collector

It runs beside the engine, in processes of its own. A verifier is the user's code, or a parser run
on a model's text. It may hang, crash or eat memory: then its process is killed, its row gets no
verdict and the flag `verify_failed`, and a new process takes the next row. Nothing waits for a
verdict but its own row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from batchr1.errors import JobError
from batchr1.reasoning.flags import in_order
from batchr1.reasoning.verify import Loaded, NoVerdict, Verdict, Verify
from batchr1.records import Result

log = logging.getLogger("batchr1.verification")

CHECK_S = 60.0  # for importing the user's module before a run,
START_S = 120.0  # and beside a busy engine
VERIFIER_FLAGS = ("verify_failed", "verify_unsure")  # which a new verdict sets anew
LOGGED = 5  # failures of each kind that the log names


class VerifierGoneError(Exception):
    """A process without a verdict: it hung, died, or never started.

    The message says which.
    """


class VerifierProcess:
    """One verifying process. Raises `VerifierGoneError`, after which it is to be closed."""

    def __init__(self, verify: Verify) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "batchr1.verifier.process",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        with theirs:  # what a verifier prints may hold a prompt: it goes nowhere
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
                pass_fds=[theirs.fileno()],
            )
        self._line = Connection(ours.detach())
        self._verify = verify

    def start(self, timeout_s: float = START_S) -> Loaded:
        """Wait until the verifier is imported.

        Raises `JobError` when it cannot be, with the reason.
        """
        reply = self._say(self._verify, timeout_s)
        if not isinstance(reply, Loaded):
            raise JobError(str(reply))
        return reply

    def verdict(self, row: Result) -> Verdict | NoVerdict:
        reply = self._say(
            (row.answer, row.gold, _as_mapping(row) if self._verify.is_function else {}),
            self._verify.timeout_s,
        )
        if isinstance(reply, NoVerdict) and reply.is_spoilt:
            raise VerifierGoneError(reply.why)
        assert isinstance(reply, (Verdict, NoVerdict))
        return reply

    def close(self) -> None:
        """End it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._line.close()

    def _say(self, message: Any, timeout_s: float) -> Any:
        try:
            self._line.send(message)
            if not self._line.poll(timeout_s):
                raise VerifierGoneError(f"took longer than {timeout_s:g} s")
            return self._line.recv()
        except (EOFError, OSError) as exc:
            raise VerifierGoneError(f"ended its process ({_how(self._process.wait())})") from exc


class VerifierPool:
    """Takes rows and gives each back, judged, through `done`, in any order.

    Neither blocks nor raises.
    """

    def __init__(self, verify: Verify, done: Callable[[Result], None]) -> None:
        self._verify = verify
        self._done = done
        self._rows: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._failures: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []

    def takes(self, row: Result) -> bool:
        """Whether only a process may give this row its verdict."""
        comparable = row.gold is not None or self._verify.is_function
        needs_process = comparable or self._verify.extract is not None
        return (
            row.correct is None
            and row.answer is not None
            and needs_process
            and self._verify.kind != "none"
            and "verify_unsure" not in row.flags
        )

    def put(self, row: Result) -> None:
        if (
            len(self._threads) < self._verify.processes
        ):  # a process dies with the thread that made it
            thread = threading.Thread(target=self._work, name="verification", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._rows.put(row)

    def close(self) -> None:
        """End the processes.

        Every row was given back, or is not wanted any more.
        """
        for _ in self._threads:
            self._rows.put(None)
        for thread in self._threads:
            thread.join()
        if self._failures:
            log.warning(
                "verification failed on %d rows: %s",
                self._failures.total(),
                ", ".join(f"{count} × {why}" for why, count in self._failures.most_common()),
            )

    def _work(self) -> None:
        process: VerifierProcess | None = None
        while (row := self._rows.get()) is not None:
            try:
                if process is None:
                    process = VerifierProcess(self._verify)
                    process.start()
                verdict = process.verdict(row)
            except (
                Exception
            ) as exc:  # whatever it is, the row must come back: the collector waits for it
                if process is not None:
                    process.close()
                known = isinstance(exc, (VerifierGoneError, JobError))
                process, verdict = (
                    None,
                    NoVerdict(
                        str(exc) if known else f"could not be asked ({type(exc).__name__})", True
                    ),
                )
            if isinstance(verdict, Verdict):
                row = judged(row, verdict)
            else:
                self._count(row, verdict.why)
                row = dataclasses.replace(row, flags=in_order((*row.flags, "verify_failed")))
            self._done(row)
        if process is not None:
            process.close()

    def _count(self, row: Result, why: str) -> None:
        self._failures[why] += 1
        if self._failures[why] <= LOGGED:
            log.warning("%s, sample %d: no verdict: the verifier %s", row.id, row.sample, why)


def judged(row: Result, verdict: Verdict) -> Result:
    """Add the verdict to a row, and the flag where unsettled."""
    flags = (*row.flags, "verify_unsure") if verdict.unsure else row.flags
    return dataclasses.replace(
        row,
        final_answer=verdict.final,
        correct=verdict.correct,
        verdict_by=verdict.by,
        flags=in_order(flags),
    )


def check_verifier(verify: Verify, *, has_gold: bool, timeout_s: float = CHECK_S) -> str | None:
    """Import a verifying function under its limits, and digest its module.

    It is imported in a process. Of the kinds that are built in, only see whether their library is
    there. Raises `JobError` with what is wrong.
    """
    if not verify.is_function:
        if (
            has_gold
            and verify.kind in ("auto", "math")
            and importlib.util.find_spec("math_verify") is None
        ):
            raise JobError(
                f"verify.kind: {verify.kind} needs Math-Verify. Run pip install math-verify."
            )
        return None
    process = VerifierProcess(verify)
    try:
        return process.start(timeout_s).digest
    except VerifierGoneError as exc:
        raise JobError(
            f"verify.kind: {verify.kind}: the process that imports it {exc} (memory_gib: "
            f"{verify.memory_gib:g}). "
            "Import it in Python to see why, or raise verify.memory_gib."
        ) from exc
    finally:
        process.close()


def _as_mapping(row: Result) -> dict[str, Any]:
    """Map a row for a user's function.

    It has the output's columns that are known, and the kept ones.
    """
    names = (
        "id",
        "sample",
        "prompt",
        "gold",
        "reasoning",
        "answer",
        "truncated",
        "finish_reason",
        "completion_tokens",
    )
    kept: dict[str, Any] = row.kept.to_pylist()[0] if row.kept is not None else {}
    return {**kept, **{name: getattr(row, name) for name in names}}


def _how(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
