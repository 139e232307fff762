"""The rule of this tier: no process, no connection, no library that loads models."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

FORBIDDEN = {"os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
SLOW_IMPORTS = {"torch", "transformers", "vllm"}
_running: list[str] = []


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if not _running:
        return
    is_slow_import = event == "import" and args[0] in SLOW_IMPORTS
    if event in FORBIDDEN or is_slow_import:
        what = f"import {args[0]}" if is_slow_import else event
        raise RuntimeError(f"{_running[-1]}: {what} in a unit test. Move it to tests/system.")


sys.addaudithook(_refuse)  # for good: a hook cannot be taken out, so `_running` says when it counts


@pytest.fixture(autouse=True)
def _no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    _running.append(request.node.nodeid)
    yield
    _running.pop()
