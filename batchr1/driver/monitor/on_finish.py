"""`on_finish`: a command that gets the run's record at its end.

The record is JSON on its standard input. The command runs when the output is free again, whatever
the exit code, and changes none. No shell is involved: the command is a list, and nothing of the
record is ever part of it.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time

from batchr1.events import event
from batchr1.job.spec import OnFinishSpec
from batchr1.output.run_record import RunRecord

log = logging.getLogger("batchr1.on_finish")

KEPT_LINES = 100


def run_command(spec: OnFinishSpec, record: RunRecord, output: str) -> None:
    """Run the command.

    What it prints goes to the log, and so does its failure, which is nobody's exit code.
    """
    name, started = spec.command[0], time.monotonic()
    text = json.dumps(record.to_dict() | {"output": output}, ensure_ascii=False, default=str)
    reason, printed = None, ""
    try:
        done = subprocess.run(
            spec.command,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=spec.timeout_s,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        printed = done.stdout
        if done.returncode:
            reason = f"exit code {done.returncode}"
        if done.returncode < 0:
            reason = f"signal {-done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"killed after {spec.timeout_s:g} s, on_finish.timeout_s"
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
    level = logging.INFO
    if reason:
        level = logging.WARNING
    for line in printed.splitlines()[-KEPT_LINES:]:
        log.log(level, "%s: %s", name, line, extra=event("on_finish_output"))
    if reason is None:
        seconds = round(time.monotonic() - started, 3)
        log.info("on_finish: %s is done", name, extra=event("on_finish_ended", seconds=seconds))
    else:
        log.warning(
            "on_finish: %s failed (%s); the run's exit code is not changed by it",
            name,
            reason,
            extra=event("on_finish_failed", reason=reason),
        )
