"""The command line.

Each command is a module of this package, imported when it is called, so that `--help` is quick.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from batchr1.cli.printing import echo
from batchr1.errors import BatchError
from batchr1.events import TextLines
from batchr1.version import __version__

COMMANDS = {
    "init": "Write a job file for a dataset.",
    "run": "Run a job, or go on with it.",
    "plan": "Say how a job would run: memory, batch, hours, cost.",
    "check": "Look at a job without running it.",
    "status": "Say what an output holds.",
    "show": "Show rows: prompt, reasoning, answer.",
    "report": "Write a page about an output: lengths, right answers, speed, odd rows.",
    "verify": "Judge an output's rows again, without generating.",
    "score": "Score rows that exist: log-probabilities of their tokens.",
    "export": "Write an output's rows as a data set to train on.",
    "variants": "List the model variants: bytes of weights, and the smallest GPUs.",
    "fetch": "Fetch a model's weights before a run wants them.",
    "schema": "Print the schema of job files, outputs or log lines.",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called.

    Its help imports none.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"batchr1.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _errors_said(ctx, "stdout"):  # --help and --version print
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        if logging.lastResort is not None:  # warnings of a command without a log
            logging.lastResort.setFormatter(TextLines("%(message)s"))
        with _errors_said(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_said(ctx: click.Context, where: str = "this machine") -> Iterator[None]:
    """Turn what ends a command into a line and an exit code.

    `where` a fault is that has no file.
    """
    try:
        yield
    except BatchError as exc:
        echo(f"batchr1: {exc}", err=True)
        ctx.exit(exc.exit_code)
    except KeyboardInterrupt:  # `run`, `check` and `plan` take signals themselves
        ctx.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `batchr1 show OUTPUT | head -1`
        _close_stdout()
        ctx.exit(128 + signal.SIGPIPE)
    except OSError as exc:
        from batchr1.storage.errors import is_fault, storage_error

        if not is_fault(exc):
            raise
        fault = storage_error(exc, str(exc.filename or where))
        echo(f"batchr1: {fault}", err=True)
        ctx.exit(fault.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batchr1")
def main() -> None:
    """Run reasoning models over datasets, offline: prompts in Parquet in, separated reasoning and
    answers out.

    Exit codes: 0 complete; 1 failed for good; 2 usage or job file; 3 complete but for failed rows;
    4 another run holds the output; 75 stopped, and running it again goes on.
    """


def _close_stdout() -> None:
    """Send what is still to be written nowhere: its reader has gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Stderr(io.FileIO):
    """Standard error that loses what nobody takes.

    No run ends by a full disk below its log, or by a reader that has gone.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _keep_on_without_stderr() -> None:
    """Put `_Stderr` in the place of standard error."""
    if sys.stderr is not None:  # None: it was closed before the start
        raw, old = _Stderr(sys.stderr.fileno(), "w", closefd=False), sys.stderr
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=old.encoding, errors=old.errors, line_buffering=True
        )


def program(**extra: Any) -> NoReturn:
    """Run the program, and leave by `os._exit` after Python's exit functions.

    An interpreter that is torn down beside native threads of polars or Arrow aborts now and then
    (seen: SIGABRT in 6 of 26 quick `status` commands), and the exit code is a promise.
    """
    from batchr1.dataset.without_torch import leave_torch_out

    leave_torch_out()
    _keep_on_without_stderr()
    code: object = 0
    try:
        main(prog_name="batchr1", **extra)
    except SystemExit as exc:
        code = exc.code
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: it was closed before the start
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    program()
