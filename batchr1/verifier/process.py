"""`python -m batchr1.verifier.process FD PARENT`: verifies rows from FD.

Rows come one at a time, until the process is killed. It takes the address space that the job
allows, leaves no core file, and cannot outlive PARENT.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import resource
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from batchr1.engine.lifeline import die_with_parent
from batchr1.errors import JobError
from batchr1.reasoning.verify import (
    BadVerdictError,
    Function,
    Loaded,
    NoVerdict,
    Verdict,
    Verify,
    full_verdict,
)


def main(fd: int, parent: int) -> None:
    die_with_parent(parent)
    sys.dont_write_bytecode = True  # no cache folder beside the user's module
    logging.disable(
        logging.CRITICAL
    )  # Math-Verify logs what it could not parse: a part of an answer
    line = Connection(fd)
    verify: Verify = line.recv()
    limit = round(verify.memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        function = load_function(verify) if verify.is_function else None
        if function is None:
            importlib.import_module("math_verify")
    except JobError as exc:
        line.send(str(exc))
        return
    line.send(Loaded(_digest(verify) if verify.is_function else None))
    while True:
        answer, gold, row = line.recv()
        line.send(_judge(verify, function, answer, gold, row))


def load_function(verify: Verify) -> Function:
    """The function that `kind` names.

    Raises `JobError` when it cannot be imported or called as it has to be.
    """
    where = f"verify.kind: {verify.kind}"
    module_name, _, name = verify.kind.partition(":")
    if verify.path is not None:
        sys.path.insert(0, verify.path)
    try:
        module = importlib.import_module(module_name)
    except BaseException as exc:
        if (
            isinstance(exc, ModuleNotFoundError)
            and exc.name
            and f"{module_name}.".startswith(f"{exc.name}.")
        ):
            raise JobError(
                f"{where}: there is no module {exc.name} (looked in {verify.path} and in what is "
                f"installed). "
                "Correct the name, or give its folder as verify.path."
            ) from exc
        raise JobError(
            f"{where}: importing {module_name} raised {_brief(exc)}. Correct the module."
        ) from exc
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
        if function is None:
            raise JobError(
                f"{where}: {module_name} has no {name} ({Path(module.__file__ or '?')}). "
                f"Correct "
                f"the name."
            )
    if not callable(function):
        raise JobError(
            f"{where}: this is no function (got {type(function).__name__}). Name one that can "
            f"be "
            f"called."
        )
    if inspect.iscoroutinefunction(function):
        raise JobError(
            f"{where}: this is a coroutine function, and nothing would await it. Name a plain "
            f"function."
        )
    try:
        inspect.signature(function).bind("answer", "gold", {})
    except TypeError as exc:
        raise JobError(
            f"{where}: it cannot be called with (answer, gold, row) ({exc}). Change its parameters."
        ) from exc
    except ValueError:
        pass  # some functions written in C have no signature
    return function  # type: ignore[no-any-return]


def _judge(
    verify: Verify, function: Function | None, answer: str, gold: str | None, row: Mapping[str, Any]
) -> Verdict | NoVerdict:
    try:
        return full_verdict(verify, function, answer, gold, row)
    except BadVerdictError as exc:
        return NoVerdict(str(exc), is_spoilt=False)
    except BaseException as exc:  # a user's verifier may raise anything, SystemExit too
        is_spoilt = isinstance(exc, MemoryError) or not isinstance(exc, Exception)
        return NoVerdict(f"raised {_brief(exc, with_text=False)}", is_spoilt)


def _digest(verify: Verify) -> str | None:
    file = sys.modules[verify.kind.partition(":")[0]].__file__
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() if file else None


def _brief(exc: BaseException, *, with_text: bool = True) -> str:
    """Describe an exception by its type and the line that raised it.

    Its text may hold a part of an answer.
    """
    frames = (
        [] if isinstance(exc, SyntaxError) else traceback.extract_tb(exc.__traceback__)
    )  # its text says where
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = f" ({str(exc).splitlines()[0][:200]})" if with_text and str(exc) else ""
    return f"{type(exc).__name__}{text}{at}"


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
